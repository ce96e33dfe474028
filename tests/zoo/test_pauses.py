"""One timing at a time, and jobs that stand still meanwhile."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from compressctl.measure.alone import is_possible, timing_alone
from compressctl.zoo.pauses import Pauses

pytestmark = pytest.mark.skipif(not is_possible(), reason="this system has no abstract sockets")

TIMING = """import pathlib, sys, time
from compressctl.measure.alone import timing_alone
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
with timing_alone():
    (folder / f"{name}-begins").write_text(repr(time.monotonic()))
    while not (folder / f"{name}-may-end").exists():
        time.sleep(0.01)
    (folder / f"{name}-ends").write_text(repr(time.monotonic()))
"""


@pytest.fixture(autouse=True)
def own_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else's timing stops what is started here."""
    monkeypatch.setenv("COMPRESSCTL_TIMING_GROUP", str(hash(tmp_path)))


@pytest.fixture
def start() -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Processes that end with the test: one that goes on timing would hold the whole machine."""
    started: list[subprocess.Popen[bytes]] = []

    def popen(*arguments: str) -> "subprocess.Popen[bytes]":
        started.append(subprocess.Popen([sys.executable, "-c", *arguments], process_group=0))
        return started[-1]

    yield popen
    for process in started:
        process.kill()
        process.wait()


Start = Callable[..., "subprocess.Popen[bytes]"]
BUSY = "while True: pass"


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def wait_until_it(process: psutil.Process, *statuses: str) -> None:
    """A signal that was sent is heard when the process is next given a processor."""
    while process.status() not in statuses:
        time.sleep(0.01)


def test_others_stand_still_while_one_times_and_go_on(tmp_path: Path, start: Start) -> None:
    with Pauses() as pauses:
        idle = start(BUSY)
        pauses.add(idle.pid)
        one = start(TIMING, str(tmp_path), "one")
        pauses.add(one.pid)
        wait_for(tmp_path / "one-begins")
        wait_until_it(psutil.Process(idle.pid), psutil.STATUS_STOPPED)
        assert psutil.Process(one.pid).status() != psutil.STATUS_STOPPED
        late = start(BUSY)
        pauses.add(late.pid)
        wait_until_it(psutil.Process(late.pid), psutil.STATUS_STOPPED)
        (tmp_path / "one-may-end").touch()
        wait_until_it(psutil.Process(idle.pid), psutil.STATUS_RUNNING)
        wait_until_it(psutil.Process(late.pid), psutil.STATUS_RUNNING)
        assert pauses.seconds(idle.pid) > 0
        assert pauses.seconds(one.pid) == 0


def test_all_who_have_jobs_stop_them(tmp_path: Path, start: Start) -> None:
    """On a node of a cluster each job has a worker of its own, and the worker knows no other job."""
    with contextlib.ExitStack() as stack:
        idle = [start("import time; time.sleep(600)") for _ in range(12)]
        for process in idle:
            stack.enter_context(Pauses()).add(process.pid)
        start(TIMING, str(tmp_path), "one")
        wait_for(tmp_path / "one-begins")
        for process in idle:
            wait_until_it(psutil.Process(process.pid), psutil.STATUS_STOPPED)


def test_one_that_is_killed_while_it_times_holds_nobody(tmp_path: Path, start: Start) -> None:
    with Pauses() as pauses:
        idle = start(BUSY)
        pauses.add(idle.pid)
        one = start(TIMING, str(tmp_path), "one")
        wait_for(tmp_path / "one-begins")
        one.kill()
        one.wait()
        wait_until_it(psutil.Process(idle.pid), psutil.STATUS_RUNNING)


def test_two_take_turns(tmp_path: Path, start: Start) -> None:
    """Also where no zoo runs."""
    one = start(TIMING, str(tmp_path), "one")
    wait_for(tmp_path / "one-begins")
    two = start(TIMING, str(tmp_path), "two")
    (tmp_path / "two-may-end").touch()
    (tmp_path / "one-may-end").touch()
    assert (one.wait(), two.wait()) == (0, 0)
    assert float((tmp_path / "one-ends").read_text()) <= float((tmp_path / "two-begins").read_text())


def test_a_timing_within_a_timing_waits_for_nobody() -> None:
    with timing_alone(), timing_alone() as waited:
        assert waited == 0
