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

from compressctl.core.backend import ExecutedNode
from compressctl.core.count import Count
from compressctl.core.errors import StageError
from compressctl.core.model import StageRecord
from compressctl.measure.budget import check
from compressctl.measure.changed_examples import as_png
from compressctl.measure.results import (
    BackendResult,
    Behaviour,
    BudgetCheck,
    Change,
    ClassChange,
    Drift,
    Energy,
    Example,
    GroupChange,
    Groups,
    Latency,
    Measurement,
    Memory,
    Noise,
    OperatingPoint,
    Parity,
    Score,
    Speedup,
    WaterfallStep,
)
from compressctl.measure.speed_words import speedup_of
from compressctl.pipeline.result import RunResult
from compressctl.recipe.loader import load
from compressctl.recipe.schema import BudgetSection
from compressctl.report import as_html, as_junit, as_markdown, as_sarif, console, sentences, tables
from compressctl.report.document import SCHEMA_VERSION, Report
from compressctl.report.from_run import from_result
from compressctl.report.write import write

HOSTILE = "<script>alert(1)</script> | `x` [red]*bold*[/red] \u202eabc\U0001f600 " + "long" * 200

QUIET = Noise(spread=0.02, other_load=0.01, noisy=False)

MISSED = BudgetCheck(name="size", limit=1, actual=2, holds=False, explanation="bytes")


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    path = tmp_path / "recipe.yaml"
    path.write_text("recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\ndata: {source: digits}\n")
    return load(path)


def _measured(name: str, *, total: int, p50: float, speed: Speedup | None, change: Change | None) -> Measurement:
    return Measurement(
        path=name,
        files={name: total},
        total_bytes=total,
        transport_bytes=total - 10,
        parameters=1000,
        macs=5000,
        score=Score(
            metric="accuracy",
            value=90.0 - (change.drop if change else 0),
            samples=500,
            split="test",
            per_class={HOSTILE: 90.0},
        ),
        latency=_latency(p50),
        memory=Memory(before_bytes=50_000_000, load_peak_bytes=60_000_000, run_peak_bytes=70_000_000),
        nodes=(ExecutedNode(HOSTILE, "Conv", "float32", 5000, "its weight was left in float"),),
        integer_mac_share=0.5,
        speed=speed,
        change=change,
        behaviour=_behaviour() if change else None,
        energy=Energy(joules=0.02, provenance="estimated", source=HOSTILE, saving=speed),
        points=(OperatingPoint(latency=_latency(p50), speed=speed),),
    )


def _latency(p50: float) -> Latency:
    return Latency(
        runs=200,
        batch=1,
        threads=1,
        p50_ms=p50,
        p90_ms=p50 * 1.2,
        p99_ms=None,
        mean_ms=p50 * 1.1,
        samples_per_second=1000 / p50,
        percentiles_ms=[p50 * (0.9 + 0.002 * percent) for percent in range(101)],
    )


def _change(drop: float, worst: tuple[str, float], flips: tuple[int, int, int]) -> Change:
    return Change(
        drop=drop, worst_class=worst, right_to_wrong=flips[0], wrong_to_right=flips[1], disagreements=flips[2]
    )


def _class(name: str, samples: int, before: float, after: float, lost: int, p_value: float) -> ClassChange:
    return ClassChange(
        name=name,
        samples=samples,
        before=before,
        after=after,
        right_to_wrong=lost,
        wrong_to_right=0,
        p_value=p_value,
    )


def _behaviour() -> Behaviour:
    change = GroupChange(name=HOSTILE, samples=20, before=90.0, after=80.0, right_to_wrong=2, wrong_to_right=0)
    picture = as_png(np.eye(8, dtype=np.float32)[None])
    return Behaviour(
        churn=0.1,
        negative_flip_rate=0.02,
        p_value=0.5,
        calibration_error_before=0.01,
        calibration_error_after=0.02,
        divergence=0.1,
        classes=(_class(HOSTILE, 20, 90.0, 80.0, 2, 0.5),),
        changed=(7,),
        groups=Groups(groups=(change,), gap_before=1.0, gap_after=2.0, amplification=1.0, low=0.5, high=1.5),
        examples=(Example(index=7, label=HOSTILE, before=HOSTILE, after=HOSTILE, png=picture),),
    )


