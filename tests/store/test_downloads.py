"""Files are brought once, verified, and taken again only while they are the same."""

import hashlib
import os
from pathlib import Path

import fsspec
import pytest

from compressctl.core.errors import MachineError, UsageError
from compressctl.store import objects
from compressctl.store.address import parse
from compressctl.store.downloads import fetch, fetch_together, known

CONTENT = b"numbers of a model" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PLACE = "memory://bucket/a.onnx"


@pytest.fixture(autouse=True)
def model(bucket: fsspec.AbstractFileSystem) -> None:
    bucket.pipe_file("bucket/a.onnx", CONTENT)


def forbid(*_: object, **__: object) -> None:
    raise AssertionError("the store was asked")


def test_a_file_is_brought_and_kept_by_its_content(tmp_path: Path) -> None:
    brought = fetch(parse(PLACE))
    assert brought.sha256 == DIGEST
    assert brought.path.read_bytes() == CONTENT
    assert brought.path.is_relative_to(tmp_path / "cache" / "downloads" / DIGEST)
    assert not list((tmp_path / "cache").rglob(".writing-*"))


def test_with_a_checksum_nobody_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(parse(PLACE), DIGEST)
    monkeypatch.setattr(objects, "_system", forbid)
    assert fetch(parse("memory://elsewhere/b.onnx"), DIGEST.upper()).path.read_bytes() == CONTENT


def test_without_one_the_store_says_whether_it_is_the_same(
    bucket: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(parse(PLACE))
    monkeypatch.setattr(bucket, "open", forbid)
    assert fetch(parse(PLACE)).sha256 == DIGEST
    assert known(parse(PLACE)) == DIGEST
    monkeypatch.undo()


def test_what_has_changed_is_brought_again(bucket: fsspec.AbstractFileSystem) -> None:
    fetch(parse(PLACE))
    bucket.pipe_file("bucket/a.onnx", b"another model")
    assert known(parse(PLACE)) is None
    assert fetch(parse(PLACE)).path.read_bytes() == b"another model"


def test_a_kept_file_that_was_changed_is_brought_again() -> None:
    kept = fetch(parse(PLACE), DIGEST).path
    kept.chmod(0o600)
    kept.write_bytes(b"changed")
    assert fetch(parse(PLACE), DIGEST).path.read_bytes() == CONTENT


def test_another_checksum_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is another file than the one that was meant"):
        fetch(parse(PLACE), "cd" * 32)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_https_without_a_checksum_is_refused() -> None:
    with pytest.raises(UsageError, match="give `sha256`"):
        fetch(parse("https://host.invalid/a.onnx"))


def test_no_more_is_read_than_a_file_may_have(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too much"):
        fetch(parse(PLACE), most_bytes=len(CONTENT) - 1)
    fetch(parse(PLACE), most_bytes=len(CONTENT))


def test_a_file_that_is_cut_short_may_come_whole_the_next_time(
    bucket: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = bucket.info("bucket/a.onnx")
    monkeypatch.setattr(bucket, "info", lambda path: {**said, "size": len(CONTENT) + 1})
    with pytest.raises(MachineError, match="try again"):
        fetch(parse(PLACE))


def test_files_that_belong_together_lie_together(bucket: fsspec.AbstractFileSystem) -> None:
    bucket.pipe_file("bucket/parts/a.data", b"weights")
    files = {"a.onnx": (parse(PLACE), None), "parts/a.data": (parse("memory://bucket/parts/a.data"), None)}
    folder, digests = fetch_together(files)
    assert (folder / "a.onnx").read_bytes() == CONTENT
    assert (folder / "parts" / "a.data").read_bytes() == b"weights"
    assert digests["a.onnx"] == DIGEST
    assert fetch_together(files)[0] == folder


def test_a_file_of_this_machine_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(CONTENT)
    assert fetch(parse(f"file://{tmp_path}/a.onnx")).path == tmp_path / "a.onnx"
    with pytest.raises(UsageError, match="it is another file"):
        fetch(parse(f"file://{tmp_path}/a.onnx"), "cd" * 32)


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="a pipe"):
        fetch(parse(f"file://{tmp_path}/pipe"))


def test_where_no_cache_can_be_used_files_are_there_for_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").mkdir(mode=0o777)
    (tmp_path / "cache").chmod(0o777)
    with pytest.warns(UserWarning, match="everybody can write"):
        assert fetch(parse(PLACE)).path.read_bytes() == CONTENT
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (FileNotFoundError("gone"), UsageError, "does not exist"),
        (PermissionError("Forbidden"), UsageError, "nobody lets us in"),
        (ValueError("Invalid bucket name"), UsageError, "cannot be used"),
        (TimeoutError("too slow"), MachineError, "cannot be reached"),
        (ConnectionRefusedError(111, "Connection refused"), MachineError, "cannot be reached"),
        (OSError("SlowDown"), MachineError, "cannot be reached"),
        (RuntimeError("anything"), MachineError, "cannot be reached"),
    ],
)
def test_a_librarys_error_says_whether_trying_again_helps(
    error: Exception,
    kind: type[Exception],
    says: str,
    bucket: fsspec.AbstractFileSystem,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(path: str) -> None:
        raise error

    monkeypatch.setattr(bucket, "info", fail)
    with pytest.raises(kind, match=says):
        fetch(parse(PLACE))


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, UsageError), (403, UsageError), (416, UsageError), (503, MachineError), (429, MachineError)],
)
def test_a_status_says_so_too(
    status: int, kind: type[Exception], bucket: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    class HttpError(Exception):
        pass

    def fail(path: str) -> None:
        error = HttpError("it did not work")
        error.status = status  # type: ignore[attr-defined]
        raise OSError("wrapped") from error

    monkeypatch.setattr(bucket, "info", fail)
    with pytest.raises(kind):
        fetch(parse(PLACE))
