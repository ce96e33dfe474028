"""The cache, in every state that a machine or another program can leave it in: a warning at most, and the same result."""

import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile._case import Case
from hostile._runs import fill_the_disk, recipe, stage, unmeasured

from compressctl.core.cache import Cache
from compressctl.core.whole_files import FolderInWriting, lock


def run(case: Case, *, first: Callable[[], None] = unmeasured, **environment: str) -> tuple[bool, list[str]]:
    """A run that ends well, whatever the cache is: whether its stage came from the cache, and what it warned of."""
    shutil.rmtree(case.folder / "out", ignore_errors=True)
    process = case.start("apply", "recipe.yaml", "--output", "out", first=first, **environment)
    case.finish(process, 0)
    found = json.loads((case.folder / "out" / "report.json").read_text())
    assert [stage["use"] for stage in found["stages"]] == ["quantize.dynamic"]
    assert not list((case.folder / "out").glob(".*"))
    return found["stages"][0]["cached"], found["warnings"]


@pytest.fixture
def kept(case: Case, filled: Path) -> Case:
    """With a cache that holds the stage's output."""
    recipe(case)
    shutil.copytree(filled, case.cache)
    return case


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    case = Case(tmp_path_factory.mktemp("filled"))
    recipe(case)
    assert run(case) == (False, [])
    assert run(case) == (True, [])
    return case.cache


def entry(case: Case) -> Path:
    (found,) = [path for path in (case.cache / "stages").iterdir() if path.name != "unfinished"]
    return found


def manifest(folder: Path) -> None:
    """Say of whatever is there that it is whole."""
    import hashlib

    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != "manifest.json"]
    said = json.loads((folder / "manifest.json").read_text())
    digests = {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    said = said | {"files": digests} if "files" in said else digests
    (folder / "manifest.json").write_text(json.dumps(said))


def is_made_again(case: Case) -> None:
    name = entry(case).name
    cached, warnings = run(case)
    assert not cached
    assert ["damaged and is not used" in warning for warning in warnings] == [True]
    assert Cache(case.cache / "stages").read(name) == entry(case)


# Entries that are not what was written.

Damage = Callable[[Path], object]


def _emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _every_file_empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(b"")


def _a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a folder")


def _a_link_to_nothing(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("nothing")


def _a_link_to_itself(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.name)


def _a_pipe(folder: Path) -> None:
    shutil.rmtree(folder)
    os.mkfifo(folder)


def _a_bit_flipped(folder: Path) -> None:
    file = folder / "model.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _cut_short(folder: Path) -> None:
    file = folder / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1])


def _a_model_of_zeros(folder: Path) -> None:
    file = folder / "model.onnx"
    file.write_bytes(bytes(file.stat().st_size))


def _a_file_of_the_entry_is_a_pipe(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")


def _a_file_of_the_entry_never_ends(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to("/dev/zero")


def _a_file_of_the_entry_is_a_folder(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()


def _a_manifest_that_is_a_list(folder: Path) -> None:
    (folder / "manifest.json").write_text('["not", "a", "mapping"]')


def _a_manifest_of_numbers(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"model.onnx": 3}')


def _a_manifest_that_is_deep(folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 100_000)


def _a_manifest_that_is_binary(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"\xff\xfe\x00")


def _a_manifest_that_is_a_folder(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()


def _unreadable_files(folder: Path) -> None:
    for file in folder.iterdir():
        file.chmod(0o000)


@pytest.mark.parametrize(
    "damage",
    [
        _emptied, _every_file_empty, _a_file, _a_link_to_nothing, _a_link_to_itself, _a_pipe, _a_bit_flipped, _cut_short,
        _a_model_of_zeros, _a_file_of_the_entry_is_a_pipe, _a_file_of_the_entry_never_ends, _a_file_of_the_entry_is_a_folder,
        _a_manifest_that_is_a_list, _a_manifest_of_numbers, _a_manifest_that_is_deep, _a_manifest_that_is_binary,
        _a_manifest_that_is_a_folder, _unreadable_files,
    ],
)  # fmt: skip
def test_a_damaged_entry_is_made_again(kept: Case, damage: Damage) -> None:
    damage(entry(kept))
    is_made_again(kept)


# Entries that are whole by their own word, and hold something else: of another version, or of another's making.


def _no_model(folder: Path) -> None:
    (folder / "model.json").unlink()


def _facts_that_are_a_list(folder: Path) -> None:
    (folder / "model.json").write_text("[]")


def _facts_of_another_version(folder: Path) -> None:
    facts = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**facts, "history": [{"id": "q", "kind": "x"}]}))


def _facts_that_are_deep(folder: Path) -> None:
    (folder / "model.json").write_text("[" * 100_000)


def _a_form_that_is_none(folder: Path) -> None:
    facts = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**facts, "form": "tensorflow"}))


