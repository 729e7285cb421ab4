"""Solids have the right size and closed surfaces."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.sim.actors import MAKERS, sample_surface
from mm_perception.sim.mesh import box, ellipsoid, extrude, frustum, merge, tube, yaw_matrix
from mm_perception.sim.surfaces import SurfaceTable


def enclosed_volume(mesh):
    """Volume by the divergence theorem, for triangles that are all wound one way."""
    a, b, c = (mesh.vertices[mesh.triangles[:, i]].astype(np.float64) for i in range(3))
    return abs(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6.0)


def edge_counts(mesh):
    """How many triangles share each edge, with equal points taken as one."""
    _, index = np.unique(np.round(mesh.vertices, 5), axis=0, return_inverse=True)
    triangles = index.reshape(-1)[mesh.triangles]
    triangles = triangles[[len(set(t)) == 3 for t in triangles.tolist()]]
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    return np.unique(edges, axis=0, return_counts=True)[1]


@pytest.mark.parametrize(
    "mesh",
    [
        box((1, 2, 3), (2, 3, 4), 0),
        frustum((0, 0, 0), (2, 2), (1, 1), 1.0, 0),
        tube((0, 0, 0), (1, 1, 1), 0.2, 0),
        ellipsoid((0, 0, 0), (1, 2, 3), 0),
        extrude([(0, 0), (2, 0), (2, 1), (0, 1)], [0.5] * 4, 0),
    ],
    ids=["box", "frustum", "tube", "ellipsoid", "extrusion"],
)
def test_solids_are_closed(mesh):
    assert (edge_counts(mesh) == 2).all()


def test_box_has_its_size_and_place():
    mesh = box((1.0, 2.0, 3.0), (2.0, 3.0, 4.0), 7)
    np.testing.assert_allclose(mesh.vertices.min(axis=0), (0.0, 0.5, 1.0))
    np.testing.assert_allclose(mesh.vertices.max(axis=0), (2.0, 3.5, 5.0))
    assert set(mesh.surfaces.tolist()) == {7}


def test_ellipsoid_fills_most_of_its_sphere():
    mesh = ellipsoid((0, 0, 0), (1, 1, 1), 0, rings=24, sides=32)
    inside = np.linalg.norm(mesh.vertices, axis=1)
    np.testing.assert_allclose(inside, 1.0, atol=1e-5)


def test_merge_keeps_every_triangle():
    first, second = box((0, 0, 0), (1, 1, 1), 1), tube((0, 0, 0), (0, 0, 1), 0.1, 2)
    both = merge([first, second])
    np.testing.assert_array_equal(
        both.vertices[both.triangles[: len(first.triangles)]], first.vertices[first.triangles]
    )
    np.testing.assert_array_equal(
        both.vertices[both.triangles[len(first.triangles) :]], second.vertices[second.triangles]
    )
    assert len(merge([]).triangles) == 0


def test_moved_turns_before_it_shifts():
    mesh = box((1, 0, 0), (0.2, 0.2, 0.2), 0).moved(yaw_matrix(np.pi / 2), (5, 5, 5))
    np.testing.assert_allclose(mesh.vertices.mean(axis=0), (5, 6, 5), atol=1e-6)


@pytest.mark.parametrize("kind", sorted(MAKERS))
@pytest.mark.parametrize("moving", [False, True])
def test_actors_stand_in_their_boxes(kind, moving):
    table = SurfaceTable()
    for seed in range(6):
        shape = MAKERS[kind](table, 3, np.random.default_rng(seed), moving)
        vertices = shape.posed(0.4).vertices
        length, width, height = shape.size_lwh
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        assert low[2] > -0.03, "nothing reaches into the ground"
        assert high[2] < height + 0.12 and high[2] > 0.75 * height
        assert (np.abs([low[0], high[0]]) < length / 2 + 0.45).all(), "arms and legs may swing out of the box a little"
        assert (np.abs([low[1], high[1]]) < width / 2 + 0.12).all()
        rows = table.arrays.instance[np.unique(shape.posed(0.0).surfaces)]
        assert set(rows.tolist()) == {3}


def test_skin_points_lie_on_the_surface_evenly_by_area():
    mesh = merge([box((0, 0, 0), (2.0, 1.0, 0.0), 0), box((10, 0, 0), (1.0, 1.0, 0.0), 0)])
    points = sample_surface(mesh, 6000, np.random.default_rng(0))
    assert np.abs(points[:, 2]).max() < 1e-6
    assert np.mean(points[:, 0] < 5) == pytest.approx(2 / 3, abs=0.03)
