"""What a traced run lost, stage by stage, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressctl.core.data import Dataset, SplitName
from compressctl.core.feeds import first_feeds
from compressctl.core.model import OnnxModel
from compressctl.diagnosis.causes import Found, Rounded, rounding_causes
from compressctl.diagnosis.changed_weights import changed_weight_causes
from compressctl.diagnosis.document import Diagnosis, Figures, OutputLoss, StageLoss
from compressctl.diagnosis.noise import Focus, Inputs, OutputNoise, Run, decibels, focus_on
from compressctl.diagnosis.not_a_number import not_a_number
from compressctl.diagnosis.trace import Trace, TracedStage
from compressctl.graph.lower import as_graph
from compressctl.measure.range_coverage import range_coverage
from compressctl.recipe.schema import GateSection, Stage

_SAMPLES = 32
"""On which stages are compared, and tensors rounded alone."""

_CALIBRATION = 64
_SHOWN = 16

FINE_DB = 26.0
"""Signal to noise in the channels that lost most from which on nothing is mended: an error of a twentieth."""

_ANY: dict[str, Any] = {"sqnr_db": -1000.0, "accuracy_drop": 1e9, "kept": 0.0}
"""A gate that everything holds, for what it measures."""


@dataclass(frozen=True)
class Why:
    """A cause, the stage that it lies in, and how many samples could calibrate beside those that do."""

    found: Found
    stage: Stage
    calibration: int
    spare: int


class Look:
    """One trace, looked into. split, focus: whose samples, and what of the outputs, by default what lost most."""

    def __init__(self, trace: Trace, split: SplitName | None = None, focus: Focus | None = None) -> None:
        self.trace = trace
        self.data: Dataset = trace.workspace.dataset()
        self.original = trace.workspace.original_graph()
        self.is_unlike = self._is_unlike()
        self.split: SplitName = split or ("test" if self.is_unlike else _compared_on(self.data))
        self.calls = self._calls(self.split, _SAMPLES)
        self.noise = OutputNoise(self._runs(self.original), self.calls)
        self._ratios = [
            None if stage.graph is None else self.noise.of(self._runs(stage.graph)) for stage in trace.stages
        ]
        known = [found for found in self._ratios if found is not None]
        self.focus = focus or (focus_on(known[-1]) if known else None)

    def _is_unlike(self) -> bool:
        """Whether the test samples leave the ranges that calibration fixed, and the validation samples do not: what they lose then shows
        on them alone."""
        model = self.trace.last.after
        if not isinstance(model, OnnxModel):
            return False
        test, validation = (range_coverage(model, self.data, split) for split in ("test", "validation"))
        return test is not None and test.is_notable and not (validation is not None and validation.is_notable)

    def _calls(self, split: SplitName, samples: int) -> list[Inputs]:
        return [feed.inputs for feed in first_feeds(self.data.split(split), self.original.signature, samples, 1)]

    def diagnosis(self, run: str, status: str) -> tuple[Diagnosis, list[Why]]:
        stages, focus = self.trace.stages, self.focus
        levels = [None if found is None or focus is None else focus.noise(found) for found in self._ratios]
        losses = tuple(
            StageLoss(
                id=stage.stage.id,
                use=stage.stage.use,
                sqnr_db=None if level is None else decibels(level),
                refused=stage.refused,
                error="" if stage.error is None else stage.error.message,
            )
            for stage, level in zip(stages, levels, strict=True)
        )
        place = self._worst(levels)
        found = Diagnosis(
            run=run,
            status=status,
            split=self.split,
            samples=len(self.calls),
            stages=losses,
            stage=None if place is None else stages[place].stage.id,
            output=None if focus is None else self._output(focus),
            causes=(),
            figures=self.figures(),
        )
        causes = [] if place is None else self._causes(stages[place])
        return found.model_copy(update={"causes": tuple(why.found.cause for why in causes)}), causes

    def _worst(self, levels: Sequence[float | None]) -> int | None:
        """The stage that failed, else the one after which the noise grew most; None where little is lost."""
        stages = self.trace.stages
        if stages[-1].error is not None:
            return len(stages) - 1
        before, grown = 0.0, []
        for level in levels:
            grown.append((level or 0.0) - before)
            before = level or 0.0
        if before <= 10 ** (-FINE_DB / 10):
            return None
        return int(np.argmax(grown))

    def _output(self, focus: Focus) -> OutputLoss:
        """Of the last stage that made a model."""
        stage, ratios = next(
            (stage, found)
            for stage, found in zip(reversed(self.trace.stages), reversed(self._ratios), strict=True)
            if stage.graph is not None and found is not None
        )
        assert stage.graph is not None
        return OutputLoss(
            name=focus.output,
            sqnr_db=self.noise.whole_db(self._runs(stage.graph), focus.output),
            channels=tuple(int(channel) for channel in focus.channels[:_SHOWN]),
            channels_db=decibels(focus.noise(ratios)),
        )

    def _runs(self, model: OnnxModel) -> Run:
        return self.trace.workspace.evaluator().open(model).run

    def figures(self) -> Figures | None:
        """Of the last stage's model; None where it failed."""
        last, ratios = self.trace.last, self._ratios[-1]
        if last.graph is None or ratios is None:
            return None
        level = 0.0 if self.focus is None else self.focus.noise(ratios)
        facts = (
            self.trace.workspace.evaluator()
            .held_against(last.graph, GateSection.model_validate(_ANY), self.split)
            .facts
        )
        decoded = facts.get("decoded", {})
        share = 100 / decoded["reference"] if decoded.get("reference") else None
        return Figures(
            sqnr_db=decibels(level),
            kept=decoded["kept"] * share if share else None,
            added=decoded["added"] * share if share else None,
            drop=facts.get("validation_drop"),
            refused="; ".join(stage.refused for stage in self.trace.stages if stage.refused),
        )

    def _causes(self, stage: TracedStage) -> list[Why]:
        if stage.error is not None:
            found = not_a_number(stage, self._calls("calibration", _CALIBRATION))
            if not found:
                raise stage.error
        elif self.focus is None:
            return []
        else:
            found = self._of_a_result(stage, self.focus)
        sizes = [len(self.data.split(name)) for name in ("calibration", "train")]
        return [Why(each, stage.stage, *sizes) for each in found]

    def _of_a_result(self, stage: TracedStage, focus: Focus) -> list[Found]:
        after, before = stage.graph, as_graph(stage.before)
        assert after is not None
        is_rounded = after.quant is not None and bool(after.quant.activations)
        if is_rounded and not (before.quant is not None and before.quant.activations):
            assert after.quant is not None
            rounded = Rounded(
                after,
                after.quant,
                self._calls("calibration", _CALIBRATION),
                self.noise,
                focus,
                is_unlike=self.is_unlike,
            )
            return rounding_causes(rounded, self._progress)
        return changed_weight_causes(before, after, self.noise, focus, self._progress)

    def _progress(self, done: int, total: int) -> None:
        self.trace.workspace.events.within("diagnose").progress("changing tensors alone", done, total)


def _compared_on(data: Dataset) -> SplitName:
    order: tuple[SplitName, ...] = ("validation", "calibration", "train", "test")
    return next((name for name in order if len(data.split(name))), "test")