def _a_model_that_is_text(folder: Path) -> None:
    (folder / "model.onnx").write_text("not a protobuf")


def _a_plan_of_tensors_that_are_not_there(folder: Path) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    for name in plan["weights"]:
        plan["weights"][name]["number"] = 1000
    (folder / "plan.json").write_text(json.dumps(plan))


def _scales_that_are_no_safetensors(folder: Path) -> None:
    (folder / "plan.safetensors").write_bytes(b"\xff" * 64)


def _scales_of_another_shape(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    found = load_file(folder / "plan.safetensors")
    save_file({name: np.zeros((7, 5), array.dtype) for name, array in found.items()}, folder / "plan.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        _no_model, _facts_that_are_a_list, _facts_of_another_version, _facts_that_are_deep, _a_form_that_is_none,
        _a_model_that_is_text, _a_plan_of_tensors_that_are_not_there, _scales_that_are_no_safetensors, _scales_of_another_shape,
    ],
)  # fmt: skip
def test_an_entry_that_says_it_is_whole_and_cannot_be_read_is_made_again(kept: Case, change: Damage) -> None:
    change(entry(kept))
    manifest(entry(kept))
    is_made_again(kept)


# Caches that take nothing.

REFUSED = "the cache cannot be used, so a later run starts from the beginning"


def test_a_cache_that_may_only_be_read_gives_what_it_has(kept: Case) -> None:
    """As an image of a container holds one."""
    for folder in (entry(kept), kept.cache / "stages" / "unfinished", kept.cache / "stages", kept.cache):
        folder.chmod(0o555)
    assert run(kept) == (True, [])


def test_a_cache_that_may_only_be_read_takes_nothing(case: Case) -> None:
    recipe(case)
    case.cache.mkdir(mode=0o555)
    cached, (warning,) = run(case)
    assert not cached
    assert warning.startswith(f"{REFUSED}: Permission denied: ")
    assert not list(case.cache.iterdir())


def test_a_damaged_entry_that_may_only_be_read(kept: Case) -> None:
    _cut_short(entry(kept))
    for folder in (entry(kept), kept.cache / "stages"):
        folder.chmod(0o555)
    cached, warnings = run(kept)
    assert not cached
    assert any("damaged" in warning for warning in warnings)


def test_a_cache_that_may_not_be_entered(kept: Case) -> None:
    kept.cache.chmod(0o000)
    cached, warnings = run(kept)
    kept.cache.chmod(0o755)
    assert not cached
    assert any(REFUSED in warning for warning in warnings)


def test_a_cache_that_may_not_be_listed(kept: Case) -> None:
    """Its entries can be read by name, as always; what is old cannot be looked for."""
    (kept.cache / "stages").chmod(0o300)
    cached, warnings = run(kept)
    (kept.cache / "stages").chmod(0o755)
    assert (cached, warnings) == (True, [])


def test_a_cache_that_is_a_file(case: Case) -> None:
    recipe(case)
    case.cache.touch()
    assert f"{REFUSED}: File exists: " in run(case)[1][0]


def test_a_cache_whose_place_for_stages_is_a_file(case: Case) -> None:
    recipe(case)
    case.cache.mkdir()
    (case.cache / "stages").touch()
    assert REFUSED in run(case)[1][0]


def test_a_cache_that_is_a_link_to_nothing(case: Case) -> None:
    recipe(case)
    case.cache.symlink_to("gone")
    run(case)


def test_a_cache_that_is_a_link_to_itself(case: Case) -> None:
    recipe(case)
    case.cache.symlink_to(case.cache)
    assert REFUSED in run(case)[1][0]


