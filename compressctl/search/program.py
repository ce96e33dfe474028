"""One exact program over what each layer may be: widths, ranks and float at once, by tables of what each takes and loses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import numpy as np
from scipy.optimize import lsq_linear

from compressctl.core.patterns import literal
from compressctl.numerics.knapsack import Limit, choose
from compressctl.recipe.schema import Prefer
from compressctl.search.conversions import INTEGERS, Conversions
from compressctl.search.tables import LayerOption, Tables, Technique

Choice = Mapping[str, LayerOption]
"""An option for every layer of the tables."""

TECHNIQUES: tuple[Technique, ...] = get_args(Technique)

_TIMES_SOLVED = 3
"""Around the last solution, at most."""

_PRIOR = 0.5
"""How far a technique's scale is expected from the common one, in natural logarithms' first order: few files tell."""

_LEAST_SEEN = 0.05
"""Share of the allowed loss below which a measured loss says no more: few samples cannot tell less."""


@dataclass(frozen=True)
class Foreseen:
    """What a choice is expected to be. times_faster: than the float file, None where nothing timed it. loss: in the search's unit."""

    total_bytes: int
    times_faster: float | None
    loss: float


@dataclass(frozen=True)
class Scales:
    """loss: by technique, the search's loss for one of the tables' distance. time: how many times what single layers tell conversions take
    among others. bytes: of a file beside its weights; of_integers: what conversions add to those of a file in which any layer has integers; per_kept: what a
    float layer among integers adds beside, which is converted before and after; per_rounded: what a layer with weights alone adds."""

    loss: Mapping[Technique, float]
    bytes: float
    time: float = 1.0
    of_integers: float = 0.0
    per_kept: float = 0.0
    per_rounded: float = 0.0

    def size(self, option: LayerOption, *, has_integers: bool) -> float:
        kept = self.per_kept if has_integers and option.width not in INTEGERS else 0.0
        return option.bytes + kept + (self.per_rounded if option.width in _ALONE else 0.0)

    def beside(self, *, has_integers: bool) -> float:
        return self.bytes + (self.of_integers if has_integers else 0.0)


@dataclass(frozen=True)
class Seen:
    """A choice that was made and measured. loss: None where nothing told it. noise: of its outputs over their own power, likewise: it tells files
    apart that lose next to nothing."""

    choice: Choice
    total_bytes: int
    times_faster: float | None
    loss: float | None
    noise: float | None = None


@dataclass(frozen=True)
class Limits:
    """What a choice may lose and take; None where it may be anything."""

    most_loss: float | None = None
    most_bytes: float | None = None
    least_faster: float | None = None


