"""Whether each stage can do its work where it stands: its form of model, its data, and what the technique itself checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from compressctl.core.backend import backends
from compressctl.core.errors import Problem
from compressctl.core.machine import this_machine
from compressctl.core.model import Form
from compressctl.core.needs import TechniqueParams, declared_problems, declared_products, leaves_activations
from compressctl.core.source import PreparesImages, metrics, model_sources
from compressctl.core.target import Release, Target, resolve_profile
from compressctl.core.tasks import TASKS
from compressctl.core.technique import ModelFacts, TechniqueSpec, techniques
from compressctl.recipe.needs import unmet_needs
from compressctl.recipe.schema import DataSection, Recipe, Stage


def order_problems(recipe: Recipe) -> Iterator[Problem]:
    """All impossible orders and unmet needs, each with its path. No file is opened."""
    target, source = resolve_target(recipe), model_sources.get(recipe.model.source)
    original = source.form_of(recipe.model.params)
    form, quantizers = original, list[bool]()
    for position, stage in enumerate(recipe.stages):
        if not stage.enabled:
            continue
        spec = techniques.get(stage.use)
        if form not in spec.forms:
            form = Form.ONNX  # a network is lowered for stages that work on graphs
        facts = ModelFacts(
            form,
            target,
            quantized=bool(quantizers),
            weights_alone=all(quantizers),
            original_form=original,
        )
        yield from _problems(recipe, stage, spec, f"stages[{position}]", facts)
        form = spec.gives_from(form)
        quantizers += [spec.of_weights_alone or leaves_activations(stage.params)] if spec.quantizes else []
    yield from _without_libraries(recipe)
    yield from _of_running_text(recipe)
    yield from _unserved(recipe, target)
    yield from _unprepared(recipe)
    yield from _unbundled(recipe)
    yield from _unmeasured_drops(recipe)
    yield from _unjudged_limits(recipe)


def _of_running_text(recipe: Recipe) -> Iterator[Problem]:
    """Windows of text have a next token for each, and no class."""
    if recipe.data is not None and recipe.data.source == "text" and recipe.task == "classification":
        yield Problem(
            "`source: text` deals windows of running text, which have no classes",
            "task",
            "write `task: language-model`; texts with labels are read by `source: csv` or `jsonl` with `tokenize`",
        )


def _without_libraries(recipe: Recipe) -> Iterator[Problem]:
    """Deliverables whose runtime cannot load the libraries of operators that the model needs."""
    exported = dict.fromkeys([recipe.target.backend, *(entry.backend for entry in recipe.export)])
    others = [name for name in exported if not backends.get(name).custom_ops]
    if not others or not getattr(recipe.model.params, "custom_ops", ()):
        return
    words = f"libraries of ONNX Runtime's operators, which {' and '.join(others)} cannot load"
    yield Problem(
        words, "model.custom_ops", "export for onnxruntime alone, or export the model with standard operators"
    )


def _unmeasured_drops(recipe: Recipe) -> Iterator[Problem]:
    """Limits on a score that no run of this recipe can measure: they would be missed after all the work."""
    metric = recipe.metric_name
    gates = [
        (f"stages[{position}].gate.accuracy_drop", stage.gate.accuracy_drop)
        for position, stage in enumerate(recipe.stages)
        if stage.enabled and stage.gate
    ]
    budgets = [
        ("budget.accuracy_drop", recipe.budget.accuracy_drop),
        ("budget.worst_class_drop", recipe.budget.worst_class_drop),
    ]
    for path, limit in [*gates, *budgets]:
        if limit is None:
            continue
        if recipe.heads:
            yield from _heads_limits(recipe, path, limit)
        elif isinstance(limit, dict):
            yield Problem("there are no heads whose drops could be bounded one by one", path, "write one number")
        elif metric is None:
            yield Problem(f"the task {recipe.task} has no metric whose drop could be bounded", path, _NO_METRIC)
        elif path.endswith("worst_class_drop") and recipe.task != "classification" and not _has_classes(metric):
            yield Problem(f"{metric} has no classes that could be bounded one by one", path, None)
        elif path.startswith("budget") and recipe.data is None:
            yield Problem("nothing is scored without data", path, "add a `data` section")
        elif path.startswith("budget") and recipe.data and recipe.data.sizes.test == 0:
            yield Problem("the test split, which is scored, is empty", path, "leave data.test out, or set it")


def _has_classes(metric: str) -> bool:
    return metric in metrics and metrics.get(metric).by_class is not None


def _heads_limits(recipe: Recipe, path: str, limit: float | dict[str, float]) -> Iterator[Problem]:
    if path.endswith("worst_class_drop"):
        yield Problem("classes are bounded where there is one task, not several heads", path, None)
        return
    for name in limit if isinstance(limit, dict) else recipe.heads:
        if name not in recipe.heads:
            yield Problem(f"there is no head {name!r}", path, f"there are {', '.join(recipe.heads)}")
        elif recipe.heads[name].metric_name is None:
            yield Problem(f"the head {name} has no metric whose drop could be bounded", path, _NO_METRIC)


def _unjudged_limits(recipe: Recipe) -> Iterator[Problem]:
    """Limits on outputs where nothing can be compared with the original, or only on values that are no data."""
    stages = enumerate(recipe.stages)
    limits = [(f"stages[{position}].gate", stage.gate) for position, stage in stages if stage.enabled and stage.gate]
    for path, section in [*limits, ("budget", recipe.budget)]:
        is_decoded = any(
            (where.decode or recipe.pipeline) and TASKS[where.task].results for where in recipe.judges.values()
        )
        if section.decoded and not is_decoded:
            decoding = ", ".join(name for name, task in TASKS.items() if task.results)
            words = f"nothing that the task {recipe.task} decodes could be kept or added here"
            yield Problem(words, path, f"kept and added are for {decoding}, with `decode` where it has no default")
    gates = [path for path, _ in limits]
    for path in [*gates, *(["budget"] if recipe.budget.limits_fidelity else [])]:
        if recipe.data is None and path == "budget":
            yield Problem(
                "outputs are compared with the original's on data, and there are none", path, "add a `data` section"
            )
        elif recipe.data is not None and recipe.data.source == "random":
            hint = "give real samples, as in `source: requests`, or leave the limit out"
            yield Problem("random values judge no output: they are for sizes and speed", path, hint)


_NO_METRIC = "set `metric` to one that is registered for it, or `task` to what the model does"


def resolve_target(recipe: Recipe) -> Target:
    """The recipe's target with `auto` read from this machine."""
    wanted = recipe.target
    profile = resolve_profile(wanted.profile, this_machine(), wanted.backend)
    return Target(
        backend=wanted.backend,
        device=wanted.device,
        threads=wanted.threads,
        batch_size=wanted.batch_size,
        profile=profile,
        oldest_onnxruntime=_release(wanted.onnxruntime),
        watts_per_core=wanted.watts_per_core,
        options={**_without_tasks(export_options(recipe, wanted.backend)), **AS_THE_MODEL},
    )


