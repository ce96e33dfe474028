"""compressctl explain: one technique, backend, metric or source."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def explain(
    name: Annotated[str, typer.Argument(help="A name that `compressctl list` shows, as in quantize.static.")],
) -> None:
    """Explain a technique, backend, metric, decoder, model source, dataset or task: parameters, defaults, what it needs, its paper.

    \b
    Examples:
      compressctl explain quantize.static
      compressctl explain image_folder
    """
    from compressctl.cli.registries import REGISTRIES
    from compressctl.core.errors import UsageError
    from compressctl.core.nearest import nearest
    from compressctl.core.tasks import TASKS

    found = [(kind, registry.get(name)) for kind, registry in REGISTRIES.items() if name in registry]
    if not found and name in TASKS:
        _print_task(name)
        return
    if not found:
        names = [entry for registry in REGISTRIES.values() for entry in registry.names()]
        close = nearest(name, [*names, *TASKS])
        hint = f"did you mean {close}?" if close else "`compressctl list` shows every name"
        raise UsageError(f"there is nothing named {name!r}", hint=hint)
    for position, (kind, spec) in enumerate(found):
        if position:
            print()
        _print_spec(kind.removesuffix("s"), spec)


def _print_task(name: str) -> None:
    from compressctl.core.source import decoders, metrics
    from compressctl.core.tasks import TASKS

    task = next(known for known in TASKS if known == name)
    usual = TASKS[task].metric
    print(f"{task} (task)\n  labels: {TASKS[task].labels}")
    print(f"  metric: {f'{usual}, {metrics.get(usual).summary}' if usual else 'none of its own'}")
    if TASKS[task].results:
        fitting = [name for name, spec in decoders.usable()[0].items() if task in spec.tasks or not spec.tasks]
        print(f"  decoders: {', '.join(fitting)}; {TASKS[task].decoder or 'none'} where a recipe names nothing")


def _print_spec(kind: str, spec: Any) -> None:
    print(f"{spec.name} ({kind})\n  {spec.summary}")
    for label, value in _facts(spec):
        print(f"  {label}: {value}")
    params = getattr(spec, "params", None)
    if params is not None and params.model_fields:
        print("\nParameters")
        _print_params(params, "  ")
    for source in getattr(spec, "sources", ()):
        print(f"\nSource\n  {source}") if source == spec.sources[0] else print(f"  {source}")
    if _learns_from_labels(spec):
        from compressctl.core.tasks import TASKS

        print("\nLabels, by task")
        for task, entry in TASKS.items():
            print(f"  {task}: {entry.labels}")
    if getattr(spec, "rules", None):
        from compressctl.core.registry import load

        print("\nRules that its files are checked for")
        for rule in load(spec.rules):
            print(f"  {rule.name}: {rule.sentence} ({rule.source})")
    if hasattr(spec, "takes"):
        print(f"\nExample\n  stages:\n    - use: {spec.name}")
    elif kind == "backend":
        print(f"\nExample\n  export: [onnxruntime, {{backend: {spec.name}}}]")


def _learns_from_labels(spec: Any) -> bool:
    """Whether it trains, or looks at the task's loss: what its labels are must be known."""
    from compressctl.core.needs import Need, TechniqueParams
    from compressctl.recipe.describe import models_in
    from compressctl.training.params import TrainingParams

    if not hasattr(spec, "takes") or not issubclass(spec.params, TechniqueParams):
        return False
    if issubclass(spec.params, TrainingParams):
        return True
    sections = [model for info in spec.params.model_fields.values() for model in models_in(info.annotation)]
    required = any(info.is_required() for info in spec.params.model_fields.values())
    by_default = not required and Need.LABELS in spec.params.model_construct().needs()
    return by_default or any(issubclass(section, TrainingParams) for section in sections)


def _print_params(params: Any, indent: str) -> None:
    from compressctl.recipe.describe import models_in, shown_default, type_name

    for field_name, info in params.model_fields.items():
        default = "required" if info.is_required() else f"default {shown_default(info)}"
        print(f"{indent}{field_name}: {type_name(info.annotation)}, {default}")
        if info.description:
            print(f"{indent}    {info.description}")
        for model in models_in(info.annotation):
            _print_params(model, f"{indent}    ")


def _facts(spec: Any) -> list[tuple[str, str]]:
    facts = []
    if hasattr(spec, "takes"):
        facts.append(("form", f"takes {' or '.join(spec.forms)}, gives {spec.gives or 'the same'}"))
        facts += _needs(spec.params)
        if spec.destroys:
            facts.append(("destroys", "; ".join(spec.destroys)))
    if hasattr(spec, "install"):
        facts.append(("install", spec.install))
        facts += [(extra.option, f"{extra.install}, for {extra.purpose}") for extra in getattr(spec, "extras", ())]
    if getattr(spec, "refusal", None):
        facts.append(("older releases", 'target: {onnxruntime: ">=1.17"} keeps files within what that one reads'))
    if hasattr(spec, "tasks"):
        facts.append(("tasks", ", ".join(spec.tasks) or "any"))
    if hasattr(spec, "higher_is_better"):
        facts.append(("better", "higher" if spec.higher_is_better else "lower"))
    return facts


def _needs(params: Any) -> list[tuple[str, str]]:
    """What a stage with the default parameters must have, and what it reads where it is there."""
    from compressctl.core.needs import TechniqueParams

    if not issubclass(params, TechniqueParams):
        return [("needs", "nothing but the model")]
    if any(info.is_required() for info in params.model_fields.values()):
        return [("needs", "what its parameters say")]
    needs = params.model_construct().needs()
    reads = sorted(needs.reads - needs.requires)
    facts = [("needs", (", ".join(sorted(needs.requires)) or "nothing but the model") + ", with its defaults")]
    return [*facts, *([("reads", ", ".join(reads) + ", where the recipe has it")] if reads else [])]
