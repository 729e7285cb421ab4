"""What surfaces are made of: colour, roughness and glow for cameras, emissivity and heat for thermal cameras,
reflectance at 905 nm for LiDAR.

Albedos and emissivities are rounded values for common building materials (emissivity near 10 um: asphalt 0.95,
concrete 0.94, brick 0.93, foliage 0.97, glass 0.87, paint 0.92, skin 0.98, bare metal below 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""Cityscapes' 19 classes in the order of its train ids; the world has no trains."""

PALETTE = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip

VOID = 255
"""Class id of what has no class: cones, rubbish bins."""

SKY_SURFACE = 0
"""Row of the sky in every table."""

PLAIN, NOISE, FACADE, BRICK = 0, 1, 2, 3
"""Patterns. FACADE draws windows on walls from the place of a point on them."""

Colour = tuple[float, float, float]


def class_id(name: str) -> int:
    """Index of a class of `CLASSES`, or VOID for an empty name."""
    return CLASSES.index(name) if name else VOID


@dataclass(frozen=True, slots=True)
class Surface:
    """One surface; many triangles may have it.

    Attributes:
        class_id: index into CLASSES, or VOID.
        albedo: linear red, green, blue reflectance, 0..1.
        instance: id of the object it belongs to; 0: none.
        pattern, pattern_depth: kind and contrast (0..1) of the pattern on it.
        gloss: share of a mirror's Fresnel reflection, 0..1.
        glow: luminance that it emits by night (street lamps, lit windows, headlights), (r, g, b) [cd/m2].
        always_on: 1 if it glows by day, too (signals).
        retro: retro-reflection of headlights and laser light, times that of a white matt surface.
        emissivity: in 8-14 um.
        heat_k: warmth from within, above the air [K]: engines, heated rooms.
        body: share of the way from the air's to a body's 310 K: about 0.75 for skin, 0.35 for clothes.
        sun_gain_k: how much warmer full, steady sunshine makes it [K].
        laser: reflectance at 905 nm, 0..1.
    """

    class_id: int
    albedo: Colour
    instance: int = 0
    pattern: int = PLAIN
    pattern_depth: float = 0.0
    gloss: float = 0.0
    glow: Colour = (0.0, 0.0, 0.0)
    always_on: float = 0.0
    retro: float = 0.0
    emissivity: float = 0.93
    heat_k: float = 0.0
    body: float = 0.0
    sun_gain_k: float = 12.0
    laser: float = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class SurfaceArrays:
    """The columns of a table of S surfaces: `albedo` and `glow` are (S, 3) float32, the others (S,)."""

    class_id: NDArray[np.uint8]
    albedo: NDArray[np.float32]
    instance: NDArray[np.uint16]
    pattern: NDArray[np.uint8]
    pattern_depth: NDArray[np.float32]
    gloss: NDArray[np.float32]
    glow: NDArray[np.float32]
    always_on: NDArray[np.float32]
    retro: NDArray[np.float32]
    emissivity: NDArray[np.float32]
    heat_k: NDArray[np.float32]
    body: NDArray[np.float32]
    sun_gain_k: NDArray[np.float32]
    laser: NDArray[np.float32]


_DTYPES = {"class_id": np.uint8, "instance": np.uint16, "pattern": np.uint8}


class SurfaceTable:
    """Collects the surfaces of a world; row 0 is the sky."""

    def __init__(self) -> None:
        self._rows = [Surface(class_id("sky"), (0.0, 0.0, 0.0), emissivity=1.0, laser=0.0)]
        self._arrays: SurfaceArrays | None = None

    def add(self, surface: Surface) -> int:
        """Returns the new row's index."""
        self._rows.append(surface)
        self._arrays = None
        return len(self._rows) - 1

    @property
    def arrays(self) -> SurfaceArrays:
        if self._arrays is None:
            columns = {
                field.name: np.array(
                    [getattr(row, field.name) for row in self._rows], _DTYPES.get(field.name, np.float32)
                )
                for field in fields(Surface)
            }
            self._arrays = SurfaceArrays(**columns)  # type: ignore[arg-type]  # dtypes as in _DTYPES
        return self._arrays
