"""CMX: cross-modal fusion for RGB-X semantic segmentation.

J. Zhang et al., "CMX: Cross-Modal Fusion for RGB-X Semantic Segmentation with Transformers", IEEE T-ITS 2023,
arXiv:2203.04838. Module and parameter names are those of the published checkpoints.

Two MiT branches without shared weights; after each stage the Cross-Modal Feature Rectification Module
(CM-FRM) corrects each feature with the other, the Feature Fusion Module (FFM) merges them for the decoder,
and the rectified, unfused pair feeds the next stage.
"""

from __future__ import annotations

import copy
import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mm_perception.core.errors import ModelError
from mm_perception.models.mit import (
    INNER_NORM_EPS,
    MIN_INPUT_PX,
    STAGES,
    MitVariant,
    add_mit_stages,
    map_to_tokens,
    merge_heads,
    mit_variant,
    run_mit_stage,
    split_heads,
    tokens_to_map,
)

LAMBDA_CHANNEL = 0.5
LAMBDA_SPATIAL = 0.5
DECODER_NORM_EPS = 1e-5
DECODER_NORM_EPS_TRAINING = 1e-3
BATCH_NORM_EPS = 1e-5


class ChannelWeights(nn.Module):
    """Channel-wise rectification weights of CM-FRM from pooled statistics of both modalities."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(4 * dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, 2 * dim), nn.Sigmoid())

    def forward(self, rgb: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Two maps (B, C, H, W) -> weights from RGB and from X, each (B, C, 1, 1) in (0, 1)."""
        both = (rgb, x)
        statistics = torch.cat([m.mean((2, 3)) for m in both] + [m.amax((2, 3)) for m in both], dim=1)
        from_rgb, from_x = self.mlp(statistics)[:, :, None, None].chunk(2, dim=1)
        return from_rgb, from_x


class SpatialWeights(nn.Module):
    """Spatial-wise rectification weights of CM-FRM."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Conv2d(2 * dim, dim, 1), nn.ReLU(), nn.Conv2d(dim, 2, 1), nn.Sigmoid())

    def forward(self, rgb: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Two maps (B, C, H, W) -> weights from RGB and from X, each (B, 1, H, W) in (0, 1)."""
        from_rgb, from_x = self.mlp(torch.cat((rgb, x), dim=1)).chunk(2, dim=1)
        return from_rgb, from_x


class FeatureRectification(nn.Module):
    """CM-FRM: each modality is corrected by the other, along channels and over space, in parallel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.channel_weights = ChannelWeights(dim)
        self.spatial_weights = SpatialWeights(dim)

    def forward(self, rgb: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Two maps (B, C, H, W) -> the two rectified maps, same shapes."""
        channel_rgb, channel_x = self.channel_weights(rgb, x)
        spatial_rgb, spatial_x = self.spatial_weights(rgb, x)
        rectified_rgb = rgb + (LAMBDA_CHANNEL * channel_x + LAMBDA_SPATIAL * spatial_x) * x
        rectified_x = x + (LAMBDA_CHANNEL * channel_rgb + LAMBDA_SPATIAL * spatial_rgb) * rgb
        return rectified_rgb, rectified_x


