"""Jobs that search for their recipe: what is asked, what they give, and a folder that goes on where it was stopped."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.searching import figures, point

from compressctl.core.errors import RecipeError
from compressctl.pipeline.measure_level import MeasureLevel
from compressctl.search.document import Search
from compressctl.zoo import process
from compressctl.zoo.facts import FactsReader
from compressctl.zoo.jobs import Job, jobs_of
from compressctl.zoo.keys import planned
from compressctl.zoo.load import load_manifest
from compressctl.zoo.pauses import Pauses
from compressctl.zoo.process import Surroundings, command, run_job
from compressctl.zoo.results import JobResult, Outcome
from compressctl.zoo.searches import found_by

MANIFEST = """zoo: compressctl/v1
defaults:
  recipe: auto
  auto: {drop: 2, time: 10m}
recipes:
  - {when: {id: small}, use: auto, id: least, auto: {prefer: size, smaller: 3.5, train: {epochs: 2}}}
models:
  - {id: small, path: m.onnx, auto: {drop: 0.5, size: 5KB, data: ./recorded}, set: {target.threads: 2}}
  - {id: plain, path: m.onnx}
  - {id: built, model: {source: builtin, name: digits-resnet}}
  - {id: based, path: m.onnx, auto: {base: base.yaml}, resources: {time: 5m}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "mm")],
        "g",
        sides[:1],
        sides[1:],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    Path("recorded").mkdir()
    np.savez("recorded/0.npz", x=np.ones((1, 64), np.float32))
    Path("base.yaml").write_text("recipe: compressctl/v1\ntask: custom\ntarget: {threads: 2}\n")
    Path("zoo.yaml").write_text(MANIFEST)
    return tmp_path


@pytest.fixture
def around(folder: Path) -> Iterator[Surroundings]:
    with Pauses() as pauses:
        yield Surroundings(folder / "out", "final", True, 0, pauses, threading.Event(), threading.Event(), False)


def jobs(folder: Path, *sets: str) -> dict[str, Job]:
    return {job.id: job for job in jobs_of(load_manifest(folder / "zoo.yaml", sets), folder, FactsReader())}


def said(job: Job, around: Surroundings) -> list[str]:
    """What is run, with paths from the folder on."""
    return [text.replace(f"{around.folder.parent}/", "") for text in command(job, around)]


def test_each_search_is_asked_what_is_said_nearest_to_its_model(folder: Path, around: Surroundings) -> None:
    found = jobs(folder)
    assert {job.id: job.recipe_id for job in found.values()} == {
        "small": "least", "plain": "auto", "built": "auto", "based": "auto"
    }  # fmt: skip
    assert said(found["small"], around) == [
        "compressctl", "auto", "m.onnx", "--drop", "0.5", "--smaller", "3.5", "--prefer", "size", "--size", "5000B", "--time", "600s",
        "--data", "recorded", "--train", "epochs=2", "--set", 'name="small"', "--set", "target.threads=2", "--output", "out/runs/small",
    ]  # fmt: skip
    assert said(found["built"], around)[2:6] == ["builtin:digits-resnet", "--drop", "2", "--time"]
    based = said(found["based"], around)
    assert based[2:7] == ["base.yaml", "--drop", "2", "--time", "240s"]
    assert any(text.startswith('model={"source": "onnx", "path": ') for text in based)


def test_a_recipe_that_searches_is_a_search(folder: Path, around: Surroundings) -> None:
    """With what it says itself; the manifest's `auto` is of other searches."""
    text = "recipe: compressctl/v1\ntask: custom\nsearch: {smaller: 3, time: 90s}\n"
    Path("search.yaml").write_text(text)
    Path("zoo.yaml").write_text(
        "zoo: compressctl/v1\ndefaults: {recipe: search.yaml, auto: {drop: 9}}\nmodels: [{path: m.onnx}]\n"
    )
    job = jobs(folder)["m"]
    assert said(job, around)[1:5] == ["auto", "search.yaml", "--time", "90s"]
    first = planned(job, MeasureLevel.FINAL, None)
    assert (first.problem, job.recipe_id) == (None, "search")
    Path("search.yaml").write_text(text.replace("smaller: 3", "smaller: 4"))
    assert planned(jobs(folder)["m"], MeasureLevel.FINAL, None).key != first.key
    Path("search.yaml").write_text(text.replace("90s", "unlimited"))
    assert said(jobs(folder)["m"], around)[3:5] == ["--time", "2880s"]


