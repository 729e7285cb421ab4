"""Properties of the blocks that need no published numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mm_perception.core.detector import VARIANTS, Plane, detector_variant
from mm_perception.core.errors import DataError, ModelError
from mm_perception.models.deepinteraction.attention import MASKED, Attention
from mm_perception.models.deepinteraction.boxes import RawBoxes, corners, middle_and_size
from mm_perception.models.deepinteraction.decoder import ImageBlock, peaks
from mm_perception.models.deepinteraction.interaction import GuidedSampling, atlas
from mm_perception.models.deepinteraction.model import DeepInteraction
from mm_perception.models.deepinteraction.pillars import PillarFrontEnd
from mm_perception.models.deepinteraction.roi import roi_align
from mm_perception.models.deepinteraction.sparse import SparseConv, SparseEncoder, SparseTensor
from mm_perception.models.deepinteraction.swin import SwinBackbone


def test_attention_equals_torchs():
    torch.manual_seed(0)
    ours, theirs = Attention(32, 4), torch.nn.MultiheadAttention(32, 4, batch_first=True)
    ours.load_state_dict(theirs.state_dict())
    query, memory = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    banned = torch.zeros(5, 7, dtype=torch.bool)
    banned[:, 3:] = True
    expected, _ = theirs(query, memory, memory, attn_mask=banned)
    torch.testing.assert_close(ours(query, memory, memory, banned.float() * MASKED), expected, atol=1e-5, rtol=0)


def test_guided_sampling_equals_plain_attention_over_valid_keys():
    torch.manual_seed(1)
    block = GuidedSampling(16)
    bev, image = torch.randn(1, 16, 3, 4), torch.randn(2, 16, 5, 6)
    grid, valid = torch.rand(3, 4, 2) * 2 - 1, torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    cells, pillars = torch.tensor([2, 5, 11]), torch.full((12,), 3)
    pillars[cells] = torch.arange(3)
    got = block(bev, image, grid, valid, cells, pillars).flatten(2)[0].t()
    sampled = F.grid_sample(atlas(image), grid[None], align_corners=False)[0].permute(1, 2, 0)
    for i, cell in enumerate(cells.tolist()):
        keys = sampled[i][valid[i] > 0][None]
        query = bev.flatten(2)[0, :, cell].view(1, 1, 16)
        expected = block.learnedAlign(query, keys, keys)[0, 0] if len(keys[0]) else torch.zeros(16)
        torch.testing.assert_close(got[cell], expected, atol=1e-5, rtol=0)
    others = [c for c in range(12) if c not in cells.tolist()]
    assert got[others].abs().max().item() == 0.0


def test_atlas_keeps_views_apart():
    image = torch.stack([torch.full((1, 3, 4), 1.0), torch.full((1, 3, 4), 5.0)])
    stacked = atlas(image)
    assert stacked.shape == (1, 1, 8, 4)
    assert stacked[0, 0, :, 0].tolist() == [1, 1, 1, 0, 5, 5, 5, 0]


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "submanifold"),
    [
        ((3, 3, 3), (1, 1, 1), (0, 0, 0), True),
        ((3, 3, 3), (2, 2, 2), (1, 1, 1), False),
        ((3, 3, 3), (2, 2, 2), (0, 1, 1), False),
        ((3, 1, 1), (2, 1, 1), (0, 0, 0), False),
    ],
)
def test_sparse_convolution_equals_a_dense_one(kernel, stride, padding, submanifold):
    torch.manual_seed(2)
    shape = (9, 12, 14)
    places = torch.stack([torch.randint(0, s, (90,)) for s in shape], dim=1).unique(dim=0)
    features = torch.randn(len(places), 5)
    conv = SparseConv(5, 7, kernel, stride, padding, submanifold)
    dense = torch.zeros(1, 5, *shape)
    dense[0, :, places[:, 0], places[:, 1], places[:, 2]] = features.t()
    expected = F.conv3d(dense, conv.weight.permute(4, 3, 0, 1, 2), stride=stride, padding=conv.padding)
    got = conv(SparseTensor(features, places, shape))
    assert got.shape == tuple(expected.shape[2:])
    z, y, x = got.places.t()
    torch.testing.assert_close(got.features, expected[0, :, z, y, x].t(), atol=1e-5, rtol=0)
    if submanifold:
        assert torch.equal(got.places, places)
    else:  # nothing is left out
        expected[0, :, z, y, x] = 0.0
        assert float(expected.abs().max()) == 0.0


def test_sparse_encoder_of_nothing_and_out_of_the_grid():
    encoder = SparseEncoder(shape=(41, 32, 32)).eval()
    with torch.inference_mode():
        empty = encoder(torch.zeros(0, 5), torch.zeros(0, 3, dtype=torch.int64))
    assert empty.shape == (1, 256, 4, 4) and float(empty.abs().max()) == 0.0
    with pytest.raises(DataError, match="within"):
        encoder(torch.zeros(1, 5), torch.tensor([[41, 0, 0]]))


def test_pillars_ignore_padding_and_land_in_their_cells():
    torch.manual_seed(3)
    front = PillarFrontEnd(4, 6, (2, 3)).eval()
    points, mask = torch.randn(3, 5, 4), torch.ones(3, 5)
    mask[0, 2:] = 0.0
    cells = torch.tensor([3, 0, 3, 3, 2, 3])
    first = front(points, mask, cells)
    changed = points.clone()
    changed[0, 2:] = 100.0
    torch.testing.assert_close(front(changed, mask, cells), first)
    assert first.shape == (1, 6, 2, 3)
    assert float(first[0, :, 0, 0].abs().max()) == 0.0
    assert float(first[0, :, 0, 1].abs().max()) > 0.0


def test_regions_outside_the_map_are_zero_and_inside_ones_average():
    ramp = torch.arange(20.0).view(1, 1, 1, 20).expand(1, 1, 10, 20)
    regions = torch.tensor([[4.0, 2.0, 11.0, 9.0], [50.0, 2.0, 60.0, 9.0]])
    got = roi_align(ramp, regions, torch.zeros(2, dtype=torch.int64), 1.0).view(2, 7, 7)
    torch.testing.assert_close(got[0, 3], torch.arange(4.0, 11.0), atol=1e-4, rtol=0)
    assert float(got[1].abs().max()) == 0.0


def test_regions_come_from_their_own_view():
    maps = torch.stack([torch.full((1, 6, 6), float(i)) for i in range(3)])
    region = torch.tensor([[-3.0, -3.0, 3.0, 9.0]]).expand(3, 4)  # reaches beyond the edge of each map
    got = roi_align(maps, region, torch.tensor([2, 0, 1]), 1.0)
    assert [float(got[i].max()) for i in range(3)] == [2.0, 0.0, 1.0]


def test_peaks_are_local_maxima_off_the_rim_and_flat_classes_keep_all():
    heat = torch.rand(1, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    got = peaks(heat, (2,))
    assert torch.equal(got[:, 2], heat[:, 2])
    for k in (0, 1):
        assert float(got[0, k, 0].max()) == float(got[0, k, :, -1].max()) == 0.0
        for y, x in got[0, k].nonzero().tolist():
            assert heat[0, k, y, x] == heat[0, k, y - 1 : y + 2, x - 1 : x + 2].max()
    assert (got[0, :2] > 0).any()


def test_boxes_of_the_heads_in_metres():
    raw = RawBoxes(
        torch.tensor([[[10.0], [20.0]]]), torch.tensor([[[0.5]]]), torch.tensor([[[2.0], [4.0], [1.5]]]).log(),
        torch.tensor([[[1.0], [0.0]]]), torch.zeros(1, 2, 1), torch.zeros(1, 3, 1),
    )  # fmt: skip
    middle, size, yaw = middle_and_size(raw, Plane((-50.0, -40.0), (0.5, 0.8)))
    torch.testing.assert_close(middle[0, 0], torch.tensor([-45.0, -24.0, 0.5]))
    torch.testing.assert_close(size[0, 0], torch.tensor([2.0, 4.0, 1.5]))
    around = corners(middle, size, yaw)[0, 0]
    # A yaw of 90 degrees turns the box by -90: its length, along y before, lies along x.
    torch.testing.assert_close(
        around.amax(dim=0) - around.amin(dim=0), torch.tensor([4.0, 2.0, 1.5]), atol=1e-5, rtol=0
    )


def test_a_view_with_one_query_shows_none_and_the_later_view_wins():
    torch.manual_seed(4)
    block = ImageBlock(16, 32, 4, None, False).eval()
    ahead = torch.tensor([[16.0, -20.0, 0, 0], [12.0, 0, -20.0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    back = torch.tensor([[-16.0, 20.0, 0, 0], [-12.0, 0, -20.0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])
    lidar2img = torch.stack([ahead, ahead, back])
    middle = torch.tensor([[10.0, 0, 0], [12.0, 1, 0], [-10.0, 0, 0]])
    boxes = (middle[None], torch.ones(1, 3, 3), torch.zeros(1, 3))
    query, image = torch.randn(1, 3, 16), torch.randn(3, 16, 6, 8)
    out, shown = block(query, image, boxes, lidar2img, (24, 32))
    assert shown.tolist() == [[True, True, False]]
    assert float(out[0, 2].abs().max()) == 0.0
    other = image.clone()
    other[0] += 1.0  # the first view's answer is overwritten by the second view's
    torch.testing.assert_close(block(query, other, boxes, lidar2img, (24, 32))[0], out)


def test_swin_takes_any_size_and_halves_it():
    torch.manual_seed(5)
    backbone = SwinBackbone(dim=12, depths=(2, 2, 2, 2), heads=(1, 2, 3, 4)).eval()
    with torch.inference_mode():
        shapes = [tuple(x.shape[1:]) for x in backbone(torch.randn(1, 3, 36, 52))]
    assert shapes == [(12, 9, 13), (24, 5, 7), (48, 3, 4), (96, 2, 2)]


def test_shifted_windows_do_not_look_across_the_seam():
    """What lies at the top must not change what comes out at the bottom, however the windows are shifted."""
    torch.manual_seed(6)
    backbone = SwinBackbone(dim=12, depths=(2,), heads=(2,)).eval()
    image = torch.randn(1, 3, 14 * 4 * 2, 56)
    other = image.clone()
    other[:, :, :8] += 5.0
    with torch.inference_mode():
        difference = (backbone(image)[0] - backbone(other)[0]).abs().amax(dim=(0, 1, 3))
    assert float(difference[0]) > 0.1 and float(difference[21:].max()) == 0.0


def test_unknown_sizes_are_refused():
    with pytest.raises(ModelError, match="full, full-voxels, tiny"):
        detector_variant("huge")
    assert {v.front_end for v in VARIANTS.values()} == {"pillars", "voxels"}
    assert sum(p.numel() for p in DeepInteraction(VARIANTS["tiny"]).parameters()) < 3_000_000
