"""Publishing: a card that says what was measured and what is not known, and one commit through the Hub's own client."""

import base64
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
import yaml
from support.reports import file_measurement

from compressctl.core.errors import UsageError
from compressctl.measure.results import BackendResult, Score
from compressctl.publish.card import About
from compressctl.publish.folder import prepare
from compressctl.publish.hub import check_name
from compressctl.report.document import Report, Stage

ABOUT = About("digits-int8", "my-team/digits", "apache-2.0", "digits")
MODEL = b"x" * 1000


def write_run(folder: Path, **changes: Any) -> Path:
    """A run's folder as `apply` leaves it, made by hand."""
    before, after = file_measurement(4000), file_measurement(len(MODEL), ratio=1.6, drop=0.5)

    def scored(value: float) -> Score:
        return Score(metric="accuracy", value=value, samples=360, split="test", per_class=None)

    before = before.model_copy(update={"score": scored(97.5)})
    path = "artifacts/onnxruntime/model.onnx"
    after = after.model_copy(update={"score": scored(97.0), "path": path})
    part = BackendResult(
        backend="onnxruntime", version="1.32", baseline=before, compressed=after, smaller=4, waterfall=()
    )
    stage = Stage(id="int8", use="quantize.static", seconds=1, cached=False, params={}, facts={})
    given: dict[str, Any] = {
        "name": "digits", "status": "done", "exit_code": 0, "error": None, "summary": ["4.00x smaller"], "started": 0.0, "seconds": 2.0,
        "metric": "accuracy", "metric_unit": "%", "backends": [part], "budget": [], "stages": [stage], "parity": [], "warnings": ["noisy"],
        "environment": {"cpu": "a processor"}, "recipe": {"task": "classification", "data": {"source": "digits"}},
    }  # fmt: skip
    (folder / path).parent.mkdir(parents=True)
    (folder / path).write_bytes(MODEL)
    (folder / "report.json").write_text(Report(**{**given, **changes}).model_dump_json())
    (folder / "recipe.lock.yaml").write_text(yaml.safe_dump({"recipe": {"name": "digits"}, "base": "/secret/place"}))
    return folder


def metadata(card: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.read_text().split("---\n")[1])
    return found


def test_a_card_says_what_was_measured_with_its_interval(tmp_path: Path) -> None:
    files = prepare(write_run(tmp_path / "run"), tmp_path / "card", ABOUT)
    assert sorted(path.name for path in files) == ["README.md", "model.onnx", "recipe.lock.yaml", "report.json"]
    found = metadata(tmp_path / "card" / "README.md")
    assert (found["base_model"], found["base_model_relation"]) == ("my-team/digits", "quantized")
    assert found["license"] == "apache-2.0"
    metrics = {metric["type"]: metric for metric in found["model-index"][0]["results"][0]["metrics"]}
    assert metrics["accuracy"]["value"] == 97.0
    assert metrics["accuracy"]["args"] == {"original": 97.5}
    assert metrics["speedup"]["args"] == {"low": 1.5, "high": 1.7}
    text = (tmp_path / "card" / "README.md").read_text()
    assert "noisy" in text
    assert "Not said" not in text


def test_what_is_not_known_is_said_and_not_made_up(tmp_path: Path) -> None:
    prepare(write_run(tmp_path / "run"), tmp_path / "card", About("x"))
    found = metadata(tmp_path / "card" / "README.md")
    assert {"base_model", "base_model_relation", "license"}.isdisjoint(found)
    assert "Not said: which model on the Hub this was made of" in (tmp_path / "card" / "README.md").read_text()


def test_the_lock_does_not_say_where_the_recipe_lay(tmp_path: Path) -> None:
    prepare(write_run(tmp_path / "run"), tmp_path / "card", ABOUT)
    assert yaml.safe_load((tmp_path / "card" / "recipe.lock.yaml").read_text())["base"] == "."


