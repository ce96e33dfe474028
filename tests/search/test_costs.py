"""Costs of another machine: what its tables foretell of files that are made here, and which tables are refused."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from search.test_auto import network, searched
from search.test_planned import TABLES, measured
from search.test_program import layer, option, tables
from support.searching import figures, point
from support.shell import Shell

from compressctl.core.errors import UsageError
from compressctl.search import words
from compressctl.search.choose import choose
from compressctl.search.costs import Costs, read_costs
from compressctl.search.document import OnTarget
from compressctl.search.facts import Facts
from compressctl.search.front import shortfalls, speed_of
from compressctl.search.kept_tables import read_table, write_tables
from compressctl.search.planned import Planner
from compressctl.search.request import Goal
from compressctl.search.space import Candidate
from compressctl.search.tables import Tables, TimedTarget

__all__ = ["network"]

THERE = tables(layer(1000, 0.0, 0.0, 0.7), layer(500, 0.0, 0.0, -0.4)).model_copy(
    update={
        "integer_ms": 1.0,
        "target": TimedTarget(
            backend="onnxruntime", device="cpu", profile="arm64", threads=4, batch_size=1, shapes={"x": (1, 8)}
        ),
        "environment": {"cpu": "Cortex-A76"},
    }
)
HERE = tables(
    (*layer(1000, 0.1, 0.5, 9.0)[:3], option("weights8", 1000, 9.0, 0.05)), layer(500, 0.2, 0.6, 9.0), timed=False
)
TARGET = {"backend": "onnxruntime", "batch_size": 1}


def costs(there: Tables = THERE) -> Costs:
    return Costs(there, Path("pi5.json"))


def candidate(**more: Any) -> Candidate:
    return Candidate("one", "int8", "", "plain", (), **more)


def test_losses_are_those_of_here_and_times_those_of_there() -> None:
    merged = costs().with_times(HERE)
    assert (merged.float_ms, merged.integer_ms) == (THERE.float_ms, 1.0)
    first, second = merged.layers
    assert {one.name: one.adds_ms for one in first.options} == {"int8": 0.0, "int4": 0.0, "float": 0.7, "weights8": 0.7}
    assert {one.name: one.adds_ms for one in second.options}["float"] == -0.4
    assert [one.distance for one in first.options] == [one.distance for one in HERE.layers[0].options]


def test_an_option_that_was_not_timed_there_is_not_taken_for_free() -> None:
    there = tables(layer(1000, 0.0, 0.0, 0.7)[:1], layer(500, 0.0, 0.0, -0.4))
    merged = costs(there).with_times(HERE)
    assert [one.adds_ms for one in merged.layers[0].options] == [0.0, None, None, None]


@pytest.mark.parametrize(
    ("one", "faster"),
    [
        (candidate(width="int8"), 4.0),
        (candidate(width="int4"), 4.0),
        (candidate(width="weights8"), 1.0),
        (candidate(width="float"), 1.0),
        (candidate(), None),
    ],
)
def test_files_of_one_width_are_foretold(one: Candidate, faster: float | None) -> None:
    told = costs().on_target(one)
    assert told.times_faster == (None if faster is None else pytest.approx(faster))
    assert bool(told.why) == (faster is None)


def test_a_planned_file_is_foretold_by_its_layers() -> None:
    merged = costs().with_times(HERE)
    first, second = (layer.options for layer in merged.layers)
    told = costs().on_target(candidate(choice={"conv0": first[0], "conv1": second[2]}))
    assert told.times_faster == pytest.approx(4.0 / (1.0 - 0.4))


def test_planned_files_carry_their_choice() -> None:
    found = Planner(TABLES, Goal(drop=2.0), None, "balanced").more(measured())
    assert found
    assert all(one.choice is not None for one in found)


def test_what_is_foretold_decides_and_is_called_so() -> None:
    slow_here = figures(1000, 0.5, 0.1).model_copy(update={"speed": None, "on_target": OnTarget(times_faster=3.0)})
    fast_here = figures(1000, 9.0, 0.1).model_copy(update={"speed": None, "on_target": OnTarget(times_faster=None)})
    goal = Goal(speedup=2.0)
    assert speed_of(slow_here) == 3.0
    assert not shortfalls(slow_here, goal, None, is_judged=True)
    assert set(shortfalls(fast_here, goal, None, is_judged=True)) == {"speedup"}
    best = choose([point("a", fast_here), point("b", slow_here)], goal, None, "balanced", is_judged=True)
    assert best is not None
    assert best.name == "b"
    assert "foretold 3.00x there" in words.in_short(slow_here)
    assert "not foretold" in words.in_short(fast_here)


def test_tables_of_another_model_are_refused() -> None:
    size, operators = THERE.float_bytes, {"conv0": "Conv", "conv1": "Conv"}
    costs().check(Facts(True, 1, {}, size, operators=operators))
    costs().check(Facts(True, 1, {}, round(1.01 * size), operators=operators))
    for other in ({"conv0": "Conv"}, {"conv0": "Conv", "conv1": "Gemm"}):
        with pytest.raises(UsageError, match="another model"):
            costs().check(Facts(True, 1, {}, size, operators=other))
    for times in (0.5, 1.1):  # a network that was made wider has the same names
        with pytest.raises(UsageError, match="another model"):
            costs().check(Facts(True, 1, {}, round(times * size), operators=operators))


@pytest.mark.parametrize(
    ("update", "target", "said"),
    [
        ({"float_ms": None}, TARGET, "nothing in it was timed"),
        ({}, {**TARGET, "backend": "openvino"}, "measured for backend onnxruntime"),
        ({}, {**TARGET, "batch_size": 8}, "measured for batch_size 1"),
        ({}, {**TARGET, "threads": 7}, "measured for threads"),
        ({"target": None}, TARGET, "nothing in it was timed"),
    ],
)
def test_tables_that_tell_nothing_of_the_target_are_refused(
    tmp_path: Path, update: dict[str, Any], target: dict[str, Any], said: str
) -> None:
    write_tables(THERE.model_copy(update=update), tmp_path / "t.json")
    with pytest.raises(UsageError, match=said):
        read_costs(tmp_path / "t.json", target)


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"schema_version": "1.1"}', "nothing"])
def test_what_holds_no_tables_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "t.json").write_text(text)
    with pytest.raises(UsageError, match="does not exist" if text is None else "no table of layers"):
        read_costs(tmp_path / "t.json", TARGET)


@pytest.mark.parametrize(
    ("version", "is_read"), [("1.0", True), ("1.1", True), ("0.9", False), ("2.0", False), ("", False)]
)
def test_tables_of_the_same_major_version_are_read(tmp_path: Path, version: str, is_read: bool) -> None:
    """They may come from a device whose compressctl is older; what was judged by which samples was not told before 1.2."""
    content = THERE.model_dump(mode="json", exclude={"split"}) | {"schema_version": version}
    (tmp_path / "t.json").write_text(json.dumps(content))
    found = read_table(tmp_path / "t.json")
    assert (found is not None) == is_read
    assert found is None or (found.split, found.layers) == ("calibration", THERE.layers)


@pytest.mark.slow
def test_a_search_for_another_machine_is_decided_by_what_layers_take_there(shell: Shell, network: Path) -> None:
    """A processor on which integers of the middle layer alone are slow: as a whole they bring nothing there."""
    done = shell.run("tables", "measure", network.name, "--output", "there.json", "--time", "1m")
    assert done.code == 0, done.err
    there = json.loads((shell.folder / "there.json").read_text())
    assert (there["samples"], there["distance"]) == (0, "")
    assert all(not one["distance"] for table in there["layers"] for one in table["options"])
    there |= {"float_ms": 4.0, "integer_ms": 4.0, "environment": {"cpu": "Cortex-A76"}}
    there["target"]["profile"] = "arm64"
    for table in there["layers"]:
        for one in table["options"]:
            floats = -3.0 if table["name"] == "body" else 1.0
            one["adds_ms"] = floats if one["name"] == "float" else 0.0
    (shell.folder / "there.json").write_text(json.dumps(there))

    asked = ("--data", "recorded", "--costs", "there.json", "--speedup", "2", "--drop", "5", "--time", "unlimited")
    done = shell.run("auto", network.name, *asked, "--output", "out")
    assert done.code == 0, done.err
    found = searched(shell, "out")
    assert found.costs is not None
    assert found.costs.machine == "Cortex-A76"
    assert found.summary[0].startswith("Found, as far as the speed is foretold: ")
    assert any("nothing was timed on this machine" in note for note in found.notes)
    measured = {one.name: one.figures for one in found.points if one.figures is not None}
    assert all(each.speed is None and each.latency_ms is None and each.on_target for each in measured.values())
    whole = measured["int8"].on_target
    assert whole is not None
    assert whole.times_faster == pytest.approx(1.0)
    chosen = next(one for one in found.points if one.name == found.chosen)
    assert chosen.kind == "planned"
    assert chosen.holds
    model = onnx.load(shell.folder / "out" / found.files[0])
    body = next(node for node in model.graph.node if node.op_type == "Conv" and "body" in node.name)
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    assert made_by.get(body.input[1]) != "DequantizeLinear"  # no integer kernel
    assert "DequantizeLinear" in made_by.values()
    assert {"int8-placed", "rank70-int8"} <= {one.name for one in found.not_tried}
