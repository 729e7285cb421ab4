from __future__ import annotations

import pytest
import torch

from mm_perception.core.errors import ModelError
from mm_perception.models import mit


def test_stochastic_depth_rises_evenly_over_all_blocks():
    rates = mit.drop_path_rates((2, 2, 2, 2), 0.7)
    assert [len(r) for r in rates] == [2, 2, 2, 2]
    flat = [rate for stage in rates for rate in stage]
    assert flat == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])


def test_tokens_and_maps_are_views_of_each_other():
    tokens = torch.randn(2, 12, 5)
    features = mit.tokens_to_map(tokens, 3, 4)
    assert features.shape == (2, 5, 3, 4)
    assert features[1, 2, 2, 1] == tokens[1, 2 * 4 + 1, 2]
    assert features.is_contiguous(memory_format=torch.channels_last)
    assert mit.map_to_tokens(features).data_ptr() == tokens.data_ptr()
    assert torch.equal(mit.map_to_tokens(features), tokens)


def test_heads_round_trip():
    tokens = torch.randn(2, 7, 10)
    heads = mit.split_heads(tokens, 5)
    assert torch.equal(heads[1, 3, 4], tokens[1, 4, 6:8])
    assert torch.equal(mit.merge_heads(heads), tokens)


@pytest.mark.parametrize(("heads", "reduction"), [(1, 4), (4, 2), (2, 1)])
def test_attention_equals_a_loop_over_queries(heads: int, reduction: int):
    torch.manual_seed(3)
    height, width, dim = 9, 11, 8
    attention = mit.EfficientAttention(dim, heads, reduction)
    tokens = torch.randn(1, height * width, dim)
    source = tokens[0]
    if reduction > 1:
        grid = tokens.transpose(1, 2).reshape(1, dim, height, width)
        source = attention.norm(attention.sr(grid).reshape(dim, -1).T)
        assert len(source) == (height // reduction) * (width // reduction)
    kv = attention.kv(source).reshape(len(source), 2, heads, dim // heads)
    q = attention.q(tokens)[0].reshape(-1, heads, dim // heads)
    rows = []
    for query in q:
        parts = [torch.softmax(kv[:, 0, h] @ query[h] / (dim // heads) ** 0.5, 0) @ kv[:, 1, h] for h in range(heads)]
        rows.append(torch.cat(parts))
    expected = attention.proj(torch.stack(rows))
    torch.testing.assert_close(attention(tokens, height, width)[0], expected, atol=1e-5, rtol=1e-5)


def test_drop_path_keeps_the_mean_and_acts_on_whole_samples():
    torch.manual_seed(0)
    block = mit.MitBlock(4, 1, 1, drop_path=0.25).train()
    dropped = block._drop(torch.ones(4000, 2, 4))
    per_sample = dropped.flatten(1)
    assert torch.equal(per_sample.amin(1), per_sample.amax(1))
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(block.eval()._drop(dropped), dropped)


def test_unknown_variant_names_the_known_ones():
    with pytest.raises(ModelError, match=r"b0, b1.*got 'b9'"):
        mit.mit_variant("b9")
