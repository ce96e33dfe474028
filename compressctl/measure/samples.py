"""What is timed and counted: a real sample at its real shape, or the shape that somebody asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from compressctl.core.data import Dataset, SplitName, as_wide
from compressctl.core.errors import UsageError
from compressctl.core.feeds import feeds
from compressctl.core.model import Signature, fits
from compressctl.core.streaming import constants
from compressctl.numerics.evenly import evenly

Size = Literal["median", "10 %", "90 %"]

_LOOKED_AT = 256
"""Samples whose sizes are read where sizes vary; the rest is taken to be like them."""

_SPLITS: tuple[SplitName, ...] = ("calibration", "validation", "train", "test")
"""In the order in which a sample is looked for: the test split is for scores."""


@dataclass(frozen=True)
class Call:
    """inputs: one call's arrays by input name. size: which of the data's samples. is_random: values that are no data.

    is_stretched: a sample that was cut or repeated to a size that somebody asked for. samples: how many the call holds.
    """

    inputs: Mapping[str, np.ndarray]
    size: Size = "median"
    is_random: bool = False
    is_stretched: bool = False
    samples: int = 1

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in self.inputs.items()}

    def for_model(self, signature: Signature) -> dict[str, np.ndarray]:
        """The same values in the types, and under the names, that another form of the model takes."""
        if len(signature.inputs) == 1 and len(self.inputs) == 1:
            return {signature.inputs[0].name: as_wide(next(iter(self.inputs.values())), signature.inputs[0].dtype)}
        return {spec.name: as_wide(self.inputs[spec.name], spec.dtype) for spec in signature.inputs}

    def fits(self, signature: Signature) -> bool:
        """Whether a model takes this call: another network's layer alone, for one, does not."""
        if {spec.name for spec in signature.inputs} != set(self.inputs):
            return False
        return all(fits(self.inputs[spec.name].shape, spec.shape) for spec in signature.inputs)


