"""What the machine refuses every command: disks, rights, streams, folders that are gone. Each ends as one message with its own exit code."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hostile._case import Case, names
from hostile._models import network
from hostile._runs import fill_the_disk, recipe, unmeasured
from onnx import numpy_helper


@pytest.fixture
def disk(case: Case) -> Iterator[Path]:
    """`disk`, of 64 kB. Mounting one is root's."""
    folder = case.folder / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def noise(case: Case) -> str:
    """A model of 256 kB, which no packing makes smaller."""
    model = network()
    data = np.random.default_rng(0).integers(0, 256, 1 << 18, np.uint8)
    model.graph.initializer.append(numpy_helper.from_array(data, "noise"))
    onnx.save(model, case.folder / "noise.onnx")
    return "noise.onnx"


def packed(case: Case) -> str:
    process = case.start("pack", noise(case))
    case.finish(process, 0)
    return "noise.cctl"


def a_run(case: Case) -> Path:
    process = case.start("apply", recipe(case), "--output", "out", first=unmeasured)
    case.finish(process, 0)
    return case.folder / "out"


# Full disks.


def test_packing_onto_a_full_disk(case: Case, disk: Path) -> None:
    case.refuses("pack", noise(case), "--output", "disk/m.cctl", code=5, says="No space left", leaves=["noise.onnx"])
    assert not names(disk)


def test_unpacking_onto_a_full_disk(case: Case, disk: Path) -> None:
    case.refuses("unpack", packed(case), "--output", "disk/m.onnx", code=5, says="No space left")
    assert not names(disk)


def test_exporting_onto_a_full_disk(case: Case, disk: Path) -> None:
    fill_the_disk(disk)
    arguments = ("export", noise(case), "--to", "onnxruntime", "--output", "disk")
    case.refuses(*arguments, code=5, says="No space left", leaves=["noise.onnx"])
    assert [path.name for path in disk.rglob("*") if path.is_file()] == ["ballast"]


def test_a_starter_recipe_on_a_full_disk(case: Case, disk: Path) -> None:
    (case.folder / "m.onnx").write_bytes(network().SerializeToString())
    fill_the_disk(disk)
    case.refuses("init", "m.onnx", "--output", "disk/made.yaml", code=5, says="No space left")
    assert names(disk) == {"ballast"}


def test_a_schema_on_a_full_disk(case: Case, disk: Path) -> None:
    fill_the_disk(disk)
    case.refuses("schema", "--output", "disk/schema.json", code=5, says="No space left")
    assert names(disk) == {"ballast"}


def test_a_report_that_is_written_again_on_a_full_disk(case: Case, disk: Path) -> None:
    shutil.copy(a_run(case) / "report.json", disk)
    fill_the_disk(disk)
    before = (disk / "report.json").read_bytes()
    case.refuses("report", "disk", code=5, says="No space left")
    assert names(disk) == {"ballast", "report.json"}
    assert (disk / "report.json").read_bytes() == before


def test_migrating_a_recipe_on_a_full_disk(case: Case, disk: Path) -> None:
    text = "recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\ntarget: {batch: 1}\nstages: []\n"
    (disk / "old.yaml").write_text(text)
    fill_the_disk(disk)
    case.refuses("migrate", "disk/old.yaml", code=5, says="No space left")
    assert (disk / "old.yaml").read_text() == text


# Folders that may only be read.


def closed(case: Case) -> Path:
    folder = case.folder / "closed"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o555)
    return folder


def test_packing_into_a_folder_that_may_only_be_read(case: Case) -> None:
    name = noise(case)
    closed(case)
    case.refuses("pack", name, "--output", "closed/m.cctl", code=5, says="Permission denied: closed/m.cctl")


def test_unpacking_into_a_folder_that_may_only_be_read(case: Case) -> None:
    name = packed(case)
    closed(case)
    case.refuses("unpack", name, "--output", "closed/m.onnx", code=5, says="Permission denied: closed/m.onnx")


def test_exporting_into_a_folder_that_may_only_be_read(case: Case) -> None:
    name = noise(case)
    closed(case)
    arguments = ("export", name, "--to", "onnxruntime", "--output", "closed/made")
    case.refuses(*arguments, code=5, says="Permission denied: closed/made")


def test_a_report_that_may_only_be_read(case: Case) -> None:
    a_run(case).chmod(0o555)
    case.refuses("report", "out", code=5, says="Permission denied: ")


def test_a_file_that_may_not_be_read(case: Case) -> None:
    (case.folder / noise(case)).chmod(0o000)
    case.refuses("inspect", "noise.onnx", code=5, says="Permission denied")


