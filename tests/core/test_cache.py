"""The cache: whole entries or none, whatever happens while they are written or afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compressctl.core.cache import Cache

KEY = "ab" * 32


def _fill(folder: Path, text: str = "content") -> None:
    (folder / "part").mkdir()
    (folder / "part" / "file.txt").write_text(text)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert KEY not in cache
    cache.write(KEY, _fill)
    folder = cache.read(KEY)
    assert folder is not None
    assert (folder / "part" / "file.txt").read_text() == "content"


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        _fill(folder)
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        Cache(tmp_path).write(KEY, fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["changed", "missing", "manifest"])
def test_a_damaged_entry_is_not_read_and_is_removed(tmp_path: Path, damage: str) -> None:
    cache = Cache(tmp_path)
    cache.write(KEY, _fill)
    file = tmp_path / KEY / "part" / "file.txt"
    if damage == "changed":
        file.write_text("c0ntent")
    elif damage == "missing":
        file.unlink()
    else:
        (tmp_path / KEY / "manifest.json").write_text('["not", "a", "mapping"]')
    assert cache.read(KEY) is None
    assert KEY not in cache


def test_the_first_of_two_writers_wins_and_the_second_leaves_no_trace(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.write(KEY, lambda folder: _fill(folder, "first"))
    cache.write(KEY, lambda folder: _fill(folder, "second"))
    assert [entry.name for entry in tmp_path.iterdir()] == [KEY]
    assert (tmp_path / KEY / "part" / "file.txt").read_text() == "first"


_WRITER = """
import sys
from pathlib import Path
from compressctl.core.cache import Cache
for number in range(30):
    Cache(Path(sys.argv[1])).write(f"{number:064x}", lambda folder: (folder / "file").write_text("x" * 10_000))
"""


def test_processes_that_write_the_same_keys_at_once_leave_whole_entries(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)]) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert all(Cache(tmp_path).read(f"{number:064x}") for number in range(30))
    assert len(list(tmp_path.iterdir())) == 30


def test_trimming_removes_what_was_used_longest_ago(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for number in range(3):
        cache.write(f"{number:064x}", lambda folder: _fill(folder, "x" * 1000))
        os.utime(tmp_path / f"{number:064x}", (1000 + number, 1000 + number))
    assert cache.read(f"{0:064x}") is not None
    cache.trim(2500)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [f"{0:064x}", f"{2:064x}"]


def test_what_is_unfinished_outlives_its_process_and_goes_when_finished_or_old(tmp_path: Path) -> None:
    (Cache(tmp_path).unfinished(KEY) / "state").write_text("epoch 3")
    assert (Cache(tmp_path).unfinished(KEY) / "state").read_text() == "epoch 3"
    assert KEY not in Cache(tmp_path)
    Cache(tmp_path).finish(KEY)
    assert not list(Cache(tmp_path).unfinished(KEY).iterdir())
    os.utime(Cache(tmp_path).unfinished(KEY), (1000, 1000))
    Cache(tmp_path).trim(10**9)
    assert not list((tmp_path / "unfinished").iterdir())