@dataclass(frozen=True)
class Samples:
    """Where calls come from. dataset: None for random values. shapes: sizes of open axes that somebody asked for, by the
    axis's name or `input.axis`.
    """

    signature: Signature
    dataset: Dataset | None = None
    shapes: Mapping[str, int] = field(default_factory=dict)

    def call(self, batch: int, size: Size = "median") -> Call:
        """One call of `batch` samples, or of as many as the model takes. Raises UsageError where an open axis has no size."""
        asked = asked_sizes(self.signature, self.shapes)
        if not self._rows:
            inputs = random_inputs(self.signature, batch, self.shapes)
            return Call(inputs, is_random=True, samples=_samples(inputs, self.signature))
        inputs = self._batched(self._rows[self._place(size)], batch)
        is_stretched = False
        for (name, axis), wanted in asked.items():
            is_stretched |= inputs[name].shape[axis] != wanted
            inputs[name] = np.take(inputs[name], np.arange(wanted) % inputs[name].shape[axis], axis=axis)
        is_random = bool(getattr(self.dataset, "is_random", False))
        return Call(inputs, size, is_random, is_stretched, _samples(inputs, self.signature))

    def calls(self, batch: int, count: int, of: SplitName = "test") -> tuple[Call, ...]:
        """`count` calls of `batch` different samples, or fewer, evenly spread over a split, in its order; where that is empty over another than the test split.

        Where an open axis was asked to have a size, or samples of one call differ in shape, there is one call, as `call` gives it.
        """
        if self.dataset is None or asked_sizes(self.signature, self.shapes):
            return (self.call(batch),)
        others: tuple[SplitName, ...] = ("validation", "calibration", "train")
        for name in dict.fromkeys((of, *others)):
            split = self.dataset.split(name)
            wanted = set(evenly(range(max(len(split) // batch, 1)), count))
            given = (feed for feed in feeds(split, self.signature, batch) if feed.count == batch)
            found = [feed.inputs for place, feed in enumerate(given) if place in wanted]
            if found:
                is_random = bool(getattr(self.dataset, "is_random", False))
                return tuple(Call(inputs, is_random=is_random, samples=batch) for inputs in found)
        return (self.call(batch),)

    def sample_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one sample, for what is counted: of a recorded call that holds several, one of them."""
        shapes = self.call(1).shapes
        if self.signature.fixed_batch is not None:
            return shapes
        return {
            spec.name: tuple(1 if axis == spec.batch_axis else size for axis, size in enumerate(shapes[spec.name]))
            for spec in self.signature.inputs
        }

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The median, and the ends where the data's sizes vary and nobody asked for others."""
        counts = {_elements(row) for row in self._rows}
        asked = asked_sizes(self.signature, self.shapes)
        return get_args(Size) if len(counts) > 1 and not asked else ("median",)

    @cached_property
    def _rows(self) -> list[Mapping[str, np.ndarray]]:
        """Calls of one sample each (or of the model's own batch), from the smallest to the largest."""
        if self.dataset is None:
            return []
        looked_at = _LOOKED_AT if self.signature.open_axes else 1
        for name in _SPLITS:
            found: list[Mapping[str, np.ndarray]] = []
            for feed in feeds(self.dataset.split(name), self.signature, 1):
                found.append(feed.inputs)
                if len(found) == looked_at:
                    break
            if found:
                return sorted(found, key=_elements)
        return []

    def _place(self, size: Size) -> int:
        share = {"10 %": 0.1, "median": 0.5, "90 %": 0.9}[size]
        return round(share * (len(self._rows) - 1))

    def _batched(self, row: Mapping[str, np.ndarray], batch: int) -> dict[str, np.ndarray]:
        """The sample `batch` times; a model that fixes its batch keeps it, and so does a recorded call of several samples."""
        if self.signature.fixed_batch is not None:
            return dict(row)
        axes = {spec.name: spec.batch_axis for spec in self.signature.inputs}
        return {
            name: array
            if (axis := axes[name]) is None or array.shape[axis] != 1
            else np.repeat(array, batch, axis=axis)
            for name, array in row.items()
        }


def _samples(inputs: Mapping[str, np.ndarray], signature: Signature) -> int:
    return max(
        (inputs[spec.name].shape[spec.batch_axis] for spec in signature.inputs if spec.batch_axis is not None),
        default=1,
    )


def _elements(inputs: Mapping[str, np.ndarray]) -> int:
    return sum(array.size for array in inputs.values())


def asked_sizes(signature: Signature, shapes: Mapping[str, int]) -> dict[tuple[str, int], int]:
    """Input and axis to the size that was asked for. Raises UsageError for names that are no open axis."""
    found: dict[tuple[str, int], int] = {}
    for name, size in shapes.items():
        places = [place for place, symbol in signature.open_axes.items() if name in (place, symbol)]
        if not places:
            known = ", ".join(dict.fromkeys(_named(place, symbol) for place, symbol in signature.open_axes.items()))
            raise UsageError(
                f"shapes: the model has no open axis {name!r}", hint=f"open are: {known or 'none but the batch'}"
            )
        for place in places:
            tensor, _, axis = place.rpartition(".")
            found[tensor, int(axis)] = size
    return found


def _named(place: str, symbol: str) -> str:
    return place if place == symbol else f"{symbol} ({place})"


def random_inputs(signature: Signature, batch: int, shapes: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
    """Standard normal values for floats, ones for integers; the same every time. Open axes have the sizes in `shapes`.

    Raises UsageError, with the line to add, where an open axis has no size.
    """
    asked = asked_sizes(signature, shapes or {})
    _refuse_unknown(signature, asked)
    rng = np.random.default_rng(0)
    inputs = constants(signature)
    for spec in signature.inputs:
        if spec.value is not None:
            continue
        shape = [
            size if isinstance(size, int) else batch if axis == spec.batch_axis else asked[spec.name, axis]
            for axis, size in enumerate(spec.shape)
        ]
        values = rng.standard_normal(shape) if spec.dtype.startswith("float") else np.ones(shape)
        inputs[spec.name] = np.asarray(values).astype(spec.dtype)
    return inputs


def _refuse_unknown(signature: Signature, asked: Mapping[tuple[str, int], int]) -> None:
    unknown = {
        place: symbol
        for place, symbol in signature.open_axes.items()
        if (place.rpartition(".")[0], int(place.rpartition(".")[2])) not in asked
    }
    if unknown:
        symbols = list(dict.fromkeys(unknown.values()))
        first = ", ".join(f"{symbol}: 64" for symbol in symbols)
        raise UsageError(
            f"the model leaves axes open and nothing says how long they are: "
            f"{', '.join(_named(place, symbol) for place, symbol in unknown.items())}",
            hint=f"add `data`, or `target: {{shapes: {{{first}}}}}` to the recipe with the sizes that you serve; on the command "
            f"line: {' '.join(f'--shape {symbol}=64' for symbol in symbols)}",
        )


def in_words(call: Call) -> str:
    """As in "x 1x3x224x224 (random values)"."""
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in call.shapes.items())
    return f"{shapes} ({_kind(call)})"


def _kind(call: Call) -> str:
    if call.is_random:
        return "random values"
    return "a sample of the data, at the size asked for" if call.is_stretched else "a sample of the data"


def parse_shapes(texts: Sequence[str]) -> dict[str, int]:
    """`H=320` as given on a command line, by name. Raises UsageError."""
    found = {}
    for text in texts:
        name, mark, size = text.rpartition("=")
        if not mark or not name or not size.isdecimal() or int(size) < 1:
            raise UsageError(f"--shape {text}: not NAME=SIZE", hint="as in --shape H=320, or --shape image.2=320")
        found[name] = int(size)
    return found
