"""Results at an address: each job's files, and then what says that they are all there."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compressctl.core.errors import MachineError, UsageError
from compressctl.core.failures import refusal
from compressctl.core.regular_files import open_regular
from compressctl.core.secrets import for_others
from compressctl.core.whole_files import FileInWriting
from compressctl.store.address import Address
from compressctl.store.downloads import check_sha256
from compressctl.store.objects import abort_unfinished, exists, listed, put, read, read_into, remove
from compressctl.zoo.results import (
    LOGS,
    MARK,
    RESULTS,
    RUNS,
    JobResult,
    read_result,
    write_result,
)

_MOST_BYTES = 8 << 20
_LARGEST_PAGE = 64 << 20
_PAGES = (
    *("report.html", "report.json", "report.md"),
    *("search.html", "search.json", "search.md", "recipe.yaml", "recipe.pinned.yaml"),
)
"""What a leaderboard leads to, and what is brought with a result; artifacts stay where they are."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(max_length=1000)]
    size: Annotated[int, Field(ge=0, le=1 << 50)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Stored(BaseModel):
    """What the store says of a job. folder: of its files, from the store's on. files: by their path in the zoo's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    result: JobResult
    folder: Annotated[str, Field(pattern=r"^runs/[A-Za-z0-9._@-]+/[0-9a-f]{16}$")]
    files: Annotated[tuple[_File, ...], Field(max_length=10_000)]


@dataclass
class ZooStore:
    """One zoo's results at an address. folder: the zoo's on this machine."""

    address: Address
    folder: Path
    _jobs: set[str] | None = field(default=None, init=False)
    _taken: dict[str, float] = field(default_factory=dict, init=False)
    """When jobs started whose results other machines put there while this one drives."""

    def claim(self, name: str) -> None:
        """Raises UsageError where another zoo's results lie there, and what asking the store raises."""
        mark = self.address.below(MARK)
        if exists(mark):
            there = _name(read(mark, _MOST_BYTES))
            if there != name:
                raise UsageError(
                    f"{self.address} holds the zoo {there}, and this one is {name}", hint="name another `store`"
                )
            return
        self._put_text(mark, json.dumps({"zoo": "compressctl/v1", "name": name}))

    def put(self, result: JobResult) -> None:
        """A job's files, then its result: whoever reads finds the one before or all of this one. Raises what putting raises."""
        if self._taken.get(result.job) == result.started:
            return
        words = for_others(result.model_dump(mode="json"))
        own = f"{RUNS}/{result.job}/{hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:16]}"
        runs = self.address.below(f"{RUNS}/{result.job}")
        abort_unfinished(runs)
        files = []
        for path, name in self._files(result):
            with open_regular(path) as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                files.append({"name": name, "size": stream.tell(), "sha256": digest})
            put(self.address.below(f"{own}/{name}"), path)
        said = {"result": words, "folder": own, "files": files}
        self._put_text(self._place(result.job), json.dumps(said, indent=1))
        if self._jobs is not None:
            self._jobs.add(result.job)
        kept = self.address.below(own).place + "/"
        for one in listed(runs):
            if not one.address.place.startswith(kept):
                remove(one.address)

    def take(self, result: JobResult) -> None:
        """One that another machine put there, with the pages that it leads to. Raises what asking the store raises."""
        self._names().add(result.job)
        self._taken[result.job] = result.started
        stored = self.look(result.job)
        if stored is not None:
            self.bring(stored)

    def has(self, job: str) -> bool:
        return job in self._names()

    def look(self, job: str) -> Stored | None:
        """What is said of a job; None where nothing is, or nothing that can be read: it is then run again. Raises what asking the store raises."""
        if not self.has(job):
            return None
        try:
            found = Stored.model_validate_json(read(self._place(job), _MOST_BYTES))
        except ValidationError:
            return None
        return found if found.result.job == job else None

    def bring(self, stored: Stored) -> JobResult:
        """The result onto this machine, with the pages that it leads to. Raises what asking the store raises."""
        job = stored.result.job
        if (self.folder / RUNS / job).is_symlink():
            raise UsageError(f"{self.folder / RUNS / job} is a link, and is not followed", hint="remove it")
        wanted = {f"{RUNS}/{job}/{page}" for page in _PAGES} | {f"{LOGS}/{job}.log"}
        for file in stored.files:
            if file.name in wanted and file.size <= _LARGEST_PAGE:
                self._bring(stored, file)
        write_result(self.folder, stored.result)
        return stored.result

    def bring_all(self) -> None:
        """Results that are not on this machine, or newer than those. Raises what asking the store raises."""
        for job in sorted(self._names()):
            stored, here = self.look(job), read_result(self.folder, job)
            if stored is not None and (here is None or here.started < stored.result.started):
                self.bring(stored)

    def _names(self) -> set[str]:
        if self._jobs is None:
            found = (one.address.name for one in listed(self.address.below(RESULTS)))
            self._jobs = {name.removesuffix(".json") for name in found if name.endswith(".json")}
        return self._jobs

    def _files(self, result: JobResult) -> Iterator[tuple[Path, str]]:
        """Regular ones, each with its path in the zoo's folder."""
        runs = self.folder / RUNS / result.job
        for path in (self.folder / LOGS / f"{result.job}.log", *sorted(runs.rglob("*"))):
            if path.is_file() and not path.is_symlink():
                yield path, path.relative_to(self.folder).as_posix()

    def _bring(self, stored: Stored, file: _File) -> None:
        place, target = self.address.below(f"{stored.folder}/{file.name}"), self.folder / file.name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileInWriting(target) as written:
                check_sha256(place.text, read_into(place, written.stream, file.size), file.sha256)
                written.keep()
        except OSError as error:
            raise refusal(error) or MachineError(f"{target} cannot be written: {error.strerror}") from error

    def _place(self, job: str) -> Address:
        return self.address.below(f"{RESULTS}/{job}.json")

    def _put_text(self, address: Address, text: str) -> None:
        with tempfile.TemporaryDirectory() as room:
            file = Path(room) / "file"
            file.write_text(text)
            put(address, file)


def _name(mark: bytes) -> str | None:
    try:
        return str(json.loads(mark)["name"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