def test_a_cache_that_is_a_device(case: Case) -> None:
    recipe(case)
    assert REFUSED in run(case, COMPRESSCTL_CACHE="/dev/null")[1][0]


def test_a_cache_where_the_kernel_speaks(case: Case) -> None:
    recipe(case)
    assert REFUSED in run(case, COMPRESSCTL_CACHE="/proc/self")[1][0]


def test_a_cache_whose_name_is_too_long(case: Case) -> None:
    recipe(case)
    assert "File name too long" in run(case, COMPRESSCTL_CACHE="/tmp/" + "x" * 300)[1][0]


def test_a_home_that_is_not_there(case: Case) -> None:
    """As a container's user has it: the cache would lie in it."""
    recipe(case)
    (case.root / "closed").mkdir(mode=0o555)
    assert REFUSED in run(case, COMPRESSCTL_CACHE="", HOME=str(case.root / "closed" / "home"))[1][0]


def nobody() -> None:
    """A user whom the system does not know, without a home."""
    import platformdirs

    unmeasured()
    del os.environ["HOME"]
    platformdirs.user_cache_path = lambda name: Path("~/.cache") / name


def test_no_home_at_all(case: Case) -> None:
    recipe(case)
    process = case.start("apply", "recipe.yaml", "--output", "out", first=nobody, COMPRESSCTL_CACHE="")
    done = case.finish(process, 0)
    assert "warning: nothing is kept in a cache: there is no home folder" in done.err
    assert not (case.folder / "~").exists()


def test_a_cache_beside_the_recipe_by_a_relative_path(case: Case) -> None:
    recipe(case)
    run(case, COMPRESSCTL_CACHE="here/it/is")
    assert (case.folder / "here/it/is/stages").is_dir()


@pytest.fixture
def small_disk(case: Case) -> Iterator[Path]:
    """The cache, on a disk of 64 kB. Mounting one is root's."""
    case.cache.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", case.cache], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield case.cache
    subprocess.run(["umount", case.cache], check=True)


def test_a_cache_on_a_full_disk(case: Case, small_disk: Path) -> None:
    recipe(case)
    fill_the_disk(small_disk)
    cached, warnings = run(case)
    assert not cached
    assert any("No space left on device" in warning for warning in warnings)
    assert [path.name for path in small_disk.rglob("*") if path.is_file()] == ["ballast"]


def test_a_cache_that_fills_up_while_an_entry_is_written(case: Case, small_disk: Path) -> None:
    """There is room for the folder and the model, and none for the rest of the entry."""
    recipe(case)
    (small_disk / "ballast").write_bytes(b"x" * (64 - 4) * 1024)
    _, warnings = run(case)
    assert any("No space left on device" in warning for warning in warnings)
    assert not list(small_disk.rglob(".writing-*"))


def test_a_cache_that_is_mounted_to_be_read(case: Case, small_disk: Path) -> None:
    recipe(case)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert "Read-only file system" in run(case)[1][0]


