"""`apply` and what it writes: every place, stage and signal that can stop a run ends it with its code, a message and a report."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hostile._case import Case
from hostile._models import network
from hostile._runs import fill_the_disk, recipe, remove, run_folder, stage, unmeasured
from onnx import numpy_helper
from support import waits

from compressctl.core.whole_files import lock


def report(case: Case, output: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((case.folder / output / "report.json").read_text())
    return found


def applies(case: Case, code: int, says: str, first: Any = unmeasured, output: str = "out", **more: Any) -> None:
    """A run that began: it leaves a report that holds the same code and words."""
    case.refuses("apply", recipe(case), "--output", output, code=code, says=says, first=first, leaves=[output], **more)
    found = report(case, output)
    assert found["exit_code"] == code
    assert says in (found["error"] or found["summary"][0])


# Places that are none, before there is a run.


def test_the_output_is_a_file(case: Case) -> None:
    (case.folder / "out").touch()
    case.refuses("apply", recipe(case), "--output", "out", code=2, says="out is a file")


def test_the_output_lies_in_a_file(case: Case) -> None:
    case.refuses("apply", recipe(case), "--output", "model.onnx/run/1", code=2, says="Not a directory")


def test_the_output_is_a_pipe(case: Case) -> None:
    os.mkfifo(case.folder / "out")
    case.refuses("apply", recipe(case), "--output", "out", code=2, says="out is a file")


def test_the_output_is_a_device(case: Case) -> None:
    case.refuses("apply", recipe(case), "--output", "/dev/null", code=2, says="/dev/null is a file")


def test_the_output_is_a_link_to_itself(case: Case) -> None:
    (case.folder / "out").symlink_to("out")
    case.refuses("apply", recipe(case), "--output", "out", code=2, says="out")


def test_the_output_is_a_link_to_nothing(case: Case) -> None:
    (case.folder / "out").symlink_to("gone/away")
    case.refuses("apply", recipe(case), "--output", "out", code=2, says="out")


def test_the_output_has_a_name_that_is_too_long(case: Case) -> None:
    case.refuses("apply", recipe(case), "--output", "x" * 300, code=2, says="File name too long")


def test_the_output_has_a_path_of_many_kilobytes(case: Case) -> None:
    case.refuses("apply", recipe(case), "--output", "/".join(["folder"] * 2000), code=2, says="File name too long")


def test_the_output_holds_something_else(case: Case) -> None:
    case.refuses("apply", recipe(case), "--output", ".", code=2, says="is not empty and holds no run")
    assert (case.folder / "model.onnx").exists()


def test_the_output_is_the_root_of_the_file_system(case: Case) -> None:
    case.refuses("apply", recipe(case), "--output", "/", code=2, says="/ is not empty and holds no run")


def test_the_output_is_where_the_kernel_speaks(case: Case) -> None:
    case.refuses("apply", recipe(case), "--output", "/proc/self/run", code=2, says="/proc/self/run")


def test_the_output_cannot_be_entered(case: Case) -> None:
    (case.folder / "closed").mkdir(mode=0o000)
    case.refuses("apply", recipe(case), "--output", "closed/run", code=5, says="Permission denied: closed/run")


def test_the_output_cannot_be_listed(case: Case) -> None:
    (case.folder / "out").mkdir(mode=0o300)
    case.refuses("apply", recipe(case), "--output", "out", code=2, says="path 'out' is not readable")


def test_the_output_takes_nothing(case: Case) -> None:
    (case.folder / "out").mkdir(mode=0o555)
    case.refuses("apply", recipe(case), "--output", "out", code=5, says="Permission denied: out")


def test_the_working_folder_takes_nothing(case: Case) -> None:
    """The default output lies in it."""
    name = recipe(case)
    case.folder.chmod(0o555)
    case.refuses("apply", name, code=5, says="Permission denied: runs")


def test_the_run_that_the_output_holds_is_of_another_recipe(case: Case) -> None:
    (case.folder / "out").mkdir()
    (case.folder / "out" / "events.jsonl").write_text('{"kind": "run.started", "name": "another"}\n')
    case.refuses("apply", recipe(case), "--output", "out", code=2, says="holds a run of the recipe another")


def test_the_mark_of_a_run_is_a_folder(case: Case) -> None:
    (case.folder / "out" / "events.jsonl").mkdir(parents=True)
    case.ends("apply", recipe(case), "--output", "out", code=0, first=unmeasured)


def test_the_mark_of_a_run_is_binary(case: Case) -> None:
    (case.folder / "out").mkdir()
    (case.folder / "out" / "events.jsonl").write_bytes(b"\xff\xfe\x00{")
    case.ends("apply", recipe(case), "--output", "out", code=0, first=unmeasured)


def test_the_mark_of_a_run_is_a_pipe(case: Case) -> None:
    (case.folder / "out").mkdir()
    os.mkfifo(case.folder / "out" / "events.jsonl")
    case.refuses("apply", recipe(case), "--output", "out", code=2, says="events.jsonl is a pipe, not a file")


def test_the_recipe_lies_in_the_output(case: Case) -> None:
    case.ends("apply", recipe(case), "--output", "out", code=0, first=unmeasured, leaves=["out"])
    (case.folder / "model.onnx").rename(case.folder / "out" / "model.onnx")
    changed = (case.folder / "recipe.yaml").read_text().replace("model.onnx", "out/model.onnx")
    (case.folder / "recipe.yaml").write_text(changed)
    case.refuses("apply", "recipe.yaml", "--output", "out", code=2, says="lies in the folder of this run")
    assert (case.folder / "out" / "model.onnx").exists()


# What an earlier run, or somebody, left in the output.


def test_links_in_the_place_of_what_a_run_leaves_are_removed_and_not_followed(case: Case) -> None:
    precious = case.root / "precious"
    precious.mkdir()
    (precious / "thesis.tex").touch()
    (case.folder / "out").mkdir()
    (case.folder / "out" / "events.jsonl").touch()
    for name in ("artifacts", "scratch", "report.json"):
        (case.folder / "out" / name).symlink_to(precious)
    case.ends("apply", recipe(case), "--output", "out", code=0, first=unmeasured)
    assert [path.name for path in precious.iterdir()] == ["thesis.tex"]
    assert not (case.folder / "out" / "report.json").is_symlink()


def test_folders_in_the_place_of_files_are_replaced(case: Case) -> None:
    for name in ("report.json", "report.html", "recipe.lock.yaml", "artifacts"):
        (case.folder / "out" / name).mkdir(parents=True)
    (case.folder / "out" / "events.jsonl").touch()
    case.ends("apply", recipe(case), "--output", "out", code=0, first=unmeasured)
    assert report(case)["status"] == "done"


def test_what_a_dead_writer_left_is_removed_and_a_living_ones_is_not(case: Case) -> None:
    out = case.folder / "out"
    for name in ("dead", "alive"):
        (out / f".writing-{name}").mkdir(parents=True)
        (out / f".writing-{name}" / "part").touch()
    (out / ".writing-file").touch()
    (out / "events.jsonl").touch()
    held = lock(out / ".writing-alive")
    assert held is not None
    try:
        process = case.start("apply", recipe(case), "--output", "out", first=unmeasured)
        case.finish(process, 0)
    finally:
        os.close(held)
    assert [path.name for path in out.glob(".writing-*")] == [".writing-alive"]


# What goes away, or fills up, while a run works.


def vanished_output() -> None:
    stage(lambda run: remove(run_folder(run)))


def test_the_output_vanishes_while_a_stage_works(case: Case) -> None:
    applies(case, 5, "out was removed while the run worked in it", vanished_output)


def vanished_working_folder() -> None:
    def vanish(run: Any) -> None:
        os.chdir(run_folder(run).parent / "lost")
        (run_folder(run).parent / "lost").rmdir()

    stage(vanish)


def test_the_working_folder_vanishes_while_a_stage_works(case: Case) -> None:
    (case.folder / "lost").mkdir()
    out = str(case.folder / "out")
    case.ends("apply", recipe(case), "--output", out, code=0, first=vanished_working_folder, leaves=["out"])
    assert report(case)["recipe_file"] is None


def full_disk() -> None:
    def fill(run: Any) -> None:
        fill_the_disk(run_folder(run))
        (run.folder / "more").write_bytes(b"x" * 100_000)

    stage(fill)


@pytest.fixture
def small_disk(case: Case) -> Iterator[Path]:
    """`out`, on a disk of 256 kB. Mounting one is root's."""
    out = case.folder / "out"
    out.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", out], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield out
    subprocess.run(["umount", out], check=True)