def _on(backend: str, before: Measurement, after: Measurement, stages: tuple[str, ...] = ()) -> BackendResult:
    files = [("float", before), *((name, after) for name in (*stages, "int8"))]
    waterfall = [
        WaterfallStep(
            id=name,
            total_bytes=file.total_bytes,
            transport_bytes=file.transport_bytes,
            score=file.score,
            drop=file.change.drop if file.change else None,
            latency=file.latency,
            speed=file.speed,
            step=file.speed,
        )
        for name, file in files
    ]
    return BackendResult(
        backend=backend,
        version="1.0",
        baseline=before,
        compressed=after,
        smaller=before.total_bytes / after.total_bytes,
        noise=QUIET,
        waterfall=waterfall,
    )


def _changed(result: RunResult, **changes: Any) -> RunResult:
    """The result with other figures of the compressed file."""
    (found,) = result.backends
    after = found.compressed.model_copy(update=changes)
    return dataclasses.replace(result, backends=(found.model_copy(update={"compressed": after}),))


def _result(recipe: Any, folder: Path, **changes: Any) -> RunResult:
    before = _measured("baseline.onnx", total=4000, p50=2.0, speed=None, change=None)
    change = _change(0.5, (HOSTILE, 2.0), (7, 3, 12))
    after = _measured("model.onnx", total=1000, p50=1.0, speed=speedup_of(2.0, 1.9, 2.1), change=change)
    whole: dict[str, Any] = {
        "recipe": recipe,
        "folder": folder,
        "status": "done",
        "started": 1_700_000_000.0,
        "seconds": 12.5,
        "environment": {"cpu": HOSTILE},
        "stages": (StageRecord("int8", "quantize.static", {}, 1.5, {"left_in_float": {HOSTILE: "gate"}}),),
        "backends": (_on("onnxruntime", before, after, (HOSTILE,)),),
        "parity": (Parity(between="torch and ONNX Runtime", max_abs_difference={"y": 1e-6}, samples=16),),
        "budget": (BudgetCheck(name="speedup", limit=1.5, actual=2.0, holds=True, explanation="times as fast"),),
        "warnings": (HOSTILE,),
    }
    return RunResult(**{**whole, **changes})


def _shown(report: Report) -> str:
    stream = io.StringIO()
    Console(file=stream, width=120).print(console.render(report))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "actual", "limit", "words"),
    [
        ("accuracy_drop", 0.5642, 0.56, "accuracy_drop 0.564 (at most 0.56)"),
        ("accuracy_drop", 0.1 + 0.2, 0.3, "accuracy_drop 0.30 (at most 0.30)"),
        ("accuracy_drop", 0.0031, 0.0, "accuracy_drop 0.0031 (at most 0.00)"),
        ("accuracy_drop", -1.234, 0.5, "accuracy_drop -1.23 (at most 0.50)"),
        ("accuracy_drop", 0.00012345, 0.0001, "accuracy_drop 0.00012 (at most 0.0001)"),
        ("cosine", 0.99894, 0.999, "cosine 0.9989 (at least 0.999)"),
        ("cosine", 0.99991, 0.999, "cosine 1.000 (at least 0.999)"),
        ("agreement", None, 99.5, "agreement not measured (at least 99.50)"),
        ("size", 250_010, 250_000, "size 250,010 B (at most 250,000 B)"),
        ("size", 251_000, 250_000, "size 251.0 kB (at most 250.0 kB)"),
    ],
)
def test_a_figure_never_reads_as_the_limit_that_it_is_not(
    name: str, actual: float | None, limit: float, words: str
) -> None:
    line = BudgetCheck(name=name, limit=limit, actual=actual, holds=False, explanation="why")
    assert tables.budget_words(line) == f"{words}: why"


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
        (speedup_of(1.02, 0.97, 1.06), "no measurable change of speed (0.97 to 1.06)"),
        (speedup_of(0.5, 0.45, 0.55), "2.00x slower"),
        (speedup_of(0.3, 0.01, 0.4), "at least 2.50x slower"),
        (speedup_of(1.4, 0.8, 3.0), "speed too noisy to say (0.80 to 3.00)"),
    ],
)
def test_what_is_no_gain_is_not_called_one(recipe: Any, tmp_path: Path, speed: Speedup, says: str) -> None:
    report = from_result(_changed(_result(recipe, tmp_path), speed=speed))
    assert says in report.summary[0]
    assert "faster" not in report.summary[0]
    assert "faster" not in _shown(report).split("latency p50")[1].splitlines()[0]


