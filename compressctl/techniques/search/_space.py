"""The subnetworks of a network, what they take, and how one becomes another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from torch import nn

from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.model import TorchModel
from compressctl.core.technique import RunContext
from compressctl.layers.channels.dependency_groups import example_inputs, samples_in
from compressctl.sources.modules.fewer_tokens import FewerTokens
from compressctl.sources.modules.smaller_images import SmallerImages
from compressctl.sources.modules.split_attention import split
from compressctl.techniques.prune import _costs as costs
from compressctl.techniques.prune.narrower import Channels, Narrower
from compressctl.techniques.prune.params import ChannelsParams
from compressctl.techniques.search._memory import ValuesOf
from compressctl.techniques.search._resolution import RESOLUTION, ImageSizes
from compressctl.techniques.search._tokens import TOKENS, TokenPlaces
from compressctl.techniques.search.params import WIDTH_KINDS, Architecture, SpaceParams, WidthKind

_UNITS: Mapping[WidthKind, str] = {"tokens": "% of the tokens", "resolution": "% of the height and width"}


@dataclass(frozen=True)
class Subnetwork:
    """widths: channels, heads, per cent of the tokens and of the images' height and width that stay, by group, of all groups. gone: residual blocks, in the network's order."""

    widths: tuple[tuple[str, int], ...]
    gone: tuple[str, ...] = ()

    @property
    def kept(self) -> dict[str, int]:
        return dict(self.widths)

    def with_width(self, group: str, width: int) -> Subnetwork:
        return replace(self, widths=tuple((name, width if name == group else held) for name, held in self.widths))


class Space:
    """is_sorted: a supernet was trained, whose channels stand in the order in which they stay. nested: the network may be what an earlier search found, standing in what makes
    its tokens fewer and its images smaller; more of these may go."""

    def __init__(
        self, model: TorchModel, params: SpaceParams, run: RunContext, *, is_sorted: bool, nested: bool = False
    ) -> None:
        model, images, tokens = _taken_out(model, params) if nested else (model, None, None)
        cut = ChannelsParams(min_keep=params.min_keep, round_to=params.round_to, scope="local")
        self.model = model = replace(model, body=split(model.body))
        self._known: dict[tuple[str, tuple[tuple[str, int], ...]], tuple[int, int]] = {}
        self.narrower = Narrower(model, run, cut, is_sorted=is_sorted, heads=True)
        self._tokens = TokenPlaces(model, params.tokens, tokens) if params.tokens != "all" else None
        self._images = ImageSizes(model, params.min_resolution, images) if params.min_resolution < 1 else None
        self._around = [each for each in (self._tokens, self._images) if each is not None]
        others = [group for each in self._around for group in each.groups(self.narrower.blocks)]
        self.groups: dict[str, Channels] = {group.name: group for group in (*self.narrower.groups, *others)}
        self.blocks = tuple(self.narrower.blocks)
        self.most_gone = len(self.blocks) // 2 if params.blocks == "auto" else min(params.blocks, len(self.blocks))
        if not self.groups and not self.most_gone:
            raise NothingToCompressError(
                "the network has no subnetworks: none of its layers can be narrower, and no residual block can go",
                hint="; ".join(f"{name}: {why}" for name, why in list(self.narrower.fixed.items())[:4]),
            )

    @cached_property
    def whole(self) -> Subnetwork:
        return Subnetwork(tuple((name, group.whole) for name, group in self.groups.items()))

    @cached_property
    def entire(self) -> TorchModel:
        """The network that was given."""
        return self.cut(self.whole) if self._used_around(self.whole) else self.model

    def widths(self, group: str) -> tuple[int, ...]:
        """Ascending, the whole one last."""
        return (*self.groups[group].widths, self.groups[group].whole)

    def smallest(self, generator: np.random.Generator) -> Subnetwork:
        """The narrowest, without as many blocks as may be gone: which ones is chance."""
        narrowest = tuple((name, self.widths(name)[0]) for name in self.groups)
        return Subnetwork(narrowest, self._some_blocks(self.most_gone, generator))

    def random(self, generator: np.random.Generator) -> Subnetwork:
        widths = tuple((name, int(generator.choice(self.widths(name)))) for name in self.groups)
        return Subnetwork(widths, self._some_blocks(int(generator.integers(self.most_gone + 1)), generator))

    def uniform(self, share: float, gone: Sequence[str] = ()) -> Subnetwork:
        """About this share of every group."""
        widths = [
            (name, min(self.widths(name), key=lambda width: abs(width - share * group.whole)))
            for name, group in self.groups.items()
        ]
        return Subnetwork(tuple(widths), self.in_order(gone))

    def _some_blocks(self, count: int, generator: np.random.Generator) -> tuple[str, ...]:
        return self.in_order([self.blocks[place] for place in generator.permutation(len(self.blocks))[:count]])

    def in_order(self, blocks: Sequence[str]) -> tuple[str, ...]:
        """As the network has them."""
        return tuple(name for name in self.blocks if name in set(blocks))

    def cut(self, subnetwork: Subnetwork) -> TorchModel:
        """A plain module of its own."""
        prefix = self.prefix(subnetwork)
        sparse = tuple(prefix + name for name in self.model.sparse)
        return replace(self.model, body=self.cut_of(self.model.body, subnetwork), sparse=sparse)

    def cut_of(self, network: nn.Module, subnetwork: Subnetwork) -> nn.Module:
        """The same of another network of this structure."""
        kept = {name: width for name, width in subnetwork.widths if width < self.groups[name].whole}
        smaller = self.narrower.cut(kept, subnetwork.gone, network).body
        for each in self._used_around(subnetwork):
            smaller = each.around(smaller, kept, subnetwork.gone)
        return smaller

    def _used_around(self, subnetwork: Subnetwork) -> list[TokenPlaces | ImageSizes]:
        """What stands around a subnetwork, the innermost first."""
        return [each for each in self._around if each.go(subnetwork.kept, subnetwork.gone)]

    def prefix(self, subnetwork: Subnetwork) -> str:
        """Before the names of its modules, which stand inside others where tokens go or images are smaller."""
        return "network." * len(self._used_around(subnetwork))

    def is_resolution(self, group: str) -> bool:
        """Whether it takes as much of everything, and not something of its own."""
        return kind_of(self.groups[group]) == "resolution"

    def macs(self, subnetwork: Subnetwork) -> float:
        """Multiply-accumulates of layers for a sample."""
        return float(sum(size[1] for size in self._sizes(subnetwork)))

    def parameters(self, subnetwork: Subnetwork) -> float:
        """Weights of layers, without biases and norms."""
        return float(sum(size[0] for size in self._sizes(subnetwork)))

    def _sizes(self, subnetwork: Subnetwork) -> list[tuple[int, int]]:
        kept, gone = subnetwork.kept, set(subnetwork.gone)
        seen = self.seen(subnetwork)
        pixels = {} if self._images is None else self._pixels[self._images.share(kept)]
        found = []
        for name, touching, block in self._layers:
            if block not in gone:
                parameters, macs = self._size(name, tuple((group, kept[group]) for group in touching))
                share = next((share for inside, share in seen.items() if name.startswith(f"{inside}.")), 1.0)
                found.append((parameters, round(macs * share * pixels.get(name, 1.0))))
        return found

    def seen(self, subnetwork: Subnetwork) -> dict[str, float]:
        """By block, the share of all tokens that it computes."""
        return {} if self._tokens is None else self._tokens.seen(subnetwork.kept, subnetwork.gone)

    @cached_property
    def _values(self) -> ValuesOf:
        body = self.model.body
        inputs = {100: example_inputs(self.model.signature)} if self._images is None else self._images.inputs
        own = {group.name: group for group in self.narrower.groups}
        samples = samples_in(self.model.signature, inputs[100])
        return ValuesOf(body, inputs, samples, own, lambda name, width: self.narrower.cut({name: width}, (), body).body)

    def values(self, subnetwork: Subnetwork) -> float:
        """Bytes of values that are alive at once in a call of one sample, without those that tokens which go need."""
        share = 100 if self._images is None else self._images.share(subnetwork.kept)
        return self._values(subnetwork.kept, subnetwork.gone, self.seen(subnetwork), share)

    @cached_property
    def _pixels(self) -> dict[int, dict[str, float]]:
        """By per cent of the images, of each layer the share of its positions that it computes."""
        assert self._images is not None
        measured = {share: costs.layers(self.model.body, inputs) for share, inputs in self._images.inputs.items()}
        whole = measured[100]
        return {
            share: {name: layer.positions / whole[name].positions for name, layer in layers.items()}
            for share, layers in measured.items()
        }

    @cached_property
    def _layers(self) -> list[tuple[str, tuple[str, ...], str | None]]:
        return list(self.narrower.layers)

    def _size(self, layer: str, kept: tuple[tuple[str, int], ...]) -> tuple[int, int]:
        """Weights and multiply-accumulates of a layer whose groups have so many channels."""
        if (layer, kept) not in self._known:
            parameters, _, macs = self.narrower.size(layer, dict(kept))
            self._known[layer, kept] = parameters, macs
        return self._known[layer, kept]

    def named(self, architecture: Architecture) -> Subnetwork:
        """The subnetwork that a recipe spells out. Raises UsageError where the network has none such."""
        asked: dict[str, int] = {}
        for kind, fewer in architecture.kinds.items():
            known = {said: name for name, said in self._names(kind).items()}
            for name, width in fewer.items():
                self._check(kind, name, width, known)
                asked[known[name]] = width
        if unknown := [name for name in architecture.without if name not in self.blocks]:
            raise UsageError(
                f"architecture.without names {unknown[0]}, which is no residual block that can go",
                hint=f"those that can: {', '.join(self.blocks) or 'none'}",
            )
        widths = tuple((name, asked.get(name, group.whole)) for name, group in self.groups.items())
        return Subnetwork(widths, self.in_order(architecture.without))

    def _check(self, kind: WidthKind, name: str, width: int, known: Mapping[str, str]) -> None:
        if name not in known:
            hint = f"those that can: {', '.join(known) or 'none'}"
            raise UsageError(f"architecture.{kind} names {name}, whose {kind} cannot be fewer", hint=hint)
        possible = self.widths(known[name])
        if width not in possible:
            unit = _UNITS.get(kind, kind)
            hint = f"possible: {', '.join(map(str, possible))}" + (
                "" if kind in _UNITS else " (see min_keep, round_to)"
            )
            raise UsageError(f"{name} cannot have {width} {unit}", hint=hint)

    def _names(self, kind: WidthKind) -> dict[str, str]:
        """By group of this kind, what a recipe calls it."""
        found = {}
        for name, group in self.groups.items():
            if kind == kind_of(group):
                found[name] = group.attention or name.removeprefix(TOKENS).removeprefix(RESOLUTION)
        return found

    def spelled(self, subnetwork: Subnetwork) -> dict[str, object]:
        """As a recipe's `architecture` has it."""
        found: dict[str, object] = {}
        for kind in WIDTH_KINDS:
            fewer = {
                said: subnetwork.kept[name]
                for name, said in self._names(kind).items()
                if subnetwork.kept[name] < self.groups[name].whole
            }
            if fewer or kind == "channels":
                found[kind] = fewer
        return {**found, "without": list(subnetwork.gone)}

    def by_kind(self) -> dict[str, dict[str, list[int]]]:
        """What there is to choose among, as a recipe calls it."""
        found: dict[str, dict[str, list[int]]] = {}
        for kind in WIDTH_KINDS:
            if names := self._names(kind):
                found[kind] = {said: list(self.widths(name)) for name, said in names.items()}
        return found


def _taken_out(model: TorchModel, params: SpaceParams) -> tuple[TorchModel, SmallerImages | None, FewerTokens | None]:
    """The network itself, and what it stood in, as far as the space has such."""
    body = model.body
    images: SmallerImages | None = None
    tokens: FewerTokens | None = None
    if params.min_resolution < 1 and isinstance(body, SmallerImages):
        images = body
        body = images.network
    if params.tokens != "all" and isinstance(body, FewerTokens) and body.method == params.tokens:
        tokens = body
        body = tokens.network
    prefix = "network." * sum(each is not None for each in (images, tokens))
    sparse = tuple(name.removeprefix(prefix) for name in model.sparse)
    return replace(model, body=body, sparse=sparse), images, tokens


def kind_of(group: Channels) -> WidthKind:
    if group.name.startswith(TOKENS):
        return "tokens"
    if group.name.startswith(RESOLUTION):
        return "resolution"
    return "channels" if group.attention is None else "heads"
