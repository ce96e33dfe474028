"""The same against a server that speaks S3."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest

from compressctl.core.errors import MachineError, UsageError
from compressctl.store import objects
from compressctl.store.address import parse
from compressctl.store.downloads import fetch, known
from compressctl.store.find import find
from compressctl.store.objects import abort_unfinished, ask, exists, listed, put, read, remove
from compressctl.store.shared_cache import SharedCache, SharedPlace, trim
from compressctl.zoo.results import JobResult, Outcome
from compressctl.zoo.stored import ZooStore

LARGE = 33 << 20
"""Bytes: an upload of three parts."""

_UPLOAD = """
import os, signal, sys
from pathlib import Path
import s3fs
from compressctl.store.address import parse
from compressctl.store.objects import put

call = s3fs.S3FileSystem._call_s3

async def dies_after_a_part(self, method, *args, **more):
    done = await call(self, method, *args, **more)
    if method == "upload_part":
        os.kill(os.getpid(), signal.SIGKILL)
    return done

s3fs.S3FileSystem._call_s3 = dies_after_a_part
put(parse(sys.argv[1]), Path(sys.argv[2]))
"""


def killed_upload(address: str, file: Path) -> None:
    """A process that is killed when the server has a part of a file."""
    done = subprocess.run([sys.executable, "-c", _UPLOAD, address, str(file)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture
def large(tmp_path: Path) -> Path:
    (tmp_path / "large").write_bytes(os.urandom(1 << 20) * (LARGE >> 20))
    return tmp_path / "large"


def test_a_file_comes_back_and_is_known(s3: Any, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    address = parse("s3://team/models/deep/a.onnx")
    assert not exists(address)
    put(address, tmp_path / "a")
    assert exists(address)
    assert ask(address).size == 7
    assert known(address) is None
    assert fetch(address).path.read_bytes() == b"content"
    assert known(address) == hashlib.sha256(b"content").hexdigest()
    assert [str(one.address) for one in listed(parse("s3://team/models"))] == [str(address)]
    assert [str(one.address) for one in find(parse("s3://team/**/*.onnx"), 10)] == [str(address)]
    put(address, tmp_path / "a")
    assert known(address) == hashlib.sha256(b"content").hexdigest()
    (tmp_path / "a").write_bytes(b"CONTENT")
    put(address, tmp_path / "a")
    assert known(address) is None
    remove(address)
    remove(address)
    assert not exists(address)


def test_large_files_are_put_in_parts_and_come_back_whole(s3: Any, large: Path) -> None:
    put(parse("s3://team/large"), large)
    fetched = fetch(parse("s3://team/large"))
    assert fetched.sha256 == hashlib.sha256(large.read_bytes()).hexdigest()
    assert s3.info("team/large")["ETag"].strip('"').endswith("-3")


def test_an_upload_that_is_killed_leaves_nothing_half(s3: Any, large: Path, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"the one before")
    put(parse("s3://team/runs/model"), tmp_path / "old")
    killed_upload("s3://team/runs/model", large)
    assert read(parse("s3://team/runs/model"), 100) == b"the one before"
    assert abort_unfinished(parse("s3://team/other")) == 0
    assert abort_unfinished(parse("s3://team/runs"), older_seconds=1e10) == 0
    assert abort_unfinished(parse("s3://team/runs")) == 1
    assert abort_unfinished(parse("s3://team")) == 0


def test_a_jobs_upload_ends_what_a_killed_one_began(s3: Any, tmp_path: Path) -> None:
    run = tmp_path / "zoo" / "runs" / "a"
    run.mkdir(parents=True)
    (run / "report.html").write_text("report")
    s3.call_s3("create_multipart_upload", Bucket="team", Key="zoo/runs/a/0123456789abcdef/runs/a/model.onnx")
    result = JobResult(
        job="a", model="a", recipe="r", why="", key="k", outcome=Outcome.GOOD, message="", exit_code=0, attempts=1, started=1.0, seconds=1.0,
        paused_seconds=0.0, peak_memory=None, host="h", log="", report="runs/a/report.html", figures=None, command=(),
    )  # fmt: skip
    ZooStore(parse("s3://team/zoo"), tmp_path / "zoo").put(result)
    assert abort_unfinished(parse("s3://team")) == 0
    there = ZooStore(parse("s3://team/zoo"), tmp_path / "elsewhere")
    there.bring_all()
    assert (tmp_path / "elsewhere/runs/a/report.html").read_text() == "report"


def test_machines_share_a_cache(s3: Any, tmp_path: Path) -> None:
    key, place = "ab" * 32, SharedPlace(parse("s3://team/cache"))
    SharedCache(tmp_path / "one", place).write(key, lambda folder: (folder / "file").write_text("content") and None)
    folder = SharedCache(tmp_path / "two", place).read(key)
    assert folder is not None
    assert (folder / "file").read_text() == "content"
    assert trim("s3://team/cache", 0).removed == 1
    assert key not in SharedCache(tmp_path / "three", place)


@pytest.mark.parametrize("address", ["s3://team/none", "s3://no-such-bucket/key", "s3://No_Bucket/key"])
def test_what_is_not_there_is_said(address: str, s3: Any) -> None:
    with pytest.raises(UsageError, match=r"does not exist|cannot be used"):
        fetch(parse(address))


def test_a_folder_is_none(s3: Any, tmp_path: Path) -> None:
    s3.pipe_file("team/models/a.onnx", b"content")
    with pytest.raises(UsageError, match="is a folder"):
        fetch(parse("s3://team/models"))


def test_without_credentials_it_says_where_they_come_from(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    objects._system_of.cache_clear()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(UsageError, match="credentials come from the environment"):
        fetch(parse("s3://team/a.onnx"))


def test_a_server_that_is_gone_is_the_machines(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    objects._system_of.cache_clear()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(MachineError, match="cannot be reached"):
        fetch(parse("s3://team/a.onnx"))
