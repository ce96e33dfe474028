"""The report: what it says of whole and partial runs, and that hostile names stay text everywhere."""

import base64
import dataclasses
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from compressctl.core.backend import Artifact, ExecutedNode
from compressctl.core.count import Count
from compressctl.core.errors import StageError
from compressctl.core.model import StageRecord
from compressctl.measure.budget import check, facts_of
from compressctl.measure.changed_examples import as_png
from compressctl.measure.results import (
    Behaviour,
    BudgetCheck,
    Change,
    ClassChange,
    Energy,
    Example,
    Fusion,
    GroupChange,
    Groups,
    Interval,
    Latency,
    Measurement,
    Memory,
    Noise,
    OperatingPoint,
    Parity,
    Score,
    Size,
    Speedup,
)
from compressctl.measure.speed_words import verdict
from compressctl.pipeline.result import BackendResult, RunResult
from compressctl.recipe.loader import load
from compressctl.recipe.schema import BudgetSection
from compressctl.report import as_html, as_junit, as_markdown, as_sarif, console, sentences, tables
from compressctl.report.document import SCHEMA_VERSION, Report
from compressctl.report.from_run import from_result
from compressctl.report.write import write

HOSTILE = "<script>alert(1)</script> | `x` [red]*bold*[/red] \u202eabc\U0001f600 " + "long" * 200

QUIET = Noise(0.02, 0.01, False)


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    path = tmp_path / "recipe.yaml"
    path.write_text("recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\ndata: {source: digits}\n")
    return load(path)


def _measured(
    folder: Path, name: str, *, total: int, p50: float, speed: Speedup | None, change: Change | None
) -> Measurement:
    path = folder / name
    return Measurement(
        artifact=Artifact("onnxruntime", path, (path,)),
        size=Size({name: total}, total, total - 10, 1000, Count(5000)),
        score=Score("accuracy", 90.0 - (change.drop if change else 0), 500, "test", {HOSTILE: 90.0}),
        latency=_latency(p50),
        memory=Memory(50_000_000, 60_000_000, 70_000_000),
        fusion=Fusion((ExecutedNode(HOSTILE, "Conv", "float32", 5000, "its weight was left in float"),), 0.5),
        speedup=speed,
        step=speed,
        change=change,
        behaviour=_behaviour() if change else None,
        energy=Energy(0.02, "estimated", HOSTILE),
        thrift=speed,
        points=(OperatingPoint(_latency(p50), speed),),
    )


def _latency(p50: float) -> Latency:
    percentiles = tuple(p50 * (0.9 + 0.002 * percent) for percent in range(101))
    return Latency(200, 1, 1, p50, p50 * 1.2, None, p50 * 1.1, 1000 / p50, percentiles)


def _behaviour() -> Behaviour:
    change = GroupChange(HOSTILE, 20, 90.0, 80.0, 2, 0)
    return Behaviour(
        churn=0.1,
        negative_flip_rate=0.02,
        p_value=0.5,
        calibration_error_before=0.01,
        calibration_error_after=0.02,
        divergence=0.1,
        classes=(ClassChange(HOSTILE, 20, 90.0, 80.0, 2, 0, 0.5),),
        changed=(7,),
        groups=Groups((change,), 1.0, 2.0, 1.0, Interval(0.5, 1.5)),
        examples=(Example(7, HOSTILE, HOSTILE, HOSTILE, as_png(np.eye(8, dtype=np.float32)[None])),),
    )


def _result(recipe: Any, folder: Path, **changes: Any) -> RunResult:
    speed = Speedup(2.0, Interval(1.9, 2.1), "faster")
    before = _measured(folder, "baseline.onnx", total=4000, p50=2.0, speed=None, change=None)
    after = _measured(
        folder, "model.onnx", total=1000, p50=1.0, speed=speed, change=Change(0.5, (HOSTILE, 2.0), 7, 3, 12)
    )
    whole: dict[str, Any] = {
        "recipe": recipe,
        "folder": folder,
        "status": "done",
        "started": 1_700_000_000.0,
        "seconds": 12.5,
        "environment": {"cpu": HOSTILE},
        "stages": (StageRecord("int8", "quantize.static", {}, 1.5, {"left_in_float": {HOSTILE: "gate"}}),),
        "backends": (BackendResult("onnxruntime", "1.0", before, after, QUIET, ((HOSTILE, after),)),),
        "parity": (Parity("torch and ONNX Runtime", {"y": 1e-6}, 16),),
        "budget": (BudgetCheck("speedup", 1.5, 2.0, True, "times as fast"),),
        "warnings": (HOSTILE,),
    }
    return RunResult(**{**whole, **changes})


def _shown(report: Report) -> str:
    stream = io.StringIO()
    Console(file=stream, width=120).print(console.render(report))
    return stream.getvalue()


