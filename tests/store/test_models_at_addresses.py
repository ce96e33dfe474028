"""Recipes whose model or data lie at addresses."""

import hashlib
import io
from pathlib import Path

import fsspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressctl.core.errors import UsageError
from compressctl.pipeline.lock import write_lock
from compressctl.pipeline.plan import make_plan
from compressctl.recipe.loader import load
from compressctl.recipe.lock import load_lock
from compressctl.sources.addressed import pinned, pinned_if_known
from compressctl.sources.load import dataset_fingerprint, load_dataset, load_model, model_fingerprint
from compressctl.store import objects

RECIPE = """recipe: compressctl/v1
task: custom
model: {model}
data: {data}
stages: [{{use: quantize.weights, bits: 8}}]
"""


def network(seed: int = 0) -> onnx.ModelProto:
    weight = np.random.default_rng(seed).normal(size=(64, 64)).astype(np.float32)
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in ("x", "y")]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "mm")
    graph = helper.make_graph([node], "g", sides[:1], sides[1:], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def stored(bucket: fsspec.AbstractFileSystem, tmp_path: Path, *, location: str | None = None) -> dict[str, str]:
    """Put a model into the bucket; the checksums of its files."""
    folder = tmp_path / "made"
    folder.mkdir()
    where = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0} if location else {}
    onnx.save(network(), folder / "m.onnx", **where)
    if location and location != "m.data":
        model = onnx.load(folder / "m.onnx", load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            entry.value = location if entry.key == "location" else entry.value
        (folder / "m.onnx").write_bytes(model.SerializeToString())
    for file in folder.iterdir():
        bucket.put_file(str(file), f"bucket/models/{file.name}")
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def recipe(tmp_path: Path, model: str, data: str = "{source: random, inputs: {x: {shape: [64]}}}"):
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(model=model, data=data))
    return load(tmp_path / "recipe.yaml")


def forbid(*_: object, **__: object) -> None:
    raise AssertionError("the store was asked")


