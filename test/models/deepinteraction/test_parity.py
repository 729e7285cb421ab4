"""Our blocks against numbers of the published implementation, on its weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mm_perception.core.detector import VARIANTS, Plane
from mm_perception.geometry.boxes import iou_3d
from mm_perception.models.deepinteraction.attention import DeformableAttention, LocalAttention
from mm_perception.models.deepinteraction.boxes import RawBoxes, bev_regions, corners, middle_and_size
from mm_perception.models.deepinteraction.decoder import Decoder
from mm_perception.models.deepinteraction.encoder import Encoder
from mm_perception.models.deepinteraction.interaction import (
    GuidedSampling,
    PolarAttention,
    WarpedAttention,
    sine_position,
    warp,
)
from mm_perception.models.deepinteraction.model import DeepInteraction
from mm_perception.models.deepinteraction.roi import DynamicConv, roi_align

BLOCK = 1e-4
WHOLE = 2e-3


def close(got, expected, tolerance=BLOCK):
    np.testing.assert_allclose(got.detach().numpy(), expected.float().numpy(), atol=tolerance, rtol=0)


def loaded(module, state):
    module.load_state_dict(state)
    return module.eval()


def test_every_key_and_shape_is_the_published_one(published):
    wanted = json.loads((published.folder / "state_dict_pp.json").read_text())
    got = {k: list(v.shape) for k, v in DeepInteraction(VARIANTS["full-voxels"]).state_dict().items()}
    assert got == wanted


def test_deformable_attention(published):
    fixture = published.load("pp_msda")
    block = loaded(DeformableAttention(128, 2, 8, 4), published.weights("encoder_pp", fixture["prefix"]))
    inputs = published.seeded(fixture)
    query = inputs["query"].transpose(1, 2).reshape(1, 128, 36, 36)
    maps = [part.transpose(1, 2).reshape(1, 128, 36, 36) for part in inputs["value"].split(1296, dim=1)]
    close(block(query, maps).flatten(2).transpose(1, 2), fixture["out"])


def test_local_attention(published):
    fixture = published.load("local_attention")
    inputs = published.seeded(fixture)
    block = loaded(LocalAttention(128), published.weights("local_attention"))
    close(block(inputs["target"], inputs["source"]), fixture["out"])


def test_sine_positions(published):
    close(sine_position(60, 50, 128, torch.zeros(1))[:, :, ::6, ::5], published.load("pp_sine_pos")["pos"], 1e-6)


@pytest.mark.parametrize("name", ["pp_i2p", "mmri_i2p"])
def test_guided_sampling(published, meeting, name):
    """The first DeepInteraction leaves the residual to its caller, DeepInteraction++ does not."""
    fixture = published.load(name)
    state = published.weights("encoder_pp", fixture["prefix"]) if "prefix" in fixture else published.weights(name)
    block, inputs = loaded(GuidedSampling(128), state), published.seeded(fixture)

    def answer(maps):
        own = block(
            inputs["lidar_feat"], inputs["img_feat"], maps.key_grid, maps.key_valid, maps.pillar_cell, maps.cell_pillar
        )
        return own + inputs["lidar_feat"] if name == "pp_i2p" else own

    close(answer(meeting.maps()), fixture["out"])


def test_points_are_moved_as_the_published_augmentation_moves_them(meeting):
    """Rotation (of row vectors), scale, shift, and y mirrored."""
    x = meeting.augmentation["x"].double().numpy()
    moved = x @ meeting.transform[:3, :3].T + meeting.transform[:3, 3]
    np.testing.assert_allclose(moved, meeting.augmentation["forward"].numpy(), atol=1e-4)
    back = np.linalg.inv(meeting.transform)
    np.testing.assert_allclose(x @ back[:3, :3].T + back[:3, 3], meeting.augmentation["reverse"].numpy(), atol=1e-4)


def test_guided_sampling_of_augmented_points(published, meeting):
    fixture = published.load("mmri_i2p")
    block, inputs, maps = (
        loaded(GuidedSampling(128), published.weights("mmri_i2p")),
        published.seeded(fixture),
        meeting.maps(True),
    )
    got = block(
        inputs["lidar_feat"], inputs["img_feat"], maps.key_grid, maps.key_valid, maps.pillar_cell, maps.cell_pillar
    )
    close(got, fixture["out_aug"])


def test_warp_into_the_images(published, meeting):
    fixture, maps = published.load("bev_warp"), meeting.maps()
    got = warp(published.seeded(fixture)["lidar_feat"], maps.warp_grid, maps.warp_valid)
    close(got[:, :8], fixture["out_ch0_8"][0])
    close(got[1], fixture["out_view1"][0], 1e-3)  # kept in half precision


def test_warp_of_augmented_points(published, meeting):
    """Points go back before they meet the cameras, and forward again afterwards.

    The published code lets the last of several points in a place win; this package takes the nearest one, so the
    sparse maps are made here.
    """
    from mm_perception.sensing.depth_completion import complete_depth
    from mm_perception.sensing.fusion_geometry import moved, warp_map

    fixture, data = published.load("bev_warp"), published.load("geometry")
    lidar2img, grid = meeting.lidar2img.double().numpy(), meeting.grid
    points = moved(data["points"][:, :3].double().numpy(), np.linalg.inv(meeting.transform))
    sparse = np.zeros((6, *grid.map_size), np.float32)
    for view, matrix in enumerate(lidar2img):
        u, v, z = (points @ matrix[:3, :3].T + matrix[:3, 3]).T
        scale = np.array(grid.map_size[::-1]) / np.array(grid.image_size[::-1])
        ahead = np.nonzero(z > 1e-5)[0]
        column, row = np.floor(np.stack([u, v])[:, ahead] / z[ahead] * scale[:, None]).astype(int)
        inside = (row >= 0) & (row < grid.map_size[0]) & (column >= 0) & (column < grid.map_size[1])
        sparse[view][row[inside], column[inside]] = z[ahead[inside]]
    places, valid = warp_map(complete_depth(sparse), np.linalg.inv(lidar2img), grid, meeting.transform)
    lidar = published.seeded(fixture)["lidar_feat"]
    got = warp(lidar, torch.from_numpy(places), torch.from_numpy(valid).float())
    close(got[:, :8], fixture["out_aug_ch0_8"][0])


def test_warped_attention(published, meeting):
    fixture = published.load("pp_p2i")
    block, inputs = (
        loaded(WarpedAttention(128), published.weights("encoder_pp", fixture["prefix"])),
        published.seeded(fixture),
    )
    maps = meeting.maps()
    got = block(inputs["img_feat"], inputs["lidar_feat"], maps.warp_grid, maps.warp_valid)
    close(got[:, ::4], fixture["out"])  # every fourth channel is kept


@pytest.mark.parametrize(("augmented", "key"), [(False, "out"), (True, "out_aug")])
def test_polar_attention(published, meeting, augmented, key):
    fixture = published.load("pp_polar")
    block, inputs = (
        loaded(PolarAttention(128), published.weights("encoder_pp", fixture["prefix"])),
        published.seeded(fixture),
    )
    maps = meeting.maps(augmented)
    got = block(inputs["lidar_feat"], inputs["img_feat"], maps.rays, maps.back, maps.seen)
    close(got + inputs["lidar_feat"], fixture[key])


def test_encoder(published, meeting):
    fixture = published.load("encoder_pp")
    inputs, block = published.seeded(fixture), loaded(Encoder(), published.weights("encoder_pp"))
    with torch.inference_mode():
        got = block(
            [inputs["fpn0"], inputs["fpn1"]], inputs["pts_cat"], [inputs["pts_up0"], inputs["pts_up1"]], meeting.maps()
        )
    close(got.image[:, ::4], fixture["new_img"])
    close(got.lidar[:, ::4], fixture["pts_conv"])
    close(got.fused, fixture["new_pts"])


def test_dynamic_convolution(published):
    fixture = published.load("dynamic_conv")
    inputs, block = published.seeded(fixture), loaded(DynamicConv(128), published.weights("dynamic_conv"))
    close(block(inputs["pro_features"][0], inputs["roi_features"].transpose(0, 1)), fixture["out"])


@pytest.mark.parametrize(("key", "factor", "scale"), [("scale_025", 1.0, 0.25), ("scale_1", 0.2, 1.0)])
def test_roi_align(published, key, factor, scale):
    """The second set of regions is a fifth of the first."""
    fixture = published.load("roi_align")
    got = roi_align(
        published.seeded(fixture)["feat"], fixture["boxes"] * factor, torch.zeros(6, dtype=torch.int64), scale
    )
    close(got.transpose(1, 2).reshape(6, 4, 7, 7), fixture[key])


def test_corners_regions_and_overlaps_of_boxes(published):
    fixture = published.load("box_geometry")
    boxes = fixture["boxes"]
    middle = boxes[:, :3].clone()
    middle[:, 2] += boxes[:, 5] / 2
    close(corners(middle, boxes[:, 3:6], boxes[:, 6]), fixture["corners"], 1e-5)
    regions = bev_regions(middle, boxes[:, 3:6], boxes[:, 6], Plane((-54.0, -54.0), (0.6, 0.6)))
    close(regions, fixture["bev_roi_xyxy_cells"])

    def ours(b):
        center = np.c_[b[:, :2], b[:, 2] + b[:, 5] / 2]
        return center, b[:, [4, 3, 5]], -b[:, 6] - np.pi / 2

    plain = boxes.double().numpy()
    jittered = plain * np.array([1, 1, 1, 1.1, 1.1, 1.1, 1]) + np.array([0.7, -0.7, 0.1, 0, 0, 0, 0.2])
    np.testing.assert_allclose(iou_3d(*ours(plain), *ours(jittered)), fixture["iou3d_jitter"].numpy(), atol=1e-5)


def test_boxes_from_the_heads(published):
    fixture = published.load("box_coder")
    raw = RawBoxes(**fixture["raw"])
    middle, size, yaw = middle_and_size(raw, Plane((-54.0, -54.0), (0.6, 0.6)))
    scores, labels = raw.heatmap.max(dim=1)
    for i, expected in enumerate(fixture["decoded"]):
        bottom = middle[i] - torch.tensor([0.0, 0.0, 0.5]) * size[i]
        got = torch.cat([bottom, size[i], yaw[i, :, None], raw.vel[i].transpose(0, 1)], dim=1)
        close(got, expected["bboxes"])
        close(scores[i], expected["scores"], 1e-6)
        assert labels[i].tolist() == expected["labels"].tolist()


def published_decoder(published, quirk):
    decoder = Decoder(Plane((-54.0, -54.0), (3.0, 3.0)), (112, 200), queries=60, published_decoder_quirk=quirk)
    return loaded(decoder, published.weights("decoder_pp"))


def decoded_by(published, meeting, quirk):
    inputs = published.seeded(published.load("decoder_pp"))
    with torch.inference_mode():
        return published_decoder(published, quirk)(
            inputs["new_img"], inputs["pts_conv"], inputs["new_pts"], meeting.lidar2img
        )


def test_decoder(published, meeting):
    fixture, got = published.load("decoder_pp"), decoded_by(published, meeting, True)
    assert got.labels.tolist() == fixture["query_labels"].tolist()
    close(got.prior, fixture["outputs"]["query_heatmap_score"], 1e-6)
    close(got.heatmap_fused, fixture["outputs"]["dense_heatmap"], 1e-4)
    for name in RawBoxes._fields:
        layers = torch.cat([getattr(raw, name) for raw in got.layers], dim=-1)
        close(layers, fixture["outputs"][name], WHOLE)


def test_decoders_answer_as_boxes_and_scores(published, meeting):
    fixture, got = published.load("decoder_pp"), decoded_by(published, meeting, True)
    raw = got.layers[-1]
    middle, size, yaw = middle_and_size(raw, Plane((-54.0, -54.0), (3.0, 3.0)))
    bottom = middle[0] - torch.tensor([0.0, 0.0, 0.5]) * size[0]
    boxes = torch.cat([bottom, size[0], yaw[0, :, None], raw.vel[0].transpose(0, 1)], dim=1)
    scores = (raw.heatmap[0].sigmoid() * got.prior[0]).gather(0, got.labels)[0]
    order = fixture["labels"].long()
    assert order.tolist() == got.labels[0].tolist()
    close(boxes, fixture["boxes"], WHOLE)
    close(scores, fixture["scores"], WHOLE)


def test_without_the_published_slip_queries_keep_their_own_self_attention(published, meeting):
    quirk, intended = (decoded_by(published, meeting, q) for q in (True, False))
    difference = (quirk.layers[-1].heatmap - intended.layers[-1].heatmap).abs()
    assert float(difference.max()) > 0.1
    assert quirk.labels.tolist() == intended.labels.tolist()