class CrossAttention(nn.Module):
    """Exchange of global context between the modalities; cost is linear in the number of tokens."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.kv1 = nn.Linear(dim, 2 * dim, bias=False)
        self.kv2 = nn.Linear(dim, 2 * dim, bias=False)

    def forward(self, u1: Tensor, u2: Tensor) -> tuple[Tensor, Tensor]:
        """Interactive vectors (B, N, C) of both modalities -> attended vectors, same shapes."""
        context1, context2 = self._context(self.kv1(u1)), self._context(self.kv2(u2))
        v1 = merge_heads(split_heads(u1, self.heads) @ context2)
        v2 = merge_heads(split_heads(u2, self.heads) @ context1)
        return v1, v2

    def _context(self, key_value: Tensor) -> Tensor:
        """(B, N, 2C) -> (B, heads, d, d): softmax over key channels of K^T V / sqrt(d).

        K^T V sums over all tokens and grows with the image: it is the first product to leave the fp16 range.
        """
        key, value = key_value.chunk(2, dim=-1)
        key, value = split_heads(key, self.heads), split_heads(value, self.heads)
        scale = key.shape[-1] ** -0.5
        return torch.softmax(key.transpose(-2, -1) @ value * scale, dim=-2)


class CrossPath(nn.Module):
    """Stage 1 of FFM: split into residual and interactive vectors, exchange, project back, add, normalise."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.channel_proj1 = nn.Linear(dim, 2 * dim)
        self.channel_proj2 = nn.Linear(dim, 2 * dim)
        self.cross_attn = CrossAttention(dim, heads)
        self.end_proj1 = nn.Linear(2 * dim, dim)
        self.end_proj2 = nn.Linear(2 * dim, dim)
        self.norm1 = nn.LayerNorm(dim, eps=INNER_NORM_EPS)
        self.norm2 = nn.LayerNorm(dim, eps=INNER_NORM_EPS)

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, C) of both modalities -> tokens, same shapes."""
        residual1, interactive1 = torch.relu(self.channel_proj1(x1)).chunk(2, dim=-1)
        residual2, interactive2 = torch.relu(self.channel_proj2(x2)).chunk(2, dim=-1)
        v1, v2 = self.cross_attn(interactive1, interactive2)
        out1 = self.norm1(x1 + self.end_proj1(torch.cat((residual1, v1), dim=-1)))
        out2 = self.norm2(x2 + self.end_proj2(torch.cat((residual2, v2), dim=-1)))
        return out1, out2


class ChannelEmbed(nn.Module):
    """Stage 2 of FFM: mixes the concatenated channels, with a depthwise convolution for the surroundings."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.residual = nn.Conv2d(2 * dim, dim, 1, bias=False)
        self.channel_embed = nn.Sequential(
            nn.Conv2d(2 * dim, dim, 1),
            nn.Conv2d(dim, dim, 3, 1, 1, groups=dim),
            nn.ReLU(),
            nn.Conv2d(dim, dim, 1),
            nn.BatchNorm2d(dim, eps=BATCH_NORM_EPS),
        )
        self.norm = nn.BatchNorm2d(dim, eps=BATCH_NORM_EPS)

    def forward(self, both: Tensor) -> Tensor:
        """(B, 2C, H, W) -> (B, C, H, W)."""
        return self.norm(self.residual(both) + self.channel_embed(both))


class FeatureFusion(nn.Module):
    """FFM: merges two rectified maps into the one that the decoder reads."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.cross = CrossPath(dim, heads)
        self.channel_emb = ChannelEmbed(dim)

    def forward(self, rgb: Tensor, x: Tensor) -> Tensor:
        """Two maps (B, C, H, W) -> one map (B, C, H, W)."""
        height, width = rgb.shape[2:]
        tokens = torch.cat(self.cross(map_to_tokens(rgb), map_to_tokens(x)), dim=-1)
        return self.channel_emb(tokens_to_map(tokens, height, width))


class DualEncoder(nn.Module):
    """Two MiT branches (the second with the prefix `extra_`) with CM-FRM and FFM after every stage."""

    def __init__(self, variant: MitVariant, drop_path: float = 0.1) -> None:
        super().__init__()
        add_mit_stages(self, variant, "", drop_path)
        add_mit_stages(self, variant, "extra_", drop_path)
        self.FRMs = nn.ModuleList(FeatureRectification(dim) for dim in variant.dims)
        pairs = zip(variant.dims, variant.heads, strict=True)
        self.FFMs = nn.ModuleList(FeatureFusion(dim, heads) for dim, heads in pairs)

    def forward(self, rgb: Tensor, x: Tensor) -> list[Tensor]:
        """Two images (B, 3, H, W) -> the four fused maps, at about 1/4, 1/8, 1/16 and 1/32 of the size."""
        fused = []
        for stage, rectify, fuse in zip(STAGES, self.FRMs, self.FFMs, strict=True):
            rgb = run_mit_stage(self, "", stage, rgb)
            x = run_mit_stage(self, "extra_", stage, x)
            rgb, x = rectify(rgb, x)
            fused.append(fuse(rgb, x))
        return fused


class _LevelProjection(nn.Module):
    """The linear embedding of one decoder level; a module because the published names have `.proj`."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, dim)


