"""Results of shards, which ran on machines of their own, in one folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from compressctl.core.errors import UsageError
from compressctl.zoo.results import JobResult, all_results, check_own, read_result, write_mark, write_result, zoo_name

MOST_SHARDS = 256
"""Jobs of one matrix on GitHub."""


def merge(folders: Sequence[Path], into: Path) -> tuple[str, int]:
    """Copy all results; of a job that several folders have, the one that began last. Returns the zoo's name, and how many jobs there are.

    Reports and logs stay where they are, and the results' paths lead there. Raises UsageError for folders of different zoos.
    """
    names = {_name(folder) for folder in (*folders, *([into] if into.exists() else []))}
    if len(names) > 1:
        raise UsageError(f"these are different zoos: {', '.join(sorted(names))}", hint="merge the shards of one")
    (name,) = names
    check_own(into)
    jobs = set()
    for folder in folders:
        for result in all_results(folder):
            jobs.add(result.job)
            there = read_result(into, result.job)
            if there is None or there.started < result.started:
                write_result(into, _moved(result, folder, into))
    if not jobs:
        raise UsageError("there are no results to merge")
    write_mark(into, name)
    return name, len(jobs)


def _name(folder: Path) -> str:
    name = zoo_name(folder)
    if name is None:
        raise UsageError(f"{folder} holds no zoo", hint="name folders that `compressctl zoo apply` wrote")
    return name


def shards_of(jobs: int, each: int) -> Iterator[str]:
    """As `--shard` takes them: enough that none has more than `each` jobs on average, and no more than a matrix may have."""
    count = max(1, min(MOST_SHARDS, -(-jobs // each)))
    return (f"{index}/{count}" for index in range(1, count + 1))


def _moved(result: JobResult, folder: Path, into: Path) -> JobResult:
    def path(text: str | None) -> str | None:
        return Path(os.path.relpath(folder / text, into)).as_posix() if text else text

    return result.model_copy(
        update={"found_recipe": path(result.found_recipe), "report": path(result.report), "log": path(result.log) or ""}
    )
