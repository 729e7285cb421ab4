from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("onnxscript", reason="the export needs onnxscript")

from mm_perception.cli.main import main  # noqa: E402
from mm_perception.engines.card import load_card  # noqa: E402
from mm_perception.models.cmx import build_cmx  # noqa: E402


@pytest.fixture
def checkpoint(tmp_path, one_thread):
    path = tmp_path / "epoch-last.pth"
    torch.save({"model": build_cmx("tiny", 5, 32).state_dict()}, path)
    return path


def test_published_weights_need_no_card(tmp_path, checkpoint):
    sizes = ["--height", "64", "--width", "96"]
    assert (
        main(["export", "--classes", "pst900", "--weights", str(checkpoint), "--out", str(tmp_path / "o"), *sizes]) == 0
    )
    card = load_card(tmp_path / "o" / "cmx-tiny-pst900.yaml")
    assert card.classes == ("background", "fire extinguisher", "backpack", "hand drill", "survivor")
    assert (card.channel_order, card.modality, card.decoder_dim, card.trained) == ("bgr", "thermal", 32, True)
    assert card.palette[1] == (255, 0, 0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--classes", "mfnet", "--weights", "W"], "has 5 classes, mfnet has 9"),
        (["--classes", "pst900"], "--weights FILE"),
        (["--classes", "pst90", "--weights", "W"], "known: .*pst900"),
        (["--weights", "W"], "either --model CARD, or --classes"),
        (["--classes", "pst900", "--model", "cmx-tiny-rgb", "--weights", "W"], "either --model CARD, or --classes"),
    ],
)
def test_wrong_options(tmp_path, checkpoint, capsys, options, expected):
    given = [str(checkpoint) if word == "W" else word for word in options]
    assert main(["export", *given, "--out", str(tmp_path / "o")]) == 2
    import re

    assert re.search(expected, " ".join(capsys.readouterr().err.split()))
    assert not (tmp_path / "o").exists()