def _with_speed(recipe: Any, folder: Path, speed: Speedup) -> Report:
    """A report of one backend and two stages whose speeds, energy and operating points are all the given one."""
    after = _measured("model.onnx", total=1000, p50=1.0, speed=speed, change=None)
    before = _measured("baseline.onnx", total=4000, p50=2.0, speed=None, change=None)
    budget = check(BudgetSection(speedup=1.5), after, "accuracy")
    found = _on("onnxruntime", before, after, (HOSTILE,))
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
        report = _with_speed(recipe, tmp_path, speedup_of(ratio, low, high))
        text = render(report)
        assert "35.3" not in text


@pytest.mark.parametrize("render", _RENDERINGS.values(), ids=_RENDERINGS)
def test_where_a_rendering_says_slower_its_interval_is_inverted_too(recipe: Any, tmp_path: Path, render: Any) -> None:
    text = render(_with_speed(recipe, tmp_path, speedup_of(0.714, 0.709, 0.719)))
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
        ({"status": "budget missed", "budget": (MISSED,)}, 1, "Budget missed: size"),
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


def test_facts_too_long_for_a_cell_say_where_they_stand_whole(recipe: Any, tmp_path: Path) -> None:
    report = from_result(_result(recipe, tmp_path))
    stage = report.stages[0].model_copy(update={"facts": {"left_out": ["layer" * 20] * 20}})
    rows = as_markdown.render(report.model_copy(update={"stages": (stage,)})).splitlines()
    (row,) = [row for row in rows if "layerlayer" in row]
    assert row.endswith("(whole in report.json) |")


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
    lost = _class("cat", 100, 90.0, 60.0, 30, 1e-6)
    behaviour = _behaviour().model_copy(update={"classes": (lost, *_behaviour().classes)})
    change = _change(-1.0, ("cat", 30.0), (40, 45, 90))
    result = _result(recipe, tmp_path)
    before = result.backends[0].baseline.score
    assert before is not None
    score = before.model_copy(update={"value": before.value + 1})
    report = from_result(_changed(result, change=change, behaviour=behaviour, score=score))
    assert report.summary[0].endswith("accuracy up 1.00 points (may be chance, p = 0.5).")
    assert report.summary[1] == "onnxruntime: classes that lose accuracy beyond chance: cat (30.00 points)."
    assert "cat loses 30.00 points of accuracy over 100 samples (corrected p = 1e-06)" in as_markdown.render(report)


def test_a_tiny_class_that_loses_is_not_said_to_lose_nothing(recipe: Any, tmp_path: Path) -> None:
    few = _behaviour().model_copy(update={"classes": (_class("few", 3, 100.0, 0.0, 3, 1.0),)})
    change = _change(0.1, ("cat", 0.0), (3, 0, 3))
    report = from_result(_changed(_result(recipe, tmp_path), change=change, behaviour=few))
    text = as_markdown.render(report)
    assert "No class of 10 samples or more loses accuracy; a smaller one does." in text


