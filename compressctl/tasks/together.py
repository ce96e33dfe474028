"""A file that works together with others: what a recipe author's function calls it with, and the end results that it reads with all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from compressctl.core.backend import Session
from compressctl.core.data import Batch, Split
from compressctl.core.errors import UsageError
from compressctl.core.source import read_only
from compressctl.sources.called import Call, Recording
from compressctl.tasks.author_functions import called


@dataclass(frozen=True)
class Together:
    """place: the function's "file.py:name". name: what it calls the file. others: gives the sessions of the other files, by name;
    compressed: of those that earlier runs compressed, which stand in their place where a compressed file is judged."""

    place: str
    function: Callable[..., Any]
    name: str
    others: Callable[[], Mapping[str, Session]]
    args: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 8
    compressed: Callable[[], Mapping[str, Session]] = dict

    def read(self, session: Session, split: Split, *, is_original: bool = False) -> Iterator[tuple[Batch, list[Any]]]:
        """The end results of each batch, the file being `session`. Raises UsageError for whatever the function raises."""
        others = {**self.others(), **({} if is_original else self.compressed())}
        models = {**{name: other.run for name, other in others.items()}, self.name: session.run}
        for batch in split.batches(self.batch):
            inputs = {name: read_only(array) for name, array in batch.inputs.items()}
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
            results = self._called(models, inputs, shapes, len(batch.indices) + 1)
            if len(results) != len(batch.indices):
                raise UsageError(
                    f"{self.place} gave {len(results)} results for {len(batch.indices)} samples ({shapes})",
                    hint="return one result for each sample: the inputs' first axis counts them",
                )
            yield batch, results

    def _called(self, models: Mapping[str, Callable[..., Any]], inputs: Call, shapes: str, most: int) -> list[Any]:
        return called(self.place, lambda: list(islice(self.function(dict(models), inputs, **self.args), most)), shapes)

    def calls(self, session: Session, split: Split) -> list[Call]:
        """What the function calls the file with. Raises UsageError where it never does."""
        recorded = Recording(session)
        for _ in self.read(recorded, split):
            pass
        if not recorded.calls and len(split):
            raise UsageError(
                f"{self.place} never calls {self.name!r}", hint="name the file as the function does: pipeline.role"
            )
        return recorded.calls