def test_the_summary_says_what_came_out(recipe: Any, tmp_path: Path) -> None:
    report = from_result(_result(recipe, tmp_path))
    assert report.summary == [
        "onnxruntime: 4.00x smaller, 2.00x faster, accuracy down 0.50 points (may be chance, p = 0.5).",
        "Inside the budget.",
    ]
    assert report.exit_code == 0


@pytest.mark.parametrize(
    ("speed", "says"),
    [
        (Speedup(1.02, Interval(0.97, 1.06), "no measurable change"), "no measurable change of speed (0.97 to 1.06)"),
        (Speedup(0.5, Interval(0.45, 0.55), "slower"), "2.00x slower"),
        (Speedup(0.3, Interval(0.01, 0.4), "slower"), "at least 2.50x slower"),
        (Speedup(1.4, Interval(0.8, 3.0), "too noisy to say"), "speed too noisy to say (0.80 to 3.00)"),
    ],
)
def test_what_is_no_gain_is_not_called_one(recipe: Any, tmp_path: Path, speed: Speedup, says: str) -> None:
    result = _result(recipe, tmp_path)
    (found,) = result.backends
    after = Measurement(**{**found.compressed.__dict__, "speedup": speed})
    report = from_result(
        _result(recipe, tmp_path, backends=(BackendResult("onnxruntime", "1.0", found.baseline, after, QUIET),))
    )
    assert says in report.summary[0]
    assert "faster" not in report.summary[0]
    assert "faster" not in _shown(report).split("latency p50")[1].splitlines()[0]


def _with_speed(recipe: Any, folder: Path, speed: Speedup) -> Report:
    """A report of one backend and two stages whose speeds, energy and operating points are all the given one."""
    after = _measured(folder, "model.onnx", total=1000, p50=1.0, speed=speed, change=None)
    before = _measured(folder, "baseline.onnx", total=4000, p50=2.0, speed=None, change=None)
    budget = check(BudgetSection(speedup=1.5), facts_of(after, "accuracy"))
    stages = ((HOSTILE, after),)
    found = BackendResult("onnxruntime", "1.0", before, after, QUIET, stages)
    return from_result(_result(recipe, folder, backends=(found,), budget=budget, warnings=()))


def _page_words(report: Report) -> str:
    """What a reader sees or hears of the page, without the coordinates of its pictures."""
    parsed = _Tags()
    parsed.feed(as_html.render(report))
    return " ".join((parsed.text + " ".join(parsed.labels)).split())


_RENDERINGS = {
    "html": _page_words,
    "markdown": as_markdown.render,
    "console": lambda report: " ".join(re.sub("[│┃]", " ", _shown(report)).split()),
    "junit": as_junit.render,
    "sarif": as_sarif.render,
}


@pytest.mark.parametrize("render", _RENDERINGS.values(), ids=_RENDERINGS)
def test_no_rendering_tells_a_value_of_an_interval_too_wide_for_one(recipe: Any, tmp_path: Path, render: Any) -> None:
    for ratio, low, high in ((35.35, 1.79, 696.0), (35.35, 0.4, 696.0), (0.0283, 0.0014, 0.56)):
        report = _with_speed(recipe, tmp_path, Speedup(ratio, Interval(low, high), verdict(low, high)))
        text = render(report)
        assert "35.3" not in text


@pytest.mark.parametrize("render", _RENDERINGS.values(), ids=_RENDERINGS)
def test_where_a_rendering_says_slower_its_interval_is_inverted_too(recipe: Any, tmp_path: Path, render: Any) -> None:
    text = render(_with_speed(recipe, tmp_path, Speedup(0.714, Interval(0.709, 0.719), "slower")))
    assert "0.72" not in text
    for value, low, high in re.findall(r"([\d.]+)x (?:slower|more energy) \(95 %: ([\d.]+) to ([\d.]+)\)", text):
        assert float(low) <= float(value) <= float(high)
    if render not in (as_junit.render, as_sarif.render):
        assert text.replace("\\", "").count("1.40x slower") >= 3


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"status": "interrupted", "backends": (), "budget": ()}, 130, "interrupted"),
        ({"status": "failed", "error": StageError("it broke"), "backends": (), "budget": ()}, 4, "failed"),
        ({"status": "budget missed", "budget": (BudgetCheck("size", 1, 2, False, "bytes"),)}, 1, "Budget missed: size"),
    ],
)
def test_partial_and_failed_runs_are_reported_too(
    recipe: Any, tmp_path: Path, changes: dict[str, Any], code: int, says: str
) -> None:
    report = from_result(_result(recipe, tmp_path, **changes))
    assert report.exit_code == code
    assert any(says in sentence for sentence in report.summary)
    for text in (as_markdown.render(report), as_html.render(report), _shown(report)):
        assert says in text


