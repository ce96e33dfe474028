"""What is published of a run, as a folder: the files that were measured, their card, the report and the recipe's lock."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from compressctl.core.errors import UsageError
from compressctl.core.regular_files import open_regular, read_regular
from compressctl.core.secrets import for_others
from compressctl.core.whole_files import write_whole
from compressctl.publish.card import About, card
from compressctl.report.read import backend_part, read_report

if TYPE_CHECKING:
    from compressctl.measure.results import Measurement
    from compressctl.report.document import Report

_CARD, _LOCK, _REPORT = "README.md", "recipe.lock.yaml", "report.json"
_MOST_BYTES = 1 << 26
_PIECE = 1 << 22


def prepare(run: Path, into: Path, about: About, backend: str | None = None, *, missed: bool = False) -> list[Path]:
    """Write the folder, which is made; the paths of its files. missed: also where a budget was missed.

    Raises UsageError for a run that did not end well, files that are not those that were measured, and a folder that holds
    something else.
    """
    report = read_report(run)
    _check_ended(report, run, missed)
    part = backend_part(report, backend)
    files = _measured_files(run, part.compressed)
    taken = sorted(path.name for path in into.iterdir()) if into.is_dir() else []
    others = [name for name in taken if name not in {*files, _CARD, _LOCK, _REPORT}]
    if others:
        raise UsageError(f"{into} holds {others[0]}", hint="name a new or empty folder")
    text = card(report, part, Path(part.compressed.path).name, about)
    into.mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
        _copy(file, into / name)
    write_whole(into / _LOCK, [_without_place(read_regular(run / _LOCK, _MOST_BYTES))])
    write_whole(into / _REPORT, [read_regular(run / _REPORT, _MOST_BYTES)])
    write_whole(into / _CARD, [text.encode(errors="replace")])
    return [into / name for name in (*files, _LOCK, _REPORT, _CARD)]


def _check_ended(report: Report, run: Path, missed: bool) -> None:
    if report.status == "done" or (missed and report.status == "budget missed"):
        return
    hint = "--missed publishes it, and its card says so" if report.status == "budget missed" else None
    raise UsageError(f"{run}: {report.status}, which is nothing to publish", hint=hint)


def _measured_files(run: Path, found: Measurement) -> Mapping[str, Path]:
    """By name. Raises UsageError where one is not there any more, or has other bytes than were measured."""
    folder = (run / found.path).parent
    if not folder.resolve().is_relative_to(run.resolve()):
        raise UsageError(f"{run}: the report's file lies outside the run: {found.path}")
    files = {Path(name).name: folder / Path(name).name for name in found.files}
    for name, size in found.files.items():
        file = files[Path(name).name]
        if not file.is_file():
            raise UsageError(f"{file} is not there any more", hint="run the recipe again")
        if file.stat().st_size != size:
            raise UsageError(f"{file} is not the file that was measured: {size:,} bytes", hint="run the recipe again")
    return files


def _copy(file: Path, into: Path) -> None:
    with open_regular(file) as opened:
        write_whole(into, iter(lambda: opened.read(_PIECE), b""))


def _without_place(lock: bytes) -> bytes:
    """Without where the recipe lay on the machine that ran it."""
    content = yaml.safe_load(lock)
    if isinstance(content, dict) and "base" in content:
        content["base"] = "."
    return yaml.safe_dump(for_others(content), sort_keys=False, allow_unicode=True).encode()
