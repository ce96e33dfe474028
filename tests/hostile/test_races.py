"""Files and folders that others remove, cut, replace or fill while a command works on them."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hostile._case import Case, names
from hostile._models import network
from hostile._runs import recipe, stage, unmeasured
from support import waits

DATA = "data: {source: npz, path: d.npz, inputs: x, labels: null, calibration: 8, validation: 8, test: 8}"
STATIC = "[{use: quantize.static, id: q, if_slower: keep}]"


def with_data(case: Case) -> str:
    samples(Path(case.folder), 0)
    return recipe(case, STATIC, DATA)


def samples(folder: Path, seed: int) -> None:
    np.savez(folder / "d.npz", x=np.random.default_rng(seed).normal(size=(24, 8)).astype(np.float32))


def after_the_plan(does: Callable[[], object]) -> None:
    """Between hashing and loading."""
    from compressctl.pipeline.executor import Executor

    unmeasured()
    Executor.preflight = lambda executor: does()


def another_model() -> None:
    other = network()
    other.doc_string = "another"
    Path("model.onnx").unlink()
    onnx.save(other, "model.onnx")


def _another_model() -> None:
    after_the_plan(another_model)


def _no_model() -> None:
    after_the_plan(lambda: Path("model.onnx").unlink())


def _half_a_model() -> None:
    after_the_plan(lambda: os.truncate("model.onnx", 100))


def _a_pipe_for_a_model() -> None:
    after_the_plan(lambda: (Path("model.onnx").unlink(), os.mkfifo("model.onnx")))


def _other_samples() -> None:
    after_the_plan(lambda: samples(Path(), 1))


def _no_samples() -> None:
    after_the_plan(lambda: Path("d.npz").unlink())


def _half_the_samples() -> None:
    after_the_plan(lambda: os.truncate("d.npz", 300))


RACES: dict[str, tuple[Callable[[], None], str]] = {
    "another model": (_another_model, "the model's files changed between the plan and their loading"),
    "no model": (_no_model, "model.onnx does not exist"),
    "half a model": (_half_a_model, "model.onnx"),
    "a pipe for a model": (_a_pipe_for_a_model, "is a pipe, not a file"),
    "other samples": (_other_samples, "the data's files changed between the plan and their loading"),
    "no samples": (_no_samples, "d.npz does not exist"),
    "half the samples": (_half_the_samples, "d.npz"),
}


@pytest.mark.parametrize(("first", "says"), RACES.values(), ids=RACES)
def test_what_a_run_reads_changes_before_it_is_read(first: Callable[[], None], says: str, case: Case) -> None:
    """Nothing of it is kept as what the earlier files gave."""
    case.refuses("apply", with_data(case), "--output", "out", code=2, says=says, first=first, leaves=["out"])
    assert not list(case.cache.glob("stages/*/model*"))


def _recipe_goes() -> None:
    stage(lambda run: (Path("recipe.yaml").unlink(), Path("model.onnx").unlink()))


def test_recipe_and_model_are_removed_once_they_were_read(case: Case) -> None:
    case.ends("apply", recipe(case), "--output", "out", code=0, first=_recipe_goes, leaves=["out"])


def _output_becomes_a_link() -> None:
    def swap(run: Any) -> None:
        Path("out").rename("before")
        Path("elsewhere").mkdir()
        Path("elsewhere/report.json").write_text("mine")
        Path("out").symlink_to("elsewhere")

    stage(swap)


def test_the_output_becomes_a_link_while_a_stage_works(case: Case) -> None:
    """What is written from there on lands where the link leads, each file whole; the run ends, and says what it could not write."""
    done = case.start("apply", recipe(case), "--output", "out", first=_output_becomes_a_link)
    case.finish(done, done.wait() if done.wait() in (0, 5) else 0)
    assert not list((case.folder / "elsewhere").glob(".writing-*"))


# Of other commands.


def reads_twice(name: str, does: Callable[[], object]) -> None:
    """In the process of the command: this is done before the file of that name is opened the second time."""
    from compressctl.core import regular_files

    usual, seen = regular_files.check_regular, []

    def check(path: Path) -> Any:
        if Path(path).name == name:
            seen.append(path)
            if len(seen) == 2:
                does()
        return usual(path)

    regular_files.check_regular = check


def _cut_between() -> None:
    reads_twice("model.onnx", lambda: os.truncate("model.onnx", 50))


def _gone_between() -> None:
    reads_twice("model.onnx", lambda: Path("model.onnx").unlink())


@pytest.mark.parametrize("first", [_cut_between, _gone_between])
@pytest.mark.parametrize(
    "command",
    [
        ["pack", "model.onnx"],
        ["inspect", "model.onnx"],
        ["diff", "model.onnx", "model.onnx"],
        ["evaluate", "model.onnx", "--data", "recipe.yaml"],
        ["export", "model.onnx", "--to", "onnxruntime", "--output", "made"],
    ],
    ids=lambda command: command[0],
)
def test_a_model_changes_while_a_command_reads_it(first: Callable[[], None], command: list[str], case: Case) -> None:
    """It ends with what it read, or with one message; nothing half-written stays."""
    with_data(case)
    process = case.start(*command, first=first)
    code = process.wait()
    assert code in (0, 2, 4), process.communicate()
    case.finish(process, code)
    case.is_clean(names(case.folder) - {"model.onnx", "recipe.yaml", "d.npz", "made", "model.cctl"}, code)


def _waits_in_packing() -> None:
    from compressctl.packed import pack

    usual = pack.write_ledger

    def write(ledger: Any) -> Any:
        print("packing", flush=True)
        waits.for_a_signal()
        return usual(ledger)

    pack.write_ledger = write


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_packing_that_is_stopped_leaves_nothing(number: signal.Signals, case: Case) -> None:
    recipe(case)
    process = case.start("pack", "model.onnx", first=_waits_in_packing)
    while "packing" not in process.said.read_text():
        assert process.poll() is None, process.communicate()
    process.send_signal(number)
    case.finish(process, 130)
    case.is_clean(names(case.folder) - {"model.onnx", "recipe.yaml"}, 130)


# Of zoos, whose one job is a row at once: its recipe is not there.

MANIFEST = "zoo: compressctl/v1\nname: z\ndefaults: {recipe: nowhere.yaml}\nmodels: [{path: model.onnx}]\nbudget: {at_most_failed: 1}\n"


def before_a_job(does: Callable[[], object]) -> None:
    from compressctl.zoo import local

    usual = local.run_job

    def run_job(*given: Any) -> Any:
        does()
        return usual(*given)

    local.run_job = run_job


def _zoo_goes() -> None:
    before_a_job(lambda: shutil.rmtree("z"))


def _results_become_a_file() -> None:
    before_a_job(lambda: Path("z/results").write_text("mine"))


def _result_becomes_a_pipe() -> None:
    def pipe() -> None:
        Path("z/results").mkdir()
        os.mkfifo("z/results/model.json")

    before_a_job(pipe)


def _zoo_may_only_be_read() -> None:
    before_a_job(lambda: Path("z").chmod(0o555))


def _manifest_goes() -> None:
    before_a_job(lambda: (Path("zoo.yaml").unlink(), Path("model.onnx").unlink()))


ZOO_RACES: dict[str, tuple[Callable[[], None], int, str]] = {
    "the zoo's folder goes": (_zoo_goes, 0, ""),
    "the manifest and the model go": (_manifest_goes, 0, ""),
    "a file takes the place of the results": (_results_become_a_file, 2, "z/results"),
    "a pipe takes the place of a result": (_result_becomes_a_pipe, 2, "z/results/model.json is a device or a pipe"),
    "the folder may only be read from then on": (_zoo_may_only_be_read, 5, "Permission denied: z/results"),
}


@pytest.mark.parametrize(("first", "code", "says"), ZOO_RACES.values(), ids=ZOO_RACES)
def test_a_zoo_changes_while_a_job_runs(first: Callable[[], None], code: int, says: str, case: Case) -> None:
    recipe(case)
    (case.folder / "zoo.yaml").write_text(MANIFEST)
    case.refuses("zoo", "apply", "zoo.yaml", "--output", "z", code=code, says=says, first=first, leaves=["z"])
