from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(scope="session")
def published(shared_dir: Path):
    """The published network's numbers: `load(name)`, `weights(name, prefix)`, `seeded(fixture)`."""
    folder = shared_dir / "parity" / "deepinteraction"
    if not folder.is_dir():
        pytest.skip(f"no DeepInteraction reference data in {folder}")
    spec = importlib.util.spec_from_file_location("deepinteraction_parity", folder / "fixture_io.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def load(name):
        return module.load(name, folder)

    def weights(name, prefix=""):
        return {k[len(prefix) :]: v for k, v in module.load_weights(load(name)).items() if k.startswith(prefix)}

    def seeded(fixture):
        return {k: module.hin(v[0], *v[1:]) for k, v in fixture["input_seeds"].items()}

    return SimpleNamespace(folder=folder, load=load, weights=weights, seeded=seeded)


@pytest.fixture(scope="session")
def meeting(published):
    """Where the two streams meet in the published example: `maps(augmented)`, `grid`, `lidar2img`, `depth`."""
    from mm_perception.models.deepinteraction.encoder import InteractionMaps
    from mm_perception.sensing.fusion_geometry import FusionGrid, point_keys, polar_maps, warp_map

    data = published.load("geometry")
    grid = FusionGrid(tuple(data["pc_range"].tolist()), (36, 36), tuple(data["input_hw"].tolist()))
    lidar2img = data["lidar2img"].double().numpy()
    img2lidar = np.linalg.inv(lidar2img)
    depth = published.load("depth_completion")["filled"].numpy()
    augmentation = published.load("aug_transform")
    turned = np.eye(4)
    turned[:3, :3] = augmentation["rotation"].numpy().T * float(augmentation["scale"])
    turned[:3, 3] = augmentation["trans"].numpy()
    turned[1] *= -1.0  # the example mirrors y last

    def maps(augmented: bool = False) -> InteractionMaps:
        forward = turned if augmented else None
        backward = np.linalg.inv(turned) if augmented else None
        present = np.arange(20)[None] < data["pillars_num_points"].numpy()[:, None]
        keys = point_keys(data["pillars"][..., :3].numpy(), present, lidar2img, grid, 3, backward)
        cell = data["pillar_coors"][:, 2].long() * 36 + data["pillar_coors"][:, 3].long()
        inverse = torch.full((36 * 36,), len(cell))
        inverse[cell] = torch.arange(len(cell))
        places, valid = warp_map(depth, img2lidar, grid, forward)
        polar = polar_maps(lidar2img, img2lidar, grid, forward)
        arrays = (places, valid, polar.rays, polar.back, polar.seen)
        return InteractionMaps(
            torch.from_numpy(keys.grid), torch.from_numpy(keys.valid).float(), cell, inverse,
            *(torch.from_numpy(np.ascontiguousarray(a)).float() for a in arrays),
        )  # fmt: skip

    return SimpleNamespace(
        maps=maps, grid=grid, lidar2img=data["lidar2img"], transform=turned, augmentation=augmentation
    )
