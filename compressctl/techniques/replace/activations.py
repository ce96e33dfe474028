"""replace.activations: cheaper activation modules in the place of others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressctl.core.errors import NothingToCompressError
from compressctl.core.model import TorchModel
from compressctl.core.patterns import matching
from compressctl.core.technique import RunContext, StageResult
from compressctl.techniques.replace.params import ActivationsParams, Kind

_KINDS: Mapping[Kind, type[nn.Module]] = {
    "hardswish": nn.Hardswish, "silu": nn.SiLU, "gelu": nn.GELU, "mish": nn.Mish, "elu": nn.ELU, "selu": nn.SELU, "celu": nn.CELU, "prelu": nn.PReLU,
    "leaky_relu": nn.LeakyReLU, "softplus": nn.Softplus, "softsign": nn.Softsign,
}  # fmt: skip
_NEW: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "hardswish": nn.Hardswish}


_COMPUTED: Mapping[Kind, Sequence[Callable[[Tensor], Tensor]]] = {
    "hardswish": [functional.hardswish],
    "silu": [functional.silu],
    "gelu": [functional.gelu, partial(functional.gelu, approximate="tanh"), lambda x: x * torch.sigmoid(1.702 * x)],
    "mish": [functional.mish],
    "elu": [functional.elu],
    "selu": [functional.selu],
    "softplus": [functional.softplus],
    "softsign": [functional.softsign],
}
"""By which modules of others' classes are known: what they give for numbers from -8 to 8."""

_NEAR = 1e-4


def apply(model: TorchModel, params: ActivationsParams, run: RunContext) -> StageResult:
    """Raises UsageError for a pattern that matches nothing, NothingToCompressError where the network has no such module."""
    network = copy.deepcopy(model.body)
    kinds = [kind for kind in params.of if _KINDS[kind] is not _NEW[params.by]]
    found = [name for name, module in network.named_modules() if name and _kind(module) in kinds]
    if not found:
        raise NothingToCompressError(
            f"the network has no module of {', '.join(params.of)}",
            hint="activations that a forward calls as functions are not seen: make modules of them, as in self.act = nn.SiLU(); "
            "those of an ONNX file are known by what its nodes compute",
        )
    names = matching(params.match, found, lambda name: (name,), key="match", what="such an activation")
    replaced: dict[str, str] = {}
    for name in names:
        owner, _, attribute = name.rpartition(".")
        replaced[name] = type(network.get_submodule(name)).__name__
        setattr(network.get_submodule(owner), attribute, _NEW[params.by]())
    gone = tuple(name for name in model.sparse if not any(name.startswith(f"{module}.") for module in replaced))
    return StageResult(replace(model, body=network, sparse=gone), {"replaced": replaced, "by": params.by})


def _kind(module: nn.Module) -> Kind | None:
    """By its class, or, of one without weights and parts, by what it computes: networks of transformers have classes of their own."""
    own = next((kind for kind, one in _KINDS.items() if isinstance(module, one)), None)
    if own is not None or type(module).__module__.startswith("torch.") or any(True for _ in module.children()):
        return own
    if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
        return None
    x = torch.linspace(-8, 8, 97)[None]
    try:
        with torch.no_grad():
            given = module(x)
    except Exception:
        return None
    if not isinstance(given, Tensor) or given.shape != x.shape:
        return None
    same = (
        kind
        for kind, functions in _COMPUTED.items()
        if any(torch.allclose(given, function(x), rtol=0, atol=_NEAR) for function in functions)
    )
    return next(same, None)
