"""compressctl list: everything that a recipe can name."""

from __future__ import annotations

from typing import Annotated

import typer


def list_names(
    kind: Annotated[
        str | None,
        typer.Argument(help="techniques, backends, metrics, models or datasets. [default: all]", show_default=False),
    ] = None,
) -> None:
    """List techniques, backends, metrics, model sources and datasets, those of installed plugins included.

    \b
    Examples:
      compressctl list
      compressctl list techniques
    """
    from compressctl.cli.registries import REGISTRIES
    from compressctl.core.errors import UsageError

    if kind is not None and kind not in REGISTRIES:
        raise UsageError(f"there is no list of {kind!r}", hint=f"one of: {', '.join(REGISTRIES)}")
    for name in [kind] if kind else REGISTRIES:
        print(f"{name}:")
        found, errors = REGISTRIES[name].usable()
        width = max((len(entry) for entry in found), default=0)
        for entry, spec in found.items():
            print(f"  {entry:<{width}}  {spec.summary}")
        for error in errors:
            print(f"  {error.message}")
