"""An archive gives back what was packed, and nothing that was not."""

import hashlib
import io
import json
from pathlib import Path

import pytest

from compressctl.store.archive import DamagedError, pack, unpack

KEY = "ab" * 32


def archive(key: str = KEY, **contents: bytes) -> bytes:
    """As who knows the format can write it."""
    files = [
        {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    ]
    return raw({"key": key, "files": files}, b"".join(contents.values()))


def raw(header: object, body: bytes = b"") -> bytes:
    words = json.dumps(header).encode()
    return b"compressctl cache entry 1\n" + len(words).to_bytes(8) + words + body


def unpacked(content: bytes, tmp_path: Path) -> Path:
    (tmp_path / "archive").write_bytes(content)
    (tmp_path / "into").mkdir()
    unpack(tmp_path / "archive", KEY, tmp_path / "into")
    return tmp_path / "into"


def test_what_was_packed_comes_back(tmp_path: Path) -> None:
    (tmp_path / "entry" / "part").mkdir(parents=True)
    (tmp_path / "entry" / "part" / "model.onnx").write_bytes(b"weights" * 1000)
    (tmp_path / "entry" / "empty").touch()
    (tmp_path / "entry" / "manifest.json").write_text("{}")
    packed = io.BytesIO()
    pack(tmp_path / "entry", KEY, packed, without="manifest.json")
    into = unpacked(packed.getvalue(), tmp_path)
    files = {str(path.relative_to(into)): path.read_bytes() for path in into.rglob("*") if path.is_file()}
    assert files == {"part/model.onnx": b"weights" * 1000, "empty": b""}


DIGEST = hashlib.sha256(b"x").hexdigest()
GOOD = {"name": "a", "size": 1, "sha256": DIGEST}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no cache entry"),
        (b"PK\x03\x04" + bytes(100), "no cache entry"),
        (b"compressctl cache entry 1\n" + (1 << 40).to_bytes(8), "no cache entry"),
        (b"compressctl cache entry 1\n" + (9).to_bytes(8) + b"not json!", "cannot be read"),
        (raw([1, 2]), "cannot be read"),
        (b"compressctl cache entry 1\n" + (200_000).to_bytes(8) + b"[" * 200_000, "cannot be read"),
        (raw({"key": KEY, "files": [], "code": "os.system"}), "cannot be read"),
        (raw({"key": KEY, "files": [{**GOOD, "size": -1}]}), "cannot be read"),
        (raw({"key": KEY, "files": [{**GOOD, "size": True}]}, b"x"), "cannot be read"),
        (raw({"key": KEY, "files": [{**GOOD, "size": 1 << 60}]}), "cannot be read"),
        (raw({"key": KEY, "files": [{**GOOD, "sha256": "x"}]}, b"x"), "cannot be read"),
        (raw({"key": KEY, "files": [{**GOOD, "name": "x" * 2000}]}, b"x"), "cannot be read"),
        (raw({"key": KEY, "files": [{**GOOD, "name": "x" * 300}]}, b"x"), "longer name than files have"),
        (raw({"key": KEY, "files": [{**GOOD, "name": "a\ud800"}]}, b"x"), "cannot be read"),
        (archive("cd" * 32, a=b"x"), "another entry's"),
        (archive(a=b"x")[:-1], "another length"),
        (archive(a=b"x") + b"more", "another length"),
        (raw({"key": KEY, "files": [{**GOOD, "size": 1 << 40}]}), "another length"),
        (raw({"key": KEY, "files": [GOOD]}, b"y"), "not what was written"),
        (raw({"key": KEY, "files": [GOOD, GOOD]}, b"xx"), "two files"),
        (raw({"key": KEY, "files": [GOOD, {**GOOD, "name": "a/b"}]}, b"xx"), "two files"),
        (archive(**{"../a": b"x"}), "is called"),
        (archive(**{"/etc/a": b"x"}), "is called"),
        (archive(**{"a/../../b": b"x"}), "is called"),
        (archive(**{"a//b": b"x"}), "is called"),
        (archive(**{"./a": b"x"}), "is called"),
        (archive(**{"a\\b": b"x"}), "is called"),
        (archive(**{"a\0b": b"x"}), "is called"),
    ],
)
def test_what_is_no_entry_of_this_key_is_damaged(content: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match=says):
        unpacked(content, tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {"archive", "a"}