def test_the_json_file_validates_and_reads_back(recipe: Any, tmp_path: Path) -> None:
    report = from_result(_result(recipe, tmp_path))
    json_file, markdown, _, _, html = write(report, tmp_path)
    assert Report.model_validate_json(json_file.read_text()) == report
    assert json.loads(json_file.read_text())["schema_version"] == SCHEMA_VERSION
    assert markdown.read_text().startswith("## ")
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
    assert html.stat().st_size < 2_000_000


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.labels: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.labels += [value or "" for name, value in attrs if name == "aria-label" and tag == "figure"]
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_names_are_text_in_html_and_nothing_is_fetched(recipe: Any, tmp_path: Path) -> None:
    parsed, page = _Tags(), as_html.render(from_result(_result(recipe, tmp_path)))
    parsed.feed(page)
    assert parsed.tags.count("script") == 1
    assert "alert(1)" in parsed.text
    assert [address for address in parsed.addresses if not address.startswith(("data:image/png;base64,", "#"))] == []
    own = re.search(r"script-src 'sha256-([^']+)'", page)
    inside = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert own is not None
    assert inside is not None
    # The browser runs the page's own script and no other, whatever a name may hold.
    assert base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode() == own[1]


def test_every_picture_is_drawn_and_has_words_for_those_who_cannot_see_it(recipe: Any, tmp_path: Path) -> None:
    parsed = _Tags()
    parsed.feed(as_html.render(from_result(_result(recipe, tmp_path))))
    assert parsed.tags.count("figure") == parsed.tags.count("svg") == 7
    assert parsed.labels
    assert all(len(label) > 20 for label in parsed.labels)
    assert len(parsed.ids) == len(set(parsed.ids))


def test_hostile_names_are_text_in_markdown(recipe: Any, tmp_path: Path) -> None:
    text = as_markdown.render(from_result(_result(recipe, tmp_path)))
    assert "<script>" not in text
    assert "\\<script\\>" in text
    rows = [line for line in text.splitlines() if line.startswith("|") and "script" in line]
    assert rows
    assert all(row.replace("\\|", "").count("|") in (3, 5, 7) for row in rows)


def test_hostile_names_are_text_on_the_console(recipe: Any, tmp_path: Path) -> None:
    assert "[red]" in _shown(from_result(_result(recipe, tmp_path)))


@pytest.mark.parametrize("render", [as_html.render, as_markdown.render, _shown], ids=["html", "markdown", "console"])
def test_nothing_that_moves_or_colours_other_text_gets_through(recipe: Any, tmp_path: Path, render: Any) -> None:
    """U+202E shows "evil" as "live"; ESC begins a terminal's commands. Both are shown as what they are."""
    report = from_result(_result(recipe, tmp_path, warnings=("\u202eevil \x1b[31mred \u0645\u0631\u062d\u0628\u0627",)))
    text = render(report)
    assert not {"\u202e", "\x1b"} & set(text)
    assert "u202eevil" in text
    assert "\u0645\u0631\u062d\u0628\u0627" in text


def test_a_score_that_rises_does_not_hide_a_class_that_falls(recipe: Any, tmp_path: Path) -> None:
    (found,) = _result(recipe, tmp_path).backends
    lost = ClassChange("cat", 100, 90.0, 60.0, 30, 0, 1e-6)
    behaviour = dataclasses.replace(_behaviour(), classes=(lost, *_behaviour().classes))
    after = dataclasses.replace(found.compressed, change=Change(-1.0, ("cat", 30.0), 40, 45, 90), behaviour=behaviour)
    changed = dataclasses.replace(found, compressed=after)
    report = from_result(_result(recipe, tmp_path, backends=(changed,)))
    assert report.summary[0].endswith("accuracy up 1.00 points (may be chance, p = 0.5).")
    assert report.summary[1] == "onnxruntime: classes that lose accuracy beyond chance: cat (30.00 points)."
    assert "cat loses 30.00 points over 100 samples (corrected p = 1e-06)" in as_markdown.render(report)


def test_a_tiny_class_that_loses_is_not_said_to_lose_nothing(recipe: Any, tmp_path: Path) -> None:
    (found,) = _result(recipe, tmp_path).backends
    few = dataclasses.replace(_behaviour(), classes=(ClassChange("few", 3, 100.0, 0.0, 3, 0, 1.0),))
    after = dataclasses.replace(found.compressed, change=Change(0.1, ("cat", 0.0), 3, 0, 3), behaviour=few)
    report = from_result(_result(recipe, tmp_path, backends=(dataclasses.replace(found, compressed=after),)))
    text = as_markdown.render(report)
    assert "No class of 10 samples or more loses accuracy; a smaller one does." in text