def _without_tasks(options: Mapping[str, Any]) -> dict[str, Any]:
    """What a bundle is scored on decides nothing that stages make: their cache holds whatever becomes of it."""
    return {key: value for key, value in options.items() if key != "lm_eval"}


def _release(oldest: str | None) -> Release | None:
    """(1, 17) of `>=1.17.1`: patches read what their release reads."""
    if oldest is None:
        return None
    major, minor, *_ = oldest.removeprefix(">=").strip().split(".")
    return int(major), int(minor)


def _unserved(recipe: Recipe, target: Target) -> Iterator[Problem]:
    """What the oldest runtime that shall serve a deliverable cannot read."""
    exported = dict.fromkeys([target.backend, *(entry.backend for entry in recipe.export)])
    if target.oldest_onnxruntime is not None and "onnxruntime" not in exported:
        words = "no file for onnxruntime is written that this could hold for"
        yield Problem(words, "target.onnxruntime", "add onnxruntime to `export`, or leave it out")
        return
    for refusal, there in ((backends.get(name).refusal, replace(target, backend=name)) for name in exported):
        if refusal is None:
            continue
        if refused := refusal(there):
            yield Problem(refused[0], "target.onnxruntime", refused[1])
        for position, stage in enumerate(recipe.stages):
            for weights in declared_products(stage.params) if stage.enabled else ():
                if refused := refusal(there, weights):
                    yield Problem(refused[0], f"stages[{position}].{weights.path}", refused[1])


def export_options(recipe: Recipe, backend: str) -> dict[str, Any]:
    """What the recipe says about a backend, defaults filled in, also when it is only the target and not exported."""
    given = next((entry.params for entry in recipe.export if entry.backend == backend), None)
    params = given if given is not None else backends.get(backend).params()
    return with_image_steps(params.model_dump(mode="json"), recipe.data)


def with_image_steps(options: dict[str, Any], data: DataSection | None) -> dict[str, Any]:
    """A backend's options, in which `preprocess` has what only the data say."""
    steps = options.get("preprocess")
    if steps is None:
        return options
    said = {} if steps is True else steps
    known = {key: value for key, value in _image_steps(data).items() if said.get(key) is None}
    return {**options, "preprocess": {**said, **known}}