def test_a_model_is_loaded_from_its_address(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    stored(bucket, tmp_path)
    loaded = recipe(tmp_path, "{source: onnx, path: 'memory://bucket/models/m.onnx'}")
    model = load_model(loaded.model, loaded.base, 0)
    assert [spec.name for spec in model.signature.inputs] == ["x"]


def test_so_is_what_it_keeps_beside_itself(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    stored(bucket, tmp_path, location="m.data")
    loaded = recipe(tmp_path, "{source: onnx, path: 'memory://bucket/models/m.onnx'}")
    model = load_model(loaded.model, loaded.base, 0)
    assert [spec.name for spec in model.signature.inputs] == ["x"]


@pytest.mark.parametrize("location", ["../m.data", "/etc/passwd", "a\\b", ""])
def test_external_data_lead_nowhere_else(location: str, bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    stored(bucket, tmp_path, location=location or "m.data")
    if not location:
        bucket.rm_file("bucket/models/m.data")
    loaded = recipe(tmp_path, "{source: onnx, path: 'memory://bucket/models/m.onnx'}")
    with pytest.raises(UsageError, match=r"never followed|no path of a file|does not exist"):
        load_model(loaded.model, loaded.base, 0)


def test_equal_models_are_one_wherever_they_lie(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    digest = stored(bucket, tmp_path)["m.onnx"]
    bucket.cp_file("bucket/models/m.onnx", "other/n.onnx")
    sections = [
        "{source: onnx, path: 'memory://bucket/models/m.onnx'}",
        "{source: onnx, path: 'memory://other/n.onnx'}",
        f"{{source: onnx, path: 'https://host.invalid/m.onnx', sha256: {digest}}}",
    ]
    keys = {model_fingerprint(recipe(tmp_path, section).model, tmp_path) for section in sections}
    assert len(keys) == 1


def test_with_a_checksum_nothing_is_brought_to_plan(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = stored(bucket, tmp_path, location="m.data")
    monkeypatch.setattr(objects, "_system", forbid)
    section = f"{{source: onnx, path: 's3://b/m.onnx', sha256: {digests['m.onnx']}, external: {{m.data: {digests['m.data']}}}}}"
    assert model_fingerprint(recipe(tmp_path, section).model, tmp_path)


def test_a_checksum_that_says_less_than_all_is_refused(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    digests = stored(bucket, tmp_path, location="m.data")
    loaded = recipe(tmp_path, f"{{source: onnx, path: 'memory://bucket/models/m.onnx', sha256: {digests['m.onnx']}}}")
    with pytest.raises(UsageError, match=r"m\.data beside it, and only its own checksum"):
        load_model(loaded.model, loaded.base, 0)


def test_what_is_pinned_is_what_lies_there(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    digests = stored(bucket, tmp_path, location="m.data")
    params = recipe(tmp_path, "{source: onnx, path: 'memory://bucket/models/m.onnx'}").model.params
    assert pinned_if_known(params) is None
    found = pinned(params)
    assert (found.sha256, found.external) == (digests["m.onnx"], {"m.data": digests["m.data"]})
    assert pinned_if_known(params) == found
    bucket.pipe_file("bucket/models/m.data", b"another")
    assert pinned_if_known(params) is None


def test_a_file_of_this_machine_is_checked_too(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    loaded = recipe(tmp_path, f"{{source: onnx, path: m.onnx, sha256: {'ab' * 32}}}")
    with pytest.raises(UsageError, match="it is another file than the one that was meant"):
        model_fingerprint(loaded.model, tmp_path)


def test_a_wrong_address_has_its_place_in_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"recipe\.yaml:3:\d+ +model\.path: .*plain http"):
        recipe(tmp_path, "{source: onnx, path: 'http://host/m.onnx'}")


def test_a_password_in_an_address_is_refused_and_not_repeated(tmp_path: Path) -> None:
    loaded = recipe(tmp_path, "{source: onnx, path: 'https://me:hunter2@host/m.onnx'}")
    with pytest.raises(UsageError, match="password") as refused:
        model_fingerprint(loaded.model, tmp_path)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("d.npz", "{{source: npz, path: '{0}', inputs: [x], labels: null}}"),
        ("d.csv", "{{source: csv, path: '{0}', label: y}}"),
        ("d.jsonl", "{{source: jsonl, path: '{0}', inputs: [x]}}"),
    ],
)
def test_data_of_one_file_are_brought_too(
    name: str, section: str, bucket: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    arrays = io.BytesIO()
    np.savez(arrays, x=np.zeros((40, 64), np.float32))
    contents = {
        "d.npz": arrays.getvalue(),
        "d.csv": b"a,y\n" + b"1,u\n2,v\n" * 20,
        "d.jsonl": b'{"x": [1, 2]}\n' * 40,
    }
    bucket.pipe_file(f"bucket/{name}", contents[name])
    loaded = recipe(tmp_path, "{source: builtin, name: digits-resnet}", section.format(f"memory://bucket/{name}"))
    assert loaded.data is not None
    assert dataset_fingerprint(loaded.data, tmp_path, 0)
    dataset = load_dataset(loaded.data, tmp_path, 0)
    assert sum(len(dataset.split(split)) for split in ("train", "validation", "calibration", "test")) > 0


def test_a_lock_file_says_which_file_it_was(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    digests = stored(bucket, tmp_path, location="m.data")
    loaded = recipe(tmp_path, "{source: onnx, path: 'memory://bucket/models/m.onnx'}")
    write_lock(tmp_path / "recipe.lock.yaml", loaded, make_plan(loaded, None), {})
    again, _ = load_lock(tmp_path / "recipe.lock.yaml")
    assert again.model.params.path == "memory://bucket/models/m.onnx"
    assert (again.model.params.sha256, again.model.params.external) == (
        digests["m.onnx"],
        {"m.data": digests["m.data"]},
    )
