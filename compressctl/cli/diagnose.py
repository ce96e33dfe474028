"""compressctl diagnose: what a run lost most, why, and the recipe edit that mends it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def diagnose(
    run: Annotated[Path, typer.Argument(help="A run's folder, which `compressctl apply` wrote.", metavar="RUN")],
    tries: Annotated[
        bool, typer.Option("--try/--no-try", help="Apply and measure edits of the recipe, or only look.")
    ] = True,
    write: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the recipe with the edits that mend it.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    cache: Annotated[
        bool,
        typer.Option("--resume/--no-cache", help="Take finished stages from the cache, or make all of them again."),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say which output, stage, layer and tensor of a run lost most, why, and which edit of its recipe mends it.

    Stages are taken from the cache or made again. Tensors are rounded alone to find those that cost most. Causes have names: outliers,
    saturating range, shared scale, mask constant, dead channels, calibration unlike the test. Edits are applied and measured on
    the validation split, the best recipe's file in the end on the test split. Exit code 1 where edits were tried and none mends.

    \b
    Examples:
      compressctl diagnose runs/model/20261126-131803-bce8143f
      compressctl diagnose run --write mended.yaml
      compressctl diagnose run --no-try --json
    """
    import sys

    from compressctl.cli.files import writable
    from compressctl.core.errors import ExitCode, UsageError
    from compressctl.diagnosis.diagnose import diagnose as look_into
    from compressctl.pipeline.event_listeners import PlainLines
    from compressctl.store.cache_place import stage_cache

    if write is not None and not tries:
        raise UsageError("--write writes what mends, and --no-try tries nothing", hint="leave one of them out")
    file = None if write is None else writable(write, force, "--write")
    found, better = look_into(run, stage_cache() if cache else None, [PlainLines(sys.stderr)], tries=tries)
    if as_json:
        print(found.model_dump_json(indent=1))
    else:
        from compressctl.diagnosis.words import lines

        for line in lines(found):
            print(line)
    if file is not None and found.edits:
        from compressctl.diagnosis.edits import write_edited

        write_edited(file, better)
        if not as_json:
            print(f"recipe: {file}")
    if found.trials and not found.edits:
        raise typer.Exit(int(ExitCode.BUDGET_MISSED))