def test_a_recipe_that_may_not_be_read(case: Case) -> None:
    (case.folder / recipe(case)).chmod(0o000)
    case.refuses("validate", "recipe.yaml", code=2, says="path 'recipe.yaml' is not readable")


# Outputs that are no files.


def test_a_device_is_not_replaced(case: Case) -> None:
    (case.folder / "null").symlink_to("/dev/null")
    arguments = ("pack", noise(case), "--output", "null", "--force")
    case.refuses(*arguments, code=2, says="null is a device or a pipe", leaves=["noise.onnx"])


def test_a_pipe_is_not_replaced(case: Case) -> None:
    os.mkfifo(case.folder / "pipe")
    case.refuses("schema", "--output", "pipe", code=2, says="pipe is a device or a pipe")


def test_a_folder_is_not_replaced(case: Case) -> None:
    (case.folder / "made").mkdir()
    case.refuses("schema", "--output", "made", code=2, says="Is a directory: made")


def test_a_name_that_is_too_long(case: Case) -> None:
    case.refuses("schema", "--output", "x" * 300, code=2, says="File name too long: xxx")


def test_a_folder_that_is_not_there(case: Case) -> None:
    case.refuses("schema", "--output", "no/such/schema.json", code=2, says="cannot write no/such/schema.json")


def test_an_argument_of_a_megabyte(case: Case) -> None:
    """As long as the system takes one."""
    case.refuses("inspect", "x" * 100_000, code=2, says="xxx")


def test_an_option_of_many_kilobytes(case: Case) -> None:
    case.refuses("list", "--" + "x" * 100_000, code=2, says="No such option")


def test_a_command_of_many_kilobytes(case: Case) -> None:
    case.refuses("x" * 100_000, code=2, says="there is no command")


# Streams.


def closed_output() -> None:
    os.close(1)
    sys.stdout = None


def test_standard_output_is_closed(case: Case) -> None:
    """What is opened next gets its number: no file is written into by whatever prints."""
    (case.folder / "m.onnx").write_bytes(network().SerializeToString())
    case.ends("pack", "m.onnx", code=0, first=closed_output, leaves=["m.cctl"])
    case.ends("unpack", "m.cctl", "--output", "back.onnx", code=0, leaves=["back.onnx"])
    assert (case.folder / "back.onnx").read_bytes() == (case.folder / "m.onnx").read_bytes()


def closed_streams() -> None:
    for number in range(3):
        os.close(number)
    sys.stdin = sys.stdout = sys.stderr = None


def test_all_streams_are_closed(case: Case) -> None:
    process = case.start("apply", recipe(case), "--output", "out", first=_unmeasured_without_streams)
    assert process.wait() == 0
    assert (case.folder / "out" / "report.html").exists()


def _unmeasured_without_streams() -> None:
    unmeasured()
    closed_streams()


def full_output() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def test_standard_output_is_full(case: Case) -> None:
    case.refuses("list", code=5, says="No space left on device", first=full_output)


def _unmeasured_and_full() -> None:
    unmeasured()
    full_output()


def test_standard_output_is_full_while_a_run_works(case: Case) -> None:
    """It goes on to its report, and says at its end that it could not be read along."""
    arguments = ("apply", recipe(case), "--output", "out")
    case.refuses(*arguments, code=5, says="No space left on device", first=_unmeasured_and_full, leaves=["out"])
    assert '"status": "done"' in (case.folder / "out" / "report.json").read_text()


def no_reader() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)
    sys.stdout = os.fdopen(1, "w", closefd=False)


def test_nobody_reads(case: Case) -> None:
    process = case.start("schema", first=no_reader)
    assert process.communicate() == ("", "")
    assert process.wait() == 5


def _unmeasured_and_unread() -> None:
    unmeasured()
    no_reader()


def test_nobody_reads_what_a_run_says(case: Case) -> None:
    process = case.start("apply", recipe(case), "--output", "out", first=_unmeasured_and_unread)
    assert process.wait() == 5
    assert '"status": "done"' in (case.folder / "out" / "report.json").read_text()


def test_nobody_hears_the_error(case: Case) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "compressctl", "inspect", "none.onnx"]
    done = subprocess.run(command, cwd=case.folder, env=case.environment(**paths), stderr=writing)
    os.close(writing)
    assert done.returncode == 2


