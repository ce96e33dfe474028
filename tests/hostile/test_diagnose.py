"""Folders of runs that no run wrote, or that changed since, and what `diagnose` makes of them."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from hostile import _kernel
from hostile._case import Case, names
from hostile._in_process import ends, refuses
from hostile._models import network
from hostile._reports import named
from support import waits

STAGE = {"id": "q", "use": "quantize.static", "if_slower": "keep", "keep_float": "overrides"}


def lock(folder: Path, **changes: Any) -> dict[str, Any]:
    """Of a run on a graph of 36 numbers and 24 samples."""
    recipe = {
        "recipe": "compressctl/v1", "name": "r", "task": "custom", "model": {"source": "onnx", "path": "m.onnx"},
        "data": {"source": "npz", "path": "d.npz", "inputs": "x", "labels": None, "calibration": 8, "validation": 8, "test": 8},
        "stages": [STAGE],
    }  # fmt: skip
    return {"recipe": {**recipe, **changes}, "base": str(folder), "model_sha256": "0", "data_sha256": "0"}


def a_run(folder: Path, lock: dict[str, Any]) -> None:
    (folder / "m.onnx").write_bytes(network().SerializeToString())
    np.savez(folder / "d.npz", x=np.random.default_rng(0).normal(size=(24, 8)).astype(np.float32))
    (folder / "run").mkdir()
    (folder / "run" / "events.jsonl").touch()
    (folder / "run" / "report.json").write_text(named("x").model_dump_json())
    (folder / "run" / "recipe.lock.yaml").write_text(yaml.safe_dump(lock))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    a_run(tmp_path, lock(tmp_path))
    return tmp_path


def test_a_run_that_is_whole_is_looked_into(folder: Path) -> None:
    assert "stage" in ends(folder, "diagnose", "run", "--no-try").out


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def a_folder(path: Path) -> None:
    path.mkdir()


def nothing(path: Path) -> None:
    """Somebody removed it."""


@pytest.mark.parametrize("place", [a_pipe, a_device, a_link_to_itself, a_folder, nothing])
@pytest.mark.parametrize("name", ["run/report.json", "run/recipe.lock.yaml", "m.onnx", "d.npz"])
def test_what_stands_in_a_files_place(name: str, place: Callable[[Path], None], folder: Path) -> None:
    (folder / name).unlink()
    place(folder / name)
    says = "run holds no report.json" if (name, place) == ("run/report.json", nothing) else Path(name).name
    refuses(folder, "diagnose", "run", says=says)


@pytest.mark.parametrize("name", ["report.json", "recipe.lock.yaml"])
def test_a_gigabyte_in_a_files_place(name: str, folder: Path) -> None:
    """Of holes."""
    with (folder / "run" / name).open("wb") as file:
        file.truncate(1 << 30)
    refuses(folder, "diagnose", "run", says=f"{name} holds more than")


@pytest.mark.parametrize("place", [a_pipe, a_device, a_link_to_itself, a_folder, nothing])
def test_what_stands_in_the_folders_place(place: Callable[[Path], None], folder: Path) -> None:
    shutil.rmtree(folder / "run")
    place(folder / "run")
    refuses(folder, "diagnose", "run", says="run")


def test_a_link_to_a_run(folder: Path) -> None:
    (folder / "run").rename(folder / "elsewhere")
    (folder / "run").symlink_to("elsewhere")
    assert "stage" in ends(folder, "diagnose", "run", "--no-try").out


BOMB = "recipe:\n" + "".join(f" a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]\n" for n in range(30))
LOCKS: dict[str, bytes] = {
    "an alias bomb": f"{BOMB}base: /tmp\n".encode(),
    "aliases in a circle": b"recipe: &a {stages: [*a]}\nbase: /tmp\n",
    "merged keys": b"recipe: {<<: &a {recipe: compressctl/v1}, model: {<<: *a}}\nbase: /tmp\n",
    "no recipe": b"base: /tmp\n",
    "a recipe that is a list": b"recipe: []\nbase: /tmp\n",
    "a base that is no text": b"recipe: {}\nbase: [/tmp]\n",
    "brackets": b"recipe: " + b"[" * 100_000,
    "two megabytes": b"#" * 2_000_000,
}


@pytest.mark.parametrize("content", LOCKS.values(), ids=LOCKS)
def test_a_lock_that_is_none(content: bytes, folder: Path) -> None:
    (folder / "run" / "recipe.lock.yaml").write_bytes(content)
    refuses(folder, "diagnose", "run", says="recipe.lock.yaml")


RECIPES: dict[str, tuple[dict[str, Any], str]] = {
    "a stage that is not installed": ({"stages": [{"use": "elsewhere.technique"}]}, "elsewhere.technique"),
    "a stage that is switched off": ({"stages": [{**STAGE, "enabled": False}]}, "no stages"),
    "300 stages": ({"stages": [{**STAGE, "id": f"q{number}"} for number in range(300)]}, "256 are allowed"),
    "an override of nothing": ({"stages": [{**STAGE, "overrides": [{"match": "nowhere", "weights": "float"}]}]}, "nowhere"),
    "an override that never ends": ({"stages": [{**STAGE, "overrides": [{"match": "*a" * 9000, "weights": "float"}]}]}, "letters"),
    "no data": ({"data": None, "stages": [{"use": "quantize.weights"}]}, "names no data"),
    "more samples than there are": ({"data": {**lock(Path())["recipe"]["data"], "test": 999}}, "ask for 1015 samples"),
    "a model above all folders": ({"model": {"source": "onnx", "path": "../" * 99 + "etc/passwd"}}, "passwd"),
    "a model with a NUL in its path": ({"model": {"source": "onnx", "path": "a\0b.onnx"}}, "onnx"),
    "code that is not there": ({"model": {"source": "python", "factory": "code.py:f", "input_shape": [4]}}, "code.py"),
    "a value of the environment that is not set": ({"name": "${env:NOT_SET_ANYWHERE}"}, "NOT_SET_ANYWHERE"),
    "another version": ({"recipe": "compressctl/v7"}, "compressctl/v7"),
    "a key that there is not": ({"colour": "red"}, "unknown key"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "says"), RECIPES.values(), ids=RECIPES)
def test_a_recipe_that_cannot_be_run_again(changes: dict[str, Any], says: str, folder: Path) -> None:
    (folder / "run" / "recipe.lock.yaml").write_text(yaml.safe_dump(lock(folder, **changes)))
    refuses(folder, "diagnose", "run", says=says)


BASES = {"a NUL": "a\0b", "100,000 letters": "a" * 100_000, "half of a surrogate pair": "\udc80", "a file": "m.onnx"}


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_a_base_that_is_no_folder(base: str, folder: Path) -> None:
    (folder / "run" / "recipe.lock.yaml").write_text(yaml.safe_dump({**lock(folder), "base": base}))
    refuses(folder, "diagnose", "run", says="")


def samples(folder: Path, values: np.ndarray) -> None:
    np.savez(folder / "d.npz", x=values.astype(np.float32))


DATA: dict[str, np.ndarray] = {
    "not a number": np.full((24, 8), np.nan),
    "infinities": np.full((24, 8), np.inf),
    "numbers beyond squares": np.full((24, 8), 3e38),
    "nothing but zeros": np.zeros((24, 8)),
}


@pytest.mark.parametrize("values", DATA.values(), ids=DATA)
def test_samples_of_which_nothing_can_be_said(values: np.ndarray, folder: Path) -> None:
    samples(folder, values)
    with np.errstate(all="ignore"):
        done = ends_somehow(folder, "diagnose", "run", "--no-try", "--json")
    if done.code == 0:
        json.loads(done.out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def ends_somehow(folder: Path, *arguments: str) -> Any:
    """With a result or with one message."""
    from hostile._case import is_legible
    from hostile._in_process import bounded
    from support.shell import Finished
    from typer.testing import CliRunner

    from compressctl.cli.main import app

    with bounded():
        found = CliRunner().invoke(app, list(arguments))
    done = Finished(found.exit_code, found.stdout, found.stderr)
    assert done.code in (0, 1, 2, 4), (done.code, done.err)
    is_legible(done)
    return done


def test_samples_of_another_shape(folder: Path) -> None:
    samples(folder, np.ones((24, 5)))
    refuses(folder, "diagnose", "run", says="shape")


def test_names_in_a_model_give_no_orders(folder: Path) -> None:
    evil = "a\x1b[31m\n::error::\u202e@bob"
    model = network()
    for node in model.graph.node:
        node.name = f"{evil}{node.name}"
    for value in model.graph.output:
        for node in model.graph.node:
            node.output[:] = [evil if name == value.name else name for name in node.output]
        value.name = evil
    onnx.save(model, folder / "m.onnx")
    done = ends_somehow(folder, "diagnose", "run", "--no-try")
    assert done.code == 0, done.err


WRITTEN: dict[str, tuple[str, str]] = {
    "a file that is there": ("m.onnx", "m.onnx is there already"),
    "a pipe": ("pipe", "pipe is there already"),
    "a folder": ("run", "run is a folder"),
    "a folder that there is not": ("nowhere/r.yaml", "nowhere is no folder"),
    "a folder that is a file": ("m.onnx/r.yaml", "m.onnx is no folder"),
    "too long a name": ("r" * 300, "shorter name"),
}


@pytest.mark.parametrize(("file", "says"), WRITTEN.values(), ids=WRITTEN)
def test_a_place_that_takes_no_recipe_is_refused_before_any_work(file: str, says: str, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "run" / "report.json").unlink()
    refuses(folder, "diagnose", "run", "--write", file, says=says)


def test_a_device_is_not_written_over(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "run" / "report.json").unlink()
    refuses(folder, "diagnose", "run", "--write", "pipe", "--force", says="pipe is a device or a pipe")


@pytest.mark.skipif(not _kernel.HAS_FILTERS, reason="the kernel takes no filters of system calls")
def test_temporary_files_that_a_quota_has_no_room_for(case: Case) -> None:
    a_run(case.folder, lock(case.folder))
    case.refuses("diagnose", "run", code=5, says="Disk quota exceeded", first=_little_room)


def _little_room() -> None:
    _kernel.quota_of_bytes(256)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_diagnosis_that_is_stopped(number: signal.Signals, case: Case) -> None:
    a_run(case.folder, lock(case.folder))
    process = case.start("diagnose", "run", first=_waits)
    while "calibrating" not in process.errors.read_text():
        assert process.poll() is None
    process.send_signal(number)
    case.finish(process, 130)
    case.is_clean(set(), 130)


def _waits() -> None:
    from compressctl.techniques.quantize import static

    usual = static.apply

    def apply(*given: Any) -> Any:
        found = usual(*given)
        waits.for_a_signal()
        return found

    static.apply = apply


def test_no_folder_for_temporary_files(case: Case) -> None:
    a_run(case.folder, lock(case.folder))
    case.temporary.chmod(0o555)
    case.ends("diagnose", "run", "--no-try", code=0)


def test_a_run_that_may_only_be_read(case: Case) -> None:
    a_run(case.folder, lock(case.folder))
    (case.folder / "run").chmod(0o555)
    case.ends("diagnose", "run", "--no-try", code=0)
    assert names(case.folder / "run") == {"report.json", "recipe.lock.yaml", "events.jsonl"}


def test_what_it_prints_reaches_nobody(case: Case) -> None:
    a_run(case.folder, lock(case.folder))
    case.refuses("diagnose", "run", "--no-try", "--json", code=5, says="No space left", first=_full_output)


def _full_output() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def test_a_cache_that_is_a_file(case: Case) -> None:
    a_run(case.folder, lock(case.folder))
    case.cache.write_text("mine")
    case.ends("diagnose", "run", "--no-try", code=0)
    assert case.cache.read_text() == "mine"
