"""A cache that somebody else prepared, damaged or can write to: no code runs that the recipe does not name, and no entry counts for another."""

import hashlib
import json
import os
import shutil
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from compressctl.core.cache import Cache
from compressctl.core.errors import NoCacheWarning
from compressctl.core.events import Event, Events
from compressctl.core.model import Factory, Signature, StageRecord, TorchModel
from compressctl.core.private_folders import who_else_may_change
from compressctl.pipeline.plan import make_plan
from compressctl.pipeline.serialization import UntrustedError, read_model, write_model
from compressctl.pipeline.workspace import Workspace
from compressctl.recipe.loader import load
from compressctl.recipe.schema import Recipe
from compressctl.store.cache_place import stage_cache

KEY, OTHER = "ab" * 32, "cd" * 32


def filled(root: Path, key: str = KEY, text: str = "content") -> Cache:
    def fill(folder: Path) -> None:
        (folder / "part").mkdir()
        (folder / "part" / "file.txt").write_text(text)
        (folder / "other.txt").write_text(text)

    cache = Cache(root / "stages")
    cache.write(key, fill)
    return cache


def sealed(entry: Path, key: str) -> None:
    """Write a manifest that fits, as who knows how it is made can."""
    files = {
        str(file.relative_to(entry)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in entry.rglob("*")
        if file.is_file() and file.name != "manifest.json"
    }
    (entry / "manifest.json").write_text(json.dumps({"key": key, "files": files}))


def _copy(entry: Path) -> None:
    shutil.rmtree(entry)
    shutil.copytree(entry.parent / OTHER, entry)


def _swap(entry: Path) -> None:
    entry.rename(entry.parent / "aside")
    (entry.parent / OTHER).rename(entry)
    (entry.parent / "aside").rename(entry.parent / OTHER)


def _link_to_another(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.symlink_to(OTHER)


def _link_in_it(entry: Path) -> None:
    (entry / "other.txt").unlink()
    (entry / "other.txt").symlink_to("part/file.txt")


def _more_in_it(entry: Path) -> None:
    (entry / "plan.json").write_text("{}")


def _a_pipe_in_it(entry: Path) -> None:
    os.mkfifo(entry / "pipe")


def _a_pipe_as_manifest(entry: Path) -> None:
    (entry / "manifest.json").unlink()
    os.mkfifo(entry / "manifest.json")


def _names_outside(entry: Path) -> None:
    manifest = json.loads((entry / "manifest.json").read_text())
    manifest["files"]["../../../etc/hostname"] = hashlib.sha256(Path("/etc/hostname").read_bytes()).hexdigest()
    (entry / "manifest.json").write_text(json.dumps(manifest))


def _manifest(text: str) -> Callable[[Path], None]:
    def write(entry: Path) -> None:
        (entry / "manifest.json").write_text(text)

    return write


def _others_can_write_a_file(entry: Path) -> None:
    (entry / "other.txt").chmod(0o666)


def _others_can_write_the_entry(entry: Path) -> None:
    entry.chmod(0o777)


def _a_group_can_write_the_manifest(entry: Path) -> None:
    (entry / "manifest.json").chmod(0o660)


DAMAGE = {
    "copied from another key": _copy,
    "swapped with another key": _swap,
    "a link to another key": _link_to_another,
    "a link in it": _link_in_it,
    "a file more": _more_in_it,
    "a pipe in it": _a_pipe_in_it,
    "a pipe as manifest": _a_pipe_as_manifest,
    "a manifest of a file outside": _names_outside,
    "a manifest of the old form": _manifest('{"other.txt": "00"}'),
    "a manifest without files": _manifest(json.dumps({"key": KEY, "files": {}})),
    "a manifest of a list": _manifest(json.dumps({"key": KEY, "files": ["other.txt"]})),
    "a manifest of depth": _manifest("[" * 100_000),
    "a file that others can write": _others_can_write_a_file,
    "a folder that others can write": _others_can_write_the_entry,
    "a manifest that a group can write": _a_group_can_write_the_manifest,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_an_entry_that_is_not_as_it_was_written_is_removed(damage: Callable[[Path], None], tmp_path: Path) -> None:
    cache = filled(tmp_path)
    filled(tmp_path, OTHER, "something else")
    damage(tmp_path / "stages" / KEY)
    assert cache.read(KEY) is None
    assert KEY not in cache


def test_a_file_that_is_changed_and_sealed_again_is_still_the_keys_own_matter(tmp_path: Path) -> None:
    """Who can write to the cache can do this. So nobody else may, and no entry names code; see below."""
    cache = filled(tmp_path)
    (tmp_path / "stages" / KEY / "other.txt").write_text("changed")
    sealed(tmp_path / "stages" / KEY, KEY)
    assert cache.read(KEY) is not None


def test_what_is_written_is_private_whatever_the_mask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        cache = filled(tmp_path / "new" / "place")
        kept = cache.unfinished(KEY)
    finally:
        os.umask(before)
    assert cache.read(KEY) is not None
    made = [*(tmp_path / "new").rglob("*"), tmp_path / "new", kept]
    assert {
        path.name: oct(path.stat().st_mode) for path in made if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    } == {}


def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir(mode=0o755)
    filled(tmp_path)
    assert stat.S_IMODE((tmp_path / "stages").stat().st_mode) == 0o755


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMPRESSCTL_CACHE", str(tmp_path / "place"))
    monkeypatch.delenv("COMPRESSCTL_TRUST_CACHE", raising=False)
    (tmp_path / "place" / "stages").mkdir(parents=True, mode=0o700)
    (tmp_path / "place").chmod(0o700)
    return tmp_path / "place"


def _refused() -> str:
    with pytest.warns(NoCacheWarning) as told:
        assert stage_cache() is None
    return str(told[0].message)


def _everybody(place: Path) -> None:
    (place / "stages").chmod(0o777)


def _everybody_around(place: Path) -> None:
    place.chmod(0o757)


def _group(place: Path) -> None:
    os.chown(place, -1, 12345)
    place.chmod(0o770)


def _sticky_itself(place: Path) -> None:
    """As if the cache were /tmp: others could add entries."""
    (place / "stages").chmod(0o1777)


def _link_to_everybodys(place: Path) -> None:
    (place / "stages").rmdir()
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    (place / "stages").symlink_to("open")


IS_ROOT = os.geteuid() == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_everybody, "everybody can write to"),
        (_everybody_around, "everybody can write to"),
        pytest.param(_group, "the group 12345 can write to", marks=pytest.mark.skipif(not IS_ROOT, reason="changes groups")),
        (_sticky_itself, "everybody can write to"),
        (_link_to_everybodys, "everybody can write to"),
    ],
    ids=["everybody", "around", "group", "sticky", "link"],
)  # fmt: skip
def test_a_cache_that_others_can_write_to_is_not_used(
    change: Callable[[Path], None], says: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(place)
    message = _refused()
    assert says in message
    assert "COMPRESSCTL_TRUST_CACHE=1" in message
    monkeypatch.setenv("COMPRESSCTL_TRUST_CACHE", "1")
    assert stage_cache() is not None


@pytest.mark.skipif(not IS_ROOT, reason="gives files away")
@pytest.mark.parametrize("part", ["", "stages"])
def test_root_does_not_use_a_users_cache_unless_told(part: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container: root inside, the mounted home of somebody outside."""
    os.chown(place / part, 12345, -1)
    assert "belongs to another user (12345)" in _refused()
    monkeypatch.setenv("COMPRESSCTL_TRUST_CACHE", "1")
    cache = stage_cache()
    assert cache is not None
    cache.write(KEY, lambda folder: (folder / "a").touch())
    assert cache.read(KEY) is not None


@pytest.mark.skipif(not IS_ROOT, reason="gives files away")
def test_an_entry_of_another_user_is_not_read_unless_told(tmp_path: Path) -> None:
    filled(tmp_path)
    os.chown(tmp_path / "stages" / KEY / "other.txt", 12345, -1)
    assert Cache(tmp_path / "stages", trusts_others=True).read(KEY) is not None
    assert Cache(tmp_path / "stages").read(KEY) is None


def test_a_private_cache_is_used_without_a_word(place: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stage_cache() is not None
    assert who_else_may_change(place / "not" / "there" / "yet") is None


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "net.py").write_text(
        "def student(width=4):\n    from torch import nn\n    return nn.Linear(4, width)\n"
    )
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef student(width=4):\n    pass\n")
    (tmp_path / "recipe.yaml").write_text(
        "recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\ndata: {source: digits}\n"
        'stages: [{use: distill.logits, student: {factory: "net.py:student", args: {width: 6}}}]\n'
    )
    return load(tmp_path / "recipe.yaml")


def _entry(recipe: Recipe, factory: Factory, folder: Path, pinned: dict[str, object] | None = None) -> Path:
    from torch import nn

    folder.mkdir()
    record = StageRecord("a", "distill.logits", {}, 1.0, {}, pinned=pinned)
    model = TorchModel(nn.Linear(4, 6), Signature((), ()), (record,), factory=Factory("net.py:student", {"width": 6}))
    write_model(model, folder, None, recipe.base)
    facts = json.loads((folder / "model.json").read_text())
    facts["factory"] = {"name": factory.name, "args": factory.args}
    (folder / "model.json").write_text(json.dumps(facts))
    return folder


@pytest.mark.parametrize(
    "factory",
    [
        Factory("evil.py:student", {"width": 6}),
        Factory("/etc/evil.py:student", {"width": 6}),
        Factory("os:system", {"command": "true"}),
        Factory("net.py:student", {"width": 10**9}),
        Factory("./net.py:student", {"width": 6}),
    ],
    ids=["another file", "absolute", "module", "other arguments", "spelled otherwise"],
)
def test_an_entry_names_no_code_that_the_recipe_does_not(factory: Factory, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UntrustedError, match="which the recipe does not"):
        read_model(_entry(recipe, factory, tmp_path / "entry"), lambda: pytest.fail("loaded"), recipe)
    assert not (tmp_path / "ran").exists()


def test_a_run_makes_again_what_names_other_code_and_says_so(recipe: Recipe, tmp_path: Path) -> None:
    told: list[Event] = []
    cache = Cache(tmp_path / "stages")
    workspace = Workspace(recipe, make_plan(recipe, None), tmp_path, cache, Events(told.append))
    evil = _entry(recipe, Factory("evil.py:student", {"width": 6}), tmp_path / "entry")
    cache.write(KEY, lambda folder: shutil.copytree(evil, folder, dirs_exist_ok=True))
    assert workspace.read(KEY, "student") is None
    assert "the cached output of student is damaged and is not used" in told[0].fields["message"]
    assert not (tmp_path / "ran").exists()
    assert KEY not in cache


def test_an_entry_names_the_code_that_the_recipe_does(recipe: Recipe, tmp_path: Path) -> None:
    entry = _entry(recipe, Factory("net.py:student", {"width": 6}), tmp_path / "entry")
    assert isinstance(read_model(entry, lambda: pytest.fail("loaded"), recipe), TorchModel)


def test_what_a_stage_chose_names_no_code_either(recipe: Recipe, tmp_path: Path) -> None:
    """It is written out as recipe.pinned.yaml, which somebody runs next."""
    pinned = {"use": "distill.logits", "student": {"factory": "evil.py:student"}}
    entry = _entry(recipe, Factory("net.py:student", {"width": 6}), tmp_path / "entry", pinned)
    with pytest.raises(UntrustedError, match=r"evil\.py"):
        read_model(entry, lambda: pytest.fail("loaded"), recipe)


def test_a_structure_builds_no_module_that_it_may_not(recipe: Recipe, tmp_path: Path) -> None:
    entry = _entry(recipe, Factory("net.py:student", {"width": 6}), tmp_path / "entry")
    structure = json.loads((entry / "structure.json").read_text())
    text = json.dumps(structure).replace("Linear", "torch.nn.modules.lazy:open")
    (entry / "structure.json").write_text(
        text if "open" in text else json.dumps({"module": "subprocess:run", "args": ["true"]})
    )
    with pytest.raises(Exception, match=r"structure\.json"):
        read_model(entry, lambda: pytest.fail("loaded"), recipe)


def test_a_cached_graph_keeps_its_data_inside(recipe: Recipe, tmp_path: Path) -> None:
    from hostile._models import network, outside

    from compressctl.core.errors import UsageError
    from compressctl.core.model import OnnxModel

    folder = tmp_path / "entry"
    folder.mkdir()
    write_model(OnnxModel(network(), Signature((), ()), None, ()), folder, None)
    (folder / "model.onnx").write_bytes(network(outside(location="/dev/zero")).SerializeToString())
    with pytest.raises(UsageError, match="outside the model's folder"):
        read_model(folder, lambda: pytest.fail("loaded"), recipe)


def test_a_checkpoint_that_is_a_pipe_is_none(tmp_path: Path) -> None:
    from compressctl.training.checkpoint import read_checkpoint

    os.mkfifo(tmp_path / "training.safetensors")
    assert read_checkpoint(tmp_path / "training.safetensors") is None
