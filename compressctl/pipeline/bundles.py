"""A language model's bundle for its runtime's serving tool: written for the float model and the compressed one, and measured."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel

from compressctl.backends.params import TasksParams
from compressctl.core.backend import backends
from compressctl.core.bundle import Bundle, Bundler, ServedText
from compressctl.core.data import Dataset, SplitName
from compressctl.core.errors import CompressctlError, StageError, UsageError
from compressctl.core.machine import installed_version
from compressctl.core.model import Form, OnnxModel
from compressctl.core.registry import load
from compressctl.core.source import model_sources
from compressctl.core.target import Target
from compressctl.graph.simplify import simplify
from compressctl.measure.generation import Rounds, measure_bundles, texts_of
from compressctl.measure.lm_eval_tasks import PACKAGE, Questions, check_tasks, score_tasks
from compressctl.measure.results import BundleResult
from compressctl.pipeline.workspace import Workspace, in_float32
from compressctl.recipe.order import export_options
from compressctl.recipe.schema import Recipe
from compressctl.sources.fingerprint import existing_folder

_WITHOUT = "leave `bundle` out of its export: the plain file is written and measured all the same"


@dataclass(frozen=True)
class Bundles:
    """baseline, compressed: of the original and of what is handed over."""

    text: ServedText
    code: str
    baseline: Bundle
    compressed: Bundle


def check_servable(recipe: Recipe) -> None:
    """What the model's folder and the recipe alone tell, before any work: raises UsageError for a folder that lacks what serving needs, for
    windows of text that are longer than the network's, and for tasks that cannot be loaded."""
    text: ServedText = load(model_sources.get(recipe.model.source).text)(recipe.model.params, recipe.base)
    window = getattr(recipe.data.params, "window", None) if recipe.data is not None else None
    if isinstance(window, int) and window > text.context_length:
        raise UsageError(
            f"data.window is {window:,} tokens, and a text of the bundle has {text.context_length:,} at most",
            hint=f"set data.window to {text.context_length} or less",
        )
    asked = (_questions(entry.params, recipe.base) for entry in recipe.export)
    check_tasks(dict.fromkeys(questions for questions in asked if questions is not None))


def _questions(params: BaseModel, base: Path) -> Questions | None:
    """What a deliverable's bundle is scored on."""
    asked: TasksParams | None = getattr(params, "lm_eval", None)
    if asked is None:
        return None
    folder = None if asked.include_path is None else base / asked.include_path
    if folder is not None:
        folder = existing_folder(folder, what="the folder of lm-eval's tasks").resolve()
    return Questions(asked.tasks, asked.limit, asked.num_fewshot, folder)


def check_network(workspace: Workspace, model: OnnxModel) -> None:
    """Try every bundle of the recipe on the original network, before any stage. Raises what writing it would, of all bundles together.

    Stages that work on graphs simplify them first, after which less may be known of their shapes: tried in that form where there are such.
    """
    if any(step.kind == "stage" and step.takes is Form.ONNX for step in workspace.plan.steps):
        model = replace(model, body=simplify(model.body))
    failures: list[CompressctlError] = []
    for entry in workspace.recipe.export:
        options = export_options(workspace.recipe, entry.backend)
        code = backends.get(entry.backend).bundles.get(options.get("bundle") or "")
        if code is None:
            continue
        bundler: Bundler = load(code)
        target = replace(workspace.target, backend=entry.backend, options=in_float32(options))
        try:
            bundler.check(model, target, _text_of(workspace, model))
        except CompressctlError as error:
            error.message = f"{entry.backend}: {error.message}"
            failures.append(error)
    if len(failures) == 1:
        failures[0].hint = failures[0].hint or _WITHOUT
        raise failures[0]
    if failures:
        words = ["no bundle can be written of this network:", *(f"   {one}" for one in failures)]
        raise StageError("\n".join(words), hint=_WITHOUT)


def write_bundles(workspace: Workspace, target: Target, source: OnnxModel, model: OnnxModel) -> Bundles:
    """target: the backend's, with its options. source: the original's graph.

    Raises UsageError for a folder that lacks what serving needs, StageError for a network that the tool cannot serve.
    """
    text = _text_of(workspace, model)
    if target.options.get("kv_cache") == "int8" and workspace.recipe.data is not None:
        calibration = texts_of(workspace.dataset().split("calibration"), text.vocabulary, text.context_length)
        text = replace(text, texts=() if calibration.are_random else tuple(tokens for tokens, _ in calibration.samples))
    kind = target.options["bundle"]
    code = backends.get(target.backend).bundles[kind]
    root = workspace.folder / "artifacts" / target.backend
    plain = replace(target, options=in_float32(target.options))
    baseline = _written(code, source, plain, text, root / "baseline" / kind)
    return Bundles(text, code, baseline, _written(code, model, target, text, root / kind))


def _text_of(workspace: Workspace, model: OnnxModel) -> ServedText:
    section = workspace.recipe.model
    text: ServedText = load(model_sources.get(section.source).text)(section.params, workspace.recipe.base)
    known = model.signature.outputs[0].shape[-1]
    # A config may name them for another part of the network.
    return replace(text, vocabulary=known) if isinstance(known, int) else text


def measured(
    bundles: Bundles,
    workspace: Workspace,
    target: Target,
    dataset: Dataset | None,
    judged_on: SplitName,
    rounds: Rounds | None,
) -> BundleResult:
    """rounds: how long to time, None where nothing is timed. Tasks are asked where the test split is judged on alone: who chooses leaves
    them alone, too."""
    text = bundles.text
    texts = texts_of(None if dataset is None else dataset.split(judged_on), text.vocabulary, text.context_length)
    events = workspace.events.within(f"measure-{target.backend}")
    subjects = (bundles.baseline, bundles.compressed)
    result = measure_bundles(*subjects, bundles.code, texts, text, target.threads, rounds, workspace.folder, events)
    entry = next(entry for entry in workspace.recipe.export if entry.backend == target.backend)
    questions = _questions(entry.params, workspace.recipe.base)
    if questions is None or judged_on != "test":
        return result
    scores = score_tasks(questions, *subjects, bundles.code, text, target.threads, events)
    return result.model_copy(update={"tasks": scores, "evaluator": f"{PACKAGE} {installed_version(PACKAGE)}"})


def _written(code: str, model: OnnxModel, target: Target, text: ServedText, folder: Path) -> Bundle:
    bundler: Bundler = load(code)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return bundler.write(model, target, text, folder)
