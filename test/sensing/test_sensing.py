from __future__ import annotations

import cv2
import numpy as np
import pytest

from mm_perception.core.errors import CalibrationError, DataError
from mm_perception.core.types import EventPacket, PointCloud, ThermalFrame
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.sensing.depth import back_project, hha_image, raw_depth_image, register_depth, surface_normals
from mm_perception.sensing.events import concatenate, event_image, voxel_grid
from mm_perception.sensing.image import Placement, to_tensor, warp_by_rotation
from mm_perception.sensing.lidar import lidar_image
from mm_perception.sensing.thermal import thermal_image

K = np.array([[100.0, 0, 31.5], [0, 100.0, 23.5], [0, 0, 1]])


def camera(width=64, height=48, frame="cam", k=K, distortion=()):
    model = "plumb_bob" if distortion else ""
    return CameraModel(width, height, np.array(k), np.array(distortion, np.float64), model, frame)


def events(x, y, p, t, width=8, height=6, stamp_ns=1):
    arrays = np.array(x, np.uint16), np.array(y, np.uint16), np.array(p, bool), np.array(t, np.int64)
    return EventPacket(*arrays, width, height, stamp_ns, "ev")


class TestPlacement:
    @pytest.mark.parametrize("mode", ["stretch", "letterbox"])
    @pytest.mark.parametrize("size", [(640, 480), (1600, 900), (100, 700), (7, 5)])
    def test_class_ids_survive_the_way_there_and_back(self, mode, size):
        width, height = size
        placement = Placement.fit(width, height, 320, 240, mode)
        image = np.zeros((height, width), np.uint8)
        image[:, width // 2 :] = 1
        back = placement.restore(placement.resize(image, nearest=True))
        assert back.shape == image.shape
        assert (back != image).mean() <= 2 / width

    def test_letterbox_keeps_the_ratio_and_centres(self):
        placement = Placement.fit(200, 100, 100, 100, "letterbox")
        assert (placement.left, placement.top, placement.width, placement.height) == (0, 25, 100, 50)
        resized = placement.resize(np.ones((100, 200), np.float32), border=-1.0)
        assert resized[:25].max() == resized[75:].max() == -1
        assert resized[25:75].min() == 1

    @pytest.mark.parametrize("mode", ["stretch", "letterbox"])
    def test_camera_follows_the_image(self, mode):
        model = camera(200, 100, k=[[120.0, 0, 90], [0, 120, 55], [0, 0, 1]])
        placement = Placement.fit(200, 100, 100, 100, mode)
        image = np.zeros((100, 200), np.float32)
        u, v = model.project(np.array([[0.3, 0.1, 2.0]]))[0][0]
        cv2.circle(image, (round(u), round(v)), 8, 1.0, -1)
        weights = placement.resize(image)
        rows, columns = np.indices(weights.shape)
        found = np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()
        expected = placement.camera(model).project(np.array([[0.3, 0.1, 2.0]]))[0][0]
        np.testing.assert_allclose(found, expected, atol=0.3)

    def test_sizes_that_contradict_are_errors(self):
        with pytest.raises(CalibrationError, match="calibrated for"):
            Placement.fit(10, 10, 5, 5, "stretch").camera(camera())
        with pytest.raises(DataError):
            Placement.fit(0, 10, 5, 5, "stretch")


def test_tensor_is_normalised_in_the_order_of_the_weights():
    image = np.array([[[255, 0, 51]]], np.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.5, 0.2, 0.1)
    rgb = to_tensor(image, mean, std)
    np.testing.assert_allclose(rgb[0, :, 0, 0], [1.0, -2.0, -1.0], atol=1e-6)
    bgr = to_tensor(image, mean, std, reverse_channels=True)
    np.testing.assert_allclose(bgr[0, :, 0, 0], [-0.6, -2.0, 7.0], atol=1e-5)
    np.testing.assert_allclose(to_tensor(image.astype(np.float32) / 255, mean, std), rgb, atol=1e-6)
    assert rgb.shape == (1, 3, 1, 1)
    assert rgb.flags.c_contiguous


def test_warp_by_rotation_moves_far_things_where_they_are():
    turn = RigidTransform("cam", "thermal", cv2.Rodrigues(np.array([0, 0.1, 0]))[0], np.zeros(3))
    source, target = camera(frame="thermal"), camera(128, 96, k=[[150.0, 0, 60], [0, 150, 50], [0, 0, 1]])
    point = np.array([[-20.0, 5, 300]])
    u, v = source.project(point)[0][0]
    image = np.zeros((48, 64), np.float32)
    cv2.circle(image, (round(u), round(v)), 3, 1.0, -1)
    warped = warp_by_rotation(image, source, target, turn)
    rows, columns = np.indices(warped.shape)
    found = np.array([(columns * warped).sum(), (rows * warped).sum()]) / warped.sum()
    np.testing.assert_allclose(found, target.project(turn.apply(point))[0][0], atol=1.0)


class TestDepth:
    def test_raw_is_scaled_and_repeated(self):
        image = raw_depth_image(np.array([[20.0, np.nan, 200.0]], np.float32), 80.0)
        np.testing.assert_allclose(image[0, :, 0], [0.25, 0, 1])
        assert image.shape == (1, 3, 3)

    def test_back_projection_inverts_projection(self):
        depth = np.random.default_rng(0).uniform(1, 9, (48, 64)).astype(np.float32)
        pixels, z = camera().project(back_project(depth, camera()).reshape(-1, 3))
        v, u = np.indices((48, 64))
        np.testing.assert_allclose(pixels, np.stack([u.ravel(), v.ravel()], 1), atol=1e-3)
        np.testing.assert_allclose(z, depth.ravel())

    def test_hha_of_a_floor_and_a_wall(self):
        """A camera 0.75 m above a floor, a wall 6 m ahead: height, angle and disparity are known."""
        v = np.arange(48)[:, None]
        with np.errstate(divide="ignore"):
            floor = np.where(v > 23.5, 0.75 * 100.0 / (v - 23.5), np.inf)
        depth = np.minimum(floor, 6.0).repeat(64, 1).astype(np.float32)
        hha = hha_image(depth, camera(), down=np.array([0.0, 1, 0])) * 255
        assert hha[40, 32, 1] == pytest.approx(0.0, abs=3)
        assert hha[40, 32, 2] == pytest.approx(38.0, abs=3)
        assert hha[10, 32, 2] == pytest.approx(128.0, abs=3)
        assert hha[10, 32, 0] == pytest.approx(310 / 6, abs=0.5)
        wall_height_cm = 75 + 6.0 * (23.5 - 10) / 100 * 100
        assert hha[10, 32, 1] == pytest.approx(wall_height_cm, abs=4)
        estimated = hha_image(depth, camera()) * 255
        np.testing.assert_allclose(estimated[10, 32], hha[10, 32], atol=6)

    def test_hha_without_any_depth_is_zero(self):
        assert not hha_image(np.full((48, 64), np.nan, np.float32), camera()).any()

    def test_normals_of_a_plane_face_the_camera(self):
        normals = surface_normals(back_project(np.full((48, 64), 3.0, np.float32), camera()))
        np.testing.assert_allclose(normals[24, 32], (0, 0, -1), atol=1e-6)
        assert np.isnan(normals[0, 0]).all()

    def test_registration_shifts_by_the_disparity_and_the_nearest_wins(self):
        depth = np.full((48, 64), 4.0, np.float32)
        depth[20:28, 30:34] = 2.0
        shift = RigidTransform("cam", "depth", np.eye(3), np.array([0.2, 0, 0]))
        registered = register_depth(depth, camera(frame="depth"), camera(), shift)
        assert registered[24, 42] == pytest.approx(2.0)  # moved by 100 * 0.2 / 2 = 10 px
        assert registered[24, 50] == pytest.approx(4.0)
        assert np.isnan(registered[24, 0])
        empty = register_depth(np.full((48, 64), np.nan, np.float32), camera(frame="depth"), camera(), shift)
        assert np.isnan(empty).all()

    def test_registration_of_a_recorded_pair(self, shared_dir):
        """The recording's own registered image keeps the depth camera's z and fills holes in another way."""
        folder = shared_dir / "data" / "rgbd_apc_scene"

        def read(path):
            v = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.uint32)
            z = (((v << 13) | (v >> 3)) & 0xFFFF).astype(np.float32) / 10_000
            return np.where(z > 0, z, np.nan).astype(np.float32)

        rows = [
            [float(n) for n in line.split()]
            for line in (folder / "cam.info.txt").read_text().splitlines()
            if line and not line.startswith("#")
        ]
        colour = camera(640, 480, k=rows[0:3])
        depth = camera(640, 480, "depth", k=rows[3:6])
        colour_from_depth = RigidTransform.from_matrix("cam", "depth", np.array(rows[6:10]))
        ours = register_depth(read(folder / "raw" / "frame-000000.depth.png"), depth, colour, colour_from_depth)
        theirs = read(folder / "frame-000000.depth.png")
        both = np.isfinite(ours) & np.isfinite(theirs)
        # Without any filling 58 % of the recording's pixels are hit (the colour camera's grid is finer).
        assert both.sum() > 0.65 * np.isfinite(theirs).sum()
        assert np.median(np.abs(ours[both] - 0.0042769 - theirs[both])) < 0.002


