"""Places in both planes against projections by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.core.errors import ConfigError
from mm_perception.sensing.fusion_geometry import (
    FusionGrid,
    atlas_coordinates,
    point_keys,
    polar_maps,
    project,
    warp_map,
)

GRID = FusionGrid((-10.0, -10.0, -2.0, 10.0, 10.0, 2.0), (20, 20), (32, 64), stride=4, radii=8, heights=4)
AXES = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
"""A camera at the LiDAR's place that looks along x."""


def camera(yaw=0.0, focal=40.0):
    k = np.eye(4)
    k[0, 0] = k[1, 1] = focal
    k[0, 2], k[1, 2] = 32.0, 16.0
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]]
    return k @ AXES @ turn


CAMERAS = np.stack([camera(), camera(np.pi)])


def test_a_point_ahead_is_seen_in_the_middle_and_only_by_the_camera_that_looks_there():
    uv, seen = project(np.array([[5.0, 0, 0], [-5.0, 0, 0], [5.0, 4.1, 0], [0, 0, 0]]), CAMERAS, GRID.image_size)
    np.testing.assert_allclose(uv[0, 0], 0.0, atol=1e-12)
    assert seen.tolist() == [[True, False, False, False], [False, True, False, False]]


def test_places_in_the_atlas_keep_views_apart():
    first, second = (
        atlas_coordinates(np.array([[0.5, y]]), np.array([v]), 2, (8, 16))[0] for v, y in ((0, 1.0), (1, -1.0))
    )
    rows = [(y + 1) / 2 * 18 for y in (first[1], second[1])]
    assert rows == pytest.approx([8.0, 9.0]), "the row of zeros lies between"
    assert first[0] == second[0] == 0.5


def test_keys_of_points_padding_and_points_that_many_cameras_see():
    points = np.array([[[5.0, 0, 0], [-5.0, 0, 0]], [[5.0, 1, 0], [9.0, 9, 9]]], np.float32)
    present = np.array([[True, True], [True, False]])
    cameras = np.stack([camera(), camera(), camera()])
    keys = point_keys(points, present, cameras, GRID, views_per_point=2)
    assert keys.grid.shape == (2, 4, 2)
    assert keys.valid.tolist() == [[True, True, False, False], [True, True, False, False]]
    assert keys.lost == 2, "the third camera sees both points ahead, too"
    assert keys.grid[0, 0, 1] < keys.grid[0, 1, 1], "cameras in their order"


def test_depth_takes_an_image_cell_to_its_place_on_the_ground():
    depth = np.full((2, *GRID.map_size), 5.0, np.float32)
    depth[0, 0, 0] = 0.0
    places, inside = warp_map(depth, np.linalg.inv(CAMERAS), GRID)
    middle = places[0, 4, 8]  # u = 33.6, v = 17.7
    np.testing.assert_allclose(middle, [0.5, -5 * (33.6 - 32) / 40 / 10], atol=1e-6)
    np.testing.assert_allclose(places[1, 4, 8], [-0.5, 5 * (33.6 - 32) / 40 / 10], atol=1e-6)
    np.testing.assert_allclose(places[0, 0, 0], 0.0, atol=1e-9)
    assert inside[:, 1:7].all() and not inside[1, 0].any(), "the rim of the picture looks above z = 2"
    far, none = warp_map(np.full_like(depth, 50.0), np.linalg.inv(CAMERAS), GRID)
    assert not none.any() and np.abs(far).max() > 1


def test_rays_leave_through_their_columns_and_cells_find_them_again():
    maps = polar_maps(CAMERAS, np.linalg.inv(CAMERAS), GRID)
    assert maps.rays.shape == (2, 16, 8, 2)
    columns = (np.arange(16) + 0.5) * 4
    for j in (0, 5, 15):
        direction = np.array([1.0, -(columns[j] - 32) / 40])
        expected = direction / np.linalg.norm(direction) * 1.5 / 10
        np.testing.assert_allclose(maps.rays[0, j, 0], expected, atol=1e-6)
    cell = (10, 15)  # x = 5.5, y = 0.5
    np.testing.assert_allclose(maps.back[0][cell][0], -40 * 0.5 / 5.5 / 32, atol=1e-6)
    np.testing.assert_allclose(maps.back[0][cell][1], 2 * (np.hypot(5.5, 0.5) - 1) / 8 - 1, atol=1e-6)
    assert maps.seen[0][cell] and not maps.seen[1][cell]
    assert not (maps.seen[0] & maps.seen[1]).any()


def test_augmentation_moves_the_ground_and_not_the_images():
    turned = np.eye(4)
    turned[:2, :2] = [[0.0, -1], [1, 0]]
    turned[:3, 3] = [1.0, 2.0, 0.0]
    point = np.array([[[5.0, 1.0, 0.0]]])
    moved = (point[0] @ turned[:3, :3].T + turned[:3, 3])[None].astype(np.float32)
    there = np.ones((1, 1), bool)
    plain = point_keys(point.astype(np.float32), there, CAMERAS, GRID)
    again = point_keys(moved, there, CAMERAS, GRID, lidar_from_bev=np.linalg.inv(turned))
    np.testing.assert_allclose(plain.grid, again.grid, atol=1e-6)
    depth = np.full((2, *GRID.map_size), 5.0, np.float32)
    before, _ = warp_map(depth, np.linalg.inv(CAMERAS), GRID)
    after, _ = warp_map(depth, np.linalg.inv(CAMERAS), GRID, turned)
    np.testing.assert_allclose(after * 10, before * 10 @ turned[:2, :2].T + turned[:2, 3], atol=1e-5)


def test_no_points_and_impossible_grids():
    keys = point_keys(np.zeros((0, 3, 3), np.float32), np.zeros((0, 3), bool), CAMERAS, GRID)
    assert keys.grid.shape == (0, 6, 2)
    with pytest.raises(ConfigError, match="rising"):
        FusionGrid((1.0, 0, 0, 0, 1, 1), (2, 2), (8, 8))
    with pytest.raises(ConfigError, match="multiple"):
        FusionGrid((0.0, 0, 0, 1, 1, 1), (2, 2), (9, 8))
