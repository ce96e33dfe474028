"""compressctl auto, end to end on small real models: budget in, recipe out, and nothing done twice."""

import itertools
import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from support.digit_network import digits, fitted_network
from support.shell import Shell

from compressctl.search.document import Search

pytestmark = pytest.mark.slow


def searched(shell: Shell, output: str) -> Search:
    return Search.model_validate_json((shell.folder / output / "search.json").read_text())


def journaled(shell: Shell, output: str) -> dict[str, float]:
    """By point, when it was written."""
    files = (shell.folder / output / "journal").glob("*.json")
    return {json.loads(file.read_text())["point"]["name"]: file.stat().st_mtime_ns for file in files}


@pytest.fixture
def network(shell: Shell) -> Path:
    """A classifier of digits as a file, and recorded calls of it."""
    data = digits()
    model = fitted_network(data)
    onnx.save(model.body, shell.folder / "net.onnx")
    (shell.folder / "recorded").mkdir()
    for number, batch in enumerate(itertools.islice(data.split("train").batches(1), 40)):
        call: Any = {model.signature.inputs[0].name: next(iter(batch.inputs.values()))}
        np.savez(shell.folder / "recorded" / f"{number:02}.npz", **call)
    return shell.folder / "net.onnx"


def test_recorded_calls_are_enough_for_a_smaller_file_and_the_recipe_that_makes_it_again(
    shell: Shell, network: Path
) -> None:
    arguments = (
        "auto",
        "net.onnx",
        "--data",
        "recorded",
        "--smaller",
        "1.5",
        "--drop",
        "5",
        "--time",
        "unlimited",
        "--output",
        "out",
    )
    done = shell.run(*arguments)
    assert done.code == 0, done.err
    found = searched(shell, "out")
    chosen = next(point for point in found.points if point.name == found.chosen)
    assert chosen.confirmed is not None
    assert chosen.confirmed.loss is not None
    assert (chosen.confirmed.loss.split, chosen.confirmed.loss.kind) == ("test", "outputs")
    assert {point.figures.loss.split for point in found.points if point.figures and point.figures.loss} == {
        "validation"
    }
    assert (shell.folder / "out" / found.files[0]).stat().st_size == chosen.confirmed.total_bytes

    planned = [point for point in found.points if point.kind == "planned"]
    assert planned
    assert all(
        point.figures is not None and point.predicted is not None and point.predicted.loss is not None
        for point in planned
    )
    tables = (shell.folder / "out" / "tables.json").read_bytes()
    assert json.loads(tables)["split"] == "validation"  # nothing was fitted to these
    assert "stem (Conv" in shell.run("explain-search", "out").out

    before = journaled(shell, "out")
    again = shell.run(*arguments)
    assert again.code == 0, again.err
    assert (shell.folder / "out" / "tables.json").read_bytes() == tables
    assert "costs and loses: from tables.json" in again.err
    assert searched(shell, "out").chosen == found.chosen
    assert journaled(shell, "out").keys() == before.keys()
    assert "from the journal" in again.err

    for recipe in ("recipe.yaml", "recipe.pinned.yaml"):
        repeated = shell.run("apply", f"out/{recipe}", "--output", recipe.removesuffix(".yaml"))
        assert repeated.code == 0, repeated.err
    again_made = shell.folder / "recipe.pinned" / "artifacts" / "onnxruntime" / found.files[0]
    assert again_made.read_bytes() == (shell.folder / "out" / found.files[0]).read_bytes()
    readable, pinned = (shell.report(name) for name in ("recipe", "recipe.pinned"))
    assert [stage["use"] for stage in readable["stages"]] == [stage["use"] for stage in pinned["stages"]]
    assert shell.run("reproduce", "out/best", "--measure", "untimed").code == 0


def test_what_cannot_be_is_said_with_what_stands_in_the_way(shell: Shell, network: Path) -> None:
    done = shell.run("auto", "net.onnx", "--smaller", "1000", "--time", "unlimited", "--output", "out")
    assert done.code == 1, done.err
    found = searched(shell, "out")
    assert found.status == "not met"
    assert [near.limit for near in found.nearest] == ["size"]
    assert "Not found" in done.out
    assert "not judged" in done.out


