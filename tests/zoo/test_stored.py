"""A zoo's results at an address: whole or not there, and taken up by whoever goes on."""

import hashlib
import json
from pathlib import Path

import fsspec
import pytest

from compressctl.core.errors import MachineError, UsageError
from compressctl.store.address import parse
from compressctl.zoo.drive import Choice, bring_results, carry_out
from compressctl.zoo.load import load_manifest
from compressctl.zoo.results import JobResult, Outcome, all_results, read_result
from compressctl.zoo.schema import Manifest
from compressctl.zoo.stored import ZooStore

PLACE = "memory://team/zoo"


def result(job: str, started: float = 1.0, key: str = "k") -> JobResult:
    return JobResult(
        job=job, model=job, recipe="r", why="", key=key, outcome=Outcome.GOOD, message=f"at {started}", exit_code=0, attempts=1, started=started,
        seconds=1.0, paused_seconds=0.0, peak_memory=None, host="h", log=f"logs/{job}.log", report=f"runs/{job}/report.html", figures=None,
        command=(),
    )  # fmt: skip


def finished(folder: Path, job: str, text: str = "report") -> None:
    """A job's files, as a run leaves them."""
    run = folder / "runs" / job
    (run / "artifacts" / "onnxruntime").mkdir(parents=True, exist_ok=True)
    (run / "report.html").write_text(text)
    (run / "report.json").write_text("{}")
    (run / "artifacts" / "onnxruntime" / "model.onnx").write_bytes(b"weights")
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "logs" / f"{job}.log").write_text("log")


