"""What rules ask of a model's file: read by a process of its own, which a damaged file may take along."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from compressctl.core.errors import CompressctlError, CrashError
from compressctl.core.private_folders import make_private
from compressctl.core.regular_files import read_regular
from compressctl.core.whole_files import write_whole
from compressctl.measure.child_process import ChildProcess

_VERSION = 1
_MOST_BYTES = 1 << 20
_LONGEST_SECONDS = 120


class ModelFacts(BaseModel):
    """ops: operators of all graphs, branches included. open_axes: whether an input has an axis without a size, the first aside.

    problem: why nothing else is known; None where it is.
    """

    model_config = ConfigDict(frozen=True)

    ops: tuple[str, ...] | None = None
    parameters: int | None = None
    size: int | None = None
    inputs: int | None = None
    open_axes: bool | None = None
    quantized: bool | None = None
    problem: str | None = None


@dataclass
class FactsReader:
    """Facts of one file after the other. folder: where what was read is kept, by the file's place, size and time of change, or by its content."""

    folder: Path | None = None
    _process: ChildProcess | None = field(default=None, init=False)

    def read(self, path: Path) -> ModelFacts:
        """Raises nothing for what is wrong with the file: see ModelFacts.problem."""
        try:
            found = path.stat()
        except (OSError, ValueError):
            return self._ask(path)
        return self._read(f"{os.path.realpath(path)}\0{found.st_size}\0{found.st_mtime_ns}", lambda: path)

    def read_content(self, sha256: str | None, fetch: Callable[[], Path]) -> ModelFacts:
        """The same of a file whose content is known. fetch: brings it where nothing is kept of it; what it raises is raised."""
        return self._read(sha256, fetch) if sha256 is not None else self.read(fetch())

    def _read(self, mark: str, find: Callable[[], Path]) -> ModelFacts:
        kept = self._kept_at(mark)
        if kept is not None and (known := _read(kept)) is not None:
            return known
        facts = self._ask(find())
        if kept is not None and facts.problem is None:
            with suppress(OSError, CompressctlError):  # a cache that takes nothing is none
                make_private(kept.parent)
                write_whole(kept, [facts.model_dump_json(exclude_none=True).encode()])
        return facts

    def close(self) -> None:
        if self._process is not None:
            self._process.end()

    def _ask(self, path: Path) -> ModelFacts:
        if self._process is None:
            self._process = ChildProcess("compressctl.zoo.facts_worker")
        too_long = threading.Timer(_LONGEST_SECONDS, self._process.end)
        too_long.start()
        try:
            self._process.tell({"path": str(path)})
            answer, _ = self._process.hear(f"reading {path.name}", "onnx")
        except CrashError as error:
            self._process = None
            is_over = not too_long.is_alive()
            return ModelFacts(
                problem=f"{path}: reading took more than {_LONGEST_SECONDS} s" if is_over else error.message
            )
        finally:
            too_long.cancel()
        return ModelFacts.model_validate(answer)

    def _kept_at(self, mark: str) -> Path | None:
        if self.folder is None:
            return None
        named = f"{_VERSION}\0{mark}"
        return self.folder / f"{hashlib.sha256(named.encode(errors='surrogatepass')).hexdigest()[:32]}.json"


def _read(kept: Path) -> ModelFacts | None:
    try:
        return ModelFacts.model_validate_json(read_regular(kept, _MOST_BYTES))
    except (OSError, CompressctlError, ValidationError):
        return None