def small_files() -> None:
    """What a cache's disk takes of one file is less than an entry's; the output lies on another one."""
    unmeasured()
    usual = Cache.write

    def write(*arguments: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            usual(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    Cache.write = write


def test_a_cache_whose_files_may_not_grow(case: Case) -> None:
    recipe(case)
    assert "File too large" in run(case, first=small_files)[1][0]
    assert not list((case.cache / "stages").glob("[!u]*"))


# Other processes.


def takes_the_cache_away() -> None:
    stage(lambda run: shutil.rmtree(os.environ["COMPRESSCTL_CACHE"]))


def test_a_cache_that_vanishes_while_a_stage_works(case: Case) -> None:
    recipe(case)
    run(case, first=takes_the_cache_away)
    assert run(case)[0]


def swaps_the_cache() -> None:
    def swap(run: object) -> None:
        root = Path(os.environ["COMPRESSCTL_CACHE"])
        shutil.rmtree(root)
        root.write_text("a file now")

    stage(swap)


def test_a_cache_that_becomes_a_file_while_a_stage_works(case: Case) -> None:
    recipe(case)
    assert REFUSED in run(case, first=swaps_the_cache)[1][0]


def takes_the_place_of_the_entry() -> None:
    """Another program makes a folder of the same name a moment before."""
    unmeasured()
    Path.rename = _after_another(Path.rename)


def _after_another(usual: Callable[..., Path]) -> Callable[..., Path]:
    def rename(path: Path, target: Path) -> Path:
        if path.name.startswith(".writing-"):
            (target / "something").mkdir(parents=True)
        return usual(path, target)

    return rename


def test_a_folder_that_takes_the_place_of_an_entry_at_its_last_moment(case: Case) -> None:
    recipe(case)
    run(case, first=takes_the_place_of_the_entry)
    cached, warnings = run(case)
    assert not cached
    assert any("damaged" in warning for warning in warnings)
    assert run(case) == (True, [])


def dies_while_it_writes() -> None:
    import compressctl.core.cache as cache

    unmeasured()
    cache._write_durably = lambda path, text: os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_writer_left_is_removed_by_the_next(case: Case) -> None:
    recipe(case)
    process = case.start("apply", "recipe.yaml", "--output", "out", first=dies_while_it_writes)
    assert process.wait() == -signal.SIGKILL
    assert list((case.cache / "stages").glob(".writing-*/model.onnx"))
    assert not run(case)[0]
    assert not list((case.cache / "stages").glob(".writing-*"))


def test_what_a_living_writer_writes_is_left_to_it(case: Case) -> None:
    recipe(case)
    (case.cache / "stages").mkdir(parents=True)
    with FolderInWriting(case.cache / "stages") as folder:
        run(case)
        assert folder.is_dir()


def test_a_link_that_is_named_as_what_a_dead_writer_left_is_not_followed(case: Case) -> None:
    recipe(case)
    (case.cache / "stages").mkdir(parents=True)
    (case.root / "precious").mkdir()
    (case.root / "precious" / "thesis.tex").touch()
    (case.cache / "stages" / ".writing-link").symlink_to(case.root / "precious")
    run(case)
    assert (case.root / "precious" / "thesis.tex").exists()


def test_a_pipe_that_is_named_as_what_a_dead_writer_left(case: Case) -> None:
    recipe(case)
    (case.cache / "stages").mkdir(parents=True)
    os.mkfifo(case.cache / "stages" / ".writing-pipe")
    assert run(case) == (False, [])


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    held = lock(tmp_path)
    assert held is not None
    assert lock(tmp_path) is None
    os.close(held)
    again = lock(tmp_path)
    assert again is not None
    os.close(again)


# What was left unfinished.


def test_a_place_for_unfinished_work_that_is_a_file(case: Case) -> None:
    recipe(case)
    (case.cache / "stages").mkdir(parents=True)
    (case.cache / "stages" / "unfinished").touch()
    _, warnings = run(case)
    assert REFUSED in warnings[0]


def keeps() -> None:
    stage(lambda run: run.keep("state", lambda path: path.write_bytes(b"x" * 100)))


def test_a_checkpoint_on_a_full_disk(case: Case, small_disk: Path) -> None:
    recipe(case)
    (small_disk / "stages" / "unfinished").mkdir(parents=True)
    fill_the_disk(small_disk)
    _, warnings = run(case, first=keeps)
    assert any("cannot be kept for a run that resumes" in warning or REFUSED in warning for warning in warnings)


def keeps_nothing() -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    stage(lambda run: run.keep("state", write))


def test_a_checkpoint_that_is_half_written_is_none(case: Case) -> None:
    recipe(case)
    _, (warning,) = run(case, first=keeps_nothing)
    assert warning.startswith("what is done so far cannot be kept for a run that resumes this one: No space left")


def test_trimming_a_cache_that_goes_away_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path / "cache")
    cache.write("a" * 64, lambda folder: (folder / "file").touch())
    usual = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: shutil.rmtree(tmp_path / "cache") or usual(path))
    cache.trim(0)


def test_an_entry_that_was_last_used_in_the_future_is_not_older_than_others(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for name, when in (("a" * 64, 4e9), ("b" * 64, -1e9)):
        cache.write(name, lambda folder: (folder / "file").write_bytes(b"x" * 1000))
        os.utime(tmp_path / name, (when, when))
    cache.trim(1500)
    assert [path.name for path in tmp_path.iterdir()] == ["a" * 64]
