"""The report's document, made from what a run brought."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from compressctl.core.errors import ExitCode
from compressctl.core.source import MetricSpec, metrics
from compressctl.measure.results import (
    Behaviour,
    BudgetCheck,
    Drift,
    Energy,
    Fidelity,
    Latency,
    Measurement,
    Score,
    Speedup,
)
from compressctl.pipeline.result import BackendResult, RunResult
from compressctl.report import fidelity
from compressctl.report.document import (
    BackendPart,
    BehaviourPart,
    BudgetPart,
    ChangePart,
    ClassPart,
    DriftPart,
    EnergyPart,
    ErrorGroupsPart,
    ExamplePart,
    FidelityPart,
    FilePart,
    GroupErrorPart,
    GroupPart,
    GroupsPart,
    LatencyPart,
    LoadPart,
    MemoryPart,
    NodePart,
    NoisePart,
    OutputPart,
    PackedPart,
    PackedTensorPart,
    ParityPart,
    Report,
    ScorePart,
    SpeedPart,
    StagePart,
    TokensPart,
    WaterfallPart,
    WeightsPart,
)
from compressctl.report.sentences import lost_classes, packed_words
from compressctl.report.tables import may_be_chance, score_text, size_change, speed_headline


def from_result(result: RunResult, recipe_file: Path | None = None) -> Report:
    """The document of a run, whole or in part. recipe_file: what the user named, for those who look for its place."""
    name = result.recipe.resolved.get("metric")
    metric: MetricSpec | None = metrics.get(name) if name else None
    parts = [_backend(found, result) for found in result.backends]
    return Report(
        name=result.recipe.name,
        status=result.status,
        exit_code=int(exit_code(result)),
        error=str(result.error) if result.error else None,
        summary=_summary(result, parts, metric),
        started=result.started,
        seconds=result.seconds,
        metric=name,
        metric_unit=metric.unit if metric else "",
        backends=parts,
        budget=[_budget(check) for check in result.budget],
        stages=[
            StagePart(
                id=record.id,
                use=record.use,
                seconds=record.seconds,
                cached=record.cached,
                params=dict(record.params),
                facts=dict(record.facts),
            )
            for record in result.stages
        ],
        parity=[
            ParityPart(between=entry.between, max_abs_difference=dict(entry.max_abs_difference), samples=entry.samples)
            for entry in result.parity
        ],
        warnings=list(result.warnings),
        environment=dict(result.environment),
        recipe=result.recipe.resolved,
        recipe_file=_below_here(recipe_file) if recipe_file and recipe_file.is_file() else None,
    )


def _below_here(path: Path) -> str:
    """Relative to the working folder, which in a CI job is the repository's root, where the file lies inside it."""
    whole, here = path.resolve(), Path.cwd()
    return (whole.relative_to(here) if whole.is_relative_to(here) else whole).as_posix()


def exit_code(result: RunResult) -> ExitCode:
    if result.status == "interrupted":
        return ExitCode.INTERRUPTED
    if result.error is not None:
        return result.error.exit_code
    return ExitCode.BUDGET_MISSED if result.status == "budget missed" else ExitCode.DONE


def _summary(result: RunResult, parts: list[BackendPart], metric: MetricSpec | None) -> list[str]:
    if result.status == "interrupted":
        return ["The run was interrupted; what it had done is below, and running it again resumes from there."]
    sentences = []
    if result.error is not None:
        sentences.append("The run failed; what it had done is below.")
    for part in parts:
        after = part.compressed
        verdict, nearness = fidelity.verdict(part), fidelity.summary(part)
        words = [*([verdict] if verdict else []), size_change(part.smaller)]
        if after.speed is not None:
            words.append(speed_headline(after.speed))
        if after.change is not None and metric is not None:
            words.append(_drop_words(part, metric) + may_be_chance(after))
        if verdict is None and nearness is not None:
            words.append(nearness)
        # What differs comes before whatever was gained.
        sentences.append(f"{', '.join(words)} ({part.backend})." if verdict else f"{part.backend}: {', '.join(words)}.")
        sentences += packed_words(part)
        sentences += lost_classes(part)
    missed = [check.name for check in result.budget if not check.holds]
    if missed:
        sentences.append(f"Budget missed: {', '.join(missed)}.")
    elif result.budget and result.error is None:
        sentences.append("Inside the budget.")
    return sentences


