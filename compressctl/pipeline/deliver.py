"""The end of a run: each deliverable built, measured beside the original in the same runtime, and held against the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from compressctl.core.backend import Artifact, Backend
from compressctl.core.data import Dataset, SplitName
from compressctl.core.errors import CompressctlError, CrashError, StageError
from compressctl.core.model import OnnxModel, StageRecord
from compressctl.core.source import MetricSpec
from compressctl.core.target import Target
from compressctl.measure.artifact import Subject
from compressctl.measure.crash import with_node
from compressctl.measure.fidelity_limits import strict_checks
from compressctl.measure.results import BackendResult, BudgetCheck
from compressctl.pipeline.lock import add_decided
from compressctl.pipeline.measure_level import MeasureLevel
from compressctl.pipeline.pinned import write_pinned
from compressctl.pipeline.plan import Step
from compressctl.pipeline.workspace import Workspace, in_float32, open_backend
from compressctl.recipe.order import export_options
from compressctl.sources.called import scored_samples

if TYPE_CHECKING:
    from compressctl.pipeline.bundles import Bundles

_DELIVERABLES_AGREE = 0.3
"""Points between two deliverables of one model beyond which the report says where they part."""


@dataclass(frozen=True)
class Delivery:
    """records, results, budget: the run's, which grow here. between: what stages before the last made, to be measured too.

    judged_on: the split whose samples files are scored and compared on. is_strict: whether outputs that are far from the original's, or were not compared, count as a missed budget.
    decided: Artifact.decided by backend, which grows here.
    """

    workspace: Workspace
    records: list[StageRecord]
    results: list[BackendResult]
    budget: list[BudgetCheck]
    between: Sequence[Subject]
    measure_level: MeasureLevel
    is_strict: bool
    judged_on: SplitName = "test"
    decided: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def all(self, model: OnnxModel) -> None:
        """Every deliverable of the recipe, and its budget. Raises what failed after the others were measured."""
        from compressctl.measure.budget import check

        metric = self.workspace.judge.metric
        dataset = self._scorable(metric)
        self._compare_ranges(model)
        names = [entry.backend for entry in self.workspace.recipe.export]
        failures: dict[str, CompressctlError] = {}
        for name in names:
            try:
                self.results.append(self._deliver(name, model, dataset))
            except CompressctlError as error:
                failures[name] = error
        self._write_decided()
        if self.results:
            self._compare_deliverables(model)
            if self.measure_level is MeasureLevel.UNTIMED:
                self.workspace.events.warn("latency, memory and energy were not measured: --measure untimed")
        first = next((found for found in self.results if found.backend == names[0]), None)
        of_first = (None, None) if first is None else (first.compressed, first.bundle)
        name = metric.name if metric else "accuracy"
        self.budget.extend(check(self.workspace.recipe.budget, of_first[0], name, of_first[1]))
        if self.is_strict:
            self.budget.extend(strict_checks((found.backend, found.compressed.fidelity) for found in self.results))
        if failures:
            raise _failed(failures, len(names))

    def _deliver(self, name: str, model: OnnxModel, dataset: Dataset | None) -> BackendResult:
        """One deliverable, built and measured beside the float model in the same runtime."""
        from compressctl.backends.onnx_file import opset_note
        from compressctl.backends.preprocess import called_signature

        backend = open_backend(name)
        target = replace(self.workspace.target, backend=name, options=export_options(self.workspace.recipe, name))
        root = self.workspace.folder / "artifacts" / name
        (root / "baseline").mkdir(parents=True, exist_ok=True)
        with self.workspace.step(Step(f"export-{name}", "export", name, None, None)):
            source, plain = self.workspace.original_graph(), replace(target, options=in_float32(target.options))
            baseline = Subject("float", backend.build(source, plain, root / "baseline"), source)
            # The last stage makes the file that is handed over, so that it stands for it.
            last = next((record.id for record in reversed(self.records) if record.use != "lower"), "handed over")
            made = backend.build(model, target, root)
            made = replace(made, notes=(*made.notes, *opset_note(source, made)))
            compressed = Subject(last, made, replace(model, signature=called_signature(model.signature, target)))
            bundles = self._bundles(target, source, model)
            self.decided[name] = made.decided
        self.workspace.close()  # what stages had opened would take memory from what is measured
        with self.workspace.step(Step(f"measure-{name}", "measure", name, None, None)):
            try:
                found = self._measure(baseline, compressed, backend, target, dataset)
            except CrashError as error:
                given = self.workspace.samples.call(target.batch_size).for_model(model.signature)
                raise with_node(error, compressed.artifact, target, given) from error
            found = self._packed(found, compressed.artifact) if self.workspace.recipe.pack else found
            return found if bundles is None else self._with_bundle(found, bundles, target, dataset)

    def _write_decided(self) -> None:
        """What a clock decided while files were written, so that the lock and the pinned recipe make the same ones."""
        folder, decided = self.workspace.folder, {name: options for name, options in self.decided.items() if options}
        if decided:
            add_decided(folder / "recipe.lock.yaml", decided)
            write_pinned(folder, self.workspace.recipe, self.records, decided)

    def _bundles(self, target: Target, source: OnnxModel, model: OnnxModel) -> Bundles | None:
        """Written before anything is measured: what cannot be served is known at once."""
        if target.options.get("bundle") is None:
            return None
        from compressctl.pipeline.bundles import write_bundles

        return write_bundles(self.workspace, target, source, model)

    def _with_bundle(
        self, found: BackendResult, bundles: Bundles, target: Target, dataset: Dataset | None
    ) -> BackendResult:
        from compressctl.measure.generation import QUICK, STANDARD
        from compressctl.pipeline.bundles import measured

        rounds = {MeasureLevel.UNTIMED: None, MeasureLevel.QUICK: QUICK}.get(self.measure_level, STANDARD)
        bundle = measured(bundles, self.workspace, target, dataset, self.judged_on, rounds)
        return found.model_copy(update={"bundle": bundle})

    def _measure(
        self,
        baseline: Subject,
        compressed: Subject,
        backend: Backend,
        target: Target,
        dataset: Dataset | None,
    ) -> BackendResult:
        from compressctl.measure.artifact import MeasurementConfig, measure
        from compressctl.measure.latency import QUICK, STANDARD

        efforts = {MeasureLevel.UNTIMED: None, MeasureLevel.QUICK: QUICK}
        between = self.between if target.backend == self.workspace.plan.target.backend else []
        found = measure(
            [baseline, *between, compressed],
            MeasurementConfig(
                backend,
                target,
                self.workspace.judge,
                self.workspace.samples,
                dataset,
                self.workspace.folder,
                efforts.get(self.measure_level, STANDARD),
                self.measure_level in (MeasureLevel.FINAL, MeasureLevel.STAGES),
                self.judged_on,
            ),
            self.workspace.events.within(f"measure-{target.backend}"),
        )
        noise = found.noise
        if noise is not None and noise.noisy:
            self.workspace.events.warn(
                f"the machine was noisy while {target.backend} was timed: one file's latency varied by {noise.spread:.0%}, "
                f"other programs took {noise.other_load:.0%} of the processors; run it again before you trust a small difference"
            )
        return found

    def _packed(self, found: BackendResult, artifact: Artifact) -> BackendResult:
        from compressctl.measure.packed_size import packed_size

        packed = packed_size(artifact, found.baseline, self.workspace.folder)
        if packed is None:
            self.workspace.events.warn(f"{found.backend}'s file is not packed: only ONNX files are")
        return found.model_copy(update={"compressed": found.compressed.model_copy(update={"packed": packed})})

    def _compare_ranges(self, model: OnnxModel) -> None:
        """Say, and record with the stage that fixed them, whether ranges of activations fit the test data too."""
        from compressctl.measure.range_coverage import range_coverage

        if self.judged_on != "test" or self.workspace.recipe.data is None or model.quant is None:
            return
        found = range_coverage(model, self.workspace.dataset())
        stage = next((n for n, record in enumerate(self.records) if "calibration_samples" in record.facts), None)
        if found is None or stage is None:
            return
        record = self.records[stage]
        self.records[stage] = replace(record, facts={**record.facts, "test_activations": str(found)})
        if found.is_notable:
            self.workspace.events.warn(f"the calibration data are unlike the test data: {found}")

    def _compare_deliverables(self, model: OnnxModel) -> None:
        """Warn where one deliverable scores otherwise than the first, with the layer at which the two files part."""
        from compressctl.backends.onnx_file import to_onnx
        from compressctl.measure.divergence import first_divergence

        first = self.results[0]
        for other in self.results[1:]:
            old, new = first.compressed.score, other.compressed.score
            if old is None or new is None or abs(old.value - new.value) <= _DELIVERABLES_AGREE:
                continue
            inputs, _ = self.workspace.some_inputs(model)
            graphs = [
                to_onnx(
                    model,
                    replace(self.workspace.target, backend=name, options=export_options(self.workspace.recipe, name)),
                )
                for name in (first.backend, other.backend)
            ]
            found = first_divergence(graphs[0], graphs[1], inputs)
            where = (
                "" if found is None else f"; the files part at {found.node}, whose outputs differ by {found.share:.1%}"
            )
            self.workspace.events.warn(
                f"{other.backend} scores {new.value:.2f} where {first.backend} scores {old.value:.2f}{where}"
            )

    def _scorable(self, metric: MetricSpec | None) -> Dataset | None:
        """The data, if there are any; why nothing is scored is said once."""
        if self.workspace.recipe.data is None:
            return None
        first = next(scored_samples(self.workspace.dataset().split(self.judged_on)).batches(1), None)
        if first is None:
            self.workspace.events.warn(
                f"{metric.name if metric else 'accuracy'} is not measured: the {self.judged_on} split is empty"
            )
        elif first.labels is None and metric is not None:
            if self.workspace.judge.compared is not None:
                words = f": the {self.judged_on} split has no labels; the original's own results stand for them"
            else:
                words = f" is not measured: the {self.judged_on} split has no labels"
            self.workspace.events.warn(f"{metric.name}{words}")
        return self.workspace.dataset()


def _failed(failures: Mapping[str, CompressctlError], count: int) -> CompressctlError:
    """What ends a run in which deliverables failed, after the others were measured."""
    for name, error in failures.items():
        error.message = f"{name}: {error.message}"
    if len(failures) == 1 and count == 1:
        return next(iter(failures.values()))
    head = f"{len(failures)} of {count} deliverables failed" + (
        "" if len(failures) == count else "; the others are measured"
    )
    return StageError("\n".join([f"{head}:", *(f"   {error}" for error in failures.values())]))