def test_the_disk_fills_up_while_a_stage_works(case: Case, small_disk: Path) -> None:
    """It fails, and the report does too: nothing half of it is left, and both are told."""
    done = case.refuses(
        "apply", recipe(case), "--output", "out", code=5, says="No space left on device", first=full_disk
    )
    assert "the report could not be written whole either" in done.err
    assert not (small_disk / "report.json").exists() or report(case)


def test_the_disk_has_room_for_a_part_of_the_report(case: Case, small_disk: Path) -> None:
    (small_disk / "events.jsonl").touch()
    (small_disk / "ballast").write_bytes(b"x" * 228 * 1024)
    done = case.refuses(
        "apply", recipe(case), "--output", "out", code=5, says="No space left on device", first=unmeasured
    )
    assert "report.json, report.md, report.junit.xml, report.sarif of it was written to out" in done.err
    assert report(case)["status"] == "done"


def test_the_output_is_mounted_to_be_read(case: Case, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    case.refuses("apply", recipe(case), "--output", "out", code=5, says="Read-only file system: out")


def small_files() -> None:
    unmeasured()
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def test_files_may_not_grow(case: Case) -> None:
    case.refuses(
        "apply", recipe(case), "--output", "out", code=5, says="File too large", first=small_files, leaves=["out"]
    )


def few_files() -> None:
    """In a stage, which could do without; what removes its scratch needs some itself."""

    def open_many(run: Any) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100,) * 2)
        held = []
        while True:
            held.append((run.folder / "file").open("w"))

    stage(open_many)