@pytest.fixture
def here(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> ZooStore:
    finished(tmp_path / "here", "a")
    return ZooStore(parse(PLACE), tmp_path / "here")


def elsewhere(tmp_path: Path) -> ZooStore:
    return ZooStore(parse(PLACE), tmp_path / "elsewhere")


def test_all_of_a_job_is_there_and_its_result_comes_last(
    here: ZooStore, bucket: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, order = bucket.put_file, []
    monkeypatch.setattr(bucket, "put_file", lambda file, place: (order.append(place), put(file, place)))
    here.put(result("a"))
    assert order[-1] == "team/zoo/results/a.json"
    said = json.loads(bucket.cat_file("team/zoo/results/a.json"))
    assert {file["name"] for file in said["files"]} == {
        "logs/a.log", "runs/a/report.html", "runs/a/report.json", "runs/a/artifacts/onnxruntime/model.onnx",
    }  # fmt: skip
    for file in said["files"]:
        content = bucket.cat_file(f"team/zoo/{said['folder']}/{file['name']}")
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["size"], file["sha256"])


def test_another_machine_takes_the_result_and_its_pages(here: ZooStore, tmp_path: Path) -> None:
    here.put(result("a"))
    there = elsewhere(tmp_path)
    stored = there.look("a")
    assert stored is not None
    assert there.bring(stored) == result("a")
    assert read_result(tmp_path / "elsewhere", "a") == result("a")
    assert (tmp_path / "elsewhere/runs/a/report.html").read_text() == "report"
    assert (tmp_path / "elsewhere/logs/a.log").read_text() == "log"
    assert not (tmp_path / "elsewhere/runs/a/artifacts").exists()


@pytest.mark.parametrize("puts", [0, 1, 2, 3])
def test_an_upload_that_ends_early_is_seen_by_nobody(
    puts: int, here: ZooStore, bucket: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here.put(result("a", 1.0))
    put, left = bucket.put_file, [puts]

    def dies(file: str, place: str) -> None:
        if not left[0]:
            raise ConnectionResetError("killed")
        left[0] -= 1
        put(file, place)

    finished(tmp_path / "here", "a", "a newer report")
    with monkeypatch.context() as patched:
        patched.setattr(bucket, "put_file", dies)
        with pytest.raises(MachineError):
            here.put(result("a", 2.0))
    there = elsewhere(tmp_path)
    stored = there.look("a")
    assert stored is not None
    there.bring(stored)
    assert (tmp_path / "elsewhere/runs/a/report.html").read_text() == "report"
    here.put(result("a", 2.0))
    assert len({place.split("/")[5] for place in bucket.store if place.startswith("/team/zoo/runs/a/")}) == 1
    elsewhere(tmp_path).bring_all()
    assert (tmp_path / "elsewhere/runs/a/report.html").read_text() == "a newer report"


def test_a_job_without_a_result_there_is_none(here: ZooStore, bucket: fsspec.AbstractFileSystem) -> None:
    bucket.pipe_file("team/zoo/runs/a/0123456789abcdef/runs/a/report.html", b"half")
    assert not here.has("a")
    assert here.look("a") is None


def test_links_of_a_runs_folder_are_not_followed(
    here: ZooStore, bucket: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "here/runs/a/link.txt").symlink_to(tmp_path / "secret")
    here.put(result("a"))
    assert not any("link.txt" in place for place in bucket.store)


def test_a_file_that_is_another_than_its_result_says_is_refused(
    here: ZooStore, bucket: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    here.put(result("a"))
    (place,) = (place for place in bucket.store if place.endswith("report.html"))
    bucket.pipe_file(place, b"REPORT")
    there = elsewhere(tmp_path)
    stored = there.look("a")
    assert stored is not None
    with pytest.raises(UsageError, match="it is another file"):
        there.bring(stored)
    assert not (tmp_path / "elsewhere/runs/a/report.html").exists()
    assert read_result(tmp_path / "elsewhere", "a") is None


def _renamed(said: dict) -> None:  # type: ignore[type-arg]
    said["files"][0]["name"] = "../../outside"


def _elsewhere(said: dict) -> None:  # type: ignore[type-arg]
    said["folder"] = "runs/../../../other/0123456789abcdef"


def _another(said: dict) -> None:  # type: ignore[type-arg]
    said["result"]["job"] = "b"
    said["result"]["report"] = None


def _endless(said: dict) -> None:  # type: ignore[type-arg]
    said["files"] = said["files"][:1] * 20_000


@pytest.mark.parametrize("change", [_renamed, _elsewhere, _another, _endless])
def test_a_result_that_somebody_made_up_leads_nowhere(
    change,
    here: ZooStore,
    bucket: fsspec.AbstractFileSystem,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    here.put(result("a"))
    said = json.loads(bucket.cat_file("team/zoo/results/a.json"))
    change(said)
    bucket.pipe_file("team/zoo/results/a.json", json.dumps(said).encode())
    there = elsewhere(tmp_path)
    stored = there.look("a")
    if stored is not None:
        there.bring(stored)
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()} <= {
        "here",
        "elsewhere",
        "cache",
    }


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"[" * 100_000, b"\xff\xfe"])
def test_what_is_no_result_is_none(content: bytes, here: ZooStore, bucket: fsspec.AbstractFileSystem) -> None:
    bucket.pipe_file("team/zoo/results/a.json", content)
    assert here.look("a") is None


def test_another_zoos_address_is_refused(here: ZooStore, tmp_path: Path) -> None:
    here.claim("one")
    elsewhere(tmp_path).claim("one")
    with pytest.raises(UsageError, match="holds the zoo one"):
        elsewhere(tmp_path).claim("two")


MODELS = "zoo: compressctl/v1\nname: z\nstore: memory://team/zoo\nmodels: [{path: a.onnx, recipe: r.yaml}, {path: b.onnx, recipe: r.yaml}]\n"


def manifest(folder: Path) -> Manifest:
    folder.mkdir(exist_ok=True)
    (folder / "zoo.yaml").write_text(MODELS)
    (folder / "r.yaml").write_text("recipe: compressctl/v1\ntask: custom\nstages: [{use: quantize.weights, bits: 8}]\n")
    import onnx
    from onnx import TensorProto, helper

    for name, op in (("a", "Relu"), ("b", "Tanh")):
        sides = [helper.make_tensor_value_info(side, TensorProto.FLOAT, ["n", 8]) for side in ("x", "y")]
        graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "g", sides[:1], sides[1:])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), folder / f"{name}.onnx")
    return load_manifest(folder / "zoo.yaml")


