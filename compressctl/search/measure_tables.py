"""Measuring what each option of each layer takes and loses: one calibration, one decomposition, then layer by layer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from compressctl.core.data import Split
from compressctl.core.errors import CompressctlError
from compressctl.core.feeds import Feed, first_feeds
from compressctl.core.model import OnnxModel
from compressctl.core.target import Target
from compressctl.core.technique import RunContext, techniques
from compressctl.graph.tensors import size_bytes
from compressctl.numerics.output_distance import kl_divergence, relative_squared_distance
from compressctl.pipeline.executor import Executor
from compressctl.search.facts import Facts
from compressctl.search.neighbours import neighbours
from compressctl.search.tables import LayerOption, LayerTable, Tables, Technique, TimedTarget, Width
from compressctl.techniques.factorize.layer_ranks import LayerRanks
from compressctl.techniques.quantize.layer_weights import LayerWeights
from compressctl.techniques.quantize.layer_widths import LayerWidths
from compressctl.techniques.share.layer_shares import SHARING, LayerShares

STAGE: Mapping[str, Any] = {"id": "tables", "use": "quantize.mixed", "size": 1.0, "speedup": 1.0}
"""What declares the needs of whoever measures: samples to calibrate with, the target's runtime and its clock."""

SHARES = (0.7, 0.5, 0.35)
"""Of a layer's arithmetic, that its two thinner ones keep at most."""

CLUSTERS = (16, 8)
"""Different weights that a layer may have."""

_MOST_SAMPLES, _LEAST_SAMPLES, _AT_ONCE = 256, 16, 16
_PASS = 1.0
"""Seconds that one model's outputs may take; fewer samples are looked at where more would take longer."""

_TOGETHER, _MOST_BYTES = 12, 512 << 20
"""Models that are timed in one go, and what their weights may take together: each session holds a copy."""

_NO_NUMBERS = 1e6
"""Distance of an option that a layer has alone, where it gives no numbers."""

_HOPELESS = 3.0
"""Times the distance of a file in 8 bits from which a low rank of one layer is not timed."""


def measure(
    executor: Executor,
    key: str,
    facts: Facts,
    seconds: float | None,
    environment: Mapping[str, Any],
    *,
    is_timed: bool = True,
) -> Tables:
    """executor: of a recipe whose only stage is `STAGE`. seconds: after which the layers that are left keep 8 bits. is_timed: whether this machine's
    clock counts. Random values tell times alone: nothing is compared.

    A network in torch gets no low ranks: its stages would name its modules, and the tables know the graph's nodes.

    Raises NothingToCompressError where no layer has an integer kernel, StageError where the graph is quantized already.
    """
    workspace = executor.workspace
    stage = workspace.recipe.stages[0]
    run = executor.context(stage, techniques.get(stage.use), None)
    if not is_timed:
        run = replace(run, latency_ms=None)
    shares = () if facts.is_torch else SHARES
    judges = workspace.dataset().split("validation") if facts.is_judged else None
    measuring = Measuring(workspace.original_graph(), run, seconds, shares, judges=judges, compares=not facts.is_random)
    return measuring.tables(key, facts.original_bytes, environment)


@dataclass(frozen=True)
class _Known:
    nodes: tuple[str, ...]
    op: str
    float_bytes: int


