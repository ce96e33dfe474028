"""Mixtures of experts in plain operations: every expert computes every token, weighted by 0 where the router did not choose it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

IMPLEMENTATION = "compressctl"
"""The name under which transformers finds it."""


def register() -> None:
    """Let transformers know it. Its own implementations loop over what the router chose, or call operators that ONNX does not have."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, every_expert)


def every_expert(experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """experts: transformers' module, whose weights have the expert as first axis. hidden_states: (tokens, width). top_k_index and
    top_k_weights: (tokens, chosen), the experts of each token and their shares.

    Each expert's products have a weight of their own in the exported graph, which quantization finds as any other.
    """
    import torch

    first = "gate_up_proj" if experts.has_gate else "up_proj"
    mixed = torch.zeros_like(hidden_states)
    for number in range(getattr(experts, first).shape[0]):
        share = (top_k_weights * (top_k_index == number)).sum(-1, keepdim=True)
        made = _product(experts, first, number, hidden_states)
        made = experts._apply_gate(made) if experts.has_gate else experts.act_fn(made)
        made = _product(experts, "down_proj", number, made)
        if experts.has_post_expert_norm:
            made = experts.post_expert_norm(made)
        mixed = mixed + made * share.to(made.dtype)
    return mixed


def _product(experts: Any, name: str, number: int, values: Tensor) -> Tensor:
    weight = getattr(experts, name)[number]
    made: Tensor = values @ (weight if experts.is_transposed else weight.T)
    return made + getattr(experts, f"{name}_bias")[number] if experts.has_bias else made
