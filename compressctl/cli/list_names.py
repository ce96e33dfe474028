"""compressctl list: everything that a recipe can name."""

from __future__ import annotations

from typing import Annotated

import typer


def list_names(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="techniques, backends, tasks, metrics, decoders, models or datasets. [default: all]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List techniques, backends, metrics, decoders, model sources, datasets and tasks, those of installed plugins included.

    \b
    Examples:
      compressctl list
      compressctl list techniques
    """
    from compressctl.cli.registries import REGISTRIES
    from compressctl.core.errors import UsageError

    kinds = (*REGISTRIES, "tasks")
    if kind is not None and kind not in kinds:
        raise UsageError(f"there is no list of {kind!r}", hint=f"one of: {', '.join(kinds)}")
    for name in [kind] if kind else kinds:
        print(f"{name}:")
        if name == "tasks":
            _print_tasks()
            continue
        found, errors = REGISTRIES[name].usable()
        width = max((len(entry) for entry in found), default=0)
        for entry, spec in found.items():
            print(f"  {entry:<{width}}  {spec.summary}")
        for error in errors:
            print(f"  {error.message}")


def _print_tasks() -> None:
    """Each with the labels that it takes."""
    from compressctl.core.tasks import TASKS

    width = max(map(len, TASKS))
    for task, spec in TASKS.items():
        print(f"  {task:<{width}}  labels: {spec.labels}")
