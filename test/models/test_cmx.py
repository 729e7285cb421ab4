from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mm_perception.core.errors import ModelError
from mm_perception.models import cmx

PARAMETERS = [  # variant, classes, decoder width, parameters as counted on the published network
    ("b0", 9, 512, 12_114_641),
    ("b1", 40, 512, 44_491_696),
    ("b2", 9, 512, 66_565_521),
    ("b3", 40, 512, 106_333_104),
    ("b4", 9, 512, 139_858_321),
    ("b5", 9, 512, 181_058_961),
]


@pytest.fixture(scope="module")
def b0() -> cmx.Cmx:
    model = cmx.build_untrained_cmx("b0", 5, 64, seed=1)
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.3, generator=generator)
            module.running_var.uniform_(0.02, 2.0, generator=generator)
        elif isinstance(module, torch.nn.Linear) and module.bias is not None:
            torch.nn.init.normal_(module.bias, std=0.1, generator=generator)
    return model


def _pair(batch: int, height: int, width: int, seed: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rgb, x = torch.randn(2, batch, 3, height, width, generator=generator)
    return rgb, x


@pytest.mark.parametrize(("variant", "classes", "width", "parameters"), PARAMETERS)
def test_parameter_counts(variant: str, classes: int, width: int, parameters: int):
    with torch.device("meta"):
        model = cmx.build_cmx(variant, classes, width)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(("variant", "keys"), [("b0", 525), ("b2", 837)])
def test_state_dict_has_the_published_keys(variant: str, keys: int):
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in cmx.build_cmx(variant, 9).state_dict().items()}
    assert len(shapes) == keys
    dim = 256 if variant == "b0" else 512
    for key, shape in {
        "backbone.patch_embed1.proj.weight": (dim // 8, 3, 7, 7),
        "backbone.extra_block4.1.attn.kv.weight": (2 * dim, dim),
        "backbone.extra_block1.0.attn.sr.weight": (dim // 8, dim // 8, 8, 8),
        "backbone.block4.0.mlp.dwconv.dwconv.weight": (4 * dim, 1, 3, 3),
        "backbone.extra_norm4.bias": (dim,),
        "backbone.FRMs.3.channel_weights.mlp.2.weight": (2 * dim, 4 * dim),
        "backbone.FRMs.3.spatial_weights.mlp.2.weight": (2, dim, 1, 1),
        "backbone.FFMs.3.cross.cross_attn.kv2.weight": (2 * dim, dim),
        "backbone.FFMs.3.cross.end_proj1.weight": (dim, 2 * dim),
        "backbone.FFMs.3.channel_emb.residual.weight": (dim, 2 * dim, 1, 1),
        "backbone.FFMs.3.channel_emb.channel_embed.4.num_batches_tracked": (),
        "decode_head.linear_c4.proj.weight": (512, dim),
        "decode_head.linear_fuse.0.weight": (512, 2048, 1, 1),
        "decode_head.linear_pred.bias": (9,),
    }.items():
        assert shapes[key] == shape, key
    absent = (
        "block4.0.attn.sr.weight",
        "FFMs.0.channel_emb.residual.bias",
        "FFMs.0.cross.cross_attn.kv1.bias",
    )
    assert not [key for key in absent if f"backbone.{key}" in shapes]


@pytest.mark.parametrize(("height", "width"), [(29, 29), (45, 61), (64, 96)])
def test_logits_have_the_size_of_the_input(b0: cmx.Cmx, height: int, width: int):
    with torch.inference_mode():
        logits = b0(*_pair(1, height, width))
    assert logits.shape == (1, 5, height, width)
    assert torch.isfinite(logits).all()


def test_a_batch_equals_its_single_images(b0: cmx.Cmx):
    rgb, x = _pair(3, 45, 61)
    with torch.inference_mode():
        batched = b0(rgb, x)
        single = torch.cat([b0(rgb[i : i + 1], x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(batched, single, atol=5e-5, rtol=0)


def test_the_modalities_are_not_interchangeable(b0: cmx.Cmx):
    rgb, x = _pair(1, 32, 32)
    with torch.inference_mode():
        assert (b0(rgb, x) - b0(x, rgb)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("rgb", "x", "message"),
    [
        ((1, 3, 64, 64), (1, 1, 64, 64), "one shape"),
        ((1, 3, 64, 64), (2, 3, 64, 64), "one shape"),
        ((3, 64, 64), (3, 64, 64), "one shape"),
        ((1, 3, 28, 64), (1, 3, 28, 64), "at least 29x29"),
    ],
)
def test_wrong_inputs_are_named(b0: cmx.Cmx, rgb: tuple[int, ...], x: tuple[int, ...], message: str):
    with pytest.raises(ModelError, match=message):
        b0(torch.zeros(rgb), torch.zeros(x))


@pytest.mark.parametrize(("variant", "classes", "width"), [("b7", 9, 512), ("b0", 0, 512), ("b0", 9, 0)])
def test_impossible_sizes_are_refused(variant: str, classes: int, width: int):
    with pytest.raises(ModelError):
        cmx.build_cmx(variant, classes, width)


def test_rectification_equals_its_definition():
    """CM-FRM, one output value at a time."""
    torch.manual_seed(4)
    c, h, w = 3, 4, 5
    module = cmx.FeatureRectification(c)
    a, b = torch.randn(2, 1, c, h, w)
    got_a, got_b = (t.detach() for t in module(a, b))
    pooled = []
    for reduce in (torch.mean, torch.amax):
        pooled += [reduce(source[0, k].flatten(), 0) for source in (a, b) for k in range(c)]
    first, _, second, _ = module.channel_weights.mlp
    channel = torch.sigmoid(second.weight @ torch.relu(first.weight @ torch.stack(pooled) + first.bias) + second.bias)
    first, _, second, _ = module.spatial_weights.mlp
    for i in range(h):
        for j in range(w):
            column = torch.cat((a[0, :, i, j], b[0, :, i, j]))
            hidden = torch.relu(first.weight[:, :, 0, 0] @ column + first.bias)
            spatial = torch.sigmoid(second.weight[:, :, 0, 0] @ hidden + second.bias)
            for k in range(c):
                of_a, of_b = a[0, k, i, j], b[0, k, i, j]
                want_a = of_a + 0.5 * channel[c + k] * of_b + 0.5 * spatial[1] * of_b
                want_b = of_b + 0.5 * channel[k] * of_a + 0.5 * spatial[0] * of_a
                assert got_a[0, k, i, j].item() == pytest.approx(want_a.item(), abs=1e-5)
                assert got_b[0, k, i, j].item() == pytest.approx(want_b.item(), abs=1e-5)


def test_fusion_equals_its_definition():
    """FFM with explicit loops over heads, keys and values, and batch norm written out."""
    torch.manual_seed(6)
    c, heads, h, w = 6, 2, 3, 4
    module = cmx.FeatureFusion(c, heads).eval()
    embed = module.channel_emb
    for norm in (embed.norm, embed.channel_embed[4]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.01, 2.0)
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    a, b = torch.randn(2, 1, c, h, w)
    with torch.no_grad():
        got = module(a, b)
        cross = module.cross
        tokens = [t[0].reshape(c, h * w).T for t in (a, b)]
        split = [F.relu(p(t)) for p, t in zip((cross.channel_proj1, cross.channel_proj2), tokens, strict=True)]
        interactive = [s[:, c:] for s in split]
        d = c // heads
        contexts = []
        for u, kv in zip(interactive, (cross.cross_attn.kv1, cross.cross_attn.kv2), strict=True):
            both = u @ kv.weight.T
            per_head = []
            for head in range(heads):
                scores = torch.zeros(d, d)
                for i in range(d):
                    for j in range(d):
                        scores[i, j] = (both[:, head * d + i] * both[:, c + head * d + j]).sum() * d**-0.5
                per_head.append(scores.exp() / scores.exp().sum(0, keepdim=True))
            contexts.append(per_head)
        outs = []
        for own, (end, norm) in enumerate(((cross.end_proj1, cross.norm1), (cross.end_proj2, cross.norm2))):
            other = contexts[1 - own]
            v = torch.cat([interactive[own][:, k * d : (k + 1) * d] @ other[k] for k in range(heads)], 1)
            outs.append(norm(tokens[own] + end(torch.cat((split[own][:, :c], v), 1))))
        both = torch.cat(outs, 1).T.reshape(1, 2 * c, h, w)
        one, depthwise, _, last, inner = embed.channel_embed
        main = _batch_norm(inner, last(torch.relu(depthwise(one(both)))))
        want = _batch_norm(embed.norm, embed.residual(both) + main)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def _batch_norm(norm: torch.nn.BatchNorm2d, features: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    mean, var, weight, bias = (t[:, None, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    return (features - mean) / torch.sqrt(var + eps) * weight + bias


def _concatenating_decoder(decoder: cmx.MlpDecoder, levels: list[torch.Tensor]) -> torch.Tensor:
    """The decoder as the paper draws it, with inference statistics."""
    size = levels[0].shape[2:]
    embedded = []
    for stage in (4, 3, 2, 1):
        level = levels[stage - 1]
        tokens = getattr(decoder, f"linear_c{stage}").proj(level.flatten(2).transpose(1, 2))
        grid = tokens.transpose(1, 2).reshape(level.shape[0], -1, *level.shape[2:])
        embedded.append(F.interpolate(grid, size=size, mode="bilinear", align_corners=False))
    fused = decoder.linear_fuse[0](torch.cat(embedded, 1))
    return decoder.linear_pred(torch.relu(_batch_norm(decoder.linear_fuse[1], fused, eps=1e-5)))


def test_decoder_equals_embed_upsample_concatenate_fuse():
    torch.manual_seed(7)
    decoder = cmx.MlpDecoder((4, 5, 6, 7), 8, 3).eval()
    norm = decoder.linear_fuse[1]
    norm.running_mean.normal_()
    norm.running_var.uniform_(1e-5, 0.1)  # small: a wrong epsilon shows
    sizes = [(12, 16), (6, 8), (3, 4), (2, 2)]
    levels = [torch.randn(2, c, *size) for c, size in zip((4, 5, 6, 7), sizes, strict=True)]
    with torch.no_grad():
        want = _concatenating_decoder(decoder, levels)
        torch.testing.assert_close(decoder(levels), want, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(cmx.FoldedMlpDecoder(decoder)(levels), want, atol=1e-4, rtol=1e-5)


def test_decoder_norm_epsilon_follows_the_mode():
    model = cmx.build_cmx("b0", 3, 16)
    norm = model.decode_head.linear_fuse[1]
    assert norm.eps == 1e-3
    assert model.eval().decode_head.linear_fuse[1].eps == 1e-5
    assert model.train().decode_head.linear_fuse[1].eps == 1e-3
    assert {m.eps for m in model.backbone.FFMs.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-5}


def test_folding_changes_neither_the_logits_nor_the_model(b0: cmx.Cmx):
    before = {key: value.clone() for key, value in b0.state_dict().items()}
    rgb, x = _pair(1, 64, 96)
    with torch.inference_mode():
        folded = cmx.fold_for_inference(b0)
        torch.testing.assert_close(folded(rgb, x), b0(rgb, x), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in b0.state_dict().items())
    assert isinstance(b0.decode_head, cmx.MlpDecoder)


def test_every_parameter_is_part_of_the_function():
    model = cmx.build_cmx("b0", 3, 16)
    cmx.initialise(model, 0)
    model.train()
    logits = model(*_pair(2, 64, 64))
    F.cross_entropy(logits, torch.zeros(2, 64, 64, dtype=torch.long)).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_initialisation_depends_on_the_seed_alone():
    torch.manual_seed(123)
    state = torch.get_rng_state()
    first = cmx.build_untrained_cmx("b0", 4, 32, seed=9).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(321)
    second = cmx.build_untrained_cmx("b0", 4, 32, seed=9).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = cmx.build_untrained_cmx("b0", 4, 32, seed=10).state_dict()
    assert not torch.equal(first["decode_head.linear_pred.weight"], other["decode_head.linear_pred.weight"])
    assert all(torch.isfinite(value).all() for value in first.values())
