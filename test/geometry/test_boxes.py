"""Overlaps of boxes against known areas and against counting."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.geometry.boxes import iou_3d


def box(x=0.0, y=0.0, z=0.0, length=4.0, width=2.0, height=1.5, yaw=0.0):
    return np.array([[x, y, z]]), np.array([[length, width, height]]), np.array([yaw])


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (box(), 1.0),
        (box(x=2.0), 1 / 3),
        (box(z=0.75), 1 / 3),
        (box(x=4.0), 0.0),
        (box(z=2.0), 0.0),
        (box(yaw=np.pi), 1.0),
        (box(yaw=np.pi / 2), 4 / 12),
        (box(length=2.0, width=1.0, height=0.75), 1 / 8),
        (box(length=0.0), 0.0),
    ],
)
def test_known_overlaps(other, expected):
    assert iou_3d(*box(), *other)[0, 0] == pytest.approx(expected, abs=1e-9)
    assert iou_3d(*other, *box())[0, 0] == pytest.approx(expected, abs=1e-9)


def test_a_square_turned_by_45_degrees_overlaps_in_an_octagon():
    square, turned = box(length=2, width=2), box(length=2, width=2, yaw=np.pi / 4)
    area = 8 * (np.sqrt(2) - 1)
    assert iou_3d(*square, *turned)[0, 0] == pytest.approx(area / (8 - area), abs=1e-9)


def test_turned_boxes_against_counting():
    generator = np.random.default_rng(0)

    def draw(count):
        return (
            generator.uniform(-2, 2, (count, 3)),
            generator.uniform(1, 4, (count, 3)),
            generator.uniform(-3, 3, count),
        )

    def inside(points, center, size, yaw):
        d = points - center
        cos, sin = np.cos(yaw), np.sin(yaw)
        local = np.stack([cos * d[:, 0] + sin * d[:, 1], -sin * d[:, 0] + cos * d[:, 1], d[:, 2]], axis=1)
        return (np.abs(local) < size / 2).all(axis=1)

    a, b = draw(4), draw(5)
    points = generator.uniform(-6, 6, (400_000, 3))
    held = [[inside(points, c, s, y) for c, s, y in zip(*boxes, strict=True)] for boxes in (a, b)]
    counted = [[(p & q).sum() / max((p | q).sum(), 1) for q in held[1]] for p in held[0]]
    np.testing.assert_allclose(iou_3d(*a, *b), counted, atol=0.02)


def test_no_boxes():
    nothing = (np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))
    assert iou_3d(*nothing, *box()).shape == (0, 1)
    assert iou_3d(*box(), *nothing).shape == (1, 0)
