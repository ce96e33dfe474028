"""compressctl tables: what layers take on this machine, for searches on another one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from compressctl.cli.options import ServedBy, Sets, Shapes


class Action(StrEnum):
    MEASURE = "measure"


def tables(
    action: Annotated[Action, typer.Argument(help="measure.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An .onnx file, or a recipe whose `model` is taken.")],
    output: Annotated[Path, typer.Option(help="The file that is written.")] = Path("tables.json"),
    backend: ServedBy = None,
    time: Annotated[
        str,
        typer.Option(metavar="DURATION", help="After which the layers that are left are not timed, as in 90s or 30m."),
    ] = "30m",
    shape: Shapes = None,
    sets: Sets = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Time every layer of a model on this machine, each in place: in float, in 8 bits, and in two thinner ones.

    `compressctl auto --costs FILE` on another machine then chooses for this one: there it sees what every option loses, here what it
    takes. It needs the ONNX file alone: no samples, and no torch.

    \b
    Examples:
      compressctl tables measure model.onnx
      compressctl tables measure model.onnx --set target.threads=4 --shape batch=1 --output pi5.json
    """
    import sys

    from compressctl.cli.files import writable
    from compressctl.cli.limits import time_limit_of
    from compressctl.measure.samples import parse_shapes
    from compressctl.pipeline.event_listeners import PlainLines
    from compressctl.search.kept_tables import write_tables
    from compressctl.search.measure_costs import costs_here
    from compressctl.search.subject import Asked
    from compressctl.store.cache_place import stage_cache

    writable(output, force)
    asked = Asked(model, backend=backend, shapes=parse_shapes(shape or ()), sets=tuple(sets or ()))
    found = costs_here(asked, time_limit_of(time, "--time"), stage_cache(), [PlainLines(sys.stderr)])
    write_tables(found, output)
    for line in found.left_out:
        print(f"left out: {line}", file=sys.stderr)
    faster = (found.float_ms or 0.0) / (found.integer_ms or 1.0)
    print(
        f"{len(found.layers)} layers; a call takes {found.float_ms:.4g} ms in float, {found.integer_ms:.4g} ms with all of them in 8 bits "
        f"({faster:.2f}x): {output}"
    )
