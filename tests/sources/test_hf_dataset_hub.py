"""Datasets on the Hub, against a server on this machine that answers as the Hub does."""

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
from urllib.parse import parse_qs

import pytest

datasets = pytest.importorskip("datasets")

datasets.disable_progress_bars()

COMMIT = "d" * 40
_API = "/api/datasets/me/reviews"


class _Hub(http.server.BaseHTTPRequestHandler):
    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        """Which of these paths there are."""
        content = self.rfile.read(int(self.headers["content-length"]))
        asked = json.loads(content).get("paths") if content[:1] == b"{" else parse_qs(content.decode()).get("paths")
        self.asked.append(self.path)
        self._send(json.dumps([entry for entry in self._entries() if entry["path"] in (asked or [])]).encode())

    def _answer(self) -> None:
        self.asked.append(self.path)
        place, way = f"/datasets/me/reviews/resolve/{COMMIT}/", self.path.partition("?")[0]
        path = self.folder / way.removeprefix(place)
        if way == f"{_API}/revision/{COMMIT}":
            listed = [{"rfilename": entry["path"]} for entry in self._entries()]
            self._send(json.dumps({"id": "me/reviews", "sha": COMMIT, "siblings": listed}).encode())
        elif way.rstrip("/") == f"{_API}/tree/{COMMIT}":
            self._send(json.dumps(self._entries()).encode())
        elif way.startswith(place) and path.is_file():
            self._send(path.read_bytes())
        else:
            self._send(b"{}", 404, "EntryNotFound" if COMMIT in way else "RevisionNotFound")

    def _entries(self) -> list[dict[str, Any]]:
        return [
            {
                "type": "file",
                "path": path.name,
                "size": path.stat().st_size,
                "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
            }
            for path in sorted(self.folder.iterdir())
        ]

    def _send(self, content: bytes, code: int = 200, error: str | None = None) -> None:
        self.send_response(code)
        self.send_header("content-length", str(len(content)))
        self.send_header("x-repo-commit", COMMIT)
        self.send_header("etag", f'"{hashlib.sha1(content).hexdigest()}"')
        if error is not None:
            self.send_header("x-error-code", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, type[_Hub]]]:
    folder = tmp_path / "remote"
    folder.mkdir()
    datasets.Dataset.from_dict({"x": list(range(30))}).to_parquet(str(folder / "train.parquet"))
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
from compressctl.core.source import SplitSizes
from compressctl.sources.hf_dataset.place import fingerprint
from compressctl.sources.hf_dataset.samples import load
from compressctl.sources.params import HfDatasetParams
params = HfDatasetParams(path="me/reviews", revision=sys.argv[1], inputs=("x",))
try:
    fingerprint(params, Path())
    dataset = load(params, SplitSizes(), Path(), 0)
except CompressctlError as error:
    print(error, file=sys.stderr)
    sys.exit(int(error.exit_code))
print(sum(len(dataset.split(name)) for name in ("train", "validation", "calibration", "test")))
"""
    places = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hf"), "COMPRESSCTL_CACHE": str(home / "cache")}
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", code, revision],
        cwd=home,
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_commit_is_brought_once(hub: tuple[str, type[_Hub]], tmp_path: Path) -> None:
    done = loaded(hub[0], tmp_path / "home")
    assert (done.returncode, done.stdout.strip()) == (0, "30"), done.stderr
    hub[1].asked.clear()
    assert loaded(hub[0], tmp_path / "home").stdout.strip() == "30"
    assert hub[1].asked == []


def test_what_the_hub_does_not_have_is_one_message(hub: tuple[str, type[_Hub]], tmp_path: Path) -> None:
    done = loaded(hub[0], tmp_path / "home", revision="e" * 40)
    assert done.returncode == 2
    assert "me/reviews cannot be read" in done.stderr
    assert "check the id, the commit" in done.stderr
    assert "Traceback" not in done.stderr
