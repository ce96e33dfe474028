"""A stage's context on the digits data, as the pipeline would make it, for techniques that train or look at samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from compressctl.core.data import Dataset
from compressctl.core.events import Event, Events
from compressctl.core.model import Model
from compressctl.core.source import SplitSizes
from compressctl.core.target import Target
from compressctl.core.technique import RunContext
from compressctl.sources import builtin, digits
from compressctl.sources.params import BuiltinParams, DigitsParams

Clock = Callable[[Sequence[Model]], tuple[float, ...]]


@dataclass
class Heard:
    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def notes(self) -> list[str]:
        return [event.fields["message"] for event in self.events if event.kind in ("note", "warning")]


def digits_data() -> Dataset:
    return digits.load(DigitsParams(), SplitSizes(calibration=200), Path(), 0)


def digits_model(name: str) -> Model:
    return builtin.load(BuiltinParams(name=name), Path(), 0)


def context(
    folder: Path, data: Dataset | None = None, heard: Heard | None = None, clock: Clock | None = None
) -> RunContext:
    events = Events(*([heard] if heard else []))
    made = RunContext(seed=0, events=events, folder=folder, target=Target("onnxruntime"), data=data)
    return replace(made, latency_ms=clock)
