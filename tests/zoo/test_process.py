"""One job in processes of its own: whatever it does, it is a result with its cause, and nothing of it is left."""

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from compressctl.core.failures import MEMORY_HINT
from compressctl.zoo import process
from compressctl.zoo.jobs import Job
from compressctl.zoo.keys import Planned
from compressctl.zoo.local import run_local
from compressctl.zoo.outcome import outcome_of
from compressctl.zoo.pauses import Pauses
from compressctl.zoo.process import Surroundings, run_job
from compressctl.zoo.results import JobResult, Outcome
from compressctl.zoo.schema import Resources

MEMORY = 300 << 20


@pytest.fixture
def around(tmp_path: Path) -> Iterator[Surroundings]:
    with Pauses() as pauses:
        yield Surroundings(tmp_path, "quick", True, 1, pauses, threading.Event(), threading.Event(), False)


def run(around: Surroundings, monkeypatch: pytest.MonkeyPatch, script: str, **limits: int) -> JobResult:
    """A job whose process runs this script as a module."""
    (around.folder / "poison.py").write_text(script)
    monkeypatch.setattr(process, "command", lambda job, around: ["poison"])
    monkeypatch.setenv("PYTHONPATH", str(around.folder))
    job = Job("poison", "poison", "r.yaml", "r", (), Resources(**limits), "")
    return run_job(Planned(job, "key"), around)


@pytest.mark.parametrize(
    ("script", "limits", "outcome", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", {}, Outcome.CRASHED, "SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", {}, Outcome.MEMORY, "killed"),
        ("while True: pass", {"time": 1}, Outcome.TIME, "more than the 1 s"),
        ("import signal, time; signal.signal(15, lambda *_: None)\nwhile True: time.sleep(1)", {"time": 1}, Outcome.TIME, "1 s"),
        ("x = []\nwhile True: x.append(bytearray(b'x') * (1 << 20))", {"memory": MEMORY}, Outcome.MEMORY, "may hold 315 MB"),
        ("open('/'.join([__import__('tempfile').gettempdir(), 'f']), 'wb').write(bytes(9 << 20)); import time; time.sleep(60)",
         {"disk": 1 << 20}, Outcome.DISK, "may take 1 MB"),
        ("print('error: a bug'); raise SystemExit(70)", {}, Outcome.BUG, "a bug"),
        ("print('what is it'); raise SystemExit(2)", {}, Outcome.INVALID, "what is it"),
        ("raise SystemExit(42)", {}, Outcome.BUG, "exit code 42"),
        ("print('no space left'); raise SystemExit(5)", {}, Outcome.MACHINE, "no space left"),
    ],
    ids=["crash", "killed", "endless", "deaf", "memory", "disk", "bug", "usage", "odd code", "machine"],
)  # fmt: skip
def test_the_cause_is_told(
    script: str,
    limits: dict[str, int],
    outcome: Outcome,
    says: str,
    around: Surroundings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "_GRACE", 0.5)
    result = run(around, monkeypatch, script, **limits)
    assert (result.outcome, says in result.message) == (outcome, True), result
    assert result.attempts == (2 if outcome is Outcome.MACHINE else 1)
    assert not (around.folder / "temporary" / "poison").exists()


