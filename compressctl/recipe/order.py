"""Whether each stage can do its work where it stands: its form of model, its data, and what the technique itself checks."""

from __future__ import annotations

from typing import Any

from compressctl.core.backend import backends
from compressctl.core.errors import Problem
from compressctl.core.machine import this_machine
from compressctl.core.model import Form
from compressctl.core.source import model_sources
from compressctl.core.target import Target, resolve_profile
from compressctl.core.technique import ModelFacts, TechniqueSpec, techniques
from compressctl.recipe.needs import unmet_needs
from compressctl.recipe.schema import Recipe, Stage


def order_problems(recipe: Recipe) -> list[Problem]:
    """All impossible orders and unmet needs, each with its path. No file is opened."""
    target, source = resolve_target(recipe), model_sources.get(recipe.model.source)
    form, quantized = source.form, False
    found: list[Problem] = []
    for position, stage in enumerate(recipe.stages):
        if not stage.enabled:
            continue
        spec = techniques.get(stage.use)
        if form not in spec.forms:
            form = Form.ONNX  # a network is lowered for stages that work on graphs
        facts = ModelFacts(form, target, quantized=quantized, original_form=source.form)
        found += _problems(recipe, stage, spec, f"stages[{position}]", facts)
        form, quantized = spec.gives_from(form), quantized or spec.quantizes
    return found


def resolve_target(recipe: Recipe) -> Target:
    """The recipe's target with `auto` read from this machine."""
    wanted = recipe.target
    profile = resolve_profile(wanted.profile, this_machine(), wanted.backend)
    return Target(
        backend=wanted.backend,
        device=wanted.device,
        threads=wanted.threads,
        batch=wanted.batch,
        profile=profile,
        watts_per_core=wanted.watts_per_core,
        options=export_options(recipe, wanted.backend),
    )


def export_options(recipe: Recipe, backend: str) -> dict[str, Any]:
    """What the recipe says about a backend, defaults filled in, also when it is only the target and not exported."""
    given = next((entry.params for entry in recipe.export if entry.backend == backend), None)
    params = given if given is not None else backends.get(backend).params()
    return params.model_dump(mode="json")


def _problems(recipe: Recipe, stage: Stage, spec: TechniqueSpec, path: str, facts: ModelFacts) -> list[Problem]:
    found = []
    if facts.form is Form.ONNX and facts.form not in spec.forms:
        found.append(
            Problem(
                f"{stage.use} trains or edits a torch model, but the model is an ONNX graph here",
                f"{path}.use",
                "put it before the stages that work on ONNX graphs, and give the model as torch (source: python)",
            )
        )
    found += unmet_needs(recipe, stage, spec, path)
    if spec.check:
        found += [
            Problem(problem.message, f"{path}.{problem.path}" if problem.path else path, problem.hint)
            for problem in spec.check(stage.params, facts)
        ]
    return found
