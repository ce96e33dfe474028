"""Decoders and metrics that a recipe's author wrote: called with what we hold, whatever they raise said with their name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from compressctl.core.errors import UsageError, in_short
from compressctl.core.source import MetricSpec, read_only
from compressctl.core.tasks import Decode, Loss
from compressctl.recipe.schema import FunctionSection
from compressctl.sources.python_code import author_function
from compressctl.tasks.params import PythonDecoderParams

Found = TypeVar("Found")


def decoder(params: PythonDecoderParams, base: Path) -> Decode:
    """Raises UsageError where there is no such function; what it gives raises it too, whatever the function raises."""
    function = author_function(params.function, base)

    def decode(outputs: Mapping[str, np.ndarray]) -> Sequence[Any]:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
        given = {name: read_only(array) for name, array in outputs.items()}
        samples = len(next(iter(outputs.values())))
        # One more than there may be: a generator need not end.
        found = called(
            params.function, lambda: list(islice(function(given, **params.args), samples + 1)), f"outputs {shapes}"
        )
        if len(found) != samples:
            count = len(found) if len(found) < samples else f"more than {samples}"
            raise UsageError(
                f"{params.function} gave {count} results for {samples} samples (outputs {shapes})",
                hint="return one result for each sample: the outputs' first axis counts them",
            )
        return [_as_array(one) for one in found]

    return decode


def _as_array(result: Any) -> Any:
    """A tensor of a framework as an array; what is none stays what it is."""
    is_tensor = hasattr(result, "__array__") and not isinstance(result, np.ndarray | np.generic)
    return np.asarray(result) if is_tensor else result


def author_loss(section: FunctionSection, base: Path) -> Loss:
    """Raises UsageError where there is no such function; what it gives raises it too, whatever the function raises."""
    function = author_function(section.function, base)

    def loss(outputs: Any, labels: Any) -> Any:
        shape = list(labels.shape) if hasattr(labels, "shape") else [len(labels)]
        given = f"outputs {list(outputs.shape)}, labels {shape}"
        return called(section.function, lambda: function(outputs, labels, **section.args), given)

    return loss


@dataclass(frozen=True)
class AuthorMetric(MetricSpec):
    """A function of outputs and labels that a recipe names. place: its "file.py:name"."""

    place: str = ""
    function: Callable[..., Any] = float
    args: Mapping[str, Any] = field(default_factory=dict)

    def score(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """Raises UsageError for whatever the function raises, and for what is no number."""
        shapes = f"outputs {list(outputs.shape)}, labels {list(labels.shape)}"
        return called(
            self.place, lambda: float(self.function(read_only(outputs), read_only(labels), **self.args)), shapes
        )


def called(place: str, call: Callable[[], Found], given: str) -> Found:
    try:
        return call()
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        raise UsageError(f"{place} failed on {given}: {in_short(error)}") from error
