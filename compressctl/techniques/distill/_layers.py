"""Layers inside networks: found by module path, by pattern or by the shapes that they give, and listened to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor, nn

from compressctl.core.errors import UsageError
from compressctl.core.nearest import nearest
from compressctl.techniques.distill.params import LayerPair


@dataclass(frozen=True)
class Pair:
    """Module paths, and the shapes of what the modules gave for a few samples."""

    teacher: str
    student: str
    teacher_shape: tuple[int, ...]
    student_shape: tuple[int, ...]


def pair_layers(
    wanted: Sequence[LayerPair], teacher: nn.Module, student: nn.Module, samples: tuple[Tensor, ...]
) -> list[Pair]:
    """The named pairs, or by default the last module of each resolution that both networks have, in order.

    Raises UsageError for a name that matches nothing, patterns that match different numbers of layers, layers that give no
    tensor of features, and networks without a resolution in common.
    """
    first, second = _shapes(teacher, samples), _shapes(student, samples)
    if not wanted:
        return _by_resolution(first, second, _output_shape(teacher, samples), _output_shape(student, samples))
    found = []
    for pair in wanted:
        ours = _matching(pair.teacher, teacher, first, "teacher")
        theirs = _matching(pair.student, student, second, "student")
        if len(ours) != len(theirs):
            raise UsageError(
                f"layers: {pair.teacher!r} matches {len(ours)} layers of the teacher ({_some(ours)}) and {pair.student!r} "
                f"{len(theirs)} of the student ({_some(theirs)})",
                hint="write patterns that match the same number of layers, or single pairs",
            )
        found += [Pair(a, b, first[a], second[b]) for a, b in zip(ours, theirs, strict=True)]
    return found


@contextmanager
def listening(network: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Inside the context, what the modules gave in the last forward pass, by path. Nothing stays behind on the network."""
    heard: dict[str, Tensor] = {}

    def hear(path: str, module: nn.Module, given: object, output: object) -> None:
        tensor = _features(output)
        if tensor is not None:
            heard.pop(path, None)  # the order is that of the last time that each module ran
            heard[path] = tensor

    with ExitStack() as hooks:
        for path in paths:
            hooks.enter_context(network.get_submodule(path).register_forward_hook(partial(hear, path)))
        yield heard


def _features(output: object) -> Tensor | None:
    """The tensor that a module gave; the first one where it gave several."""
    while isinstance(output, list | tuple) and output:
        output = output[0]
    return output if isinstance(output, Tensor) and output.is_floating_point() and output.ndim >= 2 else None


def _shapes(network: nn.Module, samples: tuple[Tensor, ...]) -> dict[str, tuple[int, ...]]:
    """Shape per module path, in the order in which the modules finish."""
    paths = [path for path, _ in network.named_modules() if path]
    with listening(network, paths) as heard, torch.no_grad():
        network.eval()(*samples)
        return {path: tuple(tensor.shape) for path, tensor in heard.items()}


def _output_shape(network: nn.Module, samples: tuple[Tensor, ...]) -> tuple[int, ...]:
    with torch.no_grad():
        tensor = _features(next(iter(given.values())) if isinstance(given := network(*samples), Mapping) else given)
    return () if tensor is None else tuple(tensor.shape)


def _by_resolution(
    teacher: Mapping[str, tuple[int, ...]],
    student: Mapping[str, tuple[int, ...]],
    teacher_output: tuple[int, ...],
    student_output: tuple[int, ...],
) -> list[Pair]:
    first, second = _last_of_each(teacher, teacher_output), _last_of_each(student, student_output)
    common = [places for places in first if places in second]
    if not common:
        raise UsageError(
            "no layers of teacher and student have features of the same resolution",
            hint="name pairs of layers, as in layers: [{teacher: layer2, student: layer2}]",
        )
    return [Pair(first[at], second[at], teacher[first[at]], student[second[at]]) for at in common]


def _last_of_each(shapes: Mapping[str, tuple[int, ...]], output: tuple[int, ...]) -> dict[tuple[int, ...], str]:
    """The last module per resolution: (height, width) of feature maps, (tokens,) of sequences, () of vectors.

    An outer module goes before those inside another: a block that ends at a lower resolution begins at the higher one. The
    outputs themselves are no inner features. Vectors and maps of one place count where there is nothing else.
    """
    found: dict[tuple[int, ...], str] = {}
    for path, shape in shapes.items():
        if shape == output and len(shape) < 4:
            continue
        places = shape[2:] if len(shape) == 4 else shape[1:-1]
        known = found.get(places)
        if known is None or path.count(".") <= known.count("."):
            found.pop(places, None)
            found[places] = path
    inner = {places: path for places, path in found.items() if places and set(places) != {1}}
    return inner or found


def _matching(pattern: str, network: nn.Module, shapes: Mapping[str, tuple[int, ...]], whose: str) -> list[str]:
    paths = [path for path, _ in network.named_modules() if path]
    matched = [path for path in paths if _matches(path, pattern)]
    if not matched:
        close = nearest(pattern, paths)
        known = ", ".join(name for name, _ in network.named_children())
        raise UsageError(
            f"layers: the {whose} has no layer {pattern!r}",
            hint=f"did you mean {close}?" if close else f"its outermost layers are {known}",
        )
    silent = [path for path in matched if path not in shapes]
    if silent:
        raise UsageError(
            f"layers: the {whose}'s {silent[0]} gives no tensor of features",
            hint="name a module whose forward returns one",
        )
    return matched


def _matches(path: str, pattern: str) -> bool:
    """Part by part, so that layer* is layer1 and not layer1.0.conv1 too."""
    parts, wanted = path.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
