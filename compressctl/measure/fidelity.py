"""How near a file's outputs are to the original's: every output, with or without labels, in sums over calls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from compressctl.core.model import Signature
from compressctl.measure.class_scores import class_axis, is_probability
from compressctl.measure.margins import Margins, expected_churn, most_churn
from compressctl.measure.results import Fidelity, OutputFidelity
from compressctl.measure.spread import Spread

FAR_SQNR_DB = 20.0
FAR_COSINE = 0.99
"""An output below both computes something else than the original: 20 dB is an error of a tenth of the signal."""

_NAMED = 3


def is_far(found: OutputFidelity) -> bool:
    """Whether the output differs so much that the file can no longer be said to compute what the original does."""
    if found.samples == 0 or found.identical:
        return False
    if found.broken or found.sqnr_db is None or found.cosine is None:
        return True
    return found.sqnr_db < FAR_SQNR_DB and found.cosine < FAR_COSINE


def verdict(found: Fidelity) -> str | None:
    """What a verdict begins with where a file computes something else, or nobody knows; None where it is near."""
    if not found.outputs:
        return f"not compared with the original: {found.reason or 'it has no outputs'}"
    far = [output for output in found.outputs if is_far(output)]
    if far:
        named = ", ".join(f"{output.name} {nearness(output)}" for output in far[:_NAMED])
        more = f" and {len(far) - _NAMED} more outputs" if len(far) > _NAMED else ""
        return f"differs from the original: {named}{more}"
    if all(output.samples == 0 for output in found.outputs):
        reasons = dict.fromkeys(why_uncompared(output) for output in found.outputs)
        return f"not compared with the original: {' or '.join(reasons)} in all outputs"
    return None


def why_uncompared(output: OutputFidelity) -> str:
    """Of an output that was compared on no sample."""
    return "NaN or infinity" if output.undefined else "other shapes"


def nearness(output: OutputFidelity) -> str:
    """As in "37.5 dB, cosine 0.999"; with how many samples are in no figure, where their shapes differ."""
    others = f", another shape for {output.other_shapes:,} samples" if output.other_shapes else ""
    if output.identical:
        return f"identical{others}"
    if output.broken:
        return f"NaN or infinity in {output.broken:,} values{others}"
    noise = "without a signal to compare" if output.sqnr_db is None else f"{output.sqnr_db:.1f} dB"
    return (f"{noise}, cosine {output.cosine:.3f}" if output.cosine is not None else noise) + others


class Comparison:
    """Sums over the calls of two models. outputs: the original's, which say what is compared.

    class_axes: by output, the axis of class scores where somebody knows it (the task's), else it is read from the values.
    """

    def __init__(self, signature: Signature, class_axes: Mapping[str, int] | None = None) -> None:
        self._axes = {spec.name: spec.batch_axis for spec in signature.outputs}
        self._known = class_axes or {}
        self._sums: dict[str, _Sums] = {}

    def add(
        self,
        original: Mapping[str, np.ndarray],
        other: Mapping[str, np.ndarray],
        count: int,
        *,
        is_filled: bool = True,
        counted: np.ndarray | None = None,
    ) -> None:
        """One call's outputs. count: its samples. is_filled: copies that fill up a fixed batch may come after them, which are
        left out; a recorded call has none, however many rows its one sample holds. counted: (n, tokens) bool, of the first
        output the positions whose decisions count, None where all do.
        """
        for place, (name, wanted) in enumerate(original.items()):
            found = other[name] if name in other else list(other.values())[place] if place < len(other) else None
            sums = self._sums.setdefault(name, _Sums(name, self._known.get(name)))
            axis = self._axes.get(name) if is_filled else None
            sums.counted = counted if place == 0 else None
            sums.add(_valid(wanted, axis, count), None if found is None else _valid(found, axis, count), count)

    def result(self) -> tuple[OutputFidelity, ...]:
        """In the order of the outputs."""
        return tuple(sums.settled().result() for sums in self._sums.values())

    def margins(self) -> dict[str, tuple[float, ...]]:
        """By output, of each of the original's decisions, as margins.py has them; without outputs that decide nothing, or more often than margins are kept."""
        settled = {name: sums.settled() for name, sums in self._sums.items()}
        found = {name: sums.margins.of_original for name, sums in settled.items() if sums.margins is not None}
        return {name: margins for name, margins in found.items() if margins}


_AT_ONCE = 1 << 20
"""Numbers in float64: logits of a large vocabulary would take several times a layer."""


def _valid(values: np.ndarray, axis: int | None, count: int) -> np.ndarray:
    if axis is None or values.ndim <= axis or values.shape[axis] <= count:
        return values
    return np.take(values, np.arange(count), axis=axis)


@dataclass
class _Sums:
    name: str
    class_axis: int | None
    samples: int = 0
    signal: float = 0.0
    noise: float = 0.0
    power: float = 0.0
    product: float = 0.0
    largest: float = 0.0
    broken: int = 0
    other_shapes: int = 0
    decisions: int = 0
    equal: int = 0
    rule: str | None = None
    undefined: int = 0
    values: int = 0
    counted: np.ndarray | None = field(default=None, repr=False)
    margins: Margins | None = field(default=None, repr=False)
    spread: Spread = field(default_factory=Spread, repr=False)
    _is_first: bool = field(default=True, repr=False)
    singles: list[tuple[float, float]] | None = field(default=None, repr=False)

    def add(self, wanted: np.ndarray, found: np.ndarray | None, count: int) -> None:
        if found is None or wanted.shape != found.shape:
            self.other_shapes += count
            return
        self.samples += count
        before = self._totals()
        self._compare(wanted, found)
        self.spread.add(*(now - was for was, now in zip(before, self._totals(), strict=True)))

    def _totals(self) -> tuple[float, ...]:
        return self.signal, self.power, self.product, self.decisions, self.equal

    def _compare(self, wanted: np.ndarray, found: np.ndarray) -> None:
        if wanted.dtype.kind not in "fiub" or found.dtype.kind not in "fiub":
            self.values += wanted.size
            self.decide("equal values", wanted, found)
            self.noise += float(np.sum(wanted != found))
            return
        if wanted.dtype.kind != "f":
            self.decide("equal values", wanted, found)
        else:
            self._classes(wanted, found)
        first, second = wanted.reshape(-1), found.reshape(-1)
        for start in range(0, first.size, _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            self._add_up(first[part].astype(np.float64), second[part].astype(np.float64))

    def _add_up(self, was: np.ndarray, now: np.ndarray) -> None:
        both = np.isfinite(was) & np.isfinite(now)
        if not both.all():
            # An infinity that stands on both sides, as in a mask, is the same value.
            same = (was == now) | (np.isnan(was) & np.isnan(now))
            self.broken += int(np.sum(~both & ~same))
            self.undefined += int(np.sum(~both & same))
            was, now = was[both], now[both]
        self.values += was.size
        difference = now - was
        self.signal += float(was @ was)
        self.power += float(now @ now)
        self.product += float(was @ now)
        self.noise += float(difference @ difference)
        self.largest = max(self.largest, float(np.abs(difference).max(initial=0.0)))

    def _classes(self, wanted: np.ndarray, found: np.ndarray) -> None:
        if self._is_first:
            self._is_first = False
            self.class_axis = self.class_axis if self.class_axis is not None else class_axis(self.name, wanted)
            if self.class_axis is None and is_probability(wanted):
                self.rule = "above 0.5"
            if self.class_axis is None and wanted.size == 1:
                self.singles = []
            self.margins = Margins(self.class_axis)
        if self.singles is not None:
            self._wait(wanted, found)
        elif self.class_axis is not None and wanted.ndim > self.class_axis and wanted.shape[self.class_axis]:
            axis = self.class_axis
            self.decide(f"highest along axis {axis}", wanted.argmax(axis=axis), found.argmax(axis=axis))
            self.see(wanted, found)
        elif self.rule == "above 0.5":
            self.decide(self.rule, wanted > 0.5, found > 0.5)
            self.see(wanted, found)

    def see(self, wanted: np.ndarray, found: np.ndarray) -> None:
        if self.margins is not None and self.counted is None:
            self.margins.add(wanted, found)

    def _wait(self, wanted: np.ndarray, found: np.ndarray) -> None:
        """One number a call: only all of them tell whether it is a probability, which decides at 0.5."""
        assert self.singles is not None
        if wanted.size != 1 or wanted.min() < 0 or wanted.max() > 1:
            self.singles, self.rule, self.margins = None, None, None
            return
        if np.isfinite(wanted).all():
            self.singles.append((float(wanted.reshape(-1)[0]), float(found.reshape(-1)[0])))

    def settled(self) -> _Sums:
        """With the decisions of calls of one number each, where they are probabilities that differ."""
        if not self.singles:
            return self
        wanted, found = np.array(self.singles).T
        settled = replace(self, singles=None, margins=Margins(None))
        if is_probability(wanted):
            settled.decide("above 0.5", wanted > 0.5, found > 0.5)
            settled.see(wanted, found)
        return settled

    def decide(self, rule: str, wanted: np.ndarray, found: np.ndarray) -> None:
        self.rule = rule
        if self.counted is not None and self.counted.shape == wanted.shape:
            wanted, found = wanted[self.counted], found[self.counted]
        self.decisions += wanted.size
        self.equal += int(np.sum(wanted == found))

    def result(self) -> OutputFidelity:
        if self.undefined and not self.values and not self.broken:
            return OutputFidelity(
                name=self.name,
                samples=0,
                identical=False,
                sqnr_db=None,
                cosine=None,
                largest_difference=None,
                other_shapes=self.other_shapes,
                undefined=self.undefined,
            )
        is_clean, agreement = self.broken == 0, self.equal / self.decisions if self.decisions else None
        return OutputFidelity(
            name=self.name,
            samples=self.samples,
            identical=is_clean and self.noise == 0 and self.samples > 0,
            sqnr_db=self._sqnr_db() if is_clean else None,
            cosine=self._cosine() if is_clean else None,
            largest_difference=self.largest if self.samples and is_clean else None,
            agreement=agreement,
            churn=None if agreement is None else 1 - agreement,
            decided_by=self.rule if self.decisions else None,
            decisions=self.decisions,
            cosine_error=self.spread.of_cosine() if is_clean else None,
            churn_error=self.spread.of_churn(self.decisions, self.equal),
            **(self._expected() if is_clean else {}),
            broken=self.broken,
            other_shapes=self.other_shapes,
            undefined=self.undefined,
        )

    def _expected(self) -> dict[str, Any]:
        """What few decisions tell of many; nothing where there are many, which are counted."""
        margins, moved = (self.margins.of_original, self.margins.moved) if self.margins is not None else (None, None)
        if not margins or moved is None:
            return {}
        changed = self.decisions - self.equal
        expected = min(expected_churn(margins, moved), most_churn(changed, self.decisions))
        return {"score_change": moved.change, "score_change_decisions": moved.seen, "expected_churn": expected}

    def _sqnr_db(self) -> float | None:
        return None if self.noise == 0 or self.signal == 0 else 10 * math.log10(self.signal / self.noise)

    def _cosine(self) -> float | None:
        """Of all values as one vector. Two that are zero are the same; one alone is like nothing."""
        if not self.samples:
            return None
        if self.signal == 0 or self.power == 0:
            return 1.0 if self.signal == self.power else 0.0
        return self.product / math.sqrt(self.signal * self.power)
