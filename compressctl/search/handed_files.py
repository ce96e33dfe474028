"""Which files of a search's folder were handed over, and of which model: what a later start leaves, replaces or takes back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compressctl.core.regular_files import NotRegularError, read_regular
from compressctl.core.whole_files import write_whole
from compressctl.search.journal import FOLDER
from compressctl.search.recipes import FOLDER as RECIPES
from compressctl.search.recipes import PINNED, READABLE

RUN = "best"
_FILE = f"{FOLDER}/handed-over"


@dataclass(frozen=True)
class Handed:
    """subject: the key of the model, its samples and the target. files: names in the search's folder."""

    subject: str
    files: tuple[str, ...]


def note(folder: Path, subject: str, files: Sequence[str]) -> None:
    """Whole or not at all. Raises MachineError where the folder takes nothing."""
    write_whole(folder / _FILE, [json.dumps({"subject": subject, "files": list(files)}).encode()])


def earlier(folder: Path) -> Handed | None:
    """What the last start that handed something over left here; None where nobody did, or the note of it is damaged."""
    try:
        content = json.loads(read_regular(folder / _FILE))
        files = tuple(str(name) for name in content["files"] if Path(str(name)).name == name)
        return Handed(str(content["subject"]), files)
    except (OSError, NotRegularError, ValueError, LookupError, TypeError, RecursionError):
        return None


def take_back(folder: Path, handed: Handed | None, *, with_run: bool = False) -> None:
    """Nothing there is taken for the result of a start that hands nothing over. with_run: the run that measured it and the points' recipes go as well, which
    were another model's."""
    for name in (*(handed.files if handed is not None else ()), READABLE, PINNED, _FILE):
        (folder / name).unlink(missing_ok=True)
    if with_run:
        for place in (RUN, RECIPES):
            shutil.rmtree(folder / place, ignore_errors=True)
