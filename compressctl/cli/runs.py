"""compressctl runs: what was run here, and cleaning up."""

from __future__ import annotations

import datetime
import shutil
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from compressctl.report.document import Report

_PIN = ".pinned"


class Action(StrEnum):
    LIST = "list"
    SHOW = "show"
    PIN = "pin"
    UNPIN = "unpin"
    CLEAN = "clean"


def runs(
    action: Annotated[Action, typer.Argument(help="list, show RUN, pin RUN, unpin RUN, or clean.")] = Action.LIST,
    run: Annotated[
        Path | None, typer.Argument(help="A run's folder, for show, pin and unpin.", show_default=False)
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where the runs are.")] = Path("runs"),
    keep: Annotated[int, typer.Option(min=0, help="For clean: newest runs of each recipe that stay.")] = 3,
    yes: Annotated[bool, typer.Option("--yes", help="For clean: remove; without it the runs are only named.")] = False,
) -> None:
    """List earlier runs, show one, pin one so that it stays, or remove all but the newest of each recipe.

    `clean` removes nothing until it is given --yes, and never a pinned run, what a link leads to, or a folder that holds no run.

    \b
    Examples:
      compressctl runs
      compressctl runs pin runs/model/20261126-131803-bce8143f
      compressctl runs clean --keep 3 --yes
    """
    from compressctl.core.errors import UsageError

    if action in (Action.SHOW, Action.PIN, Action.UNPIN):
        if run is None or not (run / "events.jsonl").exists():
            raise UsageError(f"{run or action.value}: not a run's folder", hint="`compressctl runs` lists them")
        if action is Action.SHOW:
            from compressctl.cli.report import show

            show(run)
        elif action is Action.PIN:
            (run / _PIN).touch()
        else:
            (run / _PIN).unlink(missing_ok=True)
        return
    found = _find(folder)
    if action is Action.LIST:
        for path in found:
            print(_line(path))
        return
    for path in _surplus(found, keep):
        if path.is_symlink() or path.parent.is_symlink():
            print(f"left alone {path}, which a link leads to")
            continue
        print(f"{'removed' if yes else 'would remove'} {path}")
        if yes:
            shutil.rmtree(path)


def _find(folder: Path) -> list[Path]:
    """Run folders, newest first within each recipe's name."""
    marks = folder.glob("*/*/events.jsonl") if folder.is_dir() else ()
    return sorted((mark.parent for mark in marks), key=lambda path: (path.parent.name, path.name), reverse=True)


def _surplus(found: list[Path], keep: int) -> list[Path]:
    kept: dict[str, int] = {}
    surplus = []
    for path in found:
        if (path / _PIN).exists():
            continue
        kept[path.parent.name] = kept.get(path.parent.name, 0) + 1
        if kept[path.parent.name] > keep:
            surplus.append(path)
    return surplus


def _line(path: Path) -> str:
    from compressctl.core.errors import UsageError
    from compressctl.report.read import read_report, showing

    pinned = " (pinned)" if (path / _PIN).exists() else ""
    try:
        with showing(path):
            return f"{path}{pinned}  {_words(read_report(path))}"
    except UsageError:
        return f"{path}{pinned}  {'a report that cannot be read' if (path / 'report.json').exists() else 'no report'}"


def _words(report: Report) -> str:
    started = datetime.datetime.fromtimestamp(report.started, datetime.UTC).strftime("%Y-%m-%d %H:%M")
    return f"{started}  {report.status}  {report.summary[0] if report.summary else ''}"
