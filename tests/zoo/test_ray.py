"""Jobs on a Ray cluster: the same rows as anywhere, on another node where theirs is lost."""

import _thread
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from compressctl.core.errors import ExitCode, MachineError, UsageError
from compressctl.store.address import Address, parse
from compressctl.zoo import process, ray_cluster, ray_node
from compressctl.zoo.jobs import Job
from compressctl.zoo.keys import Planned
from compressctl.zoo.pauses import Pauses
from compressctl.zoo.process import Surroundings
from compressctl.zoo.ray_cluster import MOST_LOST, Cluster
from compressctl.zoo.ray_node import question, read_answer, run_on_node
from compressctl.zoo.results import MARK, JobResult, Outcome, read_result
from compressctl.zoo.schema import Resources
from compressctl.zoo.stored import ZooStore


@pytest.fixture
def around(tmp_path: Path) -> Iterator[Surroundings]:
    (tmp_path / MARK).write_text("{}")
    with Pauses() as pauses:
        yield Surroundings(tmp_path, "quick", True, 0, pauses, threading.Event(), threading.Event(), False)


def planned(name: str = "a", **resources: Any) -> Planned:
    return Planned(Job(name, name, "r.yaml", "r", (), Resources(**resources), ""), "key")


class TestOnANode:
    @pytest.fixture(autouse=True)
    def no_cluster(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ray_node, "_node", lambda: "here")

    def run(
        self, around: Surroundings, monkeypatch: pytest.MonkeyPatch, script: str, store: Address | None = None
    ) -> JobResult:
        (around.folder / "job.py").write_text(script)
        monkeypatch.setattr(process, "command", lambda job, around: ["job"])
        monkeypatch.setenv("PYTHONPATH", str(around.folder))
        return read_answer(run_on_node(question(planned(memory=1 << 30, ray={"timing": 1}), around, store))).result

    def test_a_job_is_the_same_as_on_any_machine(self, around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
        result = self.run(around, monkeypatch, "print('error: what is it'); raise SystemExit(2)")
        assert (result.outcome, result.message, result.host) == (Outcome.INVALID, "what is it", "here")

    def test_what_the_driver_asks_of_every_job_is_asked_on_the_node(
        self, around: Surroundings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = dataclasses.replace(around, measure="untimed", is_cached=False, is_strict=True, retries=7)

        def told(planned: Planned, here: Surroundings) -> JobResult:
            return process.unstarted(
                planned, Outcome.GOOD, f"{here.retries} {' '.join(process.command(planned.job, here))}"
            )

        monkeypatch.setattr(ray_node, "run_job", told)
        message = read_answer(run_on_node(question(planned(), asked, None))).result.message
        assert message == f"7 {' '.join(process.command(planned().job, asked))}"
        assert "--strict" in message

    def test_one_that_ray_interrupts_writes_what_it_has(
        self, around: Surroundings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ray raises KeyboardInterrupt in the main thread of the worker, as interrupt_main does."""

        def interrupt() -> None:
            while not (around.folder / "runs").exists():
                time.sleep(0.02)
            _thread.interrupt_main()

        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        threading.Thread(target=interrupt).start()
        script = "import pathlib, time; pathlib.Path(__file__).with_name('runs').mkdir(); time.sleep(600)"
        try:
            assert self.run(around, monkeypatch, script).outcome is Outcome.INTERRUPTED
        finally:
            signal.signal(signal.SIGINT, before)

    def test_another_version_is_refused(self, around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = question(planned(), around, None)
        monkeypatch.setattr(ray_node.compressctl, "__version__", "0.0.9")
        with pytest.raises(MachineError, match=r"here: it has compressctl 0\.0\.9"):
            read_answer(run_on_node(asked))

    def test_a_folder_that_it_does_not_see_is_refused(self, around: Surroundings) -> None:
        asked = question(planned(), around, None)
        (around.folder / MARK).unlink()
        with pytest.raises(MachineError, match="does not see"):
            read_answer(run_on_node(asked))

    def test_one_that_does_not_see_the_folder_puts_what_it_made_into_the_store(
        self, around: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (around.folder / MARK).unlink()
        store = parse(f"file://{tmp_path}/store")
        result = self.run(around, monkeypatch, "print('error: what is it'); raise SystemExit(2)", store)
        here = ZooStore(store, around.folder)
        here.take(result)
        here.put(result)  # as a driver does with every result; its own folder does not hold the files
        assert read_result(around.folder, "a") == result
        assert (around.folder / "logs/a.log").read_text() == "error: what is it\n"
        stored = ZooStore(store, around.folder).look("a")
        assert stored is not None
        assert [file.name for file in stored.files] == ["logs/a.log"]

    def test_the_shared_cache_is_the_drivers(self, around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COMPRESSCTL_SHARED_CACHE", "file:///shared")
        asked = question(planned(), around, None)
        monkeypatch.setenv("COMPRESSCTL_SHARED_CACHE", "file:///other")
        monkeypatch.setattr(
            ray_node,
            "run_job",
            lambda planned, around: process.unstarted(planned, Outcome.GOOD, os.environ["COMPRESSCTL_SHARED_CACHE"]),
        )
        assert read_answer(run_on_node(asked)).result.message == "file:///shared"


class FakeRay:
    """What the driver uses of the library. answers: for each task in turn, a result's outcome or an error."""

    class exceptions:  # noqa: N801  the module's name
        RayError = type("RayError", (Exception,), {})
        TaskCancelledError = type("TaskCancelledError", (RayError,), {})
        RayTaskError = type("RayTaskError", (RayError,), {})
        NodeDiedError = type("NodeDiedError", (RayError,), {})

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers
        self.tasks: list[tuple[str, dict[str, Any]]] = []
        self.cancelled: list[int] = []
        self.most_at_once = 0

    def init(self, **options: Any) -> None:
        pass

    def shutdown(self) -> None:
        pass

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 4.0, "memory": 8e9}}]

    def remote(self, body: Any) -> Any:
        def options(**given: Any) -> Any:
            return SimpleNamespace(remote=lambda asked: self._send(asked, given))

        return SimpleNamespace(options=options)

    def _send(self, asked: str, options: dict[str, Any]) -> int:
        self.tasks.append((asked, options))
        return len(self.tasks) - 1

    def wait(self, tasks: list[int], timeout: float) -> tuple[list[int], list[int]]:
        self.most_at_once = max(self.most_at_once, len(tasks))
        return tasks[:1], tasks[1:]

    def cancel(self, task: int) -> None:
        self.cancelled.append(task)

    def get(self, task: int) -> str:
        answer = self.answers[task]
        if isinstance(answer, Exception):
            raise answer
        job = json.loads(self.tasks[task][0])["planned"]["job"]["id"]
        result = process.unstarted(planned(job), answer, "")
        return json.dumps({"result": result.model_dump(mode="json"), "is_stored": False})


