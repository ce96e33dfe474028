"""Measuring what narrower layers and missing blocks take and lose: each group of channels alone, on training samples, nothing trained."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from compressctl.core.data import Split
from compressctl.core.errors import CompressctlError, in_short
from compressctl.core.model import OnnxModel, TorchModel
from compressctl.core.technique import RunContext, techniques
from compressctl.graph.lower import lower
from compressctl.graph.torch_outputs import named_outputs
from compressctl.numerics.evenly import evenly
from compressctl.numerics.output_distance import kl_divergence, relative_squared_distance
from compressctl.pipeline.executor import Executor
from compressctl.search.tables import Tables
from compressctl.search.width_tables import (
    BlockTable,
    Combination,
    GroupTable,
    SizedLayer,
    WidthOption,
    WidthTables,
)
from compressctl.techniques.prune.narrower import Channels, Narrower
from compressctl.techniques.quantize.layer_widths import LayerWidths
from compressctl.training.data import TensorBatch, tensor_batches

_SAMPLES, _AT_ONCE, _PASS = 256, 64, 2.0
"""Training samples that outputs are compared on, as many as one network takes so many seconds for; norms are measured anew on twice as many."""

_MOST_WIDTHS = 8
"""Of a group, that are looked at."""

_MOST_TOUCHING = 3
"""Groups that decide one layer's size; of a layer with more the smallest stay whole."""

_TOGETHER = 6
"""Models that are timed in one go."""

_NO_NUMBERS = 1e6

Cut = tuple[str, Mapping[str, int], Sequence[str]]
"""Kind of what is cut, channels that stay by group, blocks that go."""


def measure_widths(
    executor: Executor, key: str, tables: Tables, seconds: float | None, environment: Mapping[str, Any]
) -> WidthTables:
    """executor: of a recipe whose last stage is `STAGE`, and whose model is a network in torch. tables: what its graph's layers lose in 4 bits.
    seconds: after which what is left stays whole. Raises what tracing and lowering raise."""
    workspace = executor.workspace
    *first, stage = workspace.recipe.stages
    run = executor.context(stage, techniques.get(stage.use), None)
    model = workspace.loaded()
    for step in workspace.plan.steps:
        if step.stage in first:
            model = executor.perform(step, model)
    assert isinstance(model, TorchModel)
    measuring = _Measuring(model, run, workspace.dataset().split("train"), by_module(tables, model), seconds)
    return measuring.tables(key, environment)


def by_module(tables: Tables, model: TorchModel) -> Tables:
    """Of a network that was made of a file, whose nodes have other names than its modules."""
    paths: Mapping[str, str] = getattr(model.body, "paths_of_nodes", {})
    names = {node: path if _holds_weights(model, path) else f"{path}.conv" for node, path in paths.items()}
    layers = (one.model_copy(update={"name": names.get(one.name, one.name)}) for one in tables.layers)
    return tables.model_copy(update={"layers": tuple(layers)})


def _holds_weights(model: TorchModel, path: str) -> bool:
    """Itself; what got a norm behind it (`unfold`) is a sequence of both now."""
    return any(True for _ in model.body.get_submodule(path).parameters(recurse=False))