def _drop_words(part: BackendPart, metric: MetricSpec) -> str:
    """Points for a metric in percent; both values of another, whose difference alone says little."""
    before, after, change = part.baseline.score, part.compressed.score, part.compressed.change
    assert before is not None
    assert after is not None
    assert change is not None
    if metric.unit != "%":
        was, now = (score_text(found.value, metric.unit) for found in (before, after))
        return f"{metric.name} unchanged ({was})" if was == now else f"{metric.name} {was} -> {now}"
    if round(abs(change.drop), 2) == 0:
        return f"{metric.name} unchanged"
    return f"{metric.name} {'down' if change.drop > 0 else 'up'} {abs(change.drop):.2f} points"


def _backend(found: BackendResult, result: RunResult) -> BackendPart:
    before, after = (_file(measured, result) for measured in (found.baseline, found.compressed))
    after = after.model_copy(update={"packed": _packed(found, result)})
    return BackendPart(
        backend=found.backend,
        version=found.version,
        baseline=before,
        compressed=after,
        smaller=before.total_bytes / max(after.total_bytes, 1),
        noise=NoisePart(**asdict(found.noise)) if found.noise else None,
        notes=list(found.compressed.artifact.notes),
        waterfall=_waterfall(found, result),
    )


def _model_bytes(files: Mapping[str, int]) -> int:
    """Without what lies beside a model that packing leaves alone, such as the script that builds an engine."""
    return sum(size for name, size in files.items() if ".onnx" in name) or sum(files.values())


def _packed(found: BackendResult, result: RunResult) -> PackedPart | None:
    packed, before = found.compressed.packed, found.baseline.size
    if packed is None:
        return None
    return PackedPart(
        path=str(_below(packed.path, result)),
        total_bytes=packed.total_bytes,
        graph_bytes=packed.graph_bytes,
        smaller=_model_bytes(before.files) / packed.total_bytes,
        smaller_than_parameters=4 * before.parameters / packed.total_bytes,
        tensors=[PackedTensorPart(**asdict(tensor)) for tensor in packed.tensors],
        encode_seconds=packed.encode_seconds,
        decode_seconds=packed.decode_seconds,
    )


def _waterfall(found: BackendResult, result: RunResult) -> list[WaterfallPart]:
    """The last stage gives the file that is handed over, so that it stands for it."""
    last = next((record.id for record in reversed(result.stages) if record.use != "lower"), "handed over")
    return [
        WaterfallPart(
            id=name,
            total_bytes=part.size.total_bytes,
            transport_bytes=part.size.transport_bytes,
            score=_score(part.score),
            drop=part.change.drop if part.change else None,
            latency=_latency(part.latency),
            speed=_speed(part.speedup),
            step=_speed(part.step),
        )
        for name, part in [("float", found.baseline), *found.between, (last, found.compressed)]
    ]