class TestThermal:
    @pytest.mark.parametrize(
        ("unit", "value", "encoding", "expected"),
        [
            ("counts", 16383.0, "raw", 1.0),
            ("kelvin", 293.15, "kelvin", 0.5),
            ("kelvin", 100.0, "kelvin", 0.0),
            ("agc", 51.0, "agc", 0.2),
        ],
    )
    def test_scales(self, unit, value, encoding, expected):
        image = thermal_image(ThermalFrame(np.full((2, 2), value, np.float32), unit, 1, "t"), encoding)
        np.testing.assert_allclose(image, np.full((2, 2, 3), expected), atol=1e-6)

    def test_agc_stretches_the_middle_98_percent(self):
        values = np.arange(10_000, dtype=np.float32).reshape(100, 100) + 3000
        image = thermal_image(ThermalFrame(values, "counts", 1, "t"), "agc")[..., 0]
        assert (image == 0).mean() == pytest.approx(0.01, abs=1e-3)
        assert (image == 1).mean() == pytest.approx(0.01, abs=1e-3)
        flat = thermal_image(ThermalFrame(np.full((4, 4), 7, np.float32), "counts", 1, "t"), "agc")
        assert (flat == 0.5).all()

    @pytest.mark.parametrize(("unit", "encoding"), [("kelvin", "raw"), ("counts", "kelvin"), ("agc", "raw")])
    def test_unit_that_cannot_give_the_encoding(self, unit, encoding):
        with pytest.raises(DataError, match=unit):
            thermal_image(ThermalFrame(np.ones((2, 2), np.float32), unit, 1, "t"), encoding)


