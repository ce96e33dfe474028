"""compressctl explain: one technique, backend, metric or source."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def explain(
    name: Annotated[str, typer.Argument(help="A name that `compressctl list` shows, as in quantize.static.")],
) -> None:
    """Explain a technique, backend, metric, model source, dataset or task: parameters, defaults, what it needs, its paper."""
    from compressctl.cli.registries import REGISTRIES
    from compressctl.core.errors import UsageError
    from compressctl.core.nearest import nearest
    from compressctl.core.source import LABELS

    found = [(kind, registry.get(name)) for kind, registry in REGISTRIES.items() if name in registry]
    if not found and name in LABELS:
        _print_task(name)
        return
    if not found:
        names = [entry for registry in REGISTRIES.values() for entry in registry.names()]
        close = nearest(name, [*names, *LABELS])
        hint = f"did you mean {close}?" if close else "`compressctl list` shows every name"
        raise UsageError(f"there is nothing named {name!r}", hint=hint)
    for position, (kind, spec) in enumerate(found):
        if position:
            print()
        _print_spec(kind.removesuffix("s"), spec)


def _print_task(name: str) -> None:
    from compressctl.core.source import DEFAULT_METRIC, LABELS, metrics

    task = next(known for known in LABELS if known == name)
    usual = DEFAULT_METRIC.get(task)
    print(f"{task} (task)\n  labels: {LABELS[task]}")
    print(f"  metric: {f'{usual}, {metrics.get(usual).summary}' if usual else 'none of its own'}")


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
        from compressctl.core.source import LABELS

        print("\nLabels, by task")
        for task, words in LABELS.items():
            print(f"  {task}: {words}")
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
    from compressctl.training.params import TrainingParams

    if not hasattr(spec, "takes") or not issubclass(spec.params, TechniqueParams):
        return False
    if issubclass(spec.params, TrainingParams):
        return True
    sections = [model for info in spec.params.model_fields.values() for model in _models(info.annotation)]
    required = any(info.is_required() for info in spec.params.model_fields.values())
    by_default = not required and Need.LABELS in spec.params.model_construct().needs()
    return by_default or any(issubclass(section, TrainingParams) for section in sections)


def _print_params(params: Any, indent: str) -> None:
    for field_name, info in params.model_fields.items():
        default = "required" if info.is_required() else f"default {_shown(info)}"
        print(f"{indent}{field_name}: {_type_name(info.annotation)}, {default}")
        if info.description:
            print(f"{indent}    {info.description}")
        for model in _models(info.annotation):
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
    if hasattr(spec, "tasks"):
        facts.append(("tasks", ", ".join(spec.tasks)))
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


def _shown(info: Any) -> str:
    value = info.get_default(call_default_factory=True)
    if value in (None, (), {}, []):
        return "none"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _type_name(annotation: Any) -> str:
    """As a recipe's author says it: int, one of these words, a mapping of its own keys."""
    from types import NoneType, UnionType
    from typing import Annotated, Literal, Union, get_args, get_origin

    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(option) for option in inner)
    if origin is Annotated:
        return _type_name(inner[0])
    if origin in (Union, UnionType):
        return " | ".join("none" if option is NoneType else _type_name(option) for option in inner)
    if _models(annotation) and origin is None:
        return "keys"
    if origin is not None:
        parts = ["..." if option is Ellipsis else _type_name(option) for option in inner]
        kind = "list" if origin is tuple else origin.__name__
        return f"{kind}[{', '.join(parts)}]"
    return getattr(annotation, "__name__", None) or str(annotation)


def _models(annotation: Any) -> list[Any]:
    """The pydantic models in an annotation: mappings with keys of their own."""
    from typing import get_args

    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
