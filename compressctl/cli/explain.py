"""compressctl explain: one technique, backend, metric or source."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def explain(
    name: Annotated[str, typer.Argument(help="A name that `compressctl list` shows, as in quantize.static.")],
) -> None:
    """Explain a technique, backend, metric, model source or dataset: parameters, defaults, what it needs, its paper."""
    from compressctl.cli.registries import REGISTRIES
    from compressctl.core.errors import UsageError
    from compressctl.core.nearest import nearest

    found = [(kind, registry.get(name)) for kind, registry in REGISTRIES.items() if name in registry]
    if not found:
        close = nearest(name, (entry for registry in REGISTRIES.values() for entry in registry.names()))
        hint = f"did you mean {close}?" if close else "`compressctl list` shows every name"
        raise UsageError(f"there is nothing named {name!r}", hint=hint)
    for position, (kind, spec) in enumerate(found):
        if position:
            print()
        _print_spec(kind.removesuffix("s"), spec)


def _print_spec(kind: str, spec: Any) -> None:
    print(f"{spec.name} ({kind})\n  {spec.summary}")
    for label, value in _facts(spec):
        print(f"  {label}: {value}")
    params = getattr(spec, "params", None)
    if params is not None and params.model_fields:
        print("\nParameters")
        _print_fields(params, "  ")
    for source in getattr(spec, "sources", ()):
        print(f"\nSource\n  {source}") if source == spec.sources[0] else print(f"  {source}")
    if getattr(spec, "rules", None):
        from compressctl.core.registry import load

        print("\nRules that its files are checked for")
        for rule in load(spec.rules):
            print(f"  {rule.name}: {rule.sentence} ({rule.source})")
    if hasattr(spec, "takes"):
        print(f"\nExample\n  stages:\n    - use: {spec.name}")
    elif kind == "backend":
        print(f"\nExample\n  export: [onnxruntime, {{backend: {spec.name}}}]")


def _print_fields(params: Any, indent: str) -> None:
    """Each field with what it means; those of a section below its name."""
    for name, info in params.model_fields.items():
        section = _section(info.annotation)
        what = "a section" if section else _type_name(info.annotation)
        default = "required" if info.is_required() else "" if section else f"default {_shown(info)}"
        print(f"{indent}{name}: {', '.join(filter(None, [what, default]))}")
        if info.description:
            print(f"{indent}    {info.description}")
        if section:
            _print_fields(section, indent + "    ")


def _section(annotation: Any) -> Any:
    """The model that a field holds, None for other fields."""
    from typing import get_args

    return next((kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields")), None)


def _facts(spec: Any) -> list[tuple[str, str]]:
    facts = []
    if hasattr(spec, "takes"):
        facts.append(("form", f"takes {spec.takes}, gives {spec.gives}"))
        facts.append(("needs", ", ".join(sorted(spec.needs)) or "nothing but the model"))
        if spec.destroys:
            facts.append(("destroys", "; ".join(spec.destroys)))
    if hasattr(spec, "install"):
        facts.append(("install", spec.install))
    if hasattr(spec, "tasks"):
        facts.append(("tasks", ", ".join(spec.tasks)))
        facts.append(("better", "higher" if spec.higher_is_better else "lower"))
    return facts


def _shown(info: Any) -> str:
    value = info.get_default(call_default_factory=True)
    if value in (None, (), {}, []):
        return "none"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _type_name(annotation: Any) -> str:
    from typing import Literal, get_args, get_origin

    if get_origin(annotation) is Literal:
        return " | ".join(str(option) for option in get_args(annotation))
    name = getattr(annotation, "__name__", None) if get_origin(annotation) is None else None
    return name or str(annotation).replace("typing.", "").replace("compressctl.", "")
