"""Every command that writes what a user names leaves what is there, unless it may replace it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mm_perception.bags.reader import BagReader
from mm_perception.bags.writer import BagWriter
from mm_perception.cli import demo
from mm_perception.cli.main import main
from mm_perception.codec.encode import encode_label_info
from mm_perception.core.errors import BagError
from mm_perception.core.files import MARKER

BOXES: dict[str, Any] = {"meta": {}, "results": {"one": []}}
SMALL = ["--frames", "1"]

FILES = {
    "metrics": ["metrics", "nuscenes", "--gt", "gt.json", "--pred", "pred.json", "--json"],
    "bench sync": ["bench", "sync", "--seconds", "0.2", "--json"],
    "bench codec": ["bench", "codec", "--rounds", "1", "--json"],
    "bench engines": ["bench", "engines", "--rounds", "1", "--json"],
    "bench gpu": ["bench", "gpu", "--json"],
    "bench gpu markdown": ["bench", "gpu", "--markdown"],
    "build-engine": ["build-engine", "cmx-tiny-rgb", "--json"],
    "evaluate detection": ["evaluate", "detection", *SMALL, "--json"],
    "evaluate segmentation": ["evaluate", "segmentation", *SMALL, "--json"],
    "replay bag": ["replay", "drive.mcap", "--save-bag"],
    "replay submission": ["replay", "drive.mcap", "--submission"],
    "simulate": ["simulate", "--rig", "demo", "--out"],
    "sheet": ["simulate", "--sheet"],
    "rig init": ["rig", "init", "drive.mcap", "--out"],
    "check": ["check", "demo", "drive.mcap", "--json"],
    "convert": ["convert", "kitti", "source"],
    "export": ["export", "--model", "cmx-b0-rgb-untrained", "--out"],
}
FOLDERS = {
    "replay report": ["replay", "drive.mcap", "--out"],
    "replay bag": ["replay", "drive.mcap", "--save-bag"],
    "demo": ["demo", "--bag", "drive.mcap", "--out"],
    "evaluate detection": ["evaluate", "detection", *SMALL, "--pictures"],
    "evaluate segmentation": ["evaluate", "segmentation", *SMALL, "--pictures"],
    "simulate": ["simulate", "--rig", "demo", "--out"],
    "convert": ["convert", "kitti", "source"],
    "train segmentation": ["train", "segmentation", "--card", "cmx-tiny-rgb", *SMALL, "--out"],
    "train detection": ["train", "detection", *SMALL, "--out"],
}
SUFFIXES = {"replay bag": ".mcap", "simulate": ".mcap", "convert": ".mcap", "sheet": ".png", "export": ".onnx"}


def content(folder: Path) -> dict[str, bytes | None]:
    """All files of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def write_bag(path: Path, labels: int = 1, overwrite: bool = False) -> None:
    with BagWriter(path, overwrite) as bag:
        for i in range(labels):
            bag.write("/labels", encode_label_info(bag.factory, ["a"], i + 1, ""), i + 1, latched=True)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """A folder with what the commands read; the current one."""
    monkeypatch.chdir(tmp_path)
    write_bag(tmp_path / "drive.mcap")
    (tmp_path / "source").mkdir()
    for name in ("gt.json", "pred.json"):
        (tmp_path / name).write_text(json.dumps(BOXES))
    return tmp_path


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_of_ones_own_stays(name, overwrite, place, capsys):
    target = place / f"mine{SUFFIXES.get(name, '.json')}"
    target.write_bytes(b"\x07precious\x00")
    before = content(place)
    assert main([*FILES[name], str(target), *(["--overwrite"] if overwrite else [])]) == 2
    error = capsys.readouterr().err
    assert "mine" in error and "give another name" in error and len(error.splitlines()) == 1
    assert content(place) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_a_folder_of_ones_own_stays(name, overwrite, place, capsys):
    target = place / "thesis"
    (target / "figures").mkdir(parents=True)
    (target / "chapter.tex").write_text("years of work")
    (target / "report.md").write_text("mine, too")
    (target / "figures" / "0000-day.png").write_bytes(b"mine, too")
    before = content(place)
    flag = ["--overwrite"] if overwrite and not name.startswith("train") else []
    assert main([*FOLDERS[name], str(target), *flag]) == 2
    error = capsys.readouterr().err
    assert "thesis" in error and len(error.splitlines()) == 1
    assert content(place) == before


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_folder_is_never_replaced_by_a_file(name, place, capsys):
    target = place / f"mine{SUFFIXES.get(name, '.json')}"
    target.mkdir()
    assert main([*FILES[name], str(target), "--overwrite"]) == 2
    assert "mine" in capsys.readouterr().err and target.is_dir()


@pytest.mark.parametrize("name", ["replay bag", "simulate", "convert"])
def test_a_bag_is_not_replaced_unless_told(name, place, capsys):
    for target in (place / "old.mcap", place / "old"):
        write_bag(target, 2)
        before = content(place)
        assert main([*FILES[name], str(target)]) == 2
        assert "exists already; give another name, or --overwrite" in capsys.readouterr().err
        assert content(place) == before


def test_bags_of_both_forms_are_replaced_by_bags(place):
    for target in (place / "old.mcap", place / "old"):
        write_bag(target, 2)
        write_bag(target, 5, overwrite=True)
        with BagReader(target) as bag:
            assert bag.message_count == 5
    assert not [path for path in place.iterdir() if path.name.startswith(".")]


