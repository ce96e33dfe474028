"""What diagnosing a run found: losses, causes and the recipe edits that were tried, as `diagnose --json` prints them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from compressctl.measure.results import Result

CauseName = Literal[
    "calibration unlike the test", "changed weights", "dead channels", "few codes", "mask constant", "outliers", "rounding noise", "saturating range",     "shared scale",
]  # fmt: skip


class StageLoss(Result):
    """How far the model's outputs are from the original's after one stage."""

    id: str
    use: str
    sqnr_db: float | None = Field(
        description="of the output that lost most, over the channels that did; null without any loss"
    )
    refused: str = Field(
        "", description="why its gate, or the clock, did not keep it; it was made without, to be looked at"
    )
    error: str = Field("", description="what it failed with")


class OutputLoss(Result):
    """The output that lost most."""

    name: str
    sqnr_db: float | None = Field(description="over all values; null where it is identical")
    channels: tuple[int, ...] = Field(description="the quarter of its channels that lost most, the first 16")
    channels_db: float | None = Field(description="over these channels")


class Cause(Result):
    """One reason for the loss."""

    name: CauseName
    tensor: str = Field(description="what rounding, cutting or replacing changed: an activation, or a weight")
    layers: tuple[str, ...] = Field(description="nodes that make or read it")
    share: float | None = Field(
        description="of the noise in the output that it makes alone, where that can be told; those of all causes need not add up to 1"
    )
    evidence: str


class Edit(Result):
    """One value of the recipe."""

    path: str = Field(description="as `apply --set` takes it")
    before: Any
    after: Any


class Figures(Result):
    """Of the whole recipe's model on the samples that were diagnosed."""

    sqnr_db: float | None = Field(
        description="of the output that lost most, over the channels that did; null without any loss"
    )
    kept: float | None = Field(None, description="of the original's decoded results, in percent")
    added: float | None = Field(
        None, description="decoded results that the original does not give, in percent of its own"
    )
    drop: float | None = Field(None, description="of the task's metric against the original")
    refused: str = Field("", description="what a gate or the clock refused; the figures are of the model without it")


class Trial(Result):
    """An edited recipe, applied."""

    cause: CauseName
    edits: tuple[Edit, ...]
    figures: Figures | None = Field(description="null where it failed")
    mends: bool
    error: str = ""


class Row(Result):
    """One figure of the exported files, in words."""

    label: str
    before: str
    after: str


class Diagnosis(Result):
    run: str
    status: str = Field(description="of the run")
    split: str = Field(description="whose samples it was diagnosed on")
    samples: int
    stages: tuple[StageLoss, ...]
    stage: str | None = Field(description="the one that lost most; null where none lost anything")
    output: OutputLoss | None
    causes: tuple[Cause, ...] = Field(description="the largest share first")
    figures: Figures | None = Field(description="of the run's own recipe; null where it failed")
    trials: tuple[Trial, ...] = ()
    advice: tuple[str, ...] = Field((), description="what no edit of the recipe does")
    edits: tuple[Edit, ...] = Field((), description="those that mended, together")
    measured: tuple[Row, ...] = Field(
        (), description="exported files of the run and of the edited recipe, on the test split"
    )
    notes: tuple[str, ...] = ()
