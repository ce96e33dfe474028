"""Users whose quota is used up, in bytes or in files, and machines without shared memory."""

import shutil
import subprocess

import numpy as np
import onnx
import pytest
from hostile import _kernel
from hostile._case import Case, names
from hostile._models import network
from hostile._runs import recipe, stage, unmeasured
from onnx import numpy_helper

SAYS = "Disk quota exceeded"

needs_filters = pytest.mark.skipif(not _kernel.HAS_FILTERS, reason="the kernel takes no filters of system calls")


def _own_mounts() -> bool:
    return (
        subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True).returncode == 0
    )


needs_mounts = pytest.mark.skipif(
    shutil.which("unshare") is None or not _own_mounts(), reason="a process cannot have mounts of its own here"
)


def no_byte() -> None:
    _kernel.quota_of_bytes(0)


def hundred_bytes() -> None:
    """As much as it takes to find a folder for temporary files."""
    _kernel.quota_of_bytes(100)


def four_kilobytes() -> None:
    _kernel.quota_of_bytes(4096)


def no_file() -> None:
    _kernel.quota_of_files()


@pytest.fixture
def noise(case: Case) -> str:
    """A model of 256 kB, which no packing makes smaller."""
    model = network()
    data = np.random.default_rng(0).integers(0, 256, 1 << 18, np.uint8)
    model.graph.initializer.append(numpy_helper.from_array(data, "noise"))
    onnx.save(model, case.folder / "noise.onnx")
    return "noise.onnx"


@needs_filters
def test_packing(case: Case, noise: str) -> None:
    case.refuses("pack", noise, code=5, says=SAYS, first=four_kilobytes)


@needs_filters
def test_packing_over_an_older_file(case: Case, noise: str) -> None:
    (case.folder / "noise.cctl").write_bytes(b"older")
    case.refuses("pack", noise, "--force", code=5, says=SAYS, first=four_kilobytes)
    assert (case.folder / "noise.cctl").read_bytes() == b"older"


@needs_filters
def test_unpacking(case: Case, noise: str) -> None:
    case.finish(case.start("pack", noise), 0)
    case.refuses("unpack", "noise.cctl", "--output", "back.onnx", code=5, says=SAYS, first=four_kilobytes)


@needs_filters
def test_exporting(case: Case, noise: str) -> None:
    arguments = ("export", noise, "--to", "onnxruntime", "--output", "made")
    case.refuses(*arguments, code=5, says=SAYS, first=hundred_bytes, leaves=["made"])
    assert not [path for path in (case.folder / "made").rglob("*") if path.is_file()]


@needs_filters
def test_packing_without_a_file_more(case: Case, noise: str) -> None:
    case.refuses("pack", noise, code=5, says=SAYS, first=no_file)


@needs_filters
def test_a_starter_recipe(case: Case, noise: str) -> None:
    case.refuses("init", noise, "--output", "made.yaml", code=5, says=SAYS, first=no_byte)


@needs_filters
def test_a_schema(case: Case) -> None:
    case.refuses("schema", "--output", "schema.json", code=5, says=SAYS, first=four_kilobytes)


@needs_filters
def test_a_run_without_a_file_more(case: Case) -> None:
    case.refuses("apply", recipe(case), "--output", "out", code=5, says=SAYS, first=_unmeasured_without_files)


def _unmeasured_without_files() -> None:
    unmeasured()
    no_file()


@needs_filters
def test_a_run_whose_stage_reaches_the_quota(case: Case) -> None:
    """Nothing can be written from there on, the report included; the message says so, and the run folder holds what was before."""
    arguments = ("apply", recipe(case), "--output", "out")
    case.refuses(*arguments, code=5, says=SAYS, first=_reached_in_a_stage, leaves=["out"])
    assert not (case.folder / "out" / "artifacts").exists()


def _reached_in_a_stage() -> None:
    stage(lambda run: no_byte())


@needs_filters
def test_a_run_whose_page_is_too_large(case: Case) -> None:
    """The smaller files of the report are written."""
    case.refuses("apply", recipe(case), "--output", "out", code=5, says=SAYS, first=_unmeasured_small, leaves=["out"])
    assert '"status": "done"' in (case.folder / "out" / "report.json").read_text()
    assert not (case.folder / "out" / "report.html").exists()


def _unmeasured_small() -> None:
    unmeasured()
    four_kilobytes()


@needs_filters
def test_a_report_that_is_written_again(case: Case) -> None:
    case.finish(case.start("apply", recipe(case), "--output", "out", first=unmeasured), 0)
    before = {path.name: path.read_bytes() for path in (case.folder / "out").iterdir() if path.is_file()}
    case.refuses("report", "out", code=5, says=SAYS, first=no_byte)
    assert {name: (case.folder / "out" / name).read_bytes() for name in before} == before


@needs_filters
def test_timing_a_packed_file(case: Case, noise: str) -> None:
    case.finish(case.start("pack", noise), 0)
    case.refuses("bench", "noise.cctl", "noise.cctl", code=5, says=SAYS, first=four_kilobytes)


@needs_filters
def test_a_recipe_in_new_names(case: Case) -> None:
    old = "recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\ntarget: {batch: 1}\nstages: []\n"
    (case.folder / "old.yaml").write_text(old)
    case.refuses("migrate", "old.yaml", code=5, says=SAYS, first=no_byte)
    assert (case.folder / "old.yaml").read_text() == old


# Shared memory.


def no_shared_memory() -> None:
    _kernel.without_shared_memory()


@needs_mounts
def test_a_whole_run_needs_no_shared_memory(case: Case) -> None:
    """It tries its stage, exports, and measures in processes of its own."""
    arguments = ("apply", recipe(case), "--output", "out", "--measure", "quick")
    case.ends(*arguments, code=0, first=no_shared_memory, leaves=["out"])
    assert {"report.html", "artifacts"} <= names(case.folder / "out")


@needs_mounts
def test_shared_memory_that_may_only_be_read(case: Case) -> None:
    case.ends("apply", recipe(case), "--output", "out", code=0, first=_unmeasured_read_only, leaves=["out"])


def _unmeasured_read_only() -> None:
    unmeasured()
    _kernel.with_shared_memory_that_may_only_be_read()