def test_a_bag_folder_with_other_files_is_not_replaced(place):
    write_bag(place / "old")
    (place / "old" / "notes.txt").write_text("mine")
    with pytest.raises(BagError, match=r"notes\.txt, which is no part of the bag"):
        BagWriter(place / "old", overwrite=True)
    with pytest.raises(BagError, match="is a folder"):
        (place / "old").rename(place / "old.mcap")
        BagWriter(place / "old.mcap", overwrite=True)
    (place / "file").write_text("no bag")
    with pytest.raises(BagError, match="no rosbag2 folder"):
        BagWriter(place / "file", overwrite=True)


@pytest.mark.parametrize("form", ["old", "old.mcap"])
def test_a_bag_that_fails_leaves_the_old_one(place, form, monkeypatch):
    target = place / form
    write_bag(target, 2)
    before = content(place)
    with pytest.raises(RuntimeError), BagWriter(target, overwrite=True) as bag:
        bag.write("/labels", encode_label_info(bag.factory, ["a"], 1, ""), 1)
        assert content(target.parent / form) or target.is_file()
        raise RuntimeError
    assert content(place) == before

    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rosbags.rosbag2.Writer.close", full)
    with pytest.raises(BagError, match="No space left"), BagWriter(target, overwrite=True):
        pass
    assert content(place) == before


def test_a_bag_folder_that_cannot_be_renamed_comes_back(place, monkeypatch):
    write_bag(place / "old", 2)
    before = content(place)
    replace = Path.replace

    def fail(self, target):
        if Path(target) == place / "old":
            raise OSError(5, "Input/output error")
        return replace(self, target)

    bag = BagWriter(place / "old", overwrite=True)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(BagError, match="Input/output error"):
        bag.close()
    assert content(place) == before


def test_the_input_is_never_the_output(place, capsys):
    write_bag(place / "folder")
    (place / "link.mcap").symlink_to("drive.mcap")
    os.link(place / "drive.mcap", place / "hard.mcap")
    before = content(place)
    for given, out in (
        ("drive.mcap", "drive.mcap"), ("drive.mcap", "link.mcap"), ("link.mcap", "drive.mcap"),
        ("drive.mcap", "hard.mcap"), ("folder", "folder"), ("folder/folder.db3", "folder"),
    ):  # fmt: skip
        assert main(["replay", given, "--save-bag", out, "--overwrite"]) == 2
        assert "is the input" in capsys.readouterr().err
        with pytest.raises(BagError, match="is the input"):
            BagWriter(out, overwrite=True, sources=[Path(given)])
    assert main(["metrics", "nuscenes", "--gt", "gt.json", "--pred", "pred.json", "--json", "gt.json",
                 "--overwrite"]) == 2  # fmt: skip
    assert main(["convert", "kitti", "folder", "folder", "--overwrite"]) == 2
    assert main(["bench", "gpu", "--json", "a.json", "--markdown", "./a.json"]) == 2
    assert main(["replay", "drive.mcap", "--out", "same", "--save-bag", "same"]) == 2
    assert content(place) == before


def test_figures_are_replaced_by_figures_when_told(place, capsys):
    options = [*FILES["bench sync"], "out/figures.json"]
    assert main(options) == 0
    first = Path("out/figures.json").read_text()
    assert main(options) == 2
    assert main([*options, "--overwrite"]) == 0
    assert {row["policy"] for row in json.loads(Path("out/figures.json").read_text())} >= {"nearest (ours)"}
    assert first and [path.name for path in Path("out").iterdir()] == ["figures.json"]


@pytest.fixture
def played(monkeypatch):
    """The demo without its node: what it writes when it plays."""
    written = ["report.md", "overlays/1.png"]

    def play(args, console, out: Path) -> int:
        for name in written:
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_text(name)
        if args.rate == 3.0:
            raise BagError("the bag ends in the middle")
        return 0

    monkeypatch.setattr(demo, "_run", play)
    return written


def test_the_demo_renews_its_own_folder_and_removes_only_its_files(place, played, capsys):
    assert main(["demo", "--out", "out/demo"]) == 0
    (place / "out" / "demo" / "notes.txt").write_text("mine")
    played[1] = "overlays/2.png"
    assert main(["demo", "--out", "out/demo", "--rate", "3"]) == 2
    assert (place / "out" / "demo" / "overlays" / "1.png").is_file(), "the old one stays until the new one is complete"
    assert main(["demo", "--out", "out/demo"]) == 0
    there = content(place / "out")
    assert set(there) == {
        "demo", f"demo/{MARKER}", "demo/notes.txt", "demo/overlays", "demo/overlays/2.png", "demo/report.md",
    }  # fmt: skip
    capsys.readouterr()
    assert main(["replay", "drive.mcap", "--out", "out/demo"]) == 2
    assert "exists already, from mm-perception demo" in capsys.readouterr().err


def test_cleaning_removes_only_what_the_tools_mark_as_theirs(tmp_path):
    import shutil
    import subprocess

    root = Path(__file__).resolve().parents[2]
    shutil.copy(root / "Makefile", tmp_path)
    (tmp_path / "scripts").mkdir()
    shutil.copy(root / "scripts" / "setup.sh", tmp_path / "scripts")
    for name in ("mm_perception", "test", "launch", "build", "install", "log", "out", ".venv"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("mine")
    (tmp_path / "build" / "COLCON_IGNORE").touch()
    failed = subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, text=True)
    assert failed.returncode != 0 and "is not from this script: move it away" in failed.stderr
    assert (tmp_path / ".venv" / "mine").is_file() and (tmp_path / "build").is_dir()
    (tmp_path / ".venv" / ".made-by-setup").touch()
    subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, check=True)
    assert not (tmp_path / ".venv").exists() and not (tmp_path / "build").exists()
    assert all((tmp_path / name / "mine").is_file() for name in ("mm_perception", "install", "log", "out"))