@dataclass
class _Measuring:
    model: TorchModel
    run: RunContext
    split: Split
    known: Tables
    seconds: float | None
    left_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._narrower = Narrower(self.model, self.run)
        self._batches = self._some_batches()
        self._by_classes = self.run.task in ("classification", "language-model")
        self._wanted = self._outputs(self.model)

    def _some_batches(self) -> list[TensorBatch]:
        found: list[TensorBatch] = []
        began = time.monotonic()
        for batch in tensor_batches(self.split, self.model.signature, _AT_ONCE, shuffle_seed=self.run.seed):
            found.append(batch)
            with torch.no_grad():
                self.model.body.eval()(*batch.inputs)
            if len(found) * _AT_ONCE >= _SAMPLES or time.monotonic() - began > _PASS:
                break
        return found

    def _outputs(self, model: TorchModel) -> list[dict[str, np.ndarray]]:
        model.body.eval()
        with torch.no_grad():
            found = [named_outputs(model.body(*batch.inputs)) for batch in self._batches]
        return [{name: value.numpy() for name, value in outputs.items()} for outputs in found]

    def _far(self, kept: Mapping[str, int], blocks: Sequence[str] = ()) -> float | None:
        """Of a cut network from the original, with its norms measured anew; None where it does not run, which is named."""
        far = kl_divergence if self._by_classes else relative_squared_distance
        samples = 2 * sum(len(batch) for batch in self._batches)
        try:
            found = self._outputs(self._narrower.settled(kept, blocks, self.split, samples))
            each = [
                sum(far(first[name], second[name]) for name in first if np.issubdtype(first[name].dtype, np.floating))
                for first, second in zip(self._wanted, found, strict=True)
            ]
        except (RuntimeError, ValueError) as error:
            self.left_out.append(
                f"{', '.join([*kept, *blocks])}: the network that is cut there does not run ({in_short(error)})"
            )
            return None
        mean = float(np.average(each, weights=[len(batch) for batch in self._batches]))
        return min(mean, _NO_NUMBERS) if math.isfinite(mean) else _NO_NUMBERS

    def _is_late(self, share: float) -> bool:
        return self.seconds is not None and time.monotonic() - self._began > share * self.seconds

    def tables(self, key: str, environment: Mapping[str, Any]) -> WidthTables:
        blocks = {
            name: far for name in self._in_time(self._narrower.blocks) if (far := self._far({}, [name])) is not None
        }
        groups = self._offered()
        looked = {group.name: self._of_group(group, place, len(groups)) for place, group in enumerate(groups)}
        looked = {name: options for name, options in looked.items() if options}
        offered = [group for group in groups if group.name in looked]
        float_ms, integer_ms, per_mac = self._timed(offered, list(blocks))
        return WidthTables(
            key=key,
            distance=self.known.distance,
            samples=sum(len(batch) for batch in self._batches),
            float_ms=float_ms,
            integer_ms=integer_ms,
            float_bytes=self.known.float_bytes,
            groups=tuple(self._table(group, looked[group.name], per_mac) for group in offered),
            blocks=tuple(self._of_block(name, far, per_mac) for name, far in blocks.items()),
            layers=tuple(self._sized(looked)),
            left_out=tuple(self.left_out),
            seconds=time.monotonic() - self._began,
            environment=dict(environment),
        )

    def _in_time(self, names: Iterable[str]) -> Iterator[str]:
        for name in names:
            if self._is_late(0.3):
                self.left_out.append(f"{name}: there was no time to look at it")
            else:
                yield name

    def _offered(self) -> list[Channels]:
        """Groups that may shrink, without those of layers that too many of them would decide."""
        groups = {group.name: group for group in self._narrower.groups}
        for layer, touching, _ in self._narrower.layers:
            here = [name for name in touching if name in groups]
            for name in sorted(here, key=lambda name: (-groups[name].whole, name))[_MOST_TOUCHING:]:
                self.left_out.append(f"{name}: the size of {layer} would depend on more than {_MOST_TOUCHING} widths")
                del groups[name]
        return list(groups.values())

    def _of_group(self, group: Channels, place: int, count: int) -> dict[int, float]:
        """By channels that stay, the distance."""
        found: dict[int, float] = {}
        for width in evenly(group.widths, _MOST_WIDTHS):
            if self._is_late(0.6):
                self.left_out.append(f"{group.name}: there was no time to look at all of its widths")
                break
            far = self._far({group.name: width})
            if far is None:
                break
            found[width] = far
        self.run.events.progress("measuring what narrower layers lose", place + 1, count)
        return found

    def _table(self, group: Channels, found: Mapping[int, float], rates: Mapping[str, float]) -> GroupTable:
        rate = rates.get(group.kind)
        options = [WidthOption(channels=group.whole, saves_ms=None if rate is None else 0.0, distance=0.0)]
        for width in sorted(found, reverse=True):
            saves = None if rate is None else rate * self._macs_saved({group.name: width})
            options.append(WidthOption(channels=width, saves_ms=saves, distance=found[width]))
        return GroupTable(
            name=group.name, layers=group.layers, kind=group.kind, block=group.block, options=tuple(options)
        )

    def _of_block(self, name: str, far: float, rates: Mapping[str, float]) -> BlockTable:
        rate = rates.get(self._narrower.blocks[name])
        saves = None if rate is None else rate * self._macs_saved({}, [name])
        return BlockTable(name=name, saves_ms=saves, distance=far)

    def _macs_saved(self, kept: Mapping[str, int], blocks: Sequence[str] = ()) -> int:
        """Multiply-accumulates for a sample."""
        saved = 0
        for name, touching, block in self._narrower.layers:
            narrower = {group: width for group, width in kept.items() if group in touching}
            if block in blocks:
                saved += self._narrower.size(name, {})[2]
            elif narrower:
                saved += self._narrower.size(name, {})[2] - self._narrower.size(name, narrower)[2]
        return saved

    def _sized(self, looked: Mapping[str, Mapping[int, float]]) -> Iterator[SizedLayer]:
        whole = {group.name: group.whole for group in self._narrower.groups}
        graph = {layer.name: {option.name: option for option in layer.options} for layer in self.known.layers}
        for name, touching, block in self._narrower.layers:
            groups = tuple(group for group in touching if group in looked)
            widths = [(whole[group], *sorted(looked[group], reverse=True)) for group in groups]
            sizes = []
            for channels in itertools.product(*widths):
                parameters, outputs, macs = self._narrower.size(name, dict(zip(groups, channels, strict=True)))
                sizes.append(Combination(channels=channels, parameters=parameters, outputs=outputs, macs=macs))
            options = graph.get(name, {})
            four = options.get("int4")
            yield SizedLayer(
                name=name,
                groups=groups,
                block=block,
                sizes=tuple(sizes),
                has_integers="int8" in options,
                distance_int4=None if four is None else four.distance.get("int4"),
            )

    def _timed(
        self, groups: Sequence[Channels], blocks: Sequence[str]
    ) -> tuple[float | None, float | None, dict[str, float]]:
        """Milliseconds of the float file, of that in 8 bits, and by kind of group or block what the latter saves for each multiply-accumulate
        that goes there."""
        if self.run.latency_ms is None:
            return None, None, {}
        whole = self._in_8_bits({}, ())
        float_ms, integer_ms = self.run.latency_ms([lower(self.model), whole])
        cuts = [*self._narrowest(groups), *self._without(blocks)]
        seen: dict[str, list[tuple[float, float]]] = {}
        for start in range(0, len(cuts), _TOGETHER):
            part = cuts[start : start + _TOGETHER]
            if self._is_late(1.0):
                self.left_out.append(f"{len(cuts) - start} cuts: there was no time to time them")
                break
            built = [(cut, model) for cut in part if (model := self._built(cut)) is not None]
            reference, *times = self.run.latency_ms([whole, *(model for _, model in built)])
            for ((kind, kept, gone), _), took in zip(built, times, strict=True):
                saved = (reference - took) * integer_ms / reference
                seen.setdefault(kind, []).append((float(self._macs_saved(kept, gone)), saved))
            self.run.events.progress("timing narrower layers in place", start + len(part), len(cuts))
        return float_ms, integer_ms, rates(seen, dict.fromkeys(kind for kind, _, _ in cuts))

    def _narrowest(self, groups: Sequence[Channels]) -> Iterator[Cut]:
        """All groups of a kind together, so that what they save stands out of the noise: at their narrowest, and at half."""
        kinds: dict[str, list[Channels]] = {}
        for group in groups:
            kinds.setdefault(group.kind, []).append(group)
        for kind, members in kinds.items():
            widths = members[0].widths
            for width in dict.fromkeys((widths[0], widths[len(widths) // 2])):
                yield kind, {member.name: width for member in members}, ()

    def _without(self, blocks: Sequence[str]) -> Iterator[Cut]:
        """All blocks of a kind together."""
        kinds: dict[str, list[str]] = {}
        for block in blocks:
            kinds.setdefault(self._narrower.blocks[block], []).append(block)
        for kind, names in kinds.items():
            yield kind, {}, names

    def _built(self, cut: Cut) -> OnnxModel | None:
        _, kept, gone = cut
        try:
            return self._in_8_bits(kept, gone)
        except (CompressctlError, RuntimeError, ValueError) as error:
            self.left_out.append(f"{', '.join([*kept, *gone])}: not timed together ({in_short(error)})")
            return None

    def _in_8_bits(self, kept: Mapping[str, int], blocks: Sequence[str]) -> OnnxModel:
        return LayerWidths(lower(self._narrower.cut(kept, blocks)), self.run).together({})


def rates(seen: Mapping[str, Sequence[tuple[float, float]]], kinds: Iterable[str]) -> dict[str, float]:
    """By kind, the milliseconds that a multiply-accumulate takes there. seen: of every cut, multiply-accumulates and milliseconds that it saved.

    Single timings stray by as much as many cuts save, so that each kind's rate is drawn towards that of all together, as by one more cut of
    its mean size (ridge regression), and is a tenth of it at least. A kind of which nothing was timed has that of all; without any there is none.
    """
    every = [one for cuts in seen.values() for one in cuts]
    macs = sum(gone for gone, _ in every)
    if macs <= 0:
        return {}
    common = max(sum(saved for _, saved in every), 0.0) / macs
    found = {}
    for kind in kinds:
        cuts = seen.get(kind, ())
        square = sum(gone * gone for gone, _ in cuts)
        prior = square / len(cuts) if square else 1.0
        rate = (sum(gone * saved for gone, saved in cuts) + prior * common) / (square + prior)
        found[kind] = max(rate, 0.1 * common)
    return found
