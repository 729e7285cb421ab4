"""Figures of the three ways against answers that are known, and which inputs each of them is given."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from mm_perception.core.detector import VARIANTS
from mm_perception.core.errors import ConfigError, DataError, ModelError
from mm_perception.core.types import Detections3D
from mm_perception.engines.detector_card import find_detector_card
from mm_perception.metrics.nuscenes_format import scored_boxes
from mm_perception.replay.held_out_detection import (
    SMALL_CLASSES,
    WAYS,
    DetectionComparison,
    Judged,
    Way,
    check_world_card,
    compare_ways,
    drawn_frames,
    mean_ap_of,
    nds_of,
    open_ways,
    summary,
)
from mm_perception.sim.actors import DETECTION_CLASSES
from mm_perception.sim.detection_frames import DetectionFrame
from mm_perception.sim.frames import jpeg_of

CARD = find_detector_card("deepinteraction-tiny-untrained")
CAR, PERSON = DETECTION_CLASSES.index("car"), DETECTION_CLASSES.index("pedestrian")


def boxes(*rows):
    """Label, x, y, score."""
    table = np.array(rows, np.float32).reshape(-1, 4)
    n = len(table)
    return Detections3D(
        np.c_[table[:, 1:3], np.zeros(n, np.float32)], np.ones((n, 3), np.float32), np.zeros(n, np.float32),
        np.zeros((n, 2), np.float32), table[:, 3].copy(), table[:, 0].astype(np.int32), DETECTION_CLASSES, "lidar", 0,
    )  # fmt: skip


NEAR, FAR, PEOPLE = (CAR, 10, 5, 0.9), (CAR, -36, 8, 0.8), (PERSON, 6, -3, 0.7)
ELSEWHERE = (CAR, 20, 20, 0.95)


def comparison(worlds=10, lidar=(NEAR,)):
    """Two frames per world: a near car and a person by day, and a far car at night. Fusion finds all; the blind network
    nothing at all."""
    out = DetectionComparison(WAYS)
    for world in range(worlds):
        for condition, truth in (("day", (NEAR, PEOPLE)), ("night", (FAR,))):
            out.conditions.append(condition)
            out.worlds.append(world)
            out.truth.append(scored_boxes(boxes(*truth), np.ones(len(truth), np.int64)))
            found = {"fusion": truth, "lidar": tuple(row for row in truth if row in lidar), "camera-blind": ()}
            for way in WAYS:
                out.found.setdefault(way, []).append(scored_boxes(boxes(*found[way])))
                out.inference_ms.setdefault(way, []).append(1.0)
    return out


def test_figures_by_condition_distance_and_size():
    facts = summary(comparison(), resamples=20)
    assert facts["mAP"]["day"] == {"fusion": 1.0, "lidar": 0.5, "camera-blind": 0.0}
    assert facts["mAP"]["night"] == {"fusion": 1.0, "lidar": 0.0, "camera-blind": 0.0}
    half_of_cars = facts["AP"]["lidar"]["car"]
    assert half_of_cars == pytest.approx(0.4 / 0.9, abs=0.02), "every car of the first half of recalls, from 0.1 on"
    assert facts["mAP"]["all"]["lidar"] == pytest.approx(half_of_cars / 2, abs=1e-5)
    assert facts["gain"] == {"all": pytest.approx(1 - half_of_cars / 2, abs=1e-5), "day": 0.5, "night": 1.0}
    assert facts["NDS"]["day"]["fusion"] == pytest.approx((5 + 4) / 10) and facts["NDS"]["day"]["camera-blind"] == 0.0
    assert facts["far"]["mAP"] == {"fusion": 1.0, "lidar": 0.0, "camera-blind": 0.0}
    assert facts["far"]["classes"] == ["car"] and facts["far"]["gain"] == 1.0
    assert facts["small"]["mAP"] == {"fusion": 1.0, "lidar": 0.0, "camera-blind": 0.0}
    assert facts["small"]["classes"] == ["pedestrian"]
    assert facts["frames"] == {"all": 20, "day": 10, "night": 10}
    assert facts["true_boxes"] == {"car": 20, "pedestrian": 10}
    json.dumps(facts, allow_nan=False)


def test_intervals_hold_the_spread_of_worlds_and_come_again():
    uneven = comparison(12)
    for i in range(0, 24, 6):  # in some worlds the LiDAR finds nothing
        uneven.found["lidar"][i] = scored_boxes(boxes())
    facts = summary(uneven, seed=1, resamples=50)
    low, high = facts["interval_95"]["day"]["lidar"]
    assert low < facts["mAP"]["day"]["lidar"] < high
    gain = facts["gain_interval_95"]["day"]
    assert gain == pytest.approx([1 - high, 1 - low], abs=1e-4), "fusion finds all in each draw"
    assert facts["interval_95"]["night"]["fusion"] == [1.0, 1.0]
    again, other = summary(uneven, seed=1, resamples=50), summary(uneven, seed=2, resamples=50)
    assert again == facts and other["mAP"] == facts["mAP"]
    assert other["interval_95"] != facts["interval_95"]


def test_a_handful_of_worlds_gives_no_interval():
    facts = summary(comparison(9), resamples=20)
    assert facts["interval_95"]["all"] == dict.fromkeys(WAYS) and facts["gain_interval_95"]["night"] is None
    assert facts["far"]["interval_95"] == dict.fromkeys(WAYS)
    assert facts["gain"]["day"] == 0.5


def test_draws_are_of_worlds_with_all_their_frames():
    draws = drawn_frames([5, 5, 9, 9, 9], np.random.default_rng(0), 40)
    assert {tuple(d) for d in draws} == {(0, 1, 0, 1), (0, 1, 2, 3, 4), (2, 3, 4, 0, 1), (2, 3, 4, 2, 3, 4)}


def test_draws_leave_out_classes_that_they_do_not_hold():
    judged = Judged(comparison(2), np.arange(4))
    aps = judged.aps("fusion", [np.array([1, 1]), np.array([0, 1])])
    assert judged.classes == ("car", "pedestrian")
    np.testing.assert_allclose(aps, [[1.0, np.nan], [1.0, 1.0]])


def test_truth_without_returns_and_beyond_the_range_does_not_count():
    one = comparison(1)
    one.truth[0] = scored_boxes(boxes(NEAR, PEOPLE), np.array([3, 0]))
    one.truth[1] = scored_boxes(boxes((CAR, 60, 0, 1)), np.array([3]))
    facts = summary(one, resamples=2)
    assert facts["true_boxes"] == {"car": 1}
    assert facts["mAP"]["night"] == dict.fromkeys(WAYS) and facts["NDS"]["night"] == dict.fromkeys(WAYS)
    assert facts["gain"]["night"] is None and facts["far"]["mAP"] == dict.fromkeys(WAYS)
    json.dumps(facts, allow_nan=False)


def test_false_boxes_nearer_than_far_do_not_count_there():
    one = comparison(1)
    one.found["fusion"][1] = scored_boxes(boxes(FAR, ELSEWHERE))
    facts = summary(one, resamples=2)
    assert facts["far"]["mAP"]["fusion"] == 1.0 and facts["mAP"]["night"]["fusion"] < 1.0


def test_figures_over_all_classes_are_the_metric_s_own():
    judged = Judged(comparison(3, lidar=(NEAR, PEOPLE)), np.arange(6))
    scores = judged.scores("lidar")
    assert mean_ap_of(scores, judged.classes) == pytest.approx(scores.mean_ap)
    assert nds_of(scores, judged.classes) == pytest.approx(scores.nds)
    assert np.isnan(mean_ap_of(scores, ())) and np.isnan(nds_of(scores, ()))


def test_small_classes_are_of_the_world():
    assert set(SMALL_CLASSES) < set(DETECTION_CLASSES)


@pytest.fixture
def frame():
    """White images of cameras that look ahead, and some points before them."""
    ahead = np.array([[224.0, -355, 0, 0], [128.0, 0, -355, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    points = np.c_[np.linspace(5, 30, 50), np.zeros((50, 2)), np.full((50, 2), 0.1)].astype(np.float32)
    picture = jpeg_of(np.full((256, 448, 3), (255, 128, 0), np.uint8))
    return DetectionFrame(
        (picture,) * 6, np.stack([ahead] * 6), points, boxes(NEAR, PEOPLE), np.array([5, 0]),
        np.ones(2, np.float32), "fog", 7,
    )  # fmt: skip


class FakeEngine:
    """Keeps what it is given and answers with one car at the place of the first query."""

    name = "fake"

    def __init__(self, inputs=None):
        specs, self.outputs = CARD.specs()
        self.inputs = tuple(spec for spec in specs if inputs is None or spec.name in inputs)
        self.given, self.closed = [], 0

    def run(self, tensors):
        self.given.append(dict(tensors))
        out = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in self.outputs}
        out["center"][0, :, 0] = (10 + 52, 5 + 52)
        out["rot"][0, 0] = -1.0
        out["heatmap"][0, CAR, 0] = 5.0
        out["heatmap"][0, :, 1:] = -20.0
        out["prior"][0, CAR] = 0.9
        return out

    def close(self):
        self.closed += 1


def test_each_way_is_given_what_it_may_see(frame):
    fused, alone = FakeEngine(), FakeEngine(("points", "point_mask"))
    ways = {"fusion": Way(fused), "lidar": Way(alone), "camera-blind": Way(fused, cameras=False)}
    seen = []
    result = compare_ways(CARD, ways, [frame, frame], lambda shown, found: seen.append((shown, found)))
    assert [set(given) for given in alone.given] == [{"points", "point_mask"}] * 2
    with_cameras, blind = fused.given[:2]
    assert set(with_cameras) == {spec.name for spec in CARD.specs()[0]}
    assert with_cameras["images"].any() and not blind["images"].any()
    assert with_cameras["key_valid"].any() and not blind["key_valid"].any() and not blind["warp_valid"].any()
    np.testing.assert_array_equal(with_cameras["points"], blind["points"])
    assert (result.conditions, result.worlds) == (["fog"] * 2, [7, 7]) and seen[0][0] is frame
    for way in WAYS:
        assert len(result.inference_ms[way]) == 2
        assert result.found[way][0].classes.tolist() == ["car"]
        np.testing.assert_allclose(result.found[way][0].centers[0, :2], (10, 5), atol=1e-4)
    assert result.truth[0].points is not None and result.truth[0].points.tolist() == [5, 0]
    assert fused.closed and alone.closed


def test_channels_come_in_the_card_s_order(frame):
    given = {}
    for order in ("rgb", "bgr"):
        engine = FakeEngine()
        card = replace(CARD, channel_order=order, image_mean=(0.0, 0.0, 0.0), image_std=(1.0, 1.0, 1.0))
        compare_ways(card, {"fusion": Way(engine)}, [frame])
        given[order] = engine.given[0]["images"]
    np.testing.assert_allclose(given["rgb"], given["bgr"][:, ::-1])
    assert given["rgb"][0, 0].mean() == pytest.approx(1.0, abs=0.02)


def test_engines_are_closed_when_a_frame_is_damaged(frame):
    engine = FakeEngine()
    with pytest.raises(DataError, match="cannot be decoded"):
        compare_ways(CARD, {"fusion": Way(engine)}, [replace(frame, jpegs=(np.zeros(3, np.uint8),) * 6)])
    assert engine.closed


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"classes": ("car", "boat")}, "other classes"), ({"variant": "full"}, "takes 6 images of")],
)
def test_cards_that_are_not_for_the_world_are_refused(changes, said):
    check_world_card(CARD)
    with pytest.raises(ConfigError, match=said):
        check_world_card(replace(CARD, **changes))


def test_the_lidar_stream_of_another_network_is_refused():
    with pytest.raises(ConfigError, match="expected variant tiny"):
        open_ways(CARD, replace(CARD, variant="full"))


def test_some_boxes_are_taken():
    kept = boxes(NEAR, FAR, PEOPLE).take(np.array([False, True, False]))
    assert len(kept) == 1 and kept.scores[0] == pytest.approx(0.8) and kept.centers[0, 0] == -36


@pytest.mark.usefixtures("one_thread")
def test_the_lidar_alone_is_the_first_stage_of_the_same_weights(frame, monkeypatch):
    """No image reaches it, and its answer is that of `DeepInteraction.lidar_alone`."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from mm_perception.engines.lidar_alone import lidar_engine
    from mm_perception.engines.torch_engine import load_detector_network
    from mm_perception.models.deepinteraction.model import LidarInput

    small = replace(
        VARIANTS["tiny"], max_pillars=600, max_cells=400, pillar_dim=8, pyramid_dim=16, bev_channels=(8, 8, 8),
        bev_layers=(1, 1, 1), neck_dim=8, dim=16, hidden=16, inner=8, queries=12, radii=8, heights=2,
    )  # fmt: skip
    monkeypatch.setitem(VARIANTS, "micro", small)
    card = replace(CARD, variant="micro")
    ways = open_ways(card, engine="torch")
    assert set(ways) == set(WAYS) and ways["camera-blind"].engine is ways["fusion"].engine
    assert {spec.name for spec in ways["lidar"].engine.inputs} == {"points", "point_mask", "lidar_cell_pillar"}
    found = []
    compare_ways(card, ways, [frame], lambda _, boxes_by_way: found.append(boxes_by_way))
    assert set(found[0]) == set(WAYS)

    engine = lidar_engine(card)
    inputs = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in engine.inputs}
    got = engine.run(inputs)
    with torch.inference_mode():
        tensors = [torch.from_numpy(inputs[n]) for n in ("points", "point_mask", "lidar_cell_pillar")]
        decoded = load_detector_network(card).lidar_alone(LidarInput(*tensors))
    for name, value in {**decoded.first._asdict(), "prior": decoded.prior, "labels": decoded.labels}.items():
        np.testing.assert_allclose(got[name], value.numpy(), atol=1e-5, err_msg=name)
    with pytest.raises(ModelError, match="expected a front end of pillars"):
        lidar_engine(replace(card, variant="full-voxels"))