class TestEvents:
    def test_event_is_shared_between_its_two_bins(self):
        grid = voxel_grid(events([3], [2], [True], [125]), 0, 200, bins=3)
        np.testing.assert_allclose(grid[:, 2, 3], [0, 0.75, 0.25])
        assert np.abs(grid).sum() == pytest.approx(1.0)

    def test_equals_the_sum_over_single_events(self):
        generator = np.random.default_rng(0)
        n = 500
        packet = events(
            generator.integers(0, 8, n), generator.integers(0, 6, n), generator.random(n) > 0.5,
            np.sort(generator.integers(0, 1001, n)),
        )  # fmt: skip
        slow = np.zeros((4, 6, 8))
        for x, y, p, t in zip(packet.x, packet.y, packet.polarity, packet.t_ns, strict=True):
            for b in range(4):
                slow[b, y, x] += (1 if p else -1) * max(0.0, 1 - abs(b - t * 3 / 1000))
        np.testing.assert_allclose(voxel_grid(packet, 0, 1000, bins=4), slow, atol=1e-5)

    def test_events_outside_of_the_window_do_not_count(self):
        assert not voxel_grid(events([1, 2], [1, 2], [1, 1], [10, 90]), 20, 80).any()

    def test_image_is_normalised_where_there_are_events(self):
        image = event_image(events([1, 2, 3], [1, 1, 1], [1, 1, 0], [0, 50, 100]), 0, 100)
        assert image.shape == (6, 8, 3)
        active = image[image != 0]
        assert active.mean() == pytest.approx(0, abs=1e-6)
        assert active.std() == pytest.approx(1, abs=1e-6)
        assert not event_image(events([], [], [], []), 0, 100).any()

    def test_empty_window_is_refused(self):
        with pytest.raises(DataError):
            voxel_grid(events([], [], [], []), 5, 5)

    def test_packets_are_cut_and_joined(self):
        joined = concatenate((events([1, 2], [0, 0], [1, 1], [5, 10]), events([3, 4], [0, 0], [1, 1], [9, 20])), 5, 15)
        assert joined.x.tolist() == [3, 2]
        assert joined.t_ns.tolist() == [9, 10]
        with pytest.raises(DataError, match="different"):
            concatenate((events([], [], [], []), events([], [], [], [], width=9)), 0, 1)
        with pytest.raises(DataError, match="no event packets"):
            concatenate((), 0, 1)


