"""What params declare, and that nothing else can be read: a forgotten declaration is an error that names it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, Field

from compressctl.core.data import Batch, SplitName
from compressctl.core.events import Events
from compressctl.core.feeds import feeds
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.needs import Need, Needs, TechniqueParams, declared_files, declared_needs
from compressctl.core.source import metrics
from compressctl.core.target import Target
from compressctl.core.technique import RunContext
from compressctl.core.undeclared import UndeclaredReadError, restricted


class Section(TechniqueParams):
    weights: str | None = Field(None, description="a file")

    def needs(self) -> Needs:
        return Needs.of(Need.TRAINING_DATA, reads=(Need.LABELS,))

    def files(self, base: Path) -> dict[str, Path]:
        return {} if self.weights is None else {"weights": base / self.weights}


class Whole(TechniqueParams):
    section: Section | None = Field(None, description="a part that trains")
    calibrated: bool = Field(False, description="whether it looks at inputs")

    def needs(self) -> Needs:
        return super().needs() | Needs.of(*((Need.CALIBRATION_DATA,) if self.calibrated else ()))


class Plain(BaseModel):
    needs: int = Field(3, description="a field that happens to be called so")


def test_a_section_speaks_for_itself() -> None:
    assert Whole().needs() == Needs()
    assert Whole(section=Section()).needs() == Section().needs()
    assert Whole(section=Section(), calibrated=True).needs().requires == {Need.TRAINING_DATA, Need.CALIBRATION_DATA}
    assert Whole(section=Section(weights="a.onnx")).files(Path("here")) == {"section/weights": Path("here/a.onnx")}


def test_a_plain_model_declares_nothing() -> None:
    assert declared_needs(Plain()) == Needs()
    assert declared_files(Plain(), Path()) == {}


class Rows:
    def __len__(self) -> int:
        return 4

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        yield Batch({"x": np.ones((4, 2), np.float32)}, np.arange(4), np.arange(4))


class Data:
    classes: Sequence[str] | None = None

    def split(self, name: SplitName) -> Rows:
        return Rows()


MODEL = OnnxModel(None, Signature((), ()))


def run_with(*needs: Need) -> RunContext:
    whole = RunContext(
        0,
        Events(),
        Path(),
        Target("onnxruntime", threads=3),
        data=Data(),
        score=lambda model, split: 1.0,
        baseline_score=lambda: 1.0,
        open=lambda model: model,  # type: ignore[return-value, arg-type]
        metric=metrics.get("accuracy"),
        latency_ms=lambda models: (1.0,),
        original=lambda: MODEL,
    )
    return restricted(whole, Needs.of(*needs), "example.peek")


READS: dict[str, tuple[Callable[[RunContext], Any], set[Need]]] = {
    "train": (lambda run: run.data.split("train"), {Need.TRAINING_DATA}),  # type: ignore[union-attr]
    "validation": (lambda run: run.data.split("validation"), {Need.VALIDATION_DATA}),  # type: ignore[union-attr]
    "calibration": (lambda run: run.data.split("calibration"), {Need.CALIBRATION_DATA}),  # type: ignore[union-attr]
    "score": (lambda run: run.score(MODEL, "validation"), {Need.SCORE}),  # type: ignore[misc]
    "baseline": (lambda run: run.baseline_score(), {Need.SCORE}),  # type: ignore[misc]
    "session": (lambda run: run.open(MODEL), {Need.SESSION}),  # type: ignore[misc]
    "latency": (lambda run: run.latency_ms([MODEL]), {Need.LATENCY}),  # type: ignore[misc]
    "task": (lambda run: run.task == "classification", {Need.TASK}),
    "task in words": (lambda run: f"{run.task}", {Need.TASK}),
    "task in a list": (lambda run: run.task in ("regression", "classification"), {Need.TASK}),
    "metric": (lambda run: run.metric.name, {Need.METRIC}),  # type: ignore[union-attr]
    "original": (lambda run: run.original(), {Need.ORIGINAL}),  # type: ignore[misc]
    "profile": (lambda run: run.target.saturates, {Need.TARGET}),
    "threads": (lambda run: run.target.threads + 1, {Need.TARGET, Need.LATENCY}),
    "options": (lambda run: run.target.options["precision"], {Need.TARGET, Need.LATENCY}),
    "labels": (lambda run: _labels(run) + 1, {Need.CALIBRATION_DATA, Need.LABELS}),
    "one label": (lambda run: _labels(run)[0] + 1, {Need.CALIBRATION_DATA, Need.LABELS}),
    "labels of a part": (lambda run: _labels(run, wide=True) + 1, {Need.CALIBRATION_DATA, Need.LABELS}),
}


def _labels(run: RunContext, wide: bool = False) -> Any:
    """wide: of samples whose outputs are so large that a batch is called in parts, which by itself reads nothing."""
    assert run.data is not None
    outputs = (TensorSpec("y", "float32", ("N", 1 << 23)),) if wide else ()
    signature = Signature((TensorSpec("x", "float32", ("N", 2)),), outputs)
    found = list(feeds(run.data.split("calibration"), signature, 4))
    assert [feed.count for feed in found] == ([2, 2] if wide else [4])
    return found[0].batch.labels


@pytest.mark.parametrize("name", READS)
def test_what_is_not_declared_cannot_be_read(name: str) -> None:
    read, needs = READS[name]
    for missing in needs:
        with pytest.raises(UndeclaredReadError, match=rf"example\.peek reads .*declare: add Need\.{missing.name} "):
            read(run_with(*set(Need) - {missing}))
    if name != "options":  # which this target has none of
        read(run_with(*needs))


def test_a_stage_that_declares_nothing_does_not_take_it_for_a_recipe_without_data() -> None:
    """None would mean that there is no data: a technique would work on without, and nobody would notice."""
    run = run_with()
    assert run.data is not None
    with pytest.raises(UndeclaredReadError, match=r"reads run\.data"):
        run.data.split("calibration")


def test_no_stage_reads_the_test_split() -> None:
    run = run_with(*Need)
    assert run.data is not None
    with pytest.raises(UndeclaredReadError, match="test split, which no stage may"):
        run.data.split("test")


def test_everything_else_is_there_and_a_run_without_data_stays_one() -> None:
    run = run_with()
    assert (run.seed, run.folder, run.processes, run.accept) == (0, Path(), 1, None)
    assert run.part("one").seed == 0
    bare = RunContext(0, Events(), Path(), Target("onnxruntime"))
    assert restricted(bare, Needs.of(Need.CALIBRATION_DATA), "example.peek").data is None
