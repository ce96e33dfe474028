"""torch's attention with its projections apart, so that it can have fewer heads than its width holds."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class SplitAttention(nn.Module):
    """Computes what nn.MultiheadAttention computes, for query, key and value of one width and without added rows.

    Called like it; attention weights are not returned (None stands in their place).
    """

    def __init__(
        self, embed_dim: int, num_heads: int, head_dim: int, dropout: float, bias: bool, batch_first: bool
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.dropout, self.batch_first = dropout, batch_first
        inner = num_heads * head_dim
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(embed_dim, inner, bias) for _ in range(3))
        self.out_proj = nn.Linear(inner, embed_dim, bias)
        # What torch's encoder layer asks before it takes a path of its own past this module; None and False keep it here.
        self.in_proj_bias = None
        self._qkv_same_embed_dim = False

    def constructor_arguments(self) -> Mapping[str, Any]:
        return {
            "embed_dim": self.out_proj.out_features,
            "num_heads": self.num_heads,
            "head_dim": self.head_dim,
            "dropout": self.dropout,
            "bias": self.out_proj.bias is not None,
            "batch_first": self.batch_first,
        }

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        if not self.batch_first:
            query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
        parts = [
            projection(given).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for projection, given in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        ]
        mask = _one_mask(attn_mask, key_padding_mask, parts[0].dtype)
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            parts[0], parts[1], parts[2], mask, dropout, is_causal=is_causal and mask is None
        )
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return (output if self.batch_first else output.transpose(0, 1)), None


def split(network: nn.Module) -> nn.Module:
    """A copy in which every nn.MultiheadAttention that can be is a SplitAttention."""
    changed = copy.deepcopy(network)
    for name, module in list(changed.named_modules()):
        plain = isinstance(module, nn.MultiheadAttention) and module._qkv_same_embed_dim and module.bias_k is None
        if plain and not module.add_zero_attn:
            owner, _, attribute = name.rpartition(".")
            setattr(changed.get_submodule(owner), attribute, _apart(module).train(module.training))
    return changed


def _apart(whole: nn.MultiheadAttention) -> SplitAttention:
    width, bias = whole.embed_dim, whole.in_proj_bias is not None
    made = SplitAttention(width, whole.num_heads, whole.head_dim, whole.dropout, bias, whole.batch_first)
    with torch.no_grad():
        for number, linear in enumerate((made.q_proj, made.k_proj, made.v_proj)):
            rows = slice(number * width, (number + 1) * width)
            linear.weight.copy_(whole.in_proj_weight[rows])
            if bias:
                linear.bias.copy_(whole.in_proj_bias[rows])
    made.out_proj.load_state_dict(whole.out_proj.state_dict())
    return made


def _one_mask(mask: Tensor | None, padding: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Both masks as one that is added to the scores. mask: (q, k) or (batch * heads, q, k); padding: (batch, k)."""
    added: Any = None
    for part, shape in ((mask, None), (padding, "batch")):
        if part is None:
            continue
        if part.dtype == torch.bool:
            part = torch.zeros(part.shape, dtype=dtype, device=part.device).masked_fill(part, float("-inf"))
        part = part[:, None, None, :] if shape else part
        added = part if added is None else added + part
    return added if isinstance(added, Tensor) else None