@dataclass
class Measuring:
    """model: the original graph. shares: of a layer's arithmetic that its two thinner ones keep at most; none for no low ranks. compares: whether
    outputs are told apart; without it there are times alone.

    judges: the samples that tell them apart; the calibration samples where None. Roundings, shared values and low ranks are fitted to those: 200 of them
    have no more than 200 directions, and a layer with 1,280 inputs in two of rank 280 seems to lose nothing by them.
    """

    model: OnnxModel
    run: RunContext
    seconds: float | None
    shares: Sequence[float]
    judges: Split | None = None
    compares: bool = True
    _rows: dict[str, dict[str, LayerOption]] = field(default_factory=dict)
    _left_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        assert self.run.data is not None
        self._widths = LayerWidths(self.model, self.run)
        self._ranks = self._decomposed()
        self._weights = self._rounded()
        self._shares = self._shared()
        self._layers = self._known()
        by_classes = self.run.task in ("classification", "language-model")
        self._distance = kl_divergence if by_classes else relative_squared_distance
        self._words = (
            "KL divergence of the classes, nats"
            if by_classes
            else "squared difference over the output's own variance, summed over outputs"
        )
        judges = self.judges or self.run.data.split("calibration")
        self._feeds = self._some_feeds(judges) if self.compares else []
        self._wanted = self._outputs(self.model)

    def _decomposed(self) -> LayerRanks | None:
        if not self.shares:
            return None
        try:
            return LayerRanks(self.model, self.run, self.shares)
        except CompressctlError as error:
            self._left_out.append(f"low rank: {error.message}")
            return None

    def _rounded(self) -> LayerWeights | None:
        """Not where nothing is compared: they take as long as float."""
        if not self.compares:
            return None
        try:
            return LayerWeights(self.model, self.run, None if self.seconds is None else 0.2 * self.seconds)
        except CompressctlError as error:
            self._left_out.append(f"weights alone: {error.message}")
            return None

    def _shared(self) -> LayerShares | None:
        """With what names layers of the graph."""
        if not self.compares or not self.shares:
            return None
        try:
            return LayerShares(self.model, self.run, CLUSTERS, lambda: self._is_late(0.3))
        except CompressctlError as error:
            self._left_out.append(f"shared values: {error.message}")
            return None

    def _some_feeds(self, split: Split) -> list[Feed]:
        """As many samples as go through in `_PASS`."""
        feeds = first_feeds(split, self.model.signature, _MOST_SAMPLES, _AT_ONCE)
        session = self._session(self.model)
        began, found, count = time.monotonic(), [], 0
        for feed in feeds:
            if count >= _LEAST_SAMPLES and time.monotonic() - began > _PASS:
                break
            session.run(dict(feed.inputs))
            found.append(feed)
            count += feed.count
        return found

    def _session(self, model: OnnxModel) -> Any:
        assert self.run.open is not None
        return self.run.open(model)

    def _outputs(self, model: OnnxModel) -> list[Mapping[str, np.ndarray]]:
        session = self._session(model)
        return [dict(session.run(dict(feed.inputs))) for feed in self._feeds]

    def _far(self, model: OnnxModel) -> float:
        """A model's distance from the original, over the samples; infinite where it gives no numbers."""
        each = [
            sum(self._between(first[name], second[name]) for name in first)
            for first, second in zip(self._wanted, self._outputs(model), strict=True)
        ]
        far = float(np.average(each, weights=[feed.count for feed in self._feeds]))
        return far if math.isfinite(far) else math.inf

    def _between(self, wanted: np.ndarray, found: np.ndarray) -> float:
        """What are no numbers, or not as many, as of detectors that decode, differ or not: the share that does."""
        if wanted.shape != found.shape:
            return 1.0
        if not np.issubdtype(wanted.dtype, np.floating):
            return float(np.mean(wanted != found)) if wanted.size else 0.0
        return self._distance(wanted, found)

    def _is_late(self, share: float) -> bool:
        return self.seconds is not None and time.monotonic() - self._began > share * self.seconds

    def tables(self, key: str, float_bytes: int, environment: Mapping[str, Any]) -> Tables:
        layers = self._layers
        order = sorted(layers, key=lambda name: -layers[name].float_bytes)
        for done, name in enumerate(order):
            self._rows[name] = {}
            for options in (self._of_widths, self._of_weights, self._of_shares, self._of_ranks):
                for option in options(name):
                    self._rows[name][option.name] = option
            if self._is_late(0.6):
                self._left_out.append(f"{name}: there was no time to look at all of it")
            self.run.events.progress("measuring what each layer loses", done + 1, len(order))
        float_ms, integer_ms = self._timed()
        beside = neighbours(self.model.body, {name: known.nodes for name, known in layers.items()})
        rounding = self._weights.rounding if self._weights is not None else {}
        return Tables(
            key=key,
            distance=self._words if self.compares else "",
            samples=sum(feed.count for feed in self._feeds),
            split="calibration" if self.judges is None else "validation",
            target=_target(self.run.target),
            float_ms=float_ms,
            integer_ms=integer_ms,
            float_bytes=float_bytes,
            layers=tuple(
                LayerTable(
                    name=name,
                    nodes=known.nodes,
                    op=known.op,
                    parameters=known.float_bytes // 4,
                    options=tuple(self._rows[name].values()),
                    reads=dict(beside[name].reads),
                    gives=beside[name].gives,
                )
                for name, known in layers.items()
                if self._rows[name]
            ),
            left_out=tuple(self._left_out),
            rounding={name: dict(given) for name, given in rounding.items()},
            sharing=dict(SHARING),
            seconds=time.monotonic() - self._began,
            environment=dict(environment),
        )

    def _known(self) -> dict[str, _Known]:
        """In the graph's order: layers with an integer kernel, and those whose weights alone are rounded."""
        place = {node.name: number for number, node in enumerate(self.model.body.graph.node)}
        found = {
            name: _Known(layer.nodes, self._op(name), layer.float_bytes) for name, layer in self._widths.layers.items()
        }
        of_widths = {node for layer in self._widths.every for node in layer.nodes}
        for name, alone in (self._weights.layers if self._weights is not None else {}).items():
            if not of_widths.intersection(alone.nodes):
                found[name] = _Known(alone.nodes, alone.op, alone.float_bytes)
        return dict(sorted(found.items(), key=lambda entry: place.get(entry[0], len(place))))

    def _op(self, name: str) -> str:
        return next((node.op_type for node in self.model.body.graph.node if node.name == name), "")

    def _of_widths(self, name: str) -> Iterator[LayerOption]:
        """Distances are measured while there is time; where there is none, the first width alone. A layer without an integer kernel is float."""
        layer = self._widths.layers.get(name)
        if layer is None:
            size = self._layers[name].float_bytes
            yield LayerOption(name="float", width="float", bytes=size, adds_ms=0.0, distance={"float": 0.0})
            return
        for width, size in layer.bytes.items():
            if not self.compares:
                yield LayerOption(name=width, width=width, bytes=size, distance={})
                continue
            if width != next(iter(layer.bytes)) and self._is_late(0.6):
                return
            far = 0.0 if width == "float" else self._far(self._widths.alone(name, width))
            if math.isinf(far) and len(layer.bytes) > 1:
                self._left_out.append(f"{name}: in {width} the outputs are no numbers")
                continue
            yield LayerOption(name=width, width=width, bytes=size, distance={width: min(far, _NO_NUMBERS)})

    def _of_weights(self, name: str) -> Iterator[LayerOption]:
        """Of a layer that may be float: rounded weights compute as it does."""
        alone = self._weights.layers.get(name) if self._weights is not None else None
        may_be_float = "float" in self._rows[name]
        if self._weights is None or alone is None or not may_be_float or self._layers[name].nodes != alone.nodes:
            return
        for option, size in alone.bytes.items():
            if self._is_late(0.6):
                return
            far = self._far(self._weights.alone(name, option))
            if math.isfinite(far):
                width: Width = "weights8" if option == "weights8" else "weights4"
                yield LayerOption(name=option, width=width, bytes=size, distance={width: far})

    def _of_shares(self, name: str) -> Iterator[LayerOption]:
        """Few values in 8 bits: how far the sharing alone is, and what 8 bits of the whole layer lose."""
        rounded = self._rows[name].get("int8")
        if self._shares is None or rounded is None or self._layers[name].nodes != (name,):
            return
        for option, found in self._shares.layers.get(name, {}).items():
            if self._is_late(0.6):
                return
            if found.bytes >= rounded.bytes:
                continue  # as of depthwise convolutions, whose outputs have nine weights each
            far = self._far(self._shares.alone(name, option))
            if math.isfinite(far):
                distance: dict[Technique, float] = {"shared": far, "int8": rounded.distance["int8"]}
                clusters = int(option.removeprefix("shared"))
                yield LayerOption(name=option, clusters=clusters, width="int8", bytes=found.bytes, distance=distance)

    def _of_ranks(self, name: str) -> Iterator[LayerOption]:
        """Two thinner layers in 8 bits: how far the ranks alone are, and what 8 bits of the whole layer lose."""
        rounded = self._rows[name].get("int8")
        if self._ranks is None or rounded is None:
            return
        for rank, option in self._ranks.layers.get(name, {}).items():
            if self._is_late(0.6):
                return
            size = option.parameters + 4 * sum(outline.shape[0] for outline in option.split.outlines(option.rank))
            if not self.compares:
                yield LayerOption(name=rank, rank=rank, width="int8", bytes=size, distance={})
                continue
            far = self._far(self._ranks.together({name: rank}))
            if math.isinf(far):
                continue
            distance: dict[Technique, float] = {"low rank": far, "int8": rounded.distance["int8"]}
            yield LayerOption(name=rank, rank=rank, width="int8", bytes=size, distance=distance)

    def _timed(self) -> tuple[float | None, float | None]:
        if self.run.latency_ms is None:
            return None, None
        integers = self._widths.together({})
        float_ms, integer_ms = self.run.latency_ms([self.model, integers])
        can_be_float = [name for name in self._widths.layers if {"int8", "float"} <= self._rows[name].keys()]
        self._time(
            [(name, "float") for name in can_be_float],
            integers,
            lambda name, _: self._widths.together({name: "float"}),
            1.0,
        )
        self._time(self._worth_timing(), self.model, self._in_pieces, integer_ms / float_ms)
        for row in self._rows.values():
            for name, option in row.items():
                if option.width in ("weights8", "weights4"):
                    row[name] = option.model_copy(update={"adds_ms": row["float"].adds_ms})
                elif option.width in ("int8", "int4") and option.rank is None:
                    row[name] = option.model_copy(update={"adds_ms": 0.0})
        return float_ms, integer_ms

    def _in_pieces(self, name: str, rank: str) -> OnnxModel:
        assert self._ranks is not None
        return self._ranks.together({name: rank})

    def _worth_timing(self) -> list[tuple[str, str]]:
        """Low ranks that do not lose more alone than the whole file may; all of them where nothing was compared."""
        if not self.compares:
            return [
                (name, one.name) for name, row in self._rows.items() for one in row.values() if one.rank is not None
            ]
        whole = sum(row["int8"].distance["int8"] for row in self._rows.values() if "int8" in row)
        return [
            (name, option.name)
            for name, row in self._rows.items()
            for option in row.values()
            if option.rank is not None and option.distance["low rank"] <= _HOPELESS * whole
        ]

    def _time(
        self,
        options: Sequence[tuple[str, str]],
        base: OnnxModel,
        build: Callable[[str, str], OnnxModel],
        scale: float,
    ) -> None:
        """What each adds to the base's time in the same rounds, scaled."""
        assert self.run.latency_ms is not None
        size = sum(map(size_bytes, self.model.body.graph.initializer))
        together = max(1, min(_TOGETHER, _MOST_BYTES // max(size, 1)))
        for start in range(0, len(options), together):
            if self._is_late(1.0):
                self._left_out.append(f"{len(options) - start} options: there was no time to time them")
                return
            part = options[start : start + together]
            reference, *times = self.run.latency_ms([base, *(build(*one) for one in part)])
            for (name, option), took in zip(part, times, strict=True):
                row = self._rows[name]
                row[option] = row[option].model_copy(update={"adds_ms": scale * (took - reference)})
            self.run.events.progress("timing layers in place", start + len(part), len(options))


def _target(target: Target) -> TimedTarget:
    """What decides times."""
    return TimedTarget(
        backend=target.backend,
        device=target.device,
        profile=target.profile,
        threads=target.threads,
        batch_size=target.batch_size,
        shapes=dict(target.input_shapes),
    )