def test_a_test_of_flips_does_not_judge_another_metric(recipe: Any, tmp_path: Path) -> None:
    after = _result(recipe, tmp_path).backends[0].compressed
    assert after.score is not None
    assert tables.may_be_chance(after) == " (may be chance, p = 0.5)"
    other = after.score.model_copy(update={"metric": "log_loss"})
    assert tables.may_be_chance(after.model_copy(update={"score": other})) == ""


@pytest.mark.parametrize(("metric", "words"), [("r2", " (may be chance, p = 0.3)"), ("pinball", "")])
def test_a_test_of_absolute_errors_does_not_judge_another_metric(
    recipe: Any, tmp_path: Path, metric: str, words: str
) -> None:
    drift = Drift(
        mean_change=0.1,
        largest_change=1.0,
        cosine_mean=None,
        cosine_least=None,
        neighbours=None,
        error_p_value=0.3,
        worst=(),
    )
    after = _result(recipe, tmp_path).backends[0].compressed
    assert after.score is not None
    scored = after.score.model_copy(update={"metric": metric})
    assert tables.may_be_chance(after.model_copy(update={"score": scored, "behaviour": None, "drift": drift})) == words


def test_without_a_flip_there_is_no_talk_of_chance(recipe: Any, tmp_path: Path) -> None:
    calm = _behaviour().model_copy(update={"p_value": 1.0, "classes": (_class("cat", 20, 90.0, 90.0, 0, 1.0),)})
    change = _change(0.0, ("cat", 0.0), (0, 0, 0))
    report = from_result(_changed(_result(recipe, tmp_path), change=change, behaviour=calm))
    text = as_markdown.render(report)
    assert "No prediction differs." in text
    assert "chance" not in text


def test_three_deliverables_of_photographs_stay_under_two_megabytes(recipe: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (found,) = _result(recipe, tmp_path).backends
    photo = as_png(rng.normal(size=(3, 96, 96)).astype(np.float32))
    assert photo is not None
    behaviour = _behaviour().model_copy(
        update={
            "classes": tuple(_class(f"class {n}", 50, 90.0, 80.0, 7, 0.5) for n in range(1000)),
            "examples": tuple(Example(index=n, label="cat", before="cat", after="dog", png=photo) for n in range(24)),
        }
    )
    nodes = tuple(ExecutedNode(f"features.{n}.conv", "QLinearConv", "int8", 5000, None) for n in range(1500))
    after = found.compressed.model_copy(update={"behaviour": behaviour, "nodes": nodes, "integer_mac_share": 1.0})
    several = tuple(_on(name, found.baseline, after) for name in ("a", "b", "c"))
    page = as_html.render(from_result(_result(recipe, tmp_path, backends=several)))
    assert len(page.encode()) < 2_000_000
    assert page.count("<img") > 10
    assert "in report.json" in page


def _with_costs(found: Measurement, macs: Count, share: float | None, left_out: dict[str, int]) -> Measurement:
    nodes = (ExecutedNode("product", "MatMul", "int8", macs.exact), ExecutedNode("relu", "Relu", "float32", 0))
    bits = Count(64 * macs.known, macs.unknown)
    return found.model_copy(
        update={
            "macs": macs.exact,
            "macs_at_least": macs.at_least,
            "macs_unknown": dict(macs.unknown),
            "bit_operations": bits.exact,
            "bit_operations_at_least": bits.at_least,
            "nodes": nodes,
            "integer_mac_share": share,
            "integer_share_leaves_out": left_out,
        }
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
    report = from_result(dataclasses.replace(result, backends=(_on("onnxruntime", before, after),)))
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
    nodes = (ExecutedNode("p", "MatMul", "int8", 100), ExecutedNode("r", "LSTM", "float32", 900))
    report = from_result(_changed(_result(recipe, tmp_path), nodes=nodes, integer_mac_share=0.1))
    assert sentences.fusion(report.backends[0]) == ["Nodes that multiply and do not run on integers: 1 LSTM."]
