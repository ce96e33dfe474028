"""Where a run's files go: `runs/<name>/<time>-<hash>/`, or the folder that the user named."""

from __future__ import annotations

import time
from pathlib import Path

from compressctl.core.errors import UsageError
from compressctl.core.failures import refusal

_MARK = "events.jsonl"
"""What every run folder holds from its first moment on."""


def make_run_folder(output: Path | None, name: str, digest: str) -> Path:
    """Create the folder and return it.

    Raises UsageError when the named one holds something that is not a run, MachineError where nothing may be written.
    """
    if output is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        folder = Path("runs") / name / f"{stamp}-{digest[:8]}"
        while folder.exists():
            folder = folder.with_name(folder.name + "x")
    else:
        folder = output
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file", hint="name a new or empty folder for --output")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / _MARK).exists():
            raise UsageError(f"{folder} is not empty and holds no run", hint="name a new or empty folder for --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MARK).touch()
    except OSError as error:
        raise refusal(error) or UsageError(
            f"cannot write to {folder}: {error.strerror}", hint="choose another --output"
        ) from error
    return folder