def test_a_search_for_another_machine(folder: Path, around: Surroundings) -> None:
    """A file for one model, or a folder of one for each; what is in it counts, not its name alone."""
    costs = Path("pi5/small.json")
    costs.parent.mkdir()
    costs.write_text("{}")
    for said_as in ("pi5", "pi5/small.json"):
        job = jobs(folder, f"models[0].auto.costs={said_as}")["small"]
        assert "--costs pi5/small.json" in " ".join(said(job, around))
    key = planned(job, MeasureLevel.FINAL, None).key
    costs.write_text('{"layers": []}')
    assert planned(job, MeasureLevel.FINAL, None).key != key
    others = planned(jobs(folder, "defaults.auto.costs=pi5")["plain"], MeasureLevel.FINAL, None)
    assert "pi5/plain.json does not exist" in (others.problem or "")
    assert "compressctl tables measure" in (others.problem or "")


def test_costs_that_a_recipe_names_count_too(folder: Path) -> None:
    Path("costs.json").write_text("{}")
    Path("search.yaml").write_text("recipe: compressctl/v1\ntask: custom\nsearch: {costs: costs.json}\n")
    Path("zoo.yaml").write_text("zoo: compressctl/v1\ndefaults: {recipe: search.yaml}\nmodels: [{path: m.onnx}]\n")
    key = planned(jobs(folder)["m"], MeasureLevel.FINAL, None).key
    Path("costs.json").write_text('{"layers": []}')
    assert planned(jobs(folder)["m"], MeasureLevel.FINAL, None).key != key


def test_a_search_has_time_to_end_within_its_job(folder: Path) -> None:
    resources = jobs(folder, "defaults.auto.time=2h")["plain"].resources
    assert resources.time == 3 * 3600
    limited = jobs(folder, "defaults.auto.time=2h", "defaults.resources.time=1h")["plain"]
    assert limited.searching is not None
    assert (limited.resources.time, limited.searching.seconds) == (3600, 2880)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("{id: plain, path: m.onnx}", "{id: plain, path: m.onnx, budget: {size: 3MB}}", "not in `budget`"),
        ("{id: plain, path: m.onnx}", "{id: plain, model: {source: python, factory: 'a:b'}}", "auto: {base: recipe.yaml}"),
        ("{id: plain, path: m.onnx}", "{id: plain, path: m.onnx, auto: {base: no.yaml}}", "does not exist"),
        ("{id: plain, path: m.onnx}", "{id: plain, path: m.onnx, auto: {data: nowhere}}", "nowhere does not exist"),
        ("{id: plain, path: m.onnx}", "{id: plain, path: n.onnx}", "does not exist"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_a_row(old: str, new: str, says: str, folder: Path) -> None:
    Path("zoo.yaml").write_text(MANIFEST.replace(old, new))
    assert says in (planned(jobs(folder)["plain"], MeasureLevel.FINAL, None).problem or "")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("auto: {drop: -1}", "is less than 0"),
        ("auto: {speed: 2}", "unknown key"),
        ("auto: {level: low, size: much}", "not a size"),
    ],
)
def test_what_is_asked_is_checked_with_its_place(change: str, says: str, folder: Path) -> None:
    Path("zoo.yaml").write_text(MANIFEST.replace("auto: {drop: 2, time: 10m}", change))
    with pytest.raises(RecipeError, match=says):
        load_manifest(Path("zoo.yaml"))
    Path("zoo.yaml").write_text(MANIFEST.replace("use: auto", "use: r.yaml"))
    with pytest.raises(RecipeError, match="write `use: auto`"):
        load_manifest(Path("zoo.yaml"))


def test_a_search_counts_until_what_decides_it_changes(folder: Path) -> None:
    def key(*sets: str) -> str:
        found = planned(jobs(folder, *sets)["small"], MeasureLevel.FINAL, None)
        assert found.problem is None
        return found.key

    first = key()
    assert key() == first
    assert key("defaults.resources.memory=3GiB") == first
    keys = [first, key("models[0].auto.drop=1"), key("models[0].set={seed: 3}")]
    np.savez("recorded/1.npz", x=np.ones((1, 64), np.float32))
    keys.append(key())
    onnx.save(onnx.load("m.onnx"), "m.onnx")
    keys.append(key())
    model = onnx.load("m.onnx")
    model.graph.name = "another"
    onnx.save(model, "m.onnx")
    keys.append(key())
    assert len({*keys}) == 5, "the model that was written again is the same"


