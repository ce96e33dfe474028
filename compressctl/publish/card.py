"""A model card for the Hugging Face Hub: what the file is, what was measured of it, and what is not known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressctl.core.errors import MissingDependencyError
from compressctl.core.legible import legible, without_commands
from compressctl.report import fidelity, sentences
from compressctl.report.markdown import table, text
from compressctl.report.tables import budget_title, budget_words, comparison

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from compressctl.measure.results import BackendResult
    from compressctl.report.document import Report

_INSTALL = "pip install 'compressctl[hub]'"
_QUANTIZES = ("quantize.", "cast", "share.")

_OPENED = {
    "onnxruntime": 'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{file}")',
    "openvino": 'import openvino\n\nmodel = openvino.Core().compile_model("{file}", "CPU")',
    "tensorrt": "trtexec --onnx={file} --best",
}


@dataclass(frozen=True)
class About:
    """What only the publisher knows. base_model: `owner/name` on the Hub. dataset: what it was scored on. None: not said."""

    name: str
    base_model: str | None = None
    license: str | None = None
    dataset: str | None = None
    pipeline_tag: str | None = None


def card(report: Report, part: BackendResult, file: str, about: About) -> str:
    """As README.md has it: metadata in YAML, then Markdown. file: the one to open. Raises MissingDependencyError."""
    body = [*_verdict(report), *_measured(report, part), *_done(report), *_unknown(report, about), *_use(part, file)]
    content = without_commands(legible("\n".join([f"# {text(about.name)}", "", *body])))
    return f"---\n{_metadata(report, part, about)}\n---\n{content}\n"


def relation(report: Report) -> str:
    """How it came from its base, in the Hub's words: quantized, or finetune for what has fewer or other weights."""
    return "quantized" if any(stage.use.startswith(_QUANTIZES) for stage in report.stages) else "finetune"


def _metadata(report: Report, part: BackendResult, about: About) -> str:
    try:
        from huggingface_hub import ModelCardData
    except ModuleNotFoundError as error:
        raise MissingDependencyError("a model card", "huggingface_hub", _INSTALL) from error
    more: dict[str, Any] = {"base_model_relation": relation(report)} if about.base_model is not None else {}
    results = list(_results(report, part, about))
    return ModelCardData(
        base_model=about.base_model,
        license=about.license,
        library_name="openvino" if part.backend == "openvino" else "onnx",
        pipeline_tag=about.pipeline_tag,
        tags=["compressctl", part.backend, *sorted({stage.use for stage in report.stages})],
        model_name=about.name if results else None,
        eval_results=results or None,
        **more,
    ).to_yaml()


def _results(report: Report, part: BackendResult, about: About) -> list[EvalResult]:
    """Of the compressed file; a ratio with its interval. Nothing that was not measured."""
    from huggingface_hub import EvalResult

    after, before = part.compressed, part.baseline
    task = str(report.recipe.get("task") or "custom")
    data = report.recipe.get("data")
    source = str(data.get("source", "custom")) if isinstance(data, dict) else "none"

    def result(kind: str, value: float, name: str, **more: float) -> EvalResult:
        return EvalResult(
            task_type=about.pipeline_tag or task,
            dataset_type=source,
            dataset_name=about.dataset or source,
            metric_type=kind,
            metric_value=round(value, 4),
            metric_name=name,
            metric_args={key: round(number, 4) for key, number in more.items()},
            verified=False,
        )

    found = []
    if after.score is not None and before.score is not None:
        whose = " (against the original's own results)" if after.score.reference == "original" else ""
        words = f"{after.score.metric}{whose}, {after.score.samples:,} test samples"
        found.append(result(after.score.metric, after.score.value, words, original=before.score.value))
    if after.speed is not None:
        words = f"times as fast as the original in {part.backend}, with its 95 % interval"
        found.append(result("speedup", after.speed.ratio, words, low=after.speed.low, high=after.speed.high))
    found.append(result("bytes", after.total_bytes, "bytes of the files", original=before.total_bytes))
    return found


def _verdict(report: Report) -> list[str]:
    return [f"- {text(sentence)}" for sentence in report.summary]


def _measured(report: Report, part: BackendResult) -> list[str]:
    rows = [[row.label, row.before, row.after, row.change] for row in comparison(part, report)]
    facts = report.environment
    machine = ", ".join(str(facts[key]) for key in ("cpu", "instruction_sets", "system") if facts.get(key))
    lines = ["", "## Measured", "", *table(["", "original", "this file", "change"], rows), ""]
    in_turn = ", timed in turn" if part.compressed.speed is not None else ", not timed"
    lines += [f"Both files in {text(part.backend)} {text(part.version or '')} on {text(machine)}{in_turn}."]
    if rows := fidelity.rows(part):
        lines += ["", *table(fidelity.HEAD, rows)]
    said = (*fidelity.sentences(part), *sentences.behaviour(part), *sentences.trust(part))
    lines += ["", *(f"- {text(line)}" for line in said)]
    if report.budget:
        lines += ["", text(budget_title(report)), ""]
        lines += [f"- {'holds' if check.holds else 'missed'}: {text(budget_words(check))}" for check in report.budget]
    return lines


def _done(report: Report) -> list[str]:
    stages = [
        f"{number}. {text(stage.use)}" + (f", called {text(stage.id)}" if stage.id != stage.use else "")
        for number, stage in enumerate(report.stages, 1)
    ]
    again = "`recipe.lock.yaml` is the whole recipe; `compressctl reproduce recipe.lock.yaml` runs it again where its model and data are."
    return ["", "## What was done", "", *(stages or ["Nothing but the export."]), "", again]


def _unknown(report: Report, about: About) -> list[str]:
    """What a reader must not take for granted."""
    missing = [
        words
        for words, value in (
            ("which model on the Hub this was made of", about.base_model),
            ("its license", about.license),
            ("the dataset's name", about.dataset),
        )
        if value is None
    ]
    lines = [f"- Not said: {', '.join(missing)}."] if missing else []
    lines += [f"- {text(warning)}" for warning in report.warnings]
    return ["", "## To be known", "", *lines] if lines else []


def _use(part: BackendResult, file: str) -> list[str]:
    opened = _OPENED.get(part.backend)
    return ["", "## Use", "", "```", opened.format(file=file), "```"] if opened is not None else []
