"""What a stage did not declare, in the place of what it would have been handed: the first use of it is an error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NoReturn

from compressctl.core.data import tuples_of
from compressctl.core.needs import SPLITS, Need, Needs
from compressctl.core.target import PLATFORM

if TYPE_CHECKING:
    from compressctl.core.data import Batch, Dataset, Split, SplitName, Tuples
    from compressctl.core.target import Target
    from compressctl.core.technique import RunContext


class UndeclaredReadError(Exception):
    """A technique reads what its params do not declare: a bug of the technique, whose cached results would be stale."""


class Undeclared:
    """Stands where something was not handed over. Whatever is done with it raises UndeclaredReadError."""

    def __init__(self, technique: str, what: str, need: Need) -> None:
        self._message = f"{technique} reads {what}, which its params do not declare: add Need.{need.name} to what their `needs()` returns"

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise UndeclaredReadError(self._message)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)  # protocols that copy, pickle and inspect ask for; none of them reads anything
        self._refuse()

    __call__ = __bool__ = __eq__ = __hash__ = __str__ = __format__ = _refuse
    __len__ = __iter__ = __contains__ = __getitem__ = __array__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __int__ = __float__ = __index__ = __neg__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __matmul__ = __rmatmul__ = _refuse


class _UndeclaredLabels(Undeclared):
    """Of a batch, which may be taken apart: which samples stay together says nothing about their labels."""

    def __getitem__(self, chosen: Any, /) -> _UndeclaredLabels:  # type: ignore[override]
        return self


def restricted(run: RunContext, needs: Needs, technique: str) -> RunContext:
    """The run as a stage with these needs may see it.

    What was not declared is an `Undeclared`, not None: a technique that forgot a declaration shall fail, and not work on as
    if the recipe had no data. Seeds, events, folders and the number of processes are everybody's.
    """
    handed: dict[str, Any] = {"target": _platform(run.target, needs, technique)}
    for name, need in _FIELDS.items():
        if need not in needs:
            handed[name] = Undeclared(technique, f"run.{name}", need)
    if not needs.any_of(frozenset(SPLITS)):
        handed["data"] = Undeclared(technique, "run.data", Need.CALIBRATION_DATA)
    elif run.data is not None:
        handed["data"] = DeclaredData(run.data, needs, technique)
    return replace(run, **handed)


_FIELDS = {
    "score": Need.SCORE,
    "baseline_score": Need.SCORE,
    "open": Need.SESSION,
    "task": Need.TASK,
    "loss": Need.TASK,
    "distance": Need.TASK,
    "heads": Need.TASK,
    "metric": Need.METRIC,
    "decode": Need.METRIC,
    "latency_ms": Need.LATENCY,
    "latency_in": Need.LATENCY,
    "joules": Need.ENERGY,
    "original": Need.ORIGINAL,
}


def _platform(target: Target, needs: Needs, technique: str) -> Any:
    if Need.LATENCY in needs and Need.TARGET in needs:
        return target
    if Need.TARGET not in needs:
        return Undeclared(technique, "run.target", Need.TARGET)
    served = [field.name for field in fields(target) if field.name not in PLATFORM]
    hidden: dict[str, Any] = {name: Undeclared(technique, f"run.target.{name}", Need.LATENCY) for name in served}
    return replace(target, **hidden)


@dataclass(frozen=True)
class DeclaredData:
    """A dataset of which only declared splits can be read, and labels only where they are declared."""

    dataset: Dataset
    needs: Needs
    technique: str

    @property
    def classes(self) -> Sequence[str] | None:
        return self.dataset.classes

    def split(self, name: SplitName) -> Split:
        need = next((need for need, split in SPLITS.items() if split == name), None)
        if need is None:
            raise UndeclaredReadError(f"{self.technique} reads the {name} split, which no stage may: it reports")
        if need not in self.needs:
            Undeclared(self.technique, f"the {name} split", need)._refuse()
        split = self.dataset.split(name)
        return split if Need.LABELS in self.needs else _Unlabelled(split, self.technique)


@dataclass(frozen=True)
class _Unlabelled:
    """A split whose labels raise when they are used."""

    samples: Split
    technique: str

    @property
    def tuples(self) -> Tuples:
        return tuples_of(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        labels: Any = _UndeclaredLabels(self.technique, "labels", Need.LABELS)
        for batch in self.samples.batches(size, shuffle_seed=shuffle_seed):
            yield batch if batch.labels is None else replace(batch, labels=labels)
