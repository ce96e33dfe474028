"""Which layers of a network are trained by low-rank adapters, and why others are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from compressctl.core.errors import UsageError
from compressctl.core.model import TorchModel
from compressctl.core.patterns import matching
from compressctl.graph.torch_outputs import named_outputs
from compressctl.training.lora.low_rank import ADAPTED, full_rank
from compressctl.training.params import Lora

_SHOWN = 3
_MAKES_FEW_VALUES = ("share.kmeans", "quantize.binary")


@dataclass(frozen=True)
class Choice:
    """layers: by path. left_out: paths of others that hold a matrix, with the reason; of those that a pattern matches, where one was given."""

    layers: Mapping[str, nn.Module]
    left_out: Mapping[str, str] = field(default_factory=dict)


def choose(model: TorchModel, lora: Lora, samples: Sequence[Tensor]) -> Choice:
    """samples: a batch of what the network is given.

    By default every layer that can have an adapter of this rank, except heads: what PEFT calls all-linear, with convolutions.
    Raises UsageError for a pattern that matches nothing, a rank that a matched layer does not have, and where no layer is left.
    """
    network: nn.Module = model.body
    holders = {path: module for path, module in network.named_modules() if _holds_a_matrix(module)}
    wanted = _matched(lora.match, holders)
    reasons = _reasons(model, {path: holders[path] for path in wanted})
    able = {path: holders[path] for path in wanted if path not in reasons}
    small = {path: full_rank(module) for path, module in able.items() if full_rank(module) < lora.rank}
    if lora.match is None:
        reasons |= {path: f"its weight has rank {rank} at most" for path, rank in small.items()}
        makes_output = _heads(network, able, samples)
        reasons |= dict.fromkeys(
            makes_output, "its result is an output of the network; a pattern that matches it takes it"
        )
    elif small:
        shown = ", ".join(f"{path} ({rank})" for path, rank in list(small.items())[:_SHOWN])
        more = f" and {len(small) - _SHOWN} more" if len(small) > _SHOWN else ""
        raise UsageError(
            f"lora.rank: {lora.rank} is more than the rank that the weights of some layers can have: {shown}{more}",
            hint=f"choose {min(small.values())} or less, or patterns that leave these layers out",
        )
    left_out = {path: reasons[path] for path in wanted if path in reasons}
    return Choice({path: module for path, module in able.items() if path not in reasons}, left_out)


def refuse_nothing(lora: Lora, left_out: Mapping[str, str]) -> None:
    """Raise UsageError: no layer is left to have an adapter."""
    shown = "; ".join(f"{path or 'the network'}: {why}" for path, why in list(left_out.items())[:_SHOWN])
    raise UsageError(
        f"lora: no layer can have an adapter of rank {lora.rank}" + (f" ({shown})" if shown else ""),
        hint="`compressctl inspect` lists the layers; name some by `match`, lower the rank, or leave lora out to train all weights",
    )


def _holds_a_matrix(module: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))


def _matched(match: str | tuple[str, ...] | None, holders: Mapping[str, nn.Module]) -> list[str]:
    """Paths in the network's order."""
    if match is None:
        return list(holders)
    patterns = (match,) if isinstance(match, str) else match
    found = {
        path
        for pattern in patterns
        for path in matching(
            pattern,
            list(holders),
            lambda path: (path, f"{path}.weight", type(holders[path]).__name__),
            key="lora.match",
        )
    }
    return [path for path in holders if path in found]


def _reasons(model: TorchModel, holders: Mapping[str, nn.Module]) -> dict[str, str]:
    """Why layers cannot have an adapter of any rank."""
    readers = Counter(
        id(parameter) for module in model.body.modules() for parameter in module.parameters(recurse=False)
    )
    few_values = _of_few_values(model)
    found = {}
    for path, module in holders.items():
        reason = _reason(module, readers) or few_values.get(path) or few_values.get("*")
        if reason is not None:
            found[path] = reason
    return found


def _reason(module: nn.Module, readers: Mapping[int, int]) -> str | None:
    own = dict(module.named_parameters(recurse=False))
    if isinstance(module, nn.Embedding):
        return "a table of embeddings"
    if isinstance(module, torch.nn.utils.parametrize.ParametrizationList):
        return "its weight is computed (a parametrization)"
    if type(module) not in ADAPTED:
        return (
            f"{type(module).__name__} is not torch's own Linear or convolution: its code may use its weights otherwise"
        )
    if "weight" not in own:
        return "its weight is computed"
    if readers[id(own["weight"])] > 1:
        return "its weight is tied to another layer's, which a product beside one of them would part"
    return None


def _of_few_values(model: TorchModel) -> dict[str, str]:
    """Layers, "*" for all, whose weights an earlier stage gave few values: products would give each weight one of its own."""
    found: dict[str, str] = {}
    for record in model.history:
        if record.use in _MAKES_FEW_VALUES:
            reason = f"{record.use} gave its weights few values, which a product would undo; train before that stage, or in it"
            layers = record.facts.get("layers", {}) if record.use == "share.kmeans" else ("*",)
            found |= {str(name).removesuffix(".weight"): reason for name in layers}
    return found


def _heads(network: nn.Module, layers: Mapping[str, nn.Module], samples: Sequence[Tensor]) -> list[str]:
    """The layers whose result is an output of the network as it is."""
    made: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _, given, result, path=path: made.__setitem__(path, result))
        for path, module in layers.items()
    ]
    try:
        with torch.no_grad():
            outputs = list(named_outputs(network(*samples)).values())
    finally:
        for handle in handles:
            handle.remove()
    return [path for path, result in made.items() if any(result is output for output in outputs)]