def test_a_stage_that_opens_more_files_than_it_may(case: Case) -> None:
    applies(case, 5, "stage q (quantize.dynamic): Too many open files", few_files)


def test_the_page_of_a_job_cannot_be_written(case: Case) -> None:
    done = case.ends(
        "apply",
        recipe(case),
        "--output",
        "out",
        code=0,
        first=unmeasured,
        leaves=["out"],
        GITHUB_STEP_SUMMARY="/none/s",
    )
    assert "warning: the job's summary page cannot be written" in done.err


# Models of odd numbers.


@pytest.mark.parametrize("size", [-5, 0])
def test_an_input_of_no_size_is_one_of_any_size(size: int, case: Case) -> None:
    """Exporters write -1 or 0 where a size is open, and ONNX Runtime takes any size there: it is no error, and the run ends with 0."""
    name = recipe(case)
    model = network()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    onnx.save(model, case.folder / "model.onnx")
    assert "in   x  float32 ?x8" in case.ends("inspect", "model.onnx", code=0).out
    case.ends("apply", name, "--output", "out", code=0, first=unmeasured, leaves=["out"])


LARGE = {
    "8 bits": "quantize.weights, bits: 8",
    "8 bits for a whole tensor": "quantize.weights, bits: 8, granularity: tensor, symmetric: false",
    "half-quadratic": "quantize.weights, bits: 4, method: hqq",
    "activations": "quantize.dynamic",
    "shared": "share.kmeans, clusters: 2",
}


@pytest.mark.parametrize("stages", LARGE.values(), ids=LARGE)
def test_weights_as_large_as_floats_can_be(stages: str, case: Case) -> None:
    """Their squares are not, and neither is what stands a grid's step beside them: nothing is said of the arithmetic."""
    name = recipe(case, f"[{{use: {stages}, if_slower: keep}}]")
    weight = np.full((8, 4), 3.4e38, np.float32) * np.tile([1, -1], (8, 2))
    onnx.save(network(numpy_helper.from_array(weight.astype(np.float32), "W")), case.folder / "model.onnx")
    done = case.ends("apply", name, "--output", "out", code=0, first=unmeasured, leaves=["out"])
    assert not done.err


# Stages that do what they should not.


def exits() -> None:
    stage(lambda run: sys.exit(0))


def test_a_stage_that_leaves_the_process_with_0(case: Case) -> None:
    applies(case, 4, "stage q (quantize.dynamic) failed: SystemExit: 0", exits)


def silent_error() -> None:
    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    def fail(run: Any) -> None:
        raise UnspeakableError

    stage(fail)


def test_a_stage_whose_error_cannot_be_printed(case: Case) -> None:
    applies(case, 4, "stage q (quantize.dynamic) failed: UnspeakableError", silent_error)


def endless_words() -> None:
    def fail(run: Any) -> None:
        raise ValueError("x" * 1_000_000)

    stage(fail)


def test_a_stage_whose_error_is_a_megabyte_long(case: Case) -> None:
    case.refuses(
        "apply",
        recipe(case),
        "--output",
        "out",
        code=4,
        says="failed: ValueError: xxx",
        first=endless_words,
        leaves=["out"],
    )


def too_deep() -> None:
    def fail(run: Any) -> None:
        fail(run)

    stage(fail)


def test_a_stage_that_recurses_forever(case: Case) -> None:
    applies(case, 4, "failed: RecursionError", too_deep)


def greedy() -> None:
    stage(lambda run: bytearray(1 << 60))


