"""What of a network can become something cheaper, and what that is."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from compressctl.core.data import Split
from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.model import TorchModel
from compressctl.core.patterns import matching
from compressctl.core.technique import RunContext
from compressctl.graph.torch_outputs import named_outputs
from compressctl.layers.calls import calls_of
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.techniques.prune import _costs as costs
from compressctl.techniques.prune.layers import residual_blocks, without
from compressctl.techniques.search._cheaper import cheaper, is_replaceable
from compressctl.techniques.search._fitting import fit, seen_by
from compressctl.techniques.search.params import ReplacementsParams

WHOLE, GONE = "whole", "gone"

_COSTS: tuple[Literal["macs", "parameters"], ...] = ("macs", "parameters")


@dataclass
class Site:
    """A layer, or a residual block that can go. inside: the block that a layer lies in. alternatives: fitted modules, by kind. distance: of their outputs from the layer's. macs, parameters: of
    the layer for a sample, by kind, of a block that goes of nothing but what it holds beside its sites. alike: equal for layers of one structure."""

    name: str
    inside: str | None
    alike: str
    macs: dict[str, float]
    parameters: dict[str, float]
    is_block: bool = False
    alternatives: dict[str, nn.Module] = field(default_factory=dict)
    distance: dict[str, float] = field(default_factory=dict)

    @property
    def options(self) -> list[str]:
        return [WHOLE, GONE] if self.is_block else [WHOLE, *self.alternatives]


def sites_in(model: TorchModel, params: ReplacementsParams) -> list[Site]:
    """Blocks first. Raises NothingToCompressError where there are none, UsageError for a pattern that matches none."""
    inputs = example_inputs(model.signature)
    calls = calls_of(model.body, inputs)
    blocks = residual_blocks(model.body, inputs)[0] if GONE in params.kinds else []
    measured = costs.layers(model.body, inputs)
    plain = [name for name in measured if len(calls[name]) == 1 and calls[name][0][0] and _is_plain(model.body, name)]
    names = [*blocks, *_wrappable(model.body, plain, inputs)]
    if not names:
        raise NothingToCompressError(
            "the network has no layer that a cheaper one is known for",
            hint="it knows convolutions with a kernel of more than one pixel, linear layers, and residual blocks",
        )
    wanted = set(matching(params.match, names, lambda name: (name,), key="match", what="layer or block"))
    found = []
    for name in (name for name in names if name in wanted):
        inside = next((block for block in blocks if block in wanted and name.startswith(f"{block}.")), None)
        own = {layer: one for layer, one in measured.items() if layer == name}
        if name in blocks:
            own = {
                layer: one for layer, one in measured.items() if layer.startswith(f"{name}.") and layer not in wanted
            }
        macs, parameters = ({WHOLE: costs.cost(of, own, (), {}), GONE: 0.0} for of in _COSTS)
        alike = f"{model.body.get_submodule(name)} {tuple(calls[name][0][0][0].shape[1:])}"
        found.append(Site(name, inside, alike, macs, parameters, name in blocks))
    return found


def _is_plain(network: nn.Module, name: str) -> bool:
    """Whether the layer is known, it has one name, and its weight one reader."""
    layer = network.get_submodule(name)
    if not name or not is_replaceable(layer):
        return False
    names = [path for path, one in network.named_modules(remove_duplicate=False) if one is layer]
    weights = [path for path, one in network.named_parameters(remove_duplicate=False) if one is layer.weight]
    return len(names) == len(weights) == 1


def _wrappable(network: nn.Module, names: Sequence[str], inputs: Sequence[Tensor]) -> list[str]:
    """Those without whose own attributes the network computes the same: some code reads a layer's weight itself."""
    with torch.no_grad():
        before = named_outputs(network.eval()(*inputs))

    def stays(wrapped: Sequence[str]) -> bool:
        made = copy.deepcopy(network)
        for name in wrapped:
            made.set_submodule(name, nn.Sequential(made.get_submodule(name)))
        try:
            with torch.no_grad():
                after = named_outputs(made.eval()(*inputs))
        except Exception:
            return False
        return all(torch.allclose(after[name], value, rtol=1e-3, atol=1e-5) for name, value in before.items())

    return list(names) if stays(names) else [name for name in names if stays([name])]


def fill(
    sites: Sequence[Site],
    model: TorchModel,
    params: ReplacementsParams,
    split: Split,
    run: RunContext,
    chosen: Mapping[str, str] | None = None,
) -> None:
    """Alternatives of layers, fitted. chosen: the only kinds that are needed."""
    layers = [site for site in sites if not site.is_block]
    for number, site in enumerate(layers):
        run.events.progress("fitting cheaper layers", number, len(layers))
        layer = model.body.get_submodule(site.name)
        kinds = [kind for kind in params.kinds if chosen is None or chosen[site.name] == kind]
        made = cheaper(layer, kinds)
        if not made:
            continue
        inputs, outputs = seen_by(model, site.name, split, params.fit_samples)
        site.distance |= fit(made, inputs, outputs, params.steps, run.seed)
        for kind, module in made.items():
            site.alternatives[kind] = module.eval()
            site.parameters[kind] = costs.cost("parameters", costs.layers(module, (inputs[:1],)), (), {})
            # Of so many rows, which need not be samples.
            own, whole = (costs.macs(costs.layers(nn.Sequential(one), (inputs[:1],))) for one in (module, layer))
            site.macs[kind] = site.macs[WHOLE] * own / whole


def with_chosen(network: nn.Module, sites: Sequence[Site], chosen: Mapping[str, str]) -> nn.Module:
    """A copy in which these sites are what was chosen."""
    made = copy.deepcopy(network)
    for site in sites:
        kind = chosen.get(site.name, WHOLE)
        if kind not in (WHOLE, GONE):
            if kind not in site.alternatives:
                raise UsageError(
                    f"replacements: {site.name} cannot be {kind}: it would not take less of its arithmetic"
                )
            made.set_submodule(site.name, copy.deepcopy(site.alternatives[kind]))
    return without(made, [site.name for site in sites if site.is_block and chosen.get(site.name) == GONE])
