"""Addresses that lead where they should not, stores that give what nobody asked for, and shared caches of others."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from hostile._case import Case
from hostile._in_process import ends, refused, refuses
from hostile._models import network

from compressctl.core.events import Event, Events
from compressctl.core.model import Factory, Signature, StageRecord, TorchModel
from compressctl.core.secrets import forget_secrets
from compressctl.pipeline.plan import make_plan
from compressctl.pipeline.serialization import write_model
from compressctl.pipeline.workspace import Workspace
from compressctl.recipe.loader import load
from compressctl.store import cache_place
from compressctl.store.address import parse
from compressctl.store.find import find
from compressctl.store.objects import listed
from compressctl.store.shared_cache import SharedCache, SharedPlace

KEY, DIGEST = "ab" * 32, "cd" * 32
RECIPE = "recipe: compressctl/v1\ntask: custom\nmodel: {source: onnx, path: PATH}\nstages: [{use: quantize.weights, bits: 8}]\n"
ZOO = "zoo: compressctl/v1\ndefaults: {recipe: builtin:quickstart}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: Any) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(tmp_path))
    return work


ADDRESSES: dict[str, tuple[str, str]] = {
    "plain http": ("http://host/m.onnx", "use https"),
    "plain http in capitals": ("HTTP://host/m.onnx", "use https"),
    "a chain of protocols": ("simplecache::s3://bucket/m.onnx", "no address that can be read"),
    "a zip in a bucket": ("zip://m.onnx::s3://bucket/a.zip", "no address that can be read"),
    "another machine's shell": ("ssh://host/m.onnx", "no address that can be read"),
    "data in the address": ("data://text/plain;base64,AAAA", "no address that can be read"),
    "a repository": ("github://org:repo@/m.onnx", "no address that can be read"),
    "nothing behind it": ("s3://", "a step of it is empty"),
    "an empty step": ("s3://bucket//m.onnx", "a step of it is empty"),
    "steps upwards": ("s3://bucket/../secret/m.onnx", "never followed"),
    "steps upwards in percent": ("https://host/%2E%2e/m.onnx", "never followed"),
    "steps of another system": ("s3://bucket/..\\\\m.onnx", "never followed"),
    "a path of no machine": ("file://m.onnx", "no file of this machine"),
    "steps upwards on this machine": ("file:///tmp/../etc/passwd", "never followed"),
    "a command of a terminal": ("s3://bucket/\\e]0;m.onnx", "control characters"),
    "text that turns around": ("s3://bucket/\\u202em.onnx", "control characters"),
    "a command of a workflow": ("s3://bucket/\\n::error::m.onnx", "control characters"),
    "five thousand letters": ("s3://bucket/" + "m" * 5000, "too long"),
    "an endless file": ("file:///dev/zero", "is a device"),
    "a folder of this machine": ("file:///etc", "cannot be read"),
    "a file that there is not": ("memory://bucket/none.onnx", "does not exist"),
    "https without a checksum": ("https://host.invalid/m.onnx", "give `sha256`"),
    "a password": ("https://bob:hunter2@host/m.onnx", "a name or password"),
    "keys in the address": ("s3://AKIA:hunter2@bucket/m.onnx", "a name or password"),
    "a signature": ("https://host/m.onnx?X-Amz-Signature=hunter2", "lets in whoever reads it"),
    "a token": ("https://host/m.onnx?a=b&access_token=hunter2", "lets in whoever reads it"),
}  # fmt: skip


@pytest.mark.parametrize(("address", "says"), ADDRESSES.values(), ids=ADDRESSES)
def test_an_address_that_is_not_followed(address: str, says: str, folder: Path) -> None:
    (folder / "recipe.yaml").write_text(RECIPE.replace("PATH", f'"{address}"'))
    done = refuses(folder, "plan", "recipe.yaml", says=says)
    assert "hunter2" not in done.err + done.out


@pytest.mark.parametrize(
    "extra",
    ["sha256: abc", f"sha256: {'g' * 64}", f"sha256: '{DIGEST} '", "external: {m.data: abc}", f"external: [{DIGEST}]"],
)
def test_a_checksum_that_is_none(extra: str, folder: Path) -> None:
    (folder / "recipe.yaml").write_text(RECIPE.replace("PATH", f"'memory://b/m.onnx', {extra}"))
    refuses(folder, "plan", "recipe.yaml", says="model.")


@pytest.mark.parametrize("name", ["../m.data", "/etc/passwd", "a/../../m.data", "a\\\\b"])
def test_files_beside_a_model_that_lie_elsewhere(name: str, folder: Path, bucket: Any) -> None:
    bucket.pipe_file("b/m.onnx", network().SerializeToString())
    digest = hashlib.sha256(bucket.cat_file("b/m.onnx")).hexdigest()
    text = f"'memory://b/m.onnx', sha256: {digest}, external: {{\"{name}\": {DIGEST}}}"
    (folder / "recipe.yaml").write_text(RECIPE.replace("PATH", text))
    refuses(folder, "plan", "recipe.yaml", "--check", says="")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no nodes"),
        (b"\x08\x07" + b"\xff" * 100, "m.onnx"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "m.onnx"),
        (b"<html>Not found</html>", "m.onnx"),
    ],
    ids=["nothing", "no protobuf", "a pointer of Git LFS", "a page that says why not"],
)
def test_what_lies_there_is_no_model(content: bytes, says: str, folder: Path, bucket: Any) -> None:
    bucket.pipe_file("b/m.onnx", content)
    (folder / "recipe.yaml").write_text(RECIPE.replace("PATH", "'memory://b/m.onnx'"))
    refuses(folder, "plan", "recipe.yaml", "--check", says=says)


def test_a_model_with_more_files_than_anybody_keeps(folder: Path, bucket: Any) -> None:
    model = network()
    for number in range(1001):
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(onnx.helper.make_tensor(f"w{number}", onnx.TensorProto.FLOAT, [1], [0.0]))
        tensor.ClearField("float_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", f"{number}.data"
    bucket.pipe_file("b/m.onnx", model.SerializeToString())
    (folder / "recipe.yaml").write_text(RECIPE.replace("PATH", "'memory://b/m.onnx'"))
    refuses(folder, "plan", "recipe.yaml", says="more than 1,000")


MANIFESTS: dict[str, tuple[str, str]] = {
    "a pattern of a web server": ("models: [{glob: 'https://host/*.onnx'}]", "name each file"),
    "a pattern over all buckets": ("models: [{glob: 's3://*/m.onnx'}]", "name the bucket"),
    "a pattern with a password": ("models: [{glob: 's3://bob:hunter2@bucket/*.onnx'}]", "a name or password"),
    "a checksum of a pattern": (f"models: [{{glob: 'memory://b/*', sha256: {DIGEST}}}]", "checksums are of the file"),
    "results on a web server": ("models: [{path: m.onnx}]\nstore: https://host/zoo", "nothing is written there"),
    "results in a repository": ("models: [{path: m.onnx}]\nstore: hf://org/zoo", "nothing is written there"),
    "results upwards": ("models: [{path: m.onnx}]\nstore: s3://bucket/../other", "never followed"),
    "results at no address": ("models: [{path: m.onnx}]\nstore: results", "no address"),
    "a cache on a web server": ("models: [{path: m.onnx}]\nshared_cache: https://host/cache", "nothing is written there"),
    "a cache over plain http": ("models: [{path: m.onnx}]\nshared_cache: http://host/cache", "use https"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "says"), MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_with_addresses_that_are_none(text: str, says: str, folder: Path) -> None:
    (folder / "zoo.yaml").write_text(ZOO + text)
    done = refuses(folder, "zoo", "plan", "zoo.yaml", says=says)
    assert "hunter2" not in done.err + done.out


def test_names_in_a_bucket_are_legible_and_stay_in_it(folder: Path, bucket: Any) -> None:
    for name in ("a\x1b[31mb.onnx", "c\u202ed.onnx"):
        bucket.store.clear()
        bucket.pipe_file(f"b/{name}", b"content")
        (folder / "zoo.yaml").write_text(ZOO + "models: [{glob: 'memory://b/*.onnx'}]")
        refuses(folder, "zoo", "plan", "zoo.yaml", says="control characters")


@pytest.mark.parametrize("name", ["../elsewhere", "b/../../up", "other/a"])
def test_a_listing_that_names_what_is_not_in_it(name: str, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [("b", [], {name: {"size": 1, "type": "file"}})]
    monkeypatch.setattr(
        bucket, "walk", lambda place, **_: iter(said if name != "other/a" else [("other", [], {"a": {}})])
    )
    refused(lambda: list(listed(parse("memory://b"))), "never followed" if ".." in name else "not in it")


def test_a_bucket_without_an_end_is_listed_to_a_limit(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(place: str, **_: object) -> Any:
        while True:
            yield "b", [], {"a.txt": {"size": 1, "type": "file"}}

    monkeypatch.setattr(bucket, "walk", endless)
    monkeypatch.setattr("compressctl.store.find._MOST_SEEN", 1000)
    refused(lambda: find(parse("memory://b/*.onnx"), 10), "are to be looked at")


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({cache_place.SHARED: "http://host/cache"}, "use https"),
        ({cache_place.SHARED: "https://host/cache"}, "cannot hold a cache"),
        ({cache_place.SHARED: "hf://org/repo"}, "cannot hold a cache"),
        ({cache_place.SHARED: "/a/folder"}, "no address"),
        ({cache_place.SHARED: "s3://a:hunter2@bucket"}, "a name or password"),
        ({cache_place.SHARED: "s3://bucket/../x"}, "never followed"),
        ({cache_place.SHARED: "memory://b", cache_place.SHARED_MODE: "all"}, "write read or write"),
    ],
)
def test_an_environment_that_names_no_cache(
    variables: dict[str, str], says: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = refuses(folder, "plan", "builtin:quickstart", says=says)
    assert "hunter2" not in done.err + done.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("trim",), "trim needs --limit"),
        (("--limit", "5GB"), "trim needs --limit"),
        (("trim", "--limit", "many"), "not a size"),
        (("trim", "--limit", "1e999GB"), "not a size"),
        (("--shared", "https://host"), "cannot hold a cache"),
        (("--shared", "folder"), "no address"),
    ],
)
def test_a_cache_command_that_asks_for_nothing(arguments: tuple[str, ...], says: str, folder: Path) -> None:
    refuses(folder, "cache", *arguments, says=says)


def test_limits_remove_nothing_that_is_no_entry(folder: Path, bucket: Any, tmp_path: Path) -> None:
    mine = tmp_path / "cache" / "stages" / "mine"
    mine.mkdir(parents=True)
    (mine / "file").write_text("mine")
    (tmp_path / "cache" / "shared").mkdir()
    (tmp_path / "cache" / "shared" / "link").symlink_to(mine.parent)
    bucket.pipe_file("b/stages/file", b"mine")
    bucket.pipe_file("b/other", b"mine")
    ends(folder, "cache", "trim", "--limit", "1B")
    ends(folder, "cache", "trim", "--limit", "1B", "--shared", "memory://b")
    assert (mine / "file").read_text() == "mine"
    assert sorted(bucket.store) == ["/b/other", "/b/stages/file"]


@pytest.mark.parametrize("name", ["evil.py:student", "os:system"])
def test_a_shared_entry_names_no_code_that_the_recipe_does_not(
    name: str, folder: Path, bucket: Any, tmp_path: Path
) -> None:
    from torch import nn

    (folder / "net.py").write_text("def student(width=4):\n    from torch import nn\n    return nn.Linear(4, width)\n")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef student(width=4):\n    pass\n")
    (folder / "recipe.yaml").write_text(
        "recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\ndata: {source: digits}\n"
        'stages: [{use: distill.logits, student: {factory: "net.py:student", args: {width: 6}}}]\n'
    )
    recipe = load(folder / "recipe.yaml")
    record = StageRecord("a", "distill.logits", {}, 1.0, {})
    model = TorchModel(nn.Linear(4, 6), Signature((), ()), (record,), factory=Factory("net.py:student", {"width": 6}))
    (tmp_path / "entry").mkdir()
    write_model(model, tmp_path / "entry", None, recipe.base)
    facts = json.loads((tmp_path / "entry" / "model.json").read_text())
    (tmp_path / "entry" / "model.json").write_text(
        json.dumps({**facts, "factory": {"name": name, "args": {"width": 6}}})
    )
    place = SharedPlace(parse("memory://team/cache"))
    SharedCache(tmp_path / "theirs", place).write(
        KEY, lambda entry: shutil.copytree(tmp_path / "entry", entry, dirs_exist_ok=True) and None
    )

    told: list[Event] = []
    cache = SharedCache(tmp_path / "ours", place)
    workspace = Workspace(recipe, make_plan(recipe, None), tmp_path, cache, Events(told.append))
    assert workspace.read(KEY, "student") is None
    assert "is damaged and is not used" in told[0].fields["message"]
    assert not (tmp_path / "ran").exists()
    assert KEY not in cache


@pytest.mark.slow
def test_the_signature_of_an_address_is_in_no_file(case: Case) -> None:
    """Nobody is there; the address came from the environment."""
    signed = "https://127.0.0.1:9/m.onnx?X-Amz-Signature=0123456789abcdef"
    try:
        (case.folder / "zoo.yaml").write_text(
            f"zoo: compressctl/v1\ndefaults: {{recipe: r.yaml, retries: 0}}\nmodels: [{{path: '${{env:URL}}', id: m, sha256: {DIGEST}}}]\nbudget: {{at_most_failed: 1}}\n"
        )
        (case.folder / "r.yaml").write_text(
            "recipe: compressctl/v1\ntask: custom\nstages: [{use: quantize.weights, bits: 8}]\n"
        )
        done = case.ends(
            "zoo", "apply", "zoo.yaml", code=0, leaves=["runs"], seconds=600, URL=signed, COMPRESSCTL_TIMING_GROUP="x"
        )
        files = [path for path in (case.folder / "runs").rglob("*") if path.is_file()]
        assert files
        told = done.out + done.err + "".join(path.read_text(errors="replace") for path in files)
        assert "0123456789abcdef" not in told
        assert "${env:URL}" in told
    finally:
        forget_secrets()
    assert os.environ.get("URL") is None