def ascii_alone() -> None:
    """As PYTHONIOENCODING=ascii makes them."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="ascii", errors="strict")


def test_a_terminal_without_the_letters(case: Case) -> None:
    (case.folder / "größe.yaml").write_text("recipe: compressctl/v1\nmodell: 日本\n", encoding="utf-8")
    done = case.refuses("validate", "größe.yaml", code=2, says=r"gr\xf6\xdfe.yaml", first=ascii_alone)
    assert done.err.isascii()


def test_a_table_on_a_terminal_without_the_letters(case: Case) -> None:
    model = network()
    model.graph.node[0].name = "層/重み"
    onnx.save(model, case.folder / "m.onnx")
    assert case.ends("inspect", "m.onnx", code=0, first=ascii_alone).out.isascii()


# Folders that are gone.


def gone() -> None:
    Path("lost").mkdir()
    os.chdir("lost")
    Path("../lost").rmdir()


def test_the_working_folder_is_gone(case: Case) -> None:
    case.refuses("apply", "builtin:quickstart", code=5, says="the folder in which this was started is gone", first=gone)


def test_a_command_that_needs_no_folder_works_in_one_that_is_gone(case: Case) -> None:
    case.ends("validate", "builtin:quickstart", code=0, first=gone)


def test_nothing_asks_for_the_working_folder_when_it_is_imported(tmp_path: Path) -> None:
    script = "import os; os.chdir('lost'); os.rmdir('../lost'); import compressctl.graph.tensors, compressctl.cli.main, compressctl.api"
    (tmp_path / "lost").mkdir()
    paths = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def no_temporary_folder() -> None:
    tempfile._candidate_tempdir_list = lambda: ["/proc/nowhere"]


def test_there_is_no_place_for_temporary_files(case: Case) -> None:
    for name in ("a.onnx", "b.onnx"):
        (case.folder / name).write_bytes(network().SerializeToString())
    case.refuses("diff", "a.onnx", "b.onnx", code=5, says="no folder for temporary files", first=no_temporary_folder)


def test_a_run_without_a_place_for_temporary_files(case: Case) -> None:
    """As in a container that may write to its output alone: they lie in the run's folder, for its child processes too."""
    case.ends("apply", recipe(case), "--output", "out", code=0, first=_unmeasured_without_a_place, leaves=["out"])


def test_a_folder_for_temporary_files_goes_with_the_process(tmp_path: Path) -> None:
    """Not before: libraries that keep theirs there remove them at its end."""
    script = """import atexit, os, pathlib, sys, tempfile
tempfile._candidate_tempdir_list = lambda: ["/proc/nowhere"]
from compressctl.core.machine import ensure_temporary_folder
ensure_temporary_folder(pathlib.Path("out/temporary"))
assert tempfile.gettempdir() == os.environ["TMPDIR"] == os.path.abspath("out/temporary")
library = tempfile.mkdtemp()
atexit.register(os.rmdir, library)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "out" / "temporary").exists()


def _unmeasured_without_a_place() -> None:
    unmeasured()
    no_temporary_folder()


def test_the_folder_for_temporary_files_is_not_there(case: Case) -> None:
    """Python takes /tmp then."""
    case.ends("inspect", noise(case), code=0, TMPDIR="/proc/nowhere", leaves=["noise.onnx"])


# Limits.


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def test_files_may_not_grow(case: Case) -> None:
    name = packed(case)
    done = case.refuses("unpack", name, "--output", "back.onnx", code=5, says="File too large", first=small_files)
    assert "ulimit" in done.err


def test_memory_is_short(case: Case) -> None:
    """Less than the model's own size."""
    data = np.zeros(1 << 27, np.uint8)
    model = network()
    model.graph.initializer.append(numpy_helper.from_array(data, "zeros"))
    onnx.save(model, case.folder / "large.onnx")
    case.refuses("pack", "large.onnx", code=5, says="not enough memory", memory_bytes=1 << 25)


# What libraries tell their makers.


def test_telemetry_is_off_before_anything_is_imported(tmp_path: Path) -> None:
    script = (
        "import compressctl, os, subprocess, sys, onnxruntime; print(os.environ['HF_HUB_DISABLE_TELEMETRY'], flush=True);"
        "subprocess.run([sys.executable, '-c', 'import os; print(os.environ[\"ORT_DISABLE_TELEMETRY\"]); import onnxruntime'])"
    )
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir(), temporary.mkdir()
    environment = {"HOME": str(home), "TMPDIR": str(temporary), "PATH": os.environ["PATH"]}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["1", "1"], "")
    assert not list(home.rglob("*"))
    assert not list(temporary.rglob("*"))


@pytest.mark.slow
def test_the_demo_leaves_no_file_outside_cache_and_output(case: Case) -> None:
    """In a home that nobody used before, in processes of its own."""
    environment = case.environment() | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [
        sys.executable,
        "-m",
        "compressctl",
        "apply",
        "builtin:quickstart",
        "--output",
        "out",
        "--measure",
        "quick",
    ]
    done = subprocess.run(command, cwd=case.folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert names(case.folder) == {"out"}
    assert not list(case.home.rglob("*"))
    assert not [path for path in case.temporary.rglob("*") if path.is_file()]
