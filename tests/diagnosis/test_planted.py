"""What is planted in a small network is named, and the edit that is found mends it."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import planted

import compressctl
from compressctl.core.cache import Cache
from compressctl.diagnosis.diagnose import diagnose
from compressctl.diagnosis.document import Diagnosis
from compressctl.measure import latency
from compressctl.pipeline.lock import write_lock
from compressctl.pipeline.plan import make_plan
from compressctl.pipeline.result import RunResult
from compressctl.report.from_run import from_result
from compressctl.report.write import write

STATIC = {"id": "int8", "use": "quantize.static", "keep_float": "overrides", "if_slower": "keep"}


@pytest.fixture(autouse=True, scope="module")
def _little_timing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing here is about speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPRESSCTL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(
            latency, "QUICK", latency.BenchmarkSettings(1, 1, rounds=1, warm_up_seconds=0, seconds=0.02, runs=2)
        )
        yield


def run_of(folder: Path, *stages: dict[str, Any], **data: Any) -> Path:
    """What a run on what was planted there leaves, but for its files, which nothing here reads."""
    section = {"source": "npz", "path": str(folder / "data.npz"), "inputs": "x", "labels": None}
    recipe = {
        "recipe": "compressctl/v1",
        "task": "custom",
        "model": {"source": "onnx", "path": str(folder / "net.onnx")},
        "data": {**section, "calibration": 32, "validation": 16, "test": 16, **data},
        "stages": list(stages),
    }
    loaded = compressctl.load_recipe(recipe)
    (folder / "run").mkdir()
    write_lock(folder / "run" / "recipe.lock.yaml", loaded, make_plan(loaded, None), {})
    ended = RunResult(loaded, folder / "run", "budget missed", started=0, seconds=0, environment={})
    write(from_result(ended), folder / "run")
    return folder / "run"


def of_planted(
    folder: Path, network: Callable[[Path], None], stage: dict[str, Any], *, tries: bool = True, **data: Any
) -> Diagnosis:
    network(folder)
    if not (folder / "data.npz").is_file():
        planted.images(folder)
    return diagnose(run_of(folder, stage, **data), Cache(folder / "cache"), tries=tries)[0]


def _number(decibels: str) -> float:
    return float(decibels.removesuffix(" dB"))


def gained(found: Diagnosis) -> float:
    """Decibels between the run's own recipe and the last edit that mended it."""
    assert found.figures is not None
    after = [trial.figures for trial in found.trials if trial.mends][-1]
    assert after is not None
    assert after.sqnr_db is not None
    assert found.figures.sqnr_db is not None
    return after.sqnr_db - found.figures.sqnr_db


@pytest.mark.parametrize(
    ("network", "stage", "name", "tensor", "edited"),
    [
        (partial(planted.convolutions, outlier=300.0), STATIC, "outliers", "r0", "stages.int8.equalize"),
        (partial(planted.convolutions, faint=0.001), STATIC, "dead channels", "r0", "stages.int8.overrides"),
        (planted.boxes_and_scores, STATIC, "shared scale", "joined", "stages.int8.overrides"),
        (partial(planted.masked, constant=-1e38), STATIC, "mask constant", "largest", "stages.int8.overrides"),
        (partial(planted.masked, constant=-1e4), STATIC, "mask constant", "largest", "stages.int8.overrides"),
        (
            planted.convolutions,
            {**STATIC, "ranges": "percentile", "percentile": 90},
            "saturating range",
            "r0",
            "stages.int8.ranges",
        ),
        (
            planted.convolutions,
            {"id": "int4", "use": "quantize.weights", "bits": 4, "granularity": "tensor", "if_slower": "keep"},
            "few codes",
            "y.weight",
            "stages.int4.granularity",
        ),
    ],
    ids=["outliers", "dead channels", "shared scale", "mask", "mask of attention", "saturating range", "few codes"],
)
def test_a_planted_cause_is_named_and_its_edit_mends_it(
    tmp_path: Path, network: Callable[[Path], None], stage: dict[str, Any], name: str, tensor: str, edited: str
) -> None:
    found = of_planted(tmp_path, network, stage)
    assert (found.stage, found.causes[0].name, found.causes[0].tensor) == (stage["id"], name, tensor)
    assert edited in {edit.path for edit in found.edits}
    assert gained(found) > 20
    assert found.measured[0].label == "channels that lost most"
    assert _number(found.measured[0].after) > 20 + _number(found.measured[0].before)