def _file(found: Measurement, result: RunResult) -> FilePart:
    fusion, size = found.fusion, found.size
    return FilePart(
        path=str(_below(found.artifact.path, result)),
        files=dict(size.files),
        total_bytes=size.total_bytes,
        transport_bytes=size.transport_bytes,
        parameters=size.parameters,
        macs=size.macs.exact,
        macs_at_least=size.macs.at_least,
        macs_unknown=dict(size.macs.unknown),
        bit_operations=size.bit_operations.exact if size.bit_operations else None,
        bit_operations_at_least=size.bit_operations.at_least if size.bit_operations else None,
        weights=[WeightsPart(**asdict(entry)) for entry in size.weights],
        score=_score(found.score),
        latency=_latency(found.latency),
        memory=MemoryPart(**asdict(found.memory)) if found.memory else None,
        load_ms=found.load_ms,
        integer_mac_share=fusion.integer_mac_share if fusion else None,
        integer_share_leaves_out=dict(fusion.left_out) if fusion else {},
        nodes=[NodePart(**asdict(node)) for node in fusion.nodes] if fusion else [],
        speed=_speed(found.speedup),
        change=ChangePart(**asdict(found.change)) if found.change else None,
        behaviour=_behaviour(found.behaviour) if found.behaviour else None,
        drift=_drift(found.drift) if found.drift else None,
        tokens=TokensPart(**asdict(found.tokens)) if found.tokens else None,
        energy=_energy(found.energy, found.thrift) if found.energy else None,
        points=[LoadPart(latency=_timed(point.latency), speed=_speed(point.speedup)) for point in found.points],
        fidelity=_fidelity(found.fidelity) if found.fidelity else None,
    )


def _below(path: Path, result: RunResult) -> Path:
    return path.relative_to(result.folder) if path.is_relative_to(result.folder) else path


def _score(found: Score | None) -> ScorePart | None:
    return ScorePart(**asdict(found)) if found else None


def _latency(found: Latency | None) -> LatencyPart | None:
    return _timed(found) if found else None


def _timed(found: Latency) -> LatencyPart:
    shapes = {name: list(shape) for name, shape in found.shapes.items()}
    return LatencyPart(**{**asdict(found), "percentiles_ms": list(found.percentiles_ms), "shapes": shapes})


def _fidelity(found: Fidelity) -> FidelityPart:
    outputs = [OutputPart(**asdict(output), churn=output.churn) for output in found.outputs]
    return FidelityPart(**{**asdict(found), "outputs": outputs})


def _speed(found: Speedup | None) -> SpeedPart | None:
    if found is None:
        return None
    return SpeedPart(
        ratio=found.ratio,
        low=found.interval.low,
        high=found.interval.high,
        verdict=found.verdict,
        alternating=found.alternating,
    )


def _energy(found: Energy, thrift: Speedup | None) -> EnergyPart:
    return EnergyPart(**asdict(found), saving=_speed(thrift))


def _behaviour(found: Behaviour) -> BehaviourPart:
    groups = found.groups
    plain = {name: value for name, value in asdict(found).items() if name not in ("classes", "groups", "examples")}
    return BehaviourPart(
        **{**plain, "changed": list(found.changed)},
        classes=[ClassPart(**asdict(entry)) for entry in found.classes],
        groups=GroupsPart(
            groups=[GroupPart(**asdict(entry)) for entry in groups.groups],
            gap_before=groups.gap_before,
            gap_after=groups.gap_after,
            amplification=groups.amplification,
            low=groups.interval.low,
            high=groups.interval.high,
        )
        if groups
        else None,
        examples=[
            ExamplePart(**{**asdict(entry), "png": base64.b64encode(entry.png).decode() if entry.png else None})
            for entry in found.examples
        ],
    )


def _drift(found: Drift) -> DriftPart:
    groups = found.groups
    plain = {name: value for name, value in asdict(found).items() if name != "groups"}
    return DriftPart(
        **{**plain, "worst": list(found.worst)},
        groups=ErrorGroupsPart(
            groups=[GroupErrorPart(**asdict(entry)) for entry in groups.groups],
            gap_before=groups.gap_before,
            gap_after=groups.gap_after,
            amplification=groups.amplification,
            low=groups.interval.low,
            high=groups.interval.high,
        )
        if groups
        else None,
    )


def _budget(check: BudgetCheck) -> BudgetPart:
    return BudgetPart(**asdict(check))