@pytest.fixture
def drive(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> Any:
    def driven(ray: FakeRay, jobs: list[Planned], most: int | None = None) -> list[JobResult]:
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setattr(ray_cluster, "_LOOK", 0.0)
        told: list[JobResult] = []
        Cluster("auto", most, None, lambda text: None).run(iter(jobs), around, told.append)
        return told

    return driven


class TestDriver:
    def test_a_job_whose_node_is_lost_is_sent_again(self, drive: Any) -> None:
        died = FakeRay.exceptions.NodeDiedError("it is dead, node ID: 0123456789abcdef0123, and so on")
        (result,) = drive(FakeRay([died, Outcome.GOOD]), [planned()])
        assert (result.outcome, result.lost) == (Outcome.GOOD, ("NodeDiedError, node 0123456789ab",))

    def test_one_under_which_nodes_are_lost_again_and_again_is_a_row(self, drive: Any) -> None:
        ray = FakeRay([FakeRay.exceptions.NodeDiedError("it is dead")] * 9)
        (result,) = drive(ray, [planned()])
        assert (result.outcome, len(ray.tasks), result.message) == (
            Outcome.MACHINE,
            MOST_LOST,
            "3 nodes or workers were lost under it; the last time: NodeDiedError",
        )

    def test_no_more_are_handed_over_than_said(self, drive: Any) -> None:
        ray = FakeRay([Outcome.GOOD] * 50)
        assert len(drive(ray, [planned(f"j{number}") for number in range(50)], most=3)) == 50
        assert ray.most_at_once == 3

    def test_a_job_asks_for_what_it_may_take(self, drive: Any) -> None:
        ray = FakeRay([Outcome.GOOD])
        drive(ray, [planned(cores=2, memory=1 << 30, ray={"timing": 1, "GPU": 1})])
        asked = ray.tasks[0][1]
        assert (asked["num_cpus"], asked["memory"], asked["num_gpus"], asked["resources"], asked["max_retries"]) == (
            2,
            1 << 30,
            1,
            {"timing": 1},
            0,
        )

    def test_one_that_no_node_is_large_enough_for_is_a_row_in_the_end(
        self, drive: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ray_cluster, "_LONGEST_WAIT", 0.0)
        monkeypatch.setattr(ray_cluster, "_LOOK_AT_NODES", 0.0)
        ray = FakeRay([])
        monkeypatch.setattr(ray, "wait", lambda tasks, timeout: ([], tasks))
        results = drive(ray, [planned(f"j{number}", cores=64) for number in range(30)])
        assert {(result.outcome, result.message) for result in results} == {
            (Outcome.MACHINE, "no node of the cluster is large enough: it asks for CPU 64")
        }
        assert ray.cancelled == list(range(30))

    def test_what_had_not_begun_when_all_was_stopped_has_no_row(
        self, drive: Any, around: Surroundings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ray = FakeRay([Outcome.INTERRUPTED, FakeRay.exceptions.TaskCancelledError()])
        send = ray._send
        monkeypatch.setattr(
            ray, "_send", lambda *of_task: (len(ray.tasks) == 1 and around.stop.set(), send(*of_task))[1]
        )
        (result,) = drive(ray, [planned("a"), planned("b")])
        assert (result.job, result.outcome, ray.cancelled) == ("a", Outcome.INTERRUPTED, [0, 1])

    def test_a_node_without_compressctl_is_named(self, drive: Any) -> None:
        error = FakeRay.exceptions.RayTaskError("Traceback\nModuleNotFoundError: No module named 'compressctl'")
        with pytest.raises(MachineError, match="No module named 'compressctl'"):
            drive(FakeRay([error]), [planned()])


MANIFEST = """zoo: compressctl/v1
defaults: {measure: quick, recipe: eight.yaml}
models:
  - {id: crash, model: {source: python, factory: ./poison.py:crash, input_shape: [8]}}
  - {id: nap, model: {source: python, factory: ./poison.py:nap, input_shape: [8]}}
"""
POISON = """import os, pathlib, signal, time

def crash():
    os.kill(os.getpid(), signal.SIGSEGV)

def nap():
    pathlib.Path(__file__).with_name("sleeps").touch()
    time.sleep(600)
"""


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "zoo.yaml").write_text(MANIFEST)
    (tmp_path / "poison.py").write_text(POISON)
    (tmp_path / "eight.yaml").write_text(
        "recipe: compressctl/v1\ntask: custom\nstages: [{use: quantize.weights, bits: 8, if_slower: keep}]\n"
    )
    return tmp_path


def start(zoo: Path, *arguments: str) -> "psutil.Popen":
    path = os.pathsep.join([str(zoo), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "HOME": str(zoo / "home"), "COMPRESSCTL_CACHE": str(zoo / "cache")}
    environment = {name: value for name, value in environment.items() if not name.startswith("RAY_")}
    return psutil.Popen(
        [sys.executable, "-m", "compressctl", "zoo", "apply", "zoo.yaml", *arguments],
        cwd=zoo,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(zoo: Path) -> dict[str, JobResult]:
    files = (zoo / "runs/zoo-zoo/results").glob("*.json")
    return {file.stem: JobResult.model_validate_json(file.read_text()) for file in files}


def test_without_the_library_the_command_says_what_to_install(zoo: Path) -> None:
    (zoo / "ray.py").write_text("raise ImportError('no ray here')")
    driver = start(zoo, "--executor", "ray")
    _, said = driver.communicate()
    assert (driver.returncode, "pip install 'compressctl[ray]'" in said) == (ExitCode.MISSING_DEPENDENCY, True), said


@pytest.mark.parametrize(
    ("address", "error", "says"),
    [
        ("ray://10.0.0.1:10001", UsageError, "from a node of the cluster"),
        ("http://10.0.0.1:8265", UsageError, "from a node of the cluster"),
        ("127.0.0.1:1", MachineError, "nothing answers at 127.0.0.1:1"),
        ("127.0.0.1:999999", MachineError, "nothing answers"),
    ],
)
def test_an_address_that_is_none_is_refused_at_once(
    address: str, error: type[Exception], says: str, around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", FakeRay([]))
    with pytest.raises(error, match=says):
        Cluster(address, None, None, print).run(iter([planned()]), around, print)


def test_an_address_is_for_ray_alone(zoo: Path) -> None:
    assert start(zoo, "--ray-address", "auto").wait() == ExitCode.USAGE


@pytest.mark.slow
class TestCluster:
    """Of one node, started for the run."""

    @pytest.fixture(autouse=True)
    def library(self) -> None:
        pytest.importorskip(
            "ray", reason="ray is not installed with the tools of development: pip install 'compressctl[ray]'"
        )

    @pytest.fixture
    def driver(self, zoo: Path) -> "Iterator[psutil.Popen]":
        """When one job has crashed and the other sleeps."""
        driver = start(zoo, "--executor", "ray", "--jobs", "2")
        while not ((zoo / "sleeps").exists() and "crash" in results(zoo)):
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.1)
        yield driver
        if driver.is_running():
            driver.kill()
        driver.wait()

    def test_a_crash_is_a_row_and_ctrl_c_ends_the_rest_and_the_home_folder_is_as_before(
        self, zoo: Path, driver: "psutil.Popen"
    ) -> None:
        driver.send_signal(signal.SIGINT)
        _, said = driver.communicate()
        assert driver.returncode == ExitCode.INTERRUPTED, said
        outcomes = {job: result.outcome for job, result in results(zoo).items()}
        assert outcomes == {"crash": Outcome.CRASHED, "nap": Outcome.INTERRUPTED}
        assert "Ray node" in results(zoo)["crash"].host
        assert not list((zoo / "home").iterdir())

    def test_a_job_whose_worker_is_lost_runs_again_no_slower_than_here_and_ends_with_its_driver(
        self, zoo: Path, driver: "psutil.Popen"
    ) -> None:
        (zoo / "sleeps").unlink()
        (worker,) = (one for one in driver.children(recursive=True) if one.name() == "ray::nap")
        worker.kill()
        while not (zoo / "sleeps").exists():
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.1)
        (job,) = (
            one
            for one in driver.children(recursive=True)
            if one.cmdline()[1:5] == ["-m", "compressctl", "apply", str(zoo / "eight.yaml")]
        )
        assert job.nice() == driver.nice()
        driver.kill()
        _, alive = psutil.wait_procs([job], timeout=60)
        assert not alive