def test_a_few_bits_lost_to_one_channel_are_outliers_too(tmp_path: Path) -> None:
    found = of_planted(tmp_path, partial(planted.convolutions, outlier=12.0), STATIC, tries=False)
    assert (found.causes[0].name, found.causes[0].tensor) == ("outliers", "r0")
    assert "0 of 8 channels vary by less" in found.causes[0].evidence


def test_an_infinite_mask_that_no_range_covers_is_named_and_kept_in_float(tmp_path: Path) -> None:
    found = of_planted(tmp_path, partial(planted.masked, constant=-np.inf), STATIC)
    assert "NaN or infinity" in found.stages[0].error
    assert (found.causes[0].name, found.causes[0].tensor, found.figures) == ("mask constant", "mask", None)
    assert "mask_Where puts -inf into it" in found.causes[0].evidence
    after = found.trials[-1].figures
    assert after is not None
    assert after.sqnr_db is not None
    assert after.sqnr_db > 25


def test_a_range_of_too_few_samples_is_mended_by_more_of_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    loudness = rng.uniform(0.2, 4, size=(120, 1, 1, 1))
    np.savez(tmp_path / "data.npz", x=(rng.normal(size=(120, 1, 12, 12)) * loudness).astype(np.float32))
    found = of_planted(tmp_path, planted.convolutions, STATIC, calibration=2)
    assert found.causes[0].name == "saturating range"
    assert "which calibration samples stay inside" in found.causes[0].evidence
    first = found.edits[0]
    assert (first.path, first.before, first.after) == ("data.calibration", 2, 16)
    assert gained(found) > 10


def test_calibration_unlike_the_test_is_told_from_that_and_shown_on_the_test_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    quiet, loud = rng.normal(size=(60, 1, 12, 12)), 6 * rng.normal(size=(16, 1, 12, 12))
    np.savez(tmp_path / "data.npz", x=quiet.astype(np.float32), loud=loud.astype(np.float32))
    found = of_planted(tmp_path, planted.convolutions, STATIC, test_inputs="loud", test=16)
    assert (found.causes[0].name, found.split) == ("calibration unlike the test", "test")
    assert found.edits[0].after["use"] == "quantize.weights"
    assert gained(found) > 20
    assert any("samples like those" in line for line in found.advice)


def test_what_no_edit_mends_is_said(tmp_path: Path) -> None:
    stage = {
        "id": "zeros",
        "use": "prune.unstructured",
        "method": "magnitude",
        "sparsity": 0.9,
        "first_and_last": "prune",
    }
    found = of_planted(tmp_path, planted.convolutions, {**stage, "pattern": [4, 1]})
    assert {"dead channels", "changed weights"} == {cause.name for cause in found.causes}
    assert (found.edits, found.measured) == ((), ())
    assert found.advice == ("no edit that was tried mends it",)


def test_a_run_that_lost_little_needs_no_edit(tmp_path: Path) -> None:
    found = of_planted(tmp_path, planted.convolutions, STATIC)
    assert (found.stage, found.causes, found.trials) == (None, (), ())


def test_the_stage_that_lost_most_is_told_from_those_around_it(tmp_path: Path) -> None:
    planted.convolutions(tmp_path, outlier=300.0)
    planted.images(tmp_path)
    few = {"id": "few", "use": "prune.unstructured", "method": "magnitude", "sparsity": 0.02}
    found = diagnose(run_of(tmp_path, few, STATIC), None, tries=False)[0]
    assert [(stage.id, stage.use) for stage in found.stages] == [
        ("few", "prune.unstructured"),
        ("int8", "quantize.static"),
    ]
    assert found.stage == "int8"


def test_a_stage_that_its_gate_stopped_is_made_without_it(tmp_path: Path) -> None:
    stage = {**STATIC, "gate": {"sqnr_db": 20, "otherwise": "stop"}}
    found = of_planted(tmp_path, partial(planted.convolutions, outlier=300.0), stage)
    assert found.stages[0].error == ""
    assert "sqnr_db" in found.stages[0].refused
    assert found.causes[0].name == "outliers"
    after = found.trials[-1]
    assert after.mends
    assert after.figures is not None
    assert after.figures.refused == ""
    assert next(row for row in found.measured if row.label == "ended").after == "done"