def test_a_search_that_is_stopped_leaves_what_it_has_and_goes_on_from_there(shell: Shell, network: Path) -> None:
    arguments = ("auto", "net.onnx", "--data", "recorded", "--drop", "5", "--time", "unlimited", "--output", "out")
    process = shell.start_until(lambda: len(list((shell.folder / "out" / "journal").glob("*.json"))) >= 2, *arguments)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.wait() == 130
    first = searched(shell, "out")
    assert first.status == "interrupted"
    assert first.points
    before = journaled(shell, "out")
    time.sleep(0.01)
    assert shell.run(*arguments).code == 0
    after = journaled(shell, "out")
    kept = [name for name in before if after[name] == before[name]]
    assert len(kept) >= len(before) - 1, "all but the chosen one, whose full timing is written"


def test_a_network_with_labels_is_trained_too(shell: Shell) -> None:
    done = shell.run(
        "auto",
        "builtin:digits-resnet",
        "--smaller",
        "5",
        "--drop",
        "3",
        "--train",
        "epochs=4",
        "--time",
        "6m",
        "--output",
        "out",
    )
    assert done.code in (0, 1), done.err
    found = searched(shell, "out")
    trained = [point for point in found.points if point.kind == "trained"]
    assert trained, found.not_tried
    assert all(
        point.figures is None or point.figures.loss is None or point.figures.loss.kind == "metric" for point in trained
    )


def test_a_file_with_labels_is_pruned_and_trained(shell: Shell) -> None:
    """As the network that it came from would be; what is handed over runs anywhere."""
    pytest.importorskip("torch")
    from support.digit_runs import digits_data, digits_model

    from compressctl.core.model import TorchModel
    from compressctl.graph.lower import lower

    network = digits_model("digits-resnet")
    assert isinstance(network, TorchModel)
    onnx.save(lower(network).body, shell.folder / "net.onnx")
    limits = ("--smaller", "8", "--drop", "5", "--train", "epochs=4", "--time", "5m", "--output", "out")
    done = shell.run("auto", "net.onnx", "--data", "digits", *limits)
    assert done.code == 0, done.err
    found = searched(shell, "out")
    trained = {point.name for point in found.points if point.kind == "trained"}
    assert found.chosen in trained, found.not_tried
    assert "trainable: true" in (shell.folder / "out/recipe.yaml").read_text()
    made = next(point.confirmed for point in found.points if point.name == found.chosen)
    assert made is not None
    assert (shell.folder / "out/model.onnx").stat().st_size * 8 <= found.original_bytes

    session = ort.InferenceSession(shell.folder / "out/model.onnx")
    (batch,) = digits_data().split("test").batches(1000)
    assert batch.labels is not None
    scores = session.run(None, {session.get_inputs()[0].name: next(iter(batch.inputs.values()))})[0]
    assert 100 * float(np.mean(scores.argmax(1) == batch.labels)) == pytest.approx(made.score, abs=0.6)


def test_a_folder_of_something_else_is_refused_before_any_work(shell: Shell, network: Path) -> None:
    (shell.folder / "out").mkdir()
    (shell.folder / "out" / "thesis.tex").touch()
    done = shell.run("auto", "net.onnx", "--output", "out")
    assert done.code == 2
    assert "holds no search" in done.err


def test_a_recipe_that_searches_is_applied(shell: Shell, network: Path) -> None:
    (shell.folder / "found.yaml").write_text("""recipe: compressctl/v1
model: {source: onnx, path: net.onnx}
task: custom
search: {smaller: 1.5, time: unlimited}
""")
    refused = shell.run("apply", "found.yaml", "--output", "out", "--dry-run")
    assert refused.code == 2
    assert "--dry-run" in refused.err
    asked = ("--set", "search.smaller=1.6", "--measure", "stages")
    done = shell.run("apply", "found.yaml", "--output", "out", *asked)
    assert done.code == 0, done.err
    found = searched(shell, "out")
    assert found.chosen is not None
    assert any("1.6x smaller" in limit.words for limit in found.goal)
    assert (shell.folder / "out" / "best" / "report.json").is_file()


def test_a_search_whose_time_was_over_says_that_and_not_that_there_is_nothing(shell: Shell, network: Path) -> None:
    done = shell.run("auto", "net.onnx", "--smaller", "3", "--time", "1s", "--output", "out")
    assert done.code == 124, done.err
    found = searched(shell, "out")
    assert (found.exit_code, found.points, found.status) == (124, (), "not met")
    assert "The time was over before any recipe was measured" in found.summary[1]