class _DecoderNorm(nn.BatchNorm2d):
    """Batch normalisation whose epsilon is 1e-3 while training and 1e-5 at inference, as published."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=DECODER_NORM_EPS_TRAINING)

    def train(self, mode: bool = True) -> _DecoderNorm:
        self.eps = DECODER_NORM_EPS_TRAINING if mode else DECODER_NORM_EPS
        super().train(mode)
        return self


def _resize(features: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(features.shape[2:]) == size:
        return features
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


class MlpDecoder(nn.Module):
    """The MLP decoder of SegFormer (Eq. 4 there): embed each level, upsample, concatenate, fuse, classify.

    Differs from the paper: embedding, upsampling, concatenation and the 1x1 fusion are all linear and the
    weights of bilinear interpolation sum to one, so the fusion is applied to each level *before* it is
    upsampled, as one matrix per level. The function is the same; at 480x640 the decoder of B0 needs a
    twenty-fifth of the multiplications (0.8 instead of 20.8 billion).
    """

    def __init__(self, in_channels: tuple[int, ...], dim: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dim = dim
        for level in reversed(STAGES):
            self.add_module(f"linear_c{level}", _LevelProjection(in_channels[level - 1], dim))
        self.linear_fuse = nn.Sequential(nn.Conv2d(4 * dim, dim, 1), _DecoderNorm(dim), nn.ReLU())
        self.dropout = nn.Dropout2d(dropout)
        self.linear_pred = nn.Conv2d(dim, num_classes, 1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Maps of the stages 1..4 -> logits (B, classes, H, W) at the size of stage 1."""
        weights, bias = self.level_weights()
        mixed = _mix_levels(levels, weights, bias)
        return self.linear_pred(self.dropout(torch.relu(self.norm(mixed))))

    @property
    def norm(self) -> nn.BatchNorm2d:
        """The batch normalisation after the fusion."""
        return cast(nn.BatchNorm2d, self.linear_fuse[1])

    def level_weights(self) -> tuple[list[Tensor], Tensor]:
        """Per stage 1..4 the product of fusion and embedding, (E, C_s, 1, 1); and their common bias (E,)."""
        fuse = cast(nn.Conv2d, self.linear_fuse[0])
        slices = fuse.weight.flatten(1).split(self.dim, dim=1)  # in the published order: stage 4 first
        weights, bias = [], cast(Tensor, fuse.bias)
        for stage, part in zip(STAGES, reversed(slices), strict=True):
            embed = getattr(self, f"linear_c{stage}").proj
            weights.append((part @ embed.weight)[:, :, None, None])
            bias = bias + part @ embed.bias
        return weights, bias


def _mix_levels(levels: list[Tensor], weights: list[Tensor], bias: Tensor) -> Tensor:
    """Projects each level with its matrix, upsamples to stage 1 and sums: (B, E, H, W)."""
    size = (levels[0].shape[2], levels[0].shape[3])
    mixed = F.conv2d(levels[0], weights[0], bias)
    for level, weight in zip(levels[1:], weights[1:], strict=True):
        mixed = mixed + _resize(F.conv2d(level, weight), size)
    return mixed


class FoldedMlpDecoder(nn.Module):
    """An `MlpDecoder` for inference: matrices multiplied once, batch norm folded into them."""

    def __init__(self, decoder: MlpDecoder) -> None:
        super().__init__()
        with torch.no_grad():
            weights, bias = MlpDecoder.level_weights(copy.deepcopy(decoder).double())
            norm = decoder.norm
            mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
            scale = norm.weight.double() / torch.sqrt(variance.double() + DECODER_NORM_EPS)
            bias = (bias - mean.double()) * scale + norm.bias.double()
            for stage, weight in zip(STAGES, weights, strict=True):
                folded = (weight * scale[:, None, None, None]).to(norm.weight.dtype)
                self.register_buffer(f"weight{stage}", folded)
            self.register_buffer("bias", bias.to(norm.weight.dtype))
        self.linear_pred = copy.deepcopy(decoder.linear_pred)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """As `MlpDecoder.forward` in evaluation mode."""
        weights = [getattr(self, f"weight{stage}") for stage in STAGES]
        return self.linear_pred(torch.relu(_mix_levels(levels, weights, cast(Tensor, self.bias))))