def test_links_and_pipes_in_its_place_are_replaced(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of somebody's: nothing is written, waited for or removed where its links lead."""
    mine = around.folder / "mine"
    mine.mkdir()
    (mine / "file").write_text("mine")
    for name, target in (("temporary", mine), ("logs", mine / "file")):
        (around.folder / name).mkdir()
        (around.folder / name / ("poison" if name == "temporary" else "poison.log")).symlink_to(target)
    assert run(around, monkeypatch, "print('said')").outcome is Outcome.GOOD
    assert (mine / "file").read_text() == "mine"
    log = around.folder / "logs" / "poison.log"
    assert log.read_text() == "said\n"
    log.unlink()
    os.mkfifo(log)
    assert run(around, monkeypatch, "print('again')").outcome is Outcome.GOOD
    assert log.read_text() == "again\n"


def test_its_children_end_with_it(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(__file__).with_name("child").write_text(str(child.pid))
"""
    assert run(around, monkeypatch, script).outcome is Outcome.GOOD
    with contextlib.suppress(psutil.NoSuchProcess):
        child = psutil.Process(int((around.folder / "child").read_text()))
        while child.status() != psutil.STATUS_ZOMBIE:  # the signal is on its way
            time.sleep(0.01)


def test_it_is_stopped_with_the_whole(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    threading.Timer(0.5, around.stop.set).start()
    result = run(around, monkeypatch, "import time; time.sleep(600)")
    assert result.outcome is Outcome.INTERRUPTED


def test_it_dies_with_its_driver(tmp_path: Path) -> None:
    """Of a driver that was killed nobody else ends the jobs, and the next one would run them beside these."""
    limited = Path(process.__file__).with_name("_limited.py")
    driver = f"""import json, os, pathlib, subprocess, sys, time
python = sys.executable
job = [python, {str(limited)!r}, json.dumps({{"data": None}}), str(os.getpid()), python, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(job, process_group=0)
pathlib.Path("pid").write_text(str(child.pid))
pathlib.Path("pid").rename("child")
time.sleep(600)
"""
    (tmp_path / "driver.py").write_text(driver)
    started = psutil.Popen([sys.executable, "driver.py"], cwd=tmp_path)
    while not (tmp_path / "child").exists():
        time.sleep(0.02)
    child = psutil.Process(int((tmp_path / "child").read_text()))
    while "sleep" not in " ".join(child.cmdline()[:3]):  # it is what it becomes once its limits are set
        time.sleep(0.02)
    started.send_signal(signal.SIGKILL)
    started.wait()
    _, alive = psutil.wait_procs([child], timeout=20)
    assert not alive


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system does not list threads")
@pytest.mark.parametrize("cores", [1, 2])
def test_a_runtime_computes_on_as_many_threads_as_it_may_have(
    cores: int, around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime does not read what others do; its caller is one of the threads."""
    script = """import os
from onnx import TensorProto, helper
from compressctl.backends.onnxruntime.session import serving_options
from compressctl.core.target import Target
from compressctl.graph.session import open_graph

def threads():
    return len(os.listdir("/proc/self/task"))

sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", sides[:1], sides[1:]))
model.ir_version, counts = 8, [threads()]
sessions = [open_graph(model)]
counts.append(threads())
sessions.append(open_graph(model, serving_options(Target("onnxruntime", threads=0))))
counts.append(threads())
print(counts[1] - counts[0] + 1, counts[2] - counts[1] + 1)
raise SystemExit(2)
"""
    said = run(around, monkeypatch, script, cores=cores)
    assert said.message == f"{cores} {cores}"


def test_signals_that_its_parent_blocks_reach_it(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's workers block Ctrl-C, and what a process starts inherits that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        said = run(around, monkeypatch, "import signal; print(signal.pthread_sigmask(0, ())); raise SystemExit(2)")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert said.message == "set()"


def test_a_job_does_not_write_to_the_page_of_a_ci_job_and_runs_without_a_cache_or_strictly_when_told(
    around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "page.md")
    said = run(around, monkeypatch, "import os, sys; print(os.environ.get('GITHUB_STEP_SUMMARY')); sys.exit(2)")
    assert said.message == "None"
    monkeypatch.undo()
    job = Job("a", "a", "r.yaml", "r", (), Resources(), "")
    assert "--no-cache" not in process.command(job, around)
    assert "--no-cache" in process.command(job, dataclasses.replace(around, is_cached=False))
    assert "--strict" not in process.command(job, around)
    assert "--strict" in process.command(job, dataclasses.replace(around, is_strict=True))


def test_an_error_of_the_driver_stops_what_runs(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where its folder takes no result: a pool would wait for jobs of an hour."""
    monkeypatch.setattr(
        process, "command", lambda job, around: ["timeit", "-n1", "-r1", f"import time; time.sleep({job.id})"]
    )

    def tell(result: JobResult) -> None:
        raise OSError("no space")

    jobs = [Planned(Job(seconds, seconds, "r.yaml", "r", (), Resources(), ""), "key") for seconds in ("0", "600")]
    with pytest.raises(OSError, match="no space"):
        run_local(iter(jobs), around, tell, workers=2)


def test_what_an_attempt_before_reported_is_not_told_of_one_that_was_killed(
    around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_folder = around.folder / "runs/poison"
    run_folder.mkdir(parents=True)
    for name in ("report.json", "report.html"):
        (run_folder / name).write_text("of another recipe")
    (run_folder / "mine.txt").write_text("mine")
    result = run(around, monkeypatch, "import os; os.kill(os.getpid(), 9)")
    assert (result.outcome, result.report) == (Outcome.MEMORY, None)
    assert [file.name for file in run_folder.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ("error: No space left on device: runs/memory-net/f\n   free some space", Outcome.MACHINE),
        (f"error: not enough memory\n   {MEMORY_HINT}", Outcome.MEMORY),
    ],
    ids=["a name", "the system's"],
)
def test_want_of_memory_is_told_by_the_kind_of_error(said: str, outcome: Outcome, tmp_path: Path) -> None:
    """Names of files stand in messages."""
    (tmp_path / "log").write_text(f"{said}\n")
    assert outcome_of(5, None, "", tmp_path / "report.json", tmp_path / "log")[0] is outcome
