"""Models with states: outputs of one call that are inputs of the next one, over whole sequences."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from compressctl.core.data import as_wide
from compressctl.core.errors import UsageError
from compressctl.core.model import Signature, TensorSpec, fits

if TYPE_CHECKING:
    import numpy as np

    from compressctl.core.backend import Session

STEPS = "steps"
"""The name of the axis that counts steps in what a model takes and gives over whole sequences."""


def with_states(
    signature: Signature, states: Mapping[str, str] | Literal["auto"], values: Mapping[str, float]
) -> Signature:
    """The signature that knows its states. states: input to the output that is its value at the next step, or "auto": those of
    equal names and shapes. values: of inputs that have the same one in every call.

    Raises UsageError for names that are none, and where an output cannot be an input's next value.
    """
    inputs = {spec.name: spec for spec in signature.inputs}
    outputs = {spec.name: spec for spec in signature.outputs}
    found = recognised(signature) if states == "auto" else states
    if states == "auto" and not found:
        raise UsageError(
            "model.states: no output has the name and the shape of an input",
            hint="name them, as in `states: {state: stateN}`: input, and the output that is its value at the next step",
        )
    for name, output in found.items():
        _check_state(name, output, inputs, outputs)
    for name in values:
        if name not in inputs or name in found:
            what = f"{name!r} is a state" if name in found else f"the model has no input {name!r}"
            raise UsageError(f"model.constants: {what}", hint=f"its inputs are {', '.join(inputs)}")
    placed = tuple(replace(spec, fed_by=found.get(spec.name), value=values.get(spec.name)) for spec in signature.inputs)
    if all(spec.fed_by is not None or spec.value is not None for spec in placed) and placed:
        raise UsageError("model.states: no input is left for data", hint="a step takes something new beside its states")
    return replace(signature, inputs=placed)


def _check_state(name: str, output: str, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> None:
    for kind, wanted, known in (("input", name, inputs), ("output", output, outputs)):
        if wanted not in known:
            raise UsageError(
                f"model.states: the model has no {kind} {wanted!r}", hint=f"its {kind}s are {', '.join(known)}"
            )
    taken, given = inputs[name], outputs[output]
    if taken.dtype != given.dtype or not fits(taken.shape, given.shape):
        raise UsageError(
            f"model.states: {output} ({given.dtype} {list(given.shape)}) cannot be the next {name} "
            f"({taken.dtype} {list(taken.shape)})",
            hint="a state is fed by an output of its own type and shape",
        )
    unknown = [axis for axis in range(len(taken.shape)) if taken.is_open(axis)]
    if unknown:
        raise UsageError(
            f"model.states: {name} {list(taken.shape)} leaves axis {unknown[0]} open, so that nobody knows the state that a "
            f"sequence begins with",
            hint=f"export it with a size there; or, where that axis counts samples, add `batch_axes: {{{name}: {unknown[0]}}}`",
        )


_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_OLD = frozenset({"in", "input", "inputs", "past", "prev", "previous", "old", "initial", "i"})
_NEW = frozenset({"out", "output", "outputs", "present", "next", "new", "n", "o"})


def recognised(signature: Signature) -> dict[str, str]:
    """Inputs to the outputs of equal type, shape and name, but for words as in `state` and `stateN`, `past_k` and `present_k`."""
    found = {}
    for spec in signature.inputs:
        alike = [
            output.name
            for output in signature.outputs
            if len(spec.shape) > 1
            and spec.dtype == output.dtype
            and fits(spec.shape, output.shape)
            and _is_next(spec.name, output.name)
        ]
        if len(alike) == 1:
            found[spec.name] = alike[0]
    return found


def _is_next(name: str, output: str) -> bool:
    if output in (f"{name}n", f"{name}N", f"{name.removesuffix('0')}n"):
        return True
    old, new = ([part.lower() for part in _PARTS.findall(text)] for text in (name, output))
    left = [part for part in old if part not in _OLD]
    return bool(left) and left == [part for part in new if part not in _NEW]


def of_sequences(signature: Signature) -> Signature:
    """What the model takes and gives over whole sequences: an axis of steps before all others, no states, no constants.

    Outputs that are nothing but states are left out where there are others.
    """
    fed = signature.states.values()
    outputs = tuple(spec for spec in signature.outputs if spec.name not in fed) or signature.outputs
    inputs = (spec for spec in signature.inputs if spec.fed_by is None and spec.value is None)
    return Signature(tuple(map(_over_steps, inputs)), tuple(map(_over_steps, outputs)))


def _over_steps(spec: TensorSpec) -> TensorSpec:
    axis = None if spec.batch_axis is None else spec.batch_axis + 1
    return replace(spec, shape=(STEPS, *spec.shape), batch_axis=axis)


@dataclass(frozen=True)
class Unrolled:
    """A `Session` of whole sequences, which calls another one step by step with that one's own states; all begin with zeros.

    Takes and gives arrays as `of_sequences` says; an input without the axis of steps is the same at each.
    """

    session: Session
    signature: Signature

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Raises UsageError where an input is not of the shape that a step takes, or a state comes back in another one."""
        import numpy as np

        specs = {spec.name: spec for spec in self.signature.inputs}
        kept: dict[str, list[np.ndarray]] = {spec.name: [] for spec in of_sequences(self.signature).outputs}
        call = first_call(self.signature, inputs)
        for step in range(_steps(inputs, specs)):
            outputs = self.session.run({**call, **_at(inputs, specs, step)})
            for name, values in kept.items():
                values.append(outputs[name])
            call |= {name: _next(specs[name], outputs[fed]) for name, fed in self.signature.states.items()}
        return {name: np.stack(values) for name, values in kept.items()}

    def repeat(self, inputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
        return lambda: self.run(inputs)


def first_call(signature: Signature, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a model is given at the first step of sequences. Raises UsageError where an input is not of the shape that a step takes."""
    specs = {spec.name: spec for spec in signature.inputs}
    _steps(inputs, specs)
    return {**_at(inputs, specs, 0), **constants(signature), **_zeros(signature, inputs, specs)}


def _at(inputs: Mapping[str, np.ndarray], specs: Mapping[str, TensorSpec], step: int) -> dict[str, np.ndarray]:
    return {name: array if array.ndim == len(specs[name].shape) else array[step] for name, array in inputs.items()}


_HINT = "a sample of a model with states is a sequence: an axis of steps before the axes of a step"


def _steps(inputs: Mapping[str, np.ndarray], specs: Mapping[str, TensorSpec]) -> int:
    counts = {}
    for name, array in inputs.items():
        spec = specs[name]
        if array.ndim == len(spec.shape):
            continue
        if not fits(array.shape[1:], spec.shape):
            raise UsageError(
                f"{name} takes {list(spec.shape)} at each step, the data give {list(array.shape[1:])}", hint=_HINT
            )
        counts[name] = len(array)
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UsageError(f"the inputs have sequences of several lengths: {told} steps")
    if not counts or not next(iter(counts.values())):
        raise UsageError("the data have no axis of steps, or none of them", hint=_HINT)
    return next(iter(counts.values()))


def _zeros(
    signature: Signature, inputs: Mapping[str, np.ndarray], specs: Mapping[str, TensorSpec]
) -> dict[str, np.ndarray]:
    """The states that sequences begin with."""
    import numpy as np

    samples = next(
        (
            array.shape[axis + array.ndim - len(specs[name].shape)]
            for name, array in inputs.items()
            if (axis := specs[name].batch_axis) is not None
        ),
        1,
    )
    return {
        name: np.zeros([samples if isinstance(size, str) else size for size in specs[name].shape], specs[name].dtype)
        for name in signature.states
    }


def _next(spec: TensorSpec, values: np.ndarray) -> np.ndarray:
    if not fits(values.shape, spec.shape):
        raise UsageError(
            f"{spec.fed_by} comes back as {list(values.shape)}, and the state {spec.name} is {list(spec.shape)}",
            hint="a state is fed by an output of its own shape: look at model.states",
        )
    return as_wide(values, spec.dtype)


def constants(signature: Signature) -> dict[str, np.ndarray]:
    """The inputs that have the same value in every call."""
    import numpy as np

    return {
        spec.name: np.full([size if isinstance(size, int) else 1 for size in spec.shape], spec.value, spec.dtype)
        for spec in signature.inputs
        if spec.value is not None
    }


def by_step(outputs: Mapping[str, np.ndarray], signature: Signature, count: int) -> dict[str, np.ndarray]:
    """Outputs of `count` sequences, a row for each of their steps. signature: of sequences. Copies that fill up a batch are left out."""
    import numpy as np

    axes = {spec.name: spec.batch_axis for spec in signature.outputs}
    found = {}
    for name, array in outputs.items():
        axis = axes.get(name)
        if axis is not None:
            rows = np.moveaxis(array, axis, 1)[:, :count]
            array = rows.reshape(-1, *rows.shape[2:])
        found[name] = array
    return found


def in_words(states: Mapping[str, str]) -> str:
    """As in "state = stateN"."""
    return ", ".join(f"{name} = {fed}" for name, fed in states.items())