@dataclass(frozen=True)
class Program:
    tables: Tables

    @cached_property
    def _options(self) -> tuple[tuple[LayerOption, ...], ...]:
        """By layer."""
        return tuple(self._usable(layer.options) for layer in self.tables.layers)

    def _usable(self, options: Sequence[LayerOption]) -> tuple[LayerOption, ...]:
        """Without those that nothing timed, where others were."""
        timed = tuple(one for one in options if one.adds_ms is not None)
        return tuple(options) if self.tables.float_ms is None or not timed else timed

    def all_at(self, width: str) -> Choice:
        """Every layer in the option of this name where it has it, else in its first."""
        return {
            layer.name: next((one for one in options if one.name == width), options[0])
            for layer, options in zip(self.tables.layers, self._options, strict=True)
        }

    def times_faster(self, choice: Choice, scale: float = 1.0) -> float | None:
        """Than the float file; None where nothing was timed. scale: as in `Scales.time`."""
        if self.tables.float_ms is None or self.tables.integer_ms is None:
            return None
        return self.tables.float_ms / self._ms(choice, scale)

    def foreseen(self, choice: Choice, scales: Scales) -> Foreseen:
        faster = self.times_faster(choice, scales.time)
        has_integers = _has_integers(choice)
        sizes = (scales.size(one, has_integers=has_integers) for one in choice.values())
        size = scales.beside(has_integers=has_integers) + sum(sizes)
        return Foreseen(round(size), faster, sum(_loss(one, scales) for one in choice.values()))

    def _ms(self, choice: Choice, scale: float) -> float:
        """Of a call. Without any layer in integers nothing is converted, so that it is the float file's, whatever single layers add among integers."""
        assert self.tables.float_ms is not None
        assert self.tables.integer_ms is not None
        if not _has_integers(choice):
            return self.tables.float_ms
        added = self._conversions.added(choice, scale)
        return max(self.tables.integer_ms + added, 0.05 * self.tables.integer_ms)

    @cached_property
    def _conversions(self) -> Conversions:
        return Conversions.of(self.tables)

    def solve(
        self,
        scales: Scales,
        prefer: Prefer,
        *,
        most_loss: float | None = None,
        most_bytes: float | None = None,
        least_faster: float | None = None,
        computes_in_float: bool = False,
    ) -> Choice | None:
        """The best by preference within the limits; None where there is none. Without a limit on the loss, the least loss within the others.

        Times that options add depend on their neighbours: between two layers in float nothing is converted. The program is exact for neighbours as in
        the last solution, first in integers all of them, and solved again until that does not change; the best of these is given.

        computes_in_float: with no layer in integers; otherwise with one at least: times add up to those of a file in integers, and without
        any they are the float file's.
        """
        limits = Limits(most_loss, most_bytes, least_faster)
        first = self._solved(scales, prefer, limits, None, computes_in_float=computes_in_float)
        if computes_in_float or not self._conversions.per_number:
            return first
        found = [first] if first is not None else []
        for start in (first, self._mostly_float()):
            beside = start
            for _ in range(_TIMES_SOLVED if beside is not None else 0):
                beside = self._solved(scales, prefer, limits, beside)
                if beside is None or any(_same(beside, other) for other in found):
                    break
                found.append(beside)
        kept = [one for one in found if self._keeps(one, scales, limits)]
        return min(kept, key=lambda one: self._cost(one, scales, prefer, most_loss), default=None)

    def _mostly_float(self) -> Choice | None:
        """Every layer in float where it may be; None where none may."""
        made = self.all_at("float")
        return made if any(one.width not in INTEGERS for one in made.values()) else None

    def _keeps(self, choice: Choice, scales: Scales, limits: Limits) -> bool:
        told = self.foreseen(choice, scales)
        is_fast = limits.least_faster is None or (told.times_faster or 0.0) >= limits.least_faster * (1 - 1e-9)
        is_small = limits.most_bytes is None or told.total_bytes <= limits.most_bytes + 0.5
        return is_fast and is_small and (limits.most_loss is None or told.loss <= limits.most_loss * (1 + 1e-9) + 1e-12)

    def _cost(self, choice: Choice, scales: Scales, prefer: Prefer, most_loss: float | None) -> float:
        """What is as small as possible, in the units of `_costs`."""
        told, whole = self.foreseen(choice, scales), self.foreseen(self.all_at("int8"), scales)
        if most_loss is None or prefer == "quality":
            return told.loss
        of_size = told.total_bytes / max(whole.total_bytes, 1) if prefer != "speed" else 0.0
        of_time = (
            self._ms(choice, scales.time) / self.tables.integer_ms
            if prefer != "size" and self.tables.float_ms is not None and self.tables.integer_ms
            else 0.0
        )
        return of_size + of_time + 1e-6 * told.loss

    def _solved(
        self, scales: Scales, prefer: Prefer, asked: Limits, beside: Choice | None, *, computes_in_float: bool = False
    ) -> Choice | None:
        """beside: what each layer's neighbours are taken to be; None for integers."""
        offered, least_faster = self._options, asked.least_faster
        if computes_in_float:
            offered = tuple(tuple(one for one in options if one.width not in INTEGERS) for options in offered)
            if not all(offered) or (least_faster or 0.0) > 1.0:
                return None
            least_faster = None
        integers = [[-1.0 if one.width in INTEGERS else 0.0 for one in options] for options in offered]
        limits = [] if computes_in_float else [Limit(integers, -1.0)]
        losses = [[_loss(one, scales) for one in options] for options in offered]
        has_integers = not computes_in_float
        sizes = [[scales.size(one, has_integers=has_integers) for one in options] for options in offered]
        adds, counted_twice = self._conversions.around(beside, scales.time)
        names = [layer.name for layer in self.tables.layers]
        added = [
            [0.0 if computes_in_float else adds(name, one) for one in options]
            for name, options in zip(names, offered, strict=True)
        ]
        if asked.most_loss is not None:
            limits.append(Limit(losses, asked.most_loss))
        if asked.most_bytes is not None:
            limits.append(Limit(sizes, asked.most_bytes - scales.beside(has_integers=has_integers)))
        if least_faster is not None:
            if self.tables.float_ms is None or self.tables.integer_ms is None:
                return None
            limits.append(Limit(added, self.tables.float_ms / least_faster - self.tables.integer_ms - counted_twice))
        costs = losses if asked.most_loss is None else self._costs(prefer, losses, sizes, added, scales)
        found = choose(costs, limits)
        if found is None:
            return None
        return {
            layer.name: options[place] for layer, options, place in zip(self.tables.layers, offered, found, strict=True)
        }

    def stages(self, choice: Choice) -> tuple[dict[str, Any], ...]:
        """As a recipe says it."""
        stages: list[dict[str, Any]] = []
        thin = {name: one.rank for name, one in choice.items() if one.rank is not None}
        if thin:
            overrides: list[dict[str, Any]] = [{"match": "*", "rank": "full"}]
            for name, option in thin.items():
                scheme, _, rank = option.partition(" rank ")
                overrides.append({"match": literal(name), "rank": int(rank), "conv": scheme})
            split = {"id": "split", "use": "factorize.svd", "if_slower": "keep", "skip_slower": False}
            stages.append({**split, "overrides": overrides})
        few = {name: one.clusters for name, one in choice.items() if one.clusters is not None}
        if few:
            shared: list[dict[str, Any]] = [{"match": "*", "clusters": 0}]
            shared += [{"match": literal(name), "clusters": clusters} for name, clusters in few.items()]
            sharing = {"id": "share", "use": "share.kmeans", "if_slower": "keep", **self.tables.sharing}
            stages.append({**sharing, "overrides": shared})
        nodes = {node: choice[layer.name] for layer in self.tables.layers for node in layer.nodes}
        alone = {node: one for node, one in nodes.items() if one.width in _ALONE}
        if alone:
            rounded = [{"match": literal(node), **self.tables.rounding[one.width]} for node, one in alone.items()]
            weights = {"id": "weights", "use": "quantize.weights", "bits": 4, "if_slower": "keep"}
            stages.append({**weights, "overrides": [{"match": "*", "bits": "float"}, *rounded]})
        if _has_integers(choice):
            widths = [
                {"match": literal(node), "weights": "float" if one.width in _ALONE else one.width}
                for node, one in nodes.items()
                if one.rank is None and "int8" in {other.width for other in self._of(node)}
            ]
            stages.append({"id": "int8", "use": "quantize.static", "if_slower": "keep", "overrides": widths})
        return tuple(stages)

    def _of(self, node: str) -> Sequence[LayerOption]:
        return next(layer.options for layer in self.tables.layers if node in layer.nodes)

    def _costs(
        self,
        prefer: Prefer,
        losses: list[list[float]],
        sizes: list[list[float]],
        added: list[list[float]],
        scales: Scales,
    ) -> list[list[float]]:
        """Balanced: the product of bytes and time, in first order around everything in 8 bits. A loss breaks ties."""
        whole = self.foreseen(self.all_at("int8"), scales)
        of_size = 0.0 if prefer in ("speed", "quality") else 1.0 / max(whole.total_bytes, 1)
        of_time = 0.0 if prefer in ("size", "quality") or not self.tables.integer_ms else 1.0 / self.tables.integer_ms
        most = max(math.fsum(max(options) for options in losses), 1e-12)
        of_loss = (1.0 if prefer == "quality" else 1e-3) / most
        return [
            [of_size * size + of_time * ms + of_loss * loss for size, ms, loss in zip(*rows, strict=True)]
            for rows in zip(sizes, added, losses, strict=True)
        ]

    def fitted(self, seen: Sequence[Seen], drop: float) -> Scales:
        """Scales by what was measured: least squares of relative errors with a prior of one common scale for all techniques."""
        weights = sum(layer.parameters * 4 for layer in self.tables.layers)
        base = float(self.tables.float_bytes - weights)
        return Scales(self._loss_scales(seen, drop), base, self._time_scale(seen), *_beside(seen, base))

    def _loss_scales(self, seen: Sequence[Seen], drop: float) -> dict[Technique, float]:
        """How techniques differ is told by the noise of outputs where every file has one, since losses of next to nothing are chance; how much loss
        that comes to, by the losses."""
        least = max(_LEAST_SEEN * drop, 1e-6)
        files = [(one, _distances(one.choice), max(one.loss, least)) for one in seen if one.loss is not None]
        files = [(one, far, loss) for one, far, loss in files if far.sum() > 0]
        if not files:
            return dict.fromkeys(TECHNIQUES, 1.0)
        has_noise = all(one.noise is not None and one.noise > 0 for one, _, _ in files)
        known = [(far, one.noise if has_noise and one.noise is not None else loss) for one, far, loss in files]
        in_losses = float(
            np.exp(np.mean([math.log(loss / amount) for (_, _, loss), (_, amount) in zip(files, known, strict=True)]))
        )
        common = float(np.exp(np.mean([math.log(amount / far.sum()) for far, amount in known])))
        rows = np.array([far * common / amount for far, amount in known])
        matrix = np.vstack([rows, np.eye(len(TECHNIQUES)) * _PRIOR])
        wanted = np.concatenate([np.ones(len(known)), np.full(len(TECHNIQUES), _PRIOR)])
        found = lsq_linear(matrix, wanted, (0.02, 50.0)).x
        return {name: float(in_losses * common * scale) for name, scale in zip(TECHNIQUES, found, strict=True)}

    def _time_scale(self, seen: Sequence[Seen]) -> float:
        """How many times what options add alone they add together: of the files in which they add much, at the median."""
        float_ms, integer_ms = self.tables.float_ms, self.tables.integer_ms
        if float_ms is None or integer_ms is None:
            return 1.0
        found = []
        for one in seen:
            if not one.times_faster or not _has_integers(one.choice):
                continue
            least, most = (self._conversions.added(one.choice, scale) for scale in (0.0, 1.0))
            if abs(most - least) > 0.05 * integer_ms:
                found.append((float_ms / one.times_faster - integer_ms - least) / (most - least))
        return min(max(float(np.median(found)), 0.25), 4.0) if found else 1.0