@pytest.mark.parametrize("status", ["failed", "interrupted", "time limit", "budget missed"])
def test_a_run_that_did_not_end_well_is_not_published(status: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", status=status)
    with pytest.raises(UsageError, match=status):
        prepare(run, tmp_path / "card", ABOUT)
    assert not (tmp_path / "card").exists()
    if status == "budget missed":
        assert prepare(run, tmp_path / "card", ABOUT, missed=True)


def test_what_was_not_measured_is_not_published(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "artifacts/onnxruntime/model.onnx").write_bytes(MODEL + b"more")
    with pytest.raises(UsageError, match="not the file that was measured"):
        prepare(run, tmp_path / "card", ABOUT)


def test_a_report_names_no_file_outside_its_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (tmp_path / "model.onnx").write_bytes(MODEL)
    report = json.loads((run / "report.json").read_text())
    report["backends"][0]["compressed"]["path"] = "../model.onnx"
    (run / "report.json").write_text(json.dumps(report))
    with pytest.raises(UsageError, match="outside the run"):
        prepare(run, tmp_path / "card", ABOUT)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds mine\.txt"):
        prepare(write_run(tmp_path / "run"), tmp_path / "card", ABOUT)


@pytest.mark.parametrize(
    "name", ["x", "a/b/c", "../x", "a/../b", "a b/c", "a/b\n", "https://huggingface.co/a/b", "a/.b", ""]
)
def test_a_repository_is_owner_and_name(name: str) -> None:
    with pytest.raises(UsageError, match="owner/name"):
        check_name(name)


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as its client asks for to commit small files. status: what a commit is answered with."""

    status = 200
    committed: dict[str, bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        answer: dict[str, Any] = {"errors": [], "warnings": []}
        code = 200
        if self.path.endswith("/repos/create"):
            answer = {"url": "https://huggingface.co/me/x", "name": "me/x"}
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        elif "/commit/" in self.path:
            code = self.status
            lines = [json.loads(line) for line in body.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            type(self).committed = {file["path"]: base64.b64decode(file["content"]) for file in files}
            address = f"https://huggingface.co/me/x/commit/{'a' * 40}"
            answer = {"success": True, "commitOid": "a" * 40, "commitUrl": address, "hookOutput": ""}
        content = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, type[_Hub]]]:
    handler = type("Hub", (_Hub,), {"committed": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", handler
        finally:
            server.shutdown()
            thread.join()


def publish(run: Path, endpoint: str) -> "subprocess.CompletedProcess[str]":
    """In a process of its own: the client reads its environment when it is imported."""
    return subprocess.run(
        [sys.executable, "-m", "compressctl", "publish", str(run), "--repo", "me/x"],
        env={**os.environ, "HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_abcdefghij", "HF_HOME": str(run.parent / "hf")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_all_files_become_one_commit(tmp_path: Path, hub: tuple[str, type[_Hub]]) -> None:
    done = publish(write_run(tmp_path / "run"), hub[0])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("a" * 40)
    assert set(hub[1].committed) == {"README.md", "model.onnx", "recipe.lock.yaml", "report.json"}
    assert hub[1].committed["model.onnx"] == MODEL


@pytest.mark.parametrize(
    ("status", "code", "says"), [(403, 2, "does not let this token write"), (500, 5, "answers 500")]
)
def test_a_refusal_is_one_message(
    status: int, code: int, says: str, tmp_path: Path, hub: tuple[str, type[_Hub]]
) -> None:
    hub[1].status = status
    done = publish(write_run(tmp_path / "run"), hub[0])
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "hf_abcdefghij" not in done.stderr + done.stdout


def test_a_hub_that_is_not_there_is_the_machine_s_fault(tmp_path: Path) -> None:
    done = publish(write_run(tmp_path / "run"), "http://127.0.0.1:9")
    assert done.returncode == 5, done.stderr
    assert "could not be reached" in done.stderr
