"""Our network against logits and stage maps of the published implementation, on seeded weights and inputs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from mm_perception.models import cmx

SEED = 11
TOLERANCE = 1e-4
MAP_TOLERANCE = 1e-5
"""Of a map's largest value (55 to 99): float32 itself is 1.6e-6 of it off, on some processors; a wrong epsilon 6e-3."""


def _recipe(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("cmx_parity_recipe", folder / "recipe.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["b0", "b2"])
def case(request: pytest.FixtureRequest, shared_dir: Path):
    folder = shared_dir / "parity" / "cmx"
    if not folder.is_dir():
        pytest.skip(f"no CMX reference data in {folder}")
    recipe = _recipe(folder)
    shapes = {k: v[0] for k, v in json.loads((folder / f"mit_{request.param}_shapes.json").read_text()).items()}
    model = cmx.build_cmx(request.param, 9, 512)
    weights = {key: torch.from_numpy(np.asarray(value)) for key, value in recipe.state(SEED, shapes).items()}
    model.load_state_dict(weights)
    with np.load(folder / f"mit_{request.param}_seed{SEED}.npz") as published:
        return recipe, shapes, model.eval(), dict(published)


def _sizes(published: dict[str, np.ndarray], kind: str) -> list[tuple[int, int, int]]:
    names = [key.split("_", 1)[1] for key in published if key.startswith(kind)]
    return [tuple(int(n) for n in name.split("x")) for name in names]  # type: ignore[misc]


def test_keys_and_shapes_are_the_published_ones(case):
    _, shapes, model, _ = case
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == shapes


def test_logits_equal_the_published_ones(case):
    recipe, _, model, published = case
    folded = cmx.fold_for_inference(model)
    sizes = _sizes(published, "logits")
    assert sizes
    for size in sizes:
        rgb, x = (torch.from_numpy(array) for array in recipe.inputs(SEED, *size))
        want = published["logits_" + "x".join(map(str, size))]
        with torch.inference_mode():
            np.testing.assert_allclose(model(rgb, x).numpy(), want, atol=TOLERANCE, rtol=0, err_msg=f"{size}")
            np.testing.assert_allclose(folded(rgb, x).numpy(), want, atol=TOLERANCE, rtol=0, err_msg=f"{size}")


def test_fused_stage_maps_equal_the_published_ones(case):
    recipe, _, model, published = case
    sizes = _sizes(published, "stage1")
    assert sizes
    for size in sizes:
        rgb, x = (torch.from_numpy(array) for array in recipe.inputs(SEED, *size))
        with torch.inference_mode():
            maps = model.backbone(rgb, x)
        for stage, got in enumerate(maps, start=1):
            want = published[f"stage{stage}_" + "x".join(map(str, size))]
            atol = MAP_TOLERANCE * float(np.abs(want).max())
            np.testing.assert_allclose(got.numpy(), want, atol=atol, rtol=0, err_msg=f"{size} stage {stage}")
