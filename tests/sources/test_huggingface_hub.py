"""Ids of the Hub, against a server on this machine that answers as the Hub does."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.tiny_transformers import saved

COMMIT = "c" * 40


class _Hub(http.server.BaseHTTPRequestHandler):
    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.asked.append(self.path)
        place = f"/me/tiny/resolve/{COMMIT}/"
        path = self.folder / self.path.removeprefix(place)
        files = sorted(self.folder.iterdir())
        if self.path.startswith(f"/api/models/me/tiny/revision/{COMMIT}"):
            listed = [{"rfilename": path.name} for path in files]
            self._send(json.dumps({"id": "me/tiny", "sha": COMMIT, "siblings": listed}).encode())
        elif self.path.startswith(f"/api/models/me/tiny/tree/{COMMIT}"):
            entries = [
                {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": _oid(path)} for path in files
            ]
            self._send(json.dumps(entries).encode())
        elif self.path.startswith(place) and path.is_file():
            self._send(path.read_bytes())
        else:
            self._send(b"{}", 404)

    def _send(self, content: bytes, code: int = 200) -> None:
        self.send_response(code)
        self.send_header("content-length", str(len(content)))
        self.send_header("x-repo-commit", COMMIT)
        self.send_header("etag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, type[_Hub]]]:
    folder = saved("bert", tmp_path / "remote")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling.py").write_text("raise SystemExit('executed')")
    handler = type("Hub", (_Hub,), {"folder": folder, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", handler
        finally:
            server.shutdown()
            thread.join()


def loaded(endpoint: str, home: Path, revision: str = COMMIT) -> "subprocess.CompletedProcess[str]":
    """In a process of its own: the client reads its environment when it is imported."""
    code = """
import sys
from pathlib import Path
from compressctl.core.errors import CompressctlError
from compressctl.sources.huggingface.network import load
from compressctl.sources.params import HuggingFaceParams
try:
    model = load(HuggingFaceParams(path="me/tiny", revision=sys.argv[1]), Path(), 0)
except CompressctlError as error:
    sys.exit(str(error))
print(*(spec.name for spec in model.signature.inputs))
"""
    return subprocess.run(
        [sys.executable, "-c", code, revision],
        env={**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_commit_is_brought_once_without_pickles_and_code(hub: tuple[str, type[_Hub]], tmp_path: Path) -> None:
    done = loaded(hub[0], tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["input_ids", "attention_mask", "token_type_ids"]
    fetched = {path.rpartition("/")[2] for path in hub[1].asked if "/resolve/" in path}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= fetched
    assert not {"pytorch_model.bin", "modeling.py"} & fetched


def test_what_the_hub_does_not_have_is_one_message(hub: tuple[str, type[_Hub]], tmp_path: Path) -> None:
    done = loaded(hub[0], tmp_path / "home", revision="d" * 40)
    assert done.returncode == 1
    assert f"me/tiny at {'d' * 12} cannot be brought from the Hub" in done.stderr
    assert "Traceback" not in done.stderr