class Cmx(nn.Module):
    """The whole network. Build it with `build_cmx`."""

    def __init__(self, variant: str, num_classes: int, decoder_dim: int) -> None:
        super().__init__()
        sizes = mit_variant(variant)
        self.variant = variant
        self.num_classes = num_classes
        self.decoder_dim = decoder_dim
        self.backbone = DualEncoder(sizes)
        self.decode_head: nn.Module = MlpDecoder(sizes.dims, decoder_dim, num_classes)

    def forward(self, rgb: Tensor, x: Tensor) -> Tensor:
        """Segments image pairs.

        Args:
            rgb: (B, 3, H, W) float, normalised; H and W at least 29 pixels, of any parity.
            x: the other modality as three channels, same shape, on the pixel grid of `rgb`.

        Returns:
            Logits (B, classes, H, W), class scores before softmax.

        Raises:
            ModelError: the shapes differ or are not images of at least 29x29 pixels.
        """
        _check_pair(rgb, x)
        logits = self.decode_head(self.backbone(rgb, x))
        return _resize(logits, (rgb.shape[2], rgb.shape[3]))


def _check_pair(rgb: Tensor, x: Tensor) -> None:
    got = f"rgb {tuple(rgb.shape)} and x {tuple(x.shape)}"
    if rgb.ndim != 4 or rgb.shape != x.shape or rgb.shape[1] != 3:
        raise ModelError(f"CMX input: expected rgb and x of one shape (B, 3, H, W), got {got}")
    if min(rgb.shape[2:]) < MIN_INPUT_PX:
        raise ModelError(f"CMX input: expected at least {MIN_INPUT_PX}x{MIN_INPUT_PX} pixels, got {got}")


def build_cmx(variant: str = "b0", num_classes: int = 9, decoder_dim: int = 512) -> Cmx:
    """A CMX network in training mode with torch's default weights.

    Args:
        variant: MiT size of both branches: "b0" to "b5", or "tiny".
        num_classes: number of output channels.
        decoder_dim: width E of the MLP decoder.

    Raises:
        ModelError: an unknown variant or a size below 1.
    """
    if num_classes < 1 or decoder_dim < 1:
        raise ModelError(f"CMX: expected num_classes and decoder_dim >= 1, got {num_classes} and {decoder_dim}")
    return Cmx(variant, num_classes, decoder_dim)


def build_untrained_cmx(variant: str, num_classes: int, decoder_dim: int, seed: int) -> Cmx:
    """A CMX network in evaluation mode with the weights of `initialise(seed)`; the global RNG is not read."""
    with torch.device("meta"):
        model = build_cmx(variant, num_classes, decoder_dim)
    model.to_empty(device="cpu")
    initialise(model, seed)
    return model.eval()


def initialise(model: nn.Module, seed: int) -> None:
    """Sets every weight from `seed` alone; torch's global random state is neither read nor changed.

    Linear layers: normal, sigma 0.02, cut at two sigma. Convolutions: normal with variance 2 / fan-out, those
    of the decoder 2 / fan-in. Biases 0, norms 1 and 0.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, module in model.named_modules():
            _initialise_module(name, module, generator)


def _initialise_module(name: str, module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04, generator=generator)
    elif isinstance(module, nn.Conv2d):
        area = module.kernel_size[0] * module.kernel_size[1]
        channels = module.in_channels if name.startswith("decode_head") else module.out_channels
        module.weight.normal_(0.0, math.sqrt(2.0 * module.groups / (area * channels)), generator=generator)
    elif isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
        module.weight.fill_(1.0)
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    else:
        return
    if module.bias is not None:
        module.bias.zero_()


def fold_for_inference(model: Cmx) -> Cmx:
    """A copy in evaluation mode that computes the same logits with the decoder folded (`FoldedMlpDecoder`).

    The copy's state_dict no longer has the published keys.
    """
    folded = copy.copy(model)
    folded._modules = dict(model._modules)
    folded.backbone = copy.deepcopy(model.backbone)
    if isinstance(model.decode_head, MlpDecoder):
        folded.decode_head = FoldedMlpDecoder(model.decode_head)
    return folded.eval().requires_grad_(False)