def test_without_a_flip_there_is_no_talk_of_chance(recipe: Any, tmp_path: Path) -> None:
    (found,) = _result(recipe, tmp_path).backends
    calm = dataclasses.replace(_behaviour(), p_value=1.0, classes=(ClassChange("cat", 20, 90.0, 90.0, 0, 0, 1.0),))
    after = dataclasses.replace(found.compressed, change=Change(0.0, ("cat", 0.0), 0, 0, 0), behaviour=calm)
    report = from_result(_result(recipe, tmp_path, backends=(dataclasses.replace(found, compressed=after),)))
    text = as_markdown.render(report)
    assert "No prediction differs." in text
    assert "chance" not in text


def test_three_deliverables_of_photographs_stay_under_two_megabytes(recipe: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (found,) = _result(recipe, tmp_path).backends
    photo = as_png(rng.normal(size=(3, 96, 96)).astype(np.float32))
    assert photo is not None
    behaviour = dataclasses.replace(
        _behaviour(),
        classes=tuple(ClassChange(f"class {n}", 50, 90.0, 80.0, 7, 2, 0.5) for n in range(1000)),
        examples=tuple(Example(n, "cat", "cat", "dog", photo) for n in range(24)),
    )
    nodes = tuple(ExecutedNode(f"features.{n}.conv", "QLinearConv", "int8", 5000, None) for n in range(1500))
    after = dataclasses.replace(found.compressed, behaviour=behaviour, fusion=Fusion(nodes, 1.0))
    several = tuple(dataclasses.replace(found, backend=name, compressed=after) for name in ("a", "b", "c"))
    page = as_html.render(from_result(_result(recipe, tmp_path, backends=several)))
    assert len(page.encode()) < 2_000_000
    assert page.count("<img") > 10
    assert "in report.json" in page


def _with_costs(found: Measurement, macs: Count, share: float | None, left_out: dict[str, int]) -> Measurement:
    nodes = (ExecutedNode("product", "MatMul", "int8", macs.exact), ExecutedNode("relu", "Relu", "float32", 0))
    bits = Count(64 * macs.known, macs.unknown)
    return dataclasses.replace(
        found,
        size=dataclasses.replace(found.size, macs=macs, bit_operations=bits),
        fusion=Fusion(nodes, share, left_out),
    )


@pytest.mark.parametrize(
    ("macs", "share", "left_out", "says"),
    [
        (Count(0, {"MatMul": 2}), None, {"MatMul": 2}, ("unknown", "unknown", "unknown")),
        (
            Count(1000, {"MatMul": 1}),
            0.5,
            {"MatMul": 1},
            ("at least 1,000 (1 node unknown)", "at least 6.4e+04", "50% of what is known (1 node unknown)"),
        ),
        (Count(1000), 1.0, {}, ("1,000", "6.4e+04", "100%")),
    ],
)
def test_what_is_unknown_is_said_everywhere_and_is_never_nothing(
    recipe: Any, tmp_path: Path, macs: Count, share: float | None, left_out: dict[str, int], says: tuple[str, ...]
) -> None:
    result = _result(recipe, tmp_path)
    (backend,) = result.backends
    before, after = (_with_costs(found, macs, share, left_out) for found in (backend.baseline, backend.compressed))
    report = from_result(
        dataclasses.replace(result, backends=(dataclasses.replace(backend, baseline=before, compressed=after),))
    )
    file = json.loads(report.model_dump_json())["backends"][0]["compressed"]
    assert (file["macs"], file["macs_at_least"]) == (macs.exact, macs.at_least)
    assert (file["macs_unknown"], file["integer_mac_share"]) == (dict(macs.unknown), share)
    assert file["integer_share_leaves_out"] == left_out
    assert [node["macs"] for node in file["nodes"]] == [macs.exact, 0]
    assert Report.model_validate_json(report.model_dump_json()) == report
    rows = {row.label: (row.before, row.after, row.change) for row in tables.comparison(report.backends[0], report)}
    for label, shown in zip(("MACs of one sample", "bit operations", "MACs in integers"), says, strict=True):
        assert rows[label] == (shown, shown, "")
    html = as_html.render(report)
    assert all(shown in html for shown in says)
    assert (">unknown</td>" in html) == bool(macs.unknown)
    assert all(shown in as_markdown.render(report) for shown in says)


def test_a_float_node_that_multiplies_is_no_absence_of_islands(recipe: Any, tmp_path: Path) -> None:
    result = _result(recipe, tmp_path)
    (backend,) = result.backends
    nodes = (ExecutedNode("p", "MatMul", "int8", 100), ExecutedNode("r", "LSTM", "float32", 900))
    after = dataclasses.replace(backend.compressed, fusion=Fusion(nodes, 0.1))
    report = from_result(dataclasses.replace(result, backends=(dataclasses.replace(backend, compressed=after),)))
    assert sentences.fusion(report.backends[0]) == ["Nodes that multiply and do not run on integers: 1 LSTM."]
