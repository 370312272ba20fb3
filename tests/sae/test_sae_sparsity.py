"""The quick ways to find what is active give exactly what the plain ones give."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsight.sae.sparsity import _group_size, topk_code


@given(
    seed=st.integers(0, 99), latents=st.sampled_from([96, 128, 320, 1000]), k=st.integers(1, 12), levels=st.booleans()
)
def test_topk_in_two_stages_is_exact(seed: int, latents: int, k: int, levels: bool) -> None:
    pre = torch.randn(5, latents, generator=torch.Generator().manual_seed(seed))
    pre = pre.round() if levels else pre  # rounded: many ties, of which any may be kept
    code = topk_code(pre, k)
    assert torch.equal(code.dense(latents).sort(descending=True).values[:, :k], pre.relu().topk(k).values)
    rows = torch.arange(5).repeat_interleave(code.l0)
    assert torch.equal(pre[rows, code.indices], code.values)
    assert len((rows * latents + code.indices).unique()) == len(code.indices)


def test_groups_are_as_many_as_their_candidates_and_never_fewer_than_k() -> None:
    assert _group_size(5120, 20) == 16
    assert _group_size(5119, 20) == _group_size(64, 32) == 1
    assert all(latents // _group_size(latents, k) >= k for latents in (96, 128, 4096) for k in range(1, 97))


def test_gradients_reach_the_kept_preactivations() -> None:
    pre = torch.randn(3, 4096, requires_grad=True)
    code = topk_code(pre, 2)
    code.values.sum().backward()
    assert torch.equal(pre.grad, (code.dense(4096) > 0).float())