def document(**changes: Any) -> Search:
    values: dict[str, Any] = {
        "name": "m", "status": "met", "exit_code": 0, "summary": ["Found: 4x smaller.", "Handed over: int8."], "goal": (), "level": None, "prefer": "balanced",
        "judged": "", "chosen": "int8", "files": ("model.onnx",), "points": (point("int8", figures(loss=0.1)),), "not_tried": (),
        "original_bytes": 4000, "seconds": 1.0,
    }  # fmt: skip
    return Search(**{**values, **changes})


def found(run: Path, code: int = 0, search: Search | None = None, **changes: Any) -> Any:
    run.mkdir(parents=True, exist_ok=True)
    if search is not None:
        (run / "search.json").write_text(search.model_dump_json())
    (run / "search.html").touch()
    (run / "recipe.yaml").touch()
    return found_by(code, None, "", run, run / "log", **{"is_written": True, "is_strict": False, **changes})


def test_a_row_says_what_the_search_said(tmp_path: Path) -> None:
    met = found(tmp_path, search=document())
    assert (met.outcome, met.message, met.report, met.recipe) == (
        Outcome.GOOD, "Found: 4x smaller. Handed over: int8.", "search.html", "recipe.yaml",
    )  # fmt: skip
    missed = found(tmp_path, 1, document(status="not met", summary=["nothing is small enough"], files=()))
    assert (missed.outcome, missed.message, missed.recipe) == (Outcome.MISSED, "nothing is small enough", None)


def test_what_a_start_before_found_is_not_told_of_one_that_was_killed(tmp_path: Path) -> None:
    killed = found(tmp_path, -9, document(), is_written=False)
    assert (killed.outcome, killed.figures, killed.report, killed.recipe) == (Outcome.MEMORY, None, None, None)


def test_strict_asks_for_a_judge(tmp_path: Path) -> None:
    unjudged = document(points=(point("int8", figures(loss=None)),))
    assert found(tmp_path, search=unjudged).outcome is Outcome.GOOD
    assert found(tmp_path, search=unjudged, is_strict=True).outcome is Outcome.MISSED
    assert found(tmp_path, search=document(), is_strict=True).outcome is Outcome.GOOD


def test_a_search_goes_on_in_its_folder_and_takes_none_of_a_run(
    folder: Path, around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "command", lambda job, around: ["nothing"])
    run = around.folder / "runs/plain"
    for kept, other in (("journal/1.json", "events.jsonl"),):
        (run / kept).parent.mkdir(parents=True)
        (run / kept).touch()
        run_job(planned(jobs(folder)["plain"], MeasureLevel.FINAL, None), around)
        assert (run / kept).exists()
        (run / other).touch()
        run_job(planned(jobs(folder)["plain"], MeasureLevel.FINAL, None), around)
        assert not run.exists()


@pytest.mark.slow
def test_a_search_of_a_zoo_ends_with_a_row_and_its_recipe(folder: Path, around: Surroundings) -> None:
    job = jobs(folder, "defaults.auto={smaller: 3, prefer: size, time: 20m}")["plain"]
    result = run_job(planned(job, MeasureLevel.FINAL, None), around)
    assert (result.outcome, result.report) == (Outcome.GOOD, "runs/plain/search.html"), result.message
    assert result.figures is not None
    made = around.folder / "runs/plain/model.onnx"
    assert result.figures.size_after == made.stat().st_size < (folder / "m.onnx").stat().st_size / 3
    assert result.found_recipe == "runs/plain/recipe.yaml"
    assert "quantize.weights" in (around.folder / result.found_recipe).read_text()
    assert result.run == "runs/plain/best"
    assert JobResult.model_validate_json(result.model_dump_json()) == result
    again = run_job(planned(job, MeasureLevel.FINAL, None), around)
    assert again.seconds < result.seconds
    assert "from the journal" in (around.folder / again.log).read_text()