AS_THE_MODEL = {"preprocess": None, "io_dtype": "float32"}
"""Options of a file that is called as the model is: what stages and comparisons begin from."""


def _image_steps(data: DataSection | None) -> dict[str, Any]:
    """What data do to an image, as `preprocess` under export says it; nothing where they say nothing about images."""
    params = None if data is None else data.params
    return params.image_steps() if isinstance(params, PreparesImages) else {}


def _unprepared(recipe: Recipe) -> Iterator[Problem]:
    """Files that shall prepare images as the data do, where the data do not say how."""
    declared = _image_steps(recipe.data)
    for position, entry in enumerate(recipe.export):
        steps = getattr(entry.params, "preprocess", None)
        if steps is None or getattr(steps, "scale", None) is not None or declared.get("scale", 0) > 0:
            continue
        words = "the data do not say how images are prepared" if not declared else "the data's scale is not above 0"
        yield Problem(
            words, f"export[{position}].preprocess", "write scale, mean and std there, as in {scale: 0.003921569}"
        )


def _unbundled(recipe: Recipe) -> Iterator[Problem]:
    """Bundles of models that come without a tokenizer."""
    asked = [n for n, entry in enumerate(recipe.export) if getattr(entry.params, "bundle", None) is not None]
    if recipe.budget.bundle is not None and 0 not in asked:
        yield Problem(
            "the first deliverable writes no bundle that this could bound", "budget.bundle", "add `bundle: genai` to it"
        )
    elif recipe.budget.bundle is not None and recipe.budget.bundle.task_drop is not None:
        yield from _unasked_tasks(recipe.budget.bundle.task_drop, getattr(recipe.export[0].params, "lm_eval", None))
    for position in asked if recipe.data is None else ():
        if (
            recipe.export[position].backend == "onnxruntime"
            and getattr(recipe.export[position].params, "kv_cache", "") == "int8"
        ):
            words = "a cache in 8 bits is scaled by calibration texts here, and the recipe has no data"
            yield Problem(
                words, f"export[{position}].kv_cache", "give data, as with `source: text`, or leave kv_cache out"
            )
    if not asked or model_sources.get(recipe.model.source).text:
        return
    able = [name for name in model_sources.names() if model_sources.get(name).text]
    for position in asked:
        words = f"a bundle needs the model's tokenizer, which `source: {recipe.model.source}` does not have"
        yield Problem(words, f"export[{position}].bundle", f"take the model's folder, with `source: {able[0]}`")


def _unasked_tasks(limits: float | Mapping[str, float], asked: Any) -> Iterator[Problem]:
    """Limits on tasks that the first deliverable's bundle is not scored on. asked: its `lm_eval`."""
    if asked is None:
        words = "the first deliverable's bundle is scored on no task that this could bound"
        yield Problem(words, "budget.bundle.task_drop", "add `lm_eval: {tasks: [...]}` to it")
    elif isinstance(limits, Mapping):
        for name in limits:
            if name.partition("/")[0] not in asked.tasks:
                words = f"the first deliverable's bundle is not scored on {name}"
                yield Problem(words, f"budget.bundle.task_drop.{name}", f"name one of {', '.join(asked.tasks)}")


def _problems(recipe: Recipe, stage: Stage, spec: TechniqueSpec, path: str, facts: ModelFacts) -> Iterator[Problem]:
    if facts.form is Form.ONNX and facts.form not in spec.forms:
        yield Problem(
            f"{stage.use} trains or edits a torch model, but the model is an ONNX graph here",
            f"{path}.use",
            "put it before the stages that work on ONNX graphs, and give the model as torch (source: python, or trainable: true beside source: onnx)",
        )
    elif facts.quantized and isinstance(stage.params, TechniqueParams) and not _takes_it(stage.params, facts):
        yield Problem("the model is already quantized by an earlier stage", f"{path}.use", _quantize_once(spec))
    yield from unmet_needs(recipe, stage, spec, path)
    yield from (
        replace(problem, path=f"{path}.{problem.path}" if problem.path else path)
        for problem in declared_problems(stage.params, facts)
    )


def _takes_it(params: TechniqueParams, facts: ModelFacts) -> bool:
    return params.takes_quantized or (facts.weights_alone and params.takes_rounded_weights)


def _quantize_once(spec: TechniqueSpec) -> str:
    if spec.quantizes:
        return (
            "quantize once: `overrides` treat parts differently, `precision` under `export` is for what stays in float"
        )
    return f"put {spec.name} before the stage that quantizes: integers keep exact zeros and shared values"
