"""Exit codes, each through the command line: one message, no traceback, and the code that docs/exit-codes.md promises."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.shell import Finished, Shell
from typer.testing import CliRunner

from compressctl.backends.onnxruntime import BACKEND
from compressctl.cli.main import app
from compressctl.core.backend import Artifact
from compressctl.core.errors import EXIT_CODES, ExitCode, MachineError, StageError, UsageError
from compressctl.core.failures import exit_code, failed_stage, translated
from compressctl.core.target import Target

ROOT = Path(__file__).parents[2]


def in_a_shell(shell: Shell, command: str) -> Finished:
    """COMPRESSCTL in the command stands for the command line."""
    command = command.replace("COMPRESSCTL", f"{sys.executable} -m compressctl")
    done = subprocess.run(
        ["bash", "-c", command], cwd=shell.folder, env=shell.environment, capture_output=True, text=True
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def without_weights(folder: Path) -> str:
    """A recipe for a graph that adds its input to itself."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "twice",
        [value("x", TensorProto.FLOAT, ["n", 4])],
        [value("y", TensorProto.FLOAT, ["n", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, folder / "twice.onnx")
    (folder / "twice.yaml").write_text(
        "recipe: compressctl/v1\nmodel: {source: onnx, path: twice.onnx}\nstages: [{use: quantize.dynamic}]\n"
    )
    return "twice.yaml"


def test_the_page_the_readme_and_the_help_name_every_code() -> None:
    page = (ROOT / "docs/exit-codes.md").read_text()
    rows = {int(code): words for code, words in re.findall(r"^\| (\d+) \| ([^|]+) \|", page, re.MULTILINE)}
    assert rows == {int(code): words for code, words in EXIT_CODES.items()}
    assert set(EXIT_CODES) == set(ExitCode)
    assert "(docs/exit-codes.md)" in (ROOT / "README.md").read_text()
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert re.findall(r"^  (\d+) ", shown, re.MULTILINE) == [str(int(code)) for code in ExitCode]


def test_0_1_a_run_inside_its_budget_and_one_outside(shell: Shell) -> None:
    recipe = shell.recipe("plain.yaml", "  []", "budget: {size: 1KB}")
    assert shell.run("apply", recipe, "--output", "out").code == 1
    assert shell.run("check", "out", "--budget", "size=1MB").code == 0


def test_2_a_recipe_that_is_wrong(shell: Shell) -> None:
    done = shell.run("apply", shell.recipe("wrong.yaml", "  - {use: quantize.statik}"))
    assert (done.code, "did you mean quantize.static" in done.err) == (2, True)


def test_3_a_device_that_is_not_here(shell: Shell) -> None:
    done = shell.run("apply", shell.recipe("gpu.yaml", "  - {use: example.scale}", "target: {device: cuda}"))
    assert (done.code, "cannot run on cuda here" in done.err) == (3, True)


def test_4_a_stage_that_breaks(shell: Shell) -> None:
    done = shell.run("apply", shell.recipe("fail.yaml", "  - {use: example.fail, id: broken}"), "--output", "out")
    assert (done.code, "stage broken (example.fail) failed" in done.err) == (4, True)
    assert shell.report("out")["exit_code"] == 4


def test_5_a_stage_that_needs_more_memory_than_there_is(shell: Shell) -> None:
    done = shell.run("apply", shell.recipe("greedy.yaml", "  - {use: example.greedy, id: big}"), "--output", "out")
    assert done.code == 5, done.err
    assert "stage big (example.greedy): not enough memory" in done.err
    assert "Traceback" not in done.err
    assert shell.report("out")["exit_code"] == 5


@pytest.mark.parametrize(
    "command",
    [
        "ulimit -f 8; COMPRESSCTL apply whole.yaml --output out",
        "ulimit -f 8; COMPRESSCTL pack noise.onnx",
        "COMPRESSCTL list > /dev/full",
        "COMPRESSCTL --help > /dev/full",
    ],
    ids=["a run", "a packed file", "what a command prints", "help"],
)
def test_5_a_disk_that_takes_no_more(shell: Shell, command: str) -> None:
    shell.recipe("whole.yaml", "  - {use: example.scale}")
    noise = helper.make_tensor("noise", TensorProto.UINT8, (1 << 16,), os.urandom(1 << 16), raw=True)
    onnx.save(helper.make_model(helper.make_graph([], "noise", [], [], [noise])), shell.folder / "noise.onnx")
    done = in_a_shell(shell, command)
    assert done.code == 5, done.err
    assert re.search("File too large|No space left on device", done.err)
    assert "Traceback" not in done.err


def test_5_who_reads_the_output_may_leave_early(shell: Shell) -> None:
    done = in_a_shell(shell, "(COMPRESSCTL schema; echo $? >code) | true; cat code")
    assert done.out.strip() == "5"
    assert done.err == ""


def test_6_a_model_that_the_technique_has_nothing_to_do_with(shell: Shell) -> None:
    done = shell.run("apply", without_weights(shell.folder), "--output", "out")
    assert done.code == 6, done.err
    assert "nothing to quantize: no plain matrix product or recurrent layer has a float matrix" in done.err
    assert shell.report("out")["exit_code"] == 6


def test_70_a_bug_before_there_is_a_run(shell: Shell) -> None:
    done = shell.run("validate", shell.recipe("bug.yaml", "  - {use: example.buggy}"), TMPDIR=str(shell.folder))
    assert done.code == 70, done.err
    assert "this is a bug of compressctl or of a plugin: ZeroDivisionError: in a check" in done.err
    assert "Traceback" not in done.err
    (log,) = shell.folder.glob("compressctl-error-*.log")
    assert str(log) in done.err
    assert "ZeroDivisionError: in a check" in log.read_text()


def test_70_a_bug_while_a_run_measures_leaves_the_report(shell: Shell) -> None:
    recipe = shell.recipe("bug.yaml", "  - {use: example.scale}", "metric: example.broken")
    done = shell.run("apply", recipe, "--output", "out")
    assert done.code == 70, done.err
    assert "ZeroDivisionError: in a metric (in the metric example.broken)" in done.err
    assert "Traceback" not in done.err
    assert "ZeroDivisionError" in (shell.folder / "out" / "error.log").read_text()
    report = shell.report("out")
    assert (report["status"], report["exit_code"]) == ("failed", 70)
    assert [stage["use"] for stage in report["stages"]] == ["lower", "example.scale"]


def test_70_a_traceback_that_can_be_written_nowhere_is_printed(shell: Shell) -> None:
    shell.recipe("bug.yaml", "  - {use: example.buggy}")
    done = in_a_shell(shell, "ulimit -f 0; COMPRESSCTL validate bug.yaml")
    assert done.code == 70, done.err
    assert "ZeroDivisionError: in a check" in done.err
    assert "could not be written anywhere" in done.err


def test_5_a_runtime_that_finds_no_memory(tmp_path: Path) -> None:
    """The outputs take 64 TiB."""
    value = helper.make_tensor_value_info
    size = onnx.numpy_helper.from_array(np.array([2**44], np.int64), "size")
    graph = helper.make_graph(
        [helper.make_node("Expand", ["x", "size"], ["y"])],
        "large",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, ["n"])],
        [size],
    )
    path = tmp_path / "large.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    target = Target("onnxruntime")
    session = BACKEND.open(Artifact("onnxruntime", path, (path,)), target)
    with pytest.raises(MachineError, match=r"cannot run large\.onnx.*Expand node.*Failed to allocate memory"):
        session.run({"x": np.ones(1, np.float32)})


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (OSError(errno.ENOSPC, "x", "/full/file"), MachineError, "No space left on device: /full/file"),
        (OSError(errno.EDQUOT, "x"), MachineError, "quota exceeded"),
        (PermissionError(errno.EACCES, "x", "/there"), MachineError, "Permission denied: /there"),
        (OSError(errno.EROFS, "x", "/there"), MachineError, "Read-only file system: /there"),
        (MemoryError(), MachineError, "not enough memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), MachineError, "failed to map"),
        (RuntimeError("can't start new thread"), MachineError, "can't start new thread"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), MachineError, "can't allocate"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"), MachineError, "CUDA out of memory"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), MachineError, "No space left"),
        (OSError(errno.ENAMETOOLONG, "x", "a" * 300), UsageError, "File name too long"),
        (NotADirectoryError(errno.ENOTDIR, "x", "file/run"), UsageError, "Not a directory: file/run"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, Exception) else None,
)
def test_what_the_machine_refuses_is_told_from_bugs(error: Exception, kind: type[Exception], says: str) -> None:
    found = translated(error)
    assert type(found) is kind
    assert says in str(found)
    assert found.hint
    assert exit_code(error) is found.exit_code
    assert type(failed_stage("stage a", error, Path())) is kind


@pytest.mark.parametrize("error", [KeyError("x"), FileNotFoundError(errno.ENOENT, "x"), OSError("no number")])
def test_everything_else_is_a_bug_outside_a_stage_and_a_failed_stage_inside(error: Exception, tmp_path: Path) -> None:
    assert exit_code(error) is translated(error, tmp_path).exit_code is ExitCode.BUG
    assert type(failed_stage("stage a", error, tmp_path)) is StageError
    assert type(error).__name__ in (tmp_path / "error.log").read_text()


def test_an_error_of_ours_stays_what_it_is() -> None:
    error = UsageError("no such file")
    assert translated(error) is error
    assert exit_code(error) is ExitCode.USAGE
    assert exit_code(KeyboardInterrupt()) is ExitCode.INTERRUPTED