class TestLidar:
    POSE = RigidTransform("cam", "lidar", np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]), np.zeros(3))

    def cloud(self, xyz, intensity=None):
        given = None if intensity is None else np.array(intensity, np.float32)
        return PointCloud(np.array(xyz, np.float32).reshape(-1, 3), 1, "lidar", intensity=given)

    def test_features_and_the_nearest_point_wins(self):
        image = lidar_image(self.cloud([[10, 0, 0], [5, 0, 0], [20, 0, 0]], [10, 51, 30]), camera(), self.POSE)
        np.testing.assert_allclose(image[24, 32], [5 / 80, 3 / 8, 0.2], atol=1e-6)
        assert (image[..., 0] > 0).sum() == 9

    def test_equals_the_slow_way(self):
        generator = np.random.default_rng(0)
        cloud = self.cloud(generator.uniform((2, -3, -2), (30, 3, 2), (400, 3)), generator.uniform(1, 255, 400))
        pixels, depth = camera().project(self.POSE.apply(cloud.xyz))
        nearest, expected = np.full((48, 64), np.inf), np.zeros((48, 64))
        for (u, v), z, intensity in zip(pixels, depth, cloud.intensity, strict=True):
            column, row = int(np.floor(u + 0.5)), int(np.floor(v + 0.5))
            if not (0 <= column < 64 and 0 <= row < 48):
                continue
            for y in range(max(row - 1, 0), min(row + 2, 48)):
                for x in range(max(column - 1, 0), min(column + 2, 64)):
                    if z < nearest[y, x]:
                        nearest[y, x], expected[y, x] = z, intensity / 255
        np.testing.assert_allclose(lidar_image(cloud, camera(), self.POSE)[..., 2], expected, atol=1e-6)

    @pytest.mark.parametrize("xyz", [[], [[-5, 0, 0]], [[5, 50, 0]]])
    def test_nothing_in_view_is_an_empty_image(self, xyz):
        assert not lidar_image(self.cloud(xyz), camera(), self.POSE).any()

    def test_transform_between_other_frames_is_refused(self):
        with pytest.raises(CalibrationError, match="does not bring"):
            lidar_image(self.cloud([]), camera(), self.POSE.inverse())
