"""replace.activations: cheaper activation modules in the place of others."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

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


def apply(model: TorchModel, params: ActivationsParams, run: RunContext) -> StageResult:
    """Raises UsageError for a pattern that matches nothing, NothingToCompressError where the network has no such module."""
    network = copy.deepcopy(model.body)
    kinds = tuple(_KINDS[kind] for kind in params.of if _KINDS[kind] is not _NEW[params.by])
    found = [name for name, module in network.named_modules() if name and isinstance(module, kinds)]
    if not found:
        raise NothingToCompressError(
            f"the network has no module of {', '.join(params.of)}",
            hint="activations that a forward calls as functions are not seen: make modules of them, as in self.act = nn.SiLU()",
        )
    names = matching(params.match, found, lambda name: (name,), key="match", what="such an activation")
    replaced: dict[str, str] = {}
    for name in names:
        owner, _, attribute = name.rpartition(".")
        replaced[name] = type(network.get_submodule(name)).__name__
        setattr(network.get_submodule(owner), attribute, _NEW[params.by]())
    gone = tuple(name for name in model.sparse if not any(name.startswith(f"{module}.") for module in replaced))
    return StageResult(replace(model, body=network, sparse=gone), {"replaced": replaced, "by": params.by})
