"""A zoo whose models lie in a bucket: what is brought, and when."""

import hashlib
from pathlib import Path

import fsspec
import pytest
from onnx import TensorProto, helper

from compressctl.core.errors import ExitCode, MachineError, UsageError
from compressctl.store import objects
from compressctl.store.address import parse
from compressctl.store.find import find
from compressctl.zoo.drive import Choice, Standing, standings
from compressctl.zoo.load import load_manifest

RECIPE = "recipe: compressctl/v1\ntask: custom\nstages: [{use: quantize.weights, bits: 8}]\n"


def network(op: str) -> bytes:
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "g", sides[:1], sides[1:])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


@pytest.fixture(autouse=True)
def models(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "relu.yaml").write_text(RECIPE)
    for name, op in {"a.onnx": "Relu", "deep/b.onnx": "Tanh", "deep/c.txt": "Relu"}.items():
        bucket.pipe_file(f"bucket/models/{name}", network(op))


def planned(folder: Path, text: str, *, fetches: bool = False, choice: Choice = Choice()) -> list[Standing]:  # noqa: B008
    (folder / "zoo.yaml").write_text(f"zoo: compressctl/v1\ndefaults: {{recipe: r.yaml, retries: 1}}\n{text}")
    manifest = load_manifest(folder / "zoo.yaml")
    return list(standings(manifest, folder, folder / "out", choice, None, fetches=fetches))


def forbid(*_: object, **__: object) -> None:
    raise AssertionError("a file was brought")


ALL = "models: [{glob: 'memory://bucket/models/**/*.onnx'}]\n"


def test_a_pattern_finds_what_fits_it(bucket: fsspec.AbstractFileSystem) -> None:
    def found(pattern: str) -> list[str]:
        return [one.address.text for one in find(parse(f"memory://bucket/{pattern}"), 10)]

    assert found("models/**/*.onnx") == ["memory://bucket/models/a.onnx", "memory://bucket/models/deep/b.onnx"]
    assert found("models/*.onnx") == ["memory://bucket/models/a.onnx"]
    assert found("**/?.txt") == ["memory://bucket/models/deep/c.txt"]
    assert found("none/*.onnx") == []
    with pytest.raises(UsageError, match="more than 1 files"):
        find(parse("memory://bucket/**/*.onnx"), 1)


@pytest.mark.parametrize(
    ("pattern", "says"), [("https://host/*.onnx", "name each file"), ("s3://*/a.onnx", "name the bucket")]
)
def test_what_cannot_be_listed_is_refused(pattern: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        find(parse(pattern), 10)


def test_to_plan_nothing_is_brought(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(bucket, "open", forbid)
        found = planned(tmp_path, ALL)
    assert [(one.planned.job.id, one.planned.job.is_unfetched) for one in found] == [("a", True), ("deep-b", True)]


def test_what_was_brought_once_is_known_to_the_next_plan(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought = planned(tmp_path, ALL, fetches=True)
    assert not any(one.planned.job.is_unfetched or one.planned.problem for one in brought)
    with monkeypatch.context() as patched:
        patched.setattr(bucket, "open", forbid)
        again = planned(tmp_path, ALL)
    assert [one.planned.key for one in again] == [one.planned.key for one in brought]
    bucket.pipe_file("bucket/models/a.onnx", network("Sigmoid"))
    changed = planned(tmp_path, ALL, fetches=True)
    assert [one.planned.key == other.planned.key for one, other in zip(changed, brought, strict=True)] == [False, True]


def test_with_checksums_a_plan_asks_nobody(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(network("Relu")).hexdigest()
    (brought,) = planned(tmp_path, "models: [{path: 'memory://bucket/models/a.onnx'}]\n", fetches=True)
    monkeypatch.setattr(objects, "_system", forbid)
    (found,) = planned(tmp_path, f"models: [{{path: 'https://host.invalid/a.onnx', sha256: {digest}}}]\n")
    assert not found.planned.job.is_unfetched
    assert f'"sha256": "{digest}"' in found.planned.job.sets[0]
    assert brought.planned.steps == found.planned.steps


def test_rules_look_into_files_at_addresses_and_bring_those_alone(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    rules = "recipes: [{when: {ops: [Relu]}, use: relu.yaml}]\n"
    found = planned(tmp_path, ALL + rules, choice=Choice(only=("a",)))
    assert [(one.planned.job.id, one.planned.job.recipe_id) for one in found] == [("a", "relu")]
    assert len(list((tmp_path / "cache" / "downloads").glob("*/files"))) == 1


def test_a_shard_brings_its_own_models_alone(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    parts = [planned(tmp_path, ALL, fetches=True, choice=Choice(shard=(index, 2))) for index in (1, 2)]
    assert sorted(one.planned.job.id for part in parts for one in part) == ["a", "deep-b"]
    bucket.pipe_file("bucket/models/z.onnx", network("Abs"))
    planned(tmp_path, ALL, fetches=True, choice=Choice(only=("failed",)))
    assert len(list((tmp_path / "cache" / "downloads").glob("*/files"))) == 2


def test_what_cannot_be_brought_is_a_row_and_no_other_jobs_end(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    text = "models: [{path: 'memory://bucket/none.onnx'}, {path: 'memory://bucket/models/a.onnx'}]\n"
    missing, there = planned(tmp_path, text, fetches=True)
    assert missing.planned.problem is not None
    assert "does not exist" in missing.planned.problem
    assert missing.planned.code is ExitCode.USAGE
    assert there.planned.problem is None


def test_what_may_pass_by_itself_is_tried_again(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    info = bucket.info

    def shaky(path: str) -> object:
        asked.append(path)
        if len(asked) <= failures:
            raise ConnectionResetError("gone")
        return info(path)

    monkeypatch.setattr(bucket, "info", shaky)
    text = "models: [{path: 'memory://bucket/models/a.onnx'}]\n"
    failures = 1
    (found,) = planned(tmp_path, text, fetches=True)
    assert found.planned.problem is None
    asked.clear()
    failures = 100
    (found,) = planned(tmp_path, text, fetches=True)
    assert found.planned.code is MachineError.exit_code


def test_a_password_in_a_manifest_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="password") as refused:
        planned(tmp_path, "models: [{path: 'https://me:hunter2@host/a.onnx', sha256: " + "ab" * 32 + "}]\n")
    assert "hunter2" not in str(refused.value)


def test_a_bucket_with_a_damaged_file_is_planned_to_its_end(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    bucket.pipe_file("bucket/models/a.onnx", b"\x08\x07garbage")
    first, second = planned(tmp_path, ALL, fetches=True)
    assert second.planned.problem is None
    assert first.planned.job.id == "a"


def test_models_of_equal_names_have_ids_of_their_own(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    bucket.pipe_file("bucket/models/deep-b.onnx", network("Relu"))
    assert len({one.planned.job.id for one in planned(tmp_path, ALL)}) == 3