def test_a_stage_that_wants_more_memory_than_there_is(case: Case) -> None:
    applies(case, 5, "stage q (quantize.dynamic): not enough memory", greedy)


def creeping() -> None:
    def grow(run: Any) -> None:
        held = []
        while True:
            held.append(b"x" * (1 << 26))

    stage(grow)


def test_a_stage_that_takes_all_the_memory_that_it_may(case: Case) -> None:
    applies(case, 5, "stage q (quantize.dynamic): not enough memory", creeping, memory_bytes=1 << 29)


def full_device() -> None:
    stage(lambda run: Path("/dev/full").write_bytes(b"x"))


def test_a_stage_that_writes_to_a_full_disk_of_its_own(case: Case) -> None:
    applies(case, 5, "stage q (quantize.dynamic): No space left on device", full_device)


def raises_a_pipe() -> None:
    def fail(run: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    stage(fail)


def test_a_stage_whose_own_pipe_breaks(case: Case) -> None:
    """What reads the command's output is still there, and is told."""
    applies(case, 5, "stage q (quantize.dynamic): Broken pipe", raises_a_pipe)


# Signals.


def waiting() -> None:
    def wait(run: Any) -> None:
        run.events.emit("note", message="waiting")
        waits.for_a_signal()

    stage(wait)


def interrupted(case: Case, *numbers: signal.Signals) -> None:
    before = {path.name for path in case.folder.iterdir()}
    process = case.start("apply", recipe(case), "--output", "out", first=waiting)
    log = case.folder / "out" / "events.jsonl"
    while not (log.exists() and "waiting" in log.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    for number in numbers:
        process.send_signal(number)
    done = case.finish(process, 130)
    assert "interrupted" in done.err
    found = report(case)
    assert (found["status"], found["exit_code"]) == ("interrupted", 130)
    assert found["not_done"] == ["q", "export-onnxruntime"]
    case.is_clean({path.name for path in case.folder.iterdir()} - before - {"out", "model.onnx", "recipe.yaml"}, 130)


def test_a_terminal_that_is_closed(case: Case) -> None:
    interrupted(case, signal.SIGHUP)


def test_a_job_that_is_cancelled(case: Case) -> None:
    interrupted(case, signal.SIGTERM)


def test_ctrl_c(case: Case) -> None:
    interrupted(case, signal.SIGINT)


def test_a_shutdown_that_sends_everything(case: Case) -> None:
    interrupted(case, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP, signal.SIGTERM)


def under_nohup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stage(lambda run: os.kill(os.getpid(), signal.SIGHUP))


def test_a_terminal_that_is_closed_under_nohup(case: Case) -> None:
    case.ends("apply", recipe(case), "--output", "out", code=0, first=under_nohup, leaves=["out"])


def cancelled_at_its_end() -> None:
    from compressctl.core.cache import Cache

    unmeasured()
    Cache.trim = lambda cache, limit: os.kill(os.getpid(), signal.SIGTERM)


def test_a_job_that_is_cancelled_when_its_end_is_decided(case: Case) -> None:
    """The report is written, and the run has the end that it had."""
    case.ends("apply", recipe(case), "--output", "out", code=0, first=cancelled_at_its_end, leaves=["out"])
    assert report(case)["status"] == "done"


# Time.


@pytest.mark.parametrize("text", ["soon", "0s", "-5m", "1e9h", "9" * 400 + "h", "", "nan"])
def test_a_time_limit_that_is_none(case: Case, text: str) -> None:
    case.refuses("apply", recipe(case), f"--time-limit={text}", code=2, says="not a duration")


def slow_stage() -> None:
    def work(run: Any) -> None:
        while True:
            run.events.progress("searching", 1, 1000)
            time.sleep(0.01)

    stage(work)


def test_a_time_limit_within_a_stage(case: Case) -> None:
    arguments = ("apply", recipe(case), "--output", "out", "--time-limit", "1s")
    case.refuses(*arguments, code=124, says="came to its time limit", first=slow_stage, leaves=["out"])
    found = report(case)
    assert (found["status"], found["exit_code"]) == ("time limit", 124)
    assert found["not_done"] == ["q", "export-onnxruntime"]


def backwards() -> None:
    """The clock is set back by an hour with every look at it."""
    unmeasured()
    now = time.time()
    looks = iter(range(1_000_000))
    time.time = lambda: now - 3600 * next(looks)


def test_a_clock_that_goes_back(case: Case) -> None:
    case.ends("apply", recipe(case), "--output", "out", code=0, first=backwards, leaves=["out"])
    found = report(case)
    assert 0 < found["seconds"] < 60
    assert all(stage["seconds"] >= 0 for stage in found["stages"])