def drive(base: Path, output: Path, *, only: tuple[str, ...] = ()) -> list[str]:
    """Which jobs ran. Each leaves the files of a run."""
    ran = []

    def execute(jobs, around, keep):  # type: ignore[no-untyped-def]
        for planned in jobs:
            ran.append(planned.job.id)
            finished(output, planned.job.id)
            keep(result(planned.job.id, float(len(ran)), planned.key))

    loaded = manifest(base)
    store = ZooStore(parse(PLACE), output)
    carry_out(loaded, base, output, Choice(only=only), execute=execute, cache=None, store=store, tell=lambda one: None)
    return ran


def test_a_driver_elsewhere_goes_on_where_the_first_one_ended(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    assert drive(tmp_path / "base", tmp_path / "one", only=("a",)) == ["a"]
    assert drive(tmp_path / "base", tmp_path / "two") == ["b"]
    assert {one.job for one in all_results(tmp_path / "two")} == {"a", "b"}
    assert (tmp_path / "two/runs/a/report.html").read_text() == "report"
    assert drive(tmp_path / "base", tmp_path / "three") == []


def test_what_the_store_did_not_take_is_put_there_by_the_next_run(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = bucket.put_file

    def refuses(file: str, place: str) -> None:
        if "/runs/" in place:
            raise ConnectionResetError("gone")
        put(file, place)

    with monkeypatch.context() as patched:
        patched.setattr(bucket, "put_file", refuses)
        with pytest.warns(UserWarning, match="the next zoo apply puts it there"):
            assert drive(tmp_path / "base", tmp_path / "one") == ["a", "b"]
    assert not ZooStore(parse(PLACE), tmp_path).has("a")
    assert drive(tmp_path / "base", tmp_path / "one") == []
    assert ZooStore(parse(PLACE), tmp_path).has("a")


def test_a_store_that_does_not_answer_is_told_before_anything_runs(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> None:
        raise ConnectionRefusedError("nobody")

    monkeypatch.setattr(bucket, "info", fail)
    with pytest.raises(MachineError, match="cannot be reached"):
        drive(tmp_path / "base", tmp_path / "one")


def test_results_come_together_for_a_report(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    for job in ("a", "b"):
        drive(tmp_path / "base", tmp_path / job, only=(job,))
    bring_results(manifest(tmp_path / "base"), tmp_path / "all", ZooStore(parse(PLACE), tmp_path / "all"))
    assert {one.job for one in all_results(tmp_path / "all")} == {"a", "b"}


@pytest.mark.parametrize("address", ["https://host/zoo", "hf://org/repo", "./folder", "s3://a/../b"])
def test_a_store_that_takes_nothing_has_its_place_in_the_manifest(address: str, tmp_path: Path) -> None:
    (tmp_path / "zoo.yaml").write_text(f"zoo: compressctl/v1\nstore: '{address}'\nmodels: [{{path: a.onnx}}]\n")
    with pytest.raises(UsageError, match=r"zoo\.yaml:2:8 +store: "):
        load_manifest(tmp_path / "zoo.yaml")


def test_a_folder_without_the_files_that_its_result_names_is_told_as_that(tmp_path: Path) -> None:
    finished(tmp_path / "here", "a")
    place = parse(f"file://{tmp_path}/store")
    ZooStore(place, tmp_path / "here").put(result("a"))
    (page,) = (tmp_path / "store").rglob("report.html")
    page.unlink()
    with pytest.raises(UsageError, match=r"report\.html does not exist"):
        ZooStore(place, tmp_path / "elsewhere").bring_all()