def _same(one: Choice, other: Choice) -> bool:
    return all(one[name].name == option.name for name, option in other.items())


def _loss(option: LayerOption, scales: Scales) -> float:
    return sum(scales.loss[name] * far for name, far in option.distance.items())


def _has_integers(choice: Choice) -> bool:
    return any(one.width in INTEGERS for one in choice.values())


def _beside(seen: Sequence[Seen], base: float) -> tuple[float, float, float]:
    """`of_integers`, `per_kept` and `per_rounded`, each at the median of the files that tell it alone. Where none tells what a float layer adds among
    integers, it is taken for a layer's share of the first."""
    extra = [one.total_bytes - base - sum(option.bytes for option in one.choice.values()) for one in seen]
    rounded = [sum(option.width in _ALONE for option in one.choice.values()) for one in seen]
    kept = [sum(option.width not in INTEGERS for option in one.choice.values()) for one in seen]
    files = list(zip(seen, extra, rounded, kept, strict=True))
    each = _median([more / few for one, more, few, _ in files if few and not _has_integers(one.choice)])
    whole = _median([more - each * few for _, more, few, floats in files if not floats])
    share = whole / max(len(seen[0].choice), 1) if seen else 0.0
    mixed = [
        (more - whole - each * few) / floats for one, more, few, floats in files if floats and _has_integers(one.choice)
    ]
    return whole, _median(mixed) if mixed else share, each


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else 0.0


def _distances(choice: Choice) -> np.ndarray:
    """Summed over layers, by technique."""
    return np.array([sum(one.distance.get(name, 0.0) for one in choice.values()) for name in TECHNIQUES])


def words_of(choice: Choice) -> str:
    """As in "12 layers in 8 bits, 5 in 4, 2 in float"."""
    kinds = Counter(map(_in_words, choice.values()))
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def _in_words(option: LayerOption) -> str:
    if option.rank is not None:
        return "in two thinner ones, 8 bits"
    return _WORDS[option.width] if option.clusters is None else f"of {option.clusters} shared values, 8 bits"


_ALONE = ("weights8", "weights4")
_WORDS = {
    "int8": "in 8 bits", "int4": "in 4 bits", "float": "in float", "weights8": "with weights alone in 8 bits",
    "weights4": "with weights alone in 4 bits",
}  # fmt: skip
