"""Our techniques on a published model, through the command line alone: recipes, runs, and what came of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from published.inputs import CALIBRATION, SEED, TEST, VALIDATION
from published.packages import Published, model_path

LIMIT_SECONDS = 600


@dataclass(frozen=True)
class Technique:
    """stages: of the recipe; none means `compressctl pack`, which takes no recipe. storage: of the deliverable."""

    name: str
    stages: tuple[dict[str, Any], ...] = ()
    storage: str = "plain"
    extra: dict[str, Any] = field(default_factory=dict)


_NEAR = {"gate": {"sqnr_db": 22}}
"""What somebody without labels would ask for: layers that cost too much of an output go back to float."""

TECHNIQUES = (
    Technique("static", ({"use": "quantize.static", **_NEAR},)),
    Technique("dynamic", ({"use": "quantize.dynamic", **_NEAR},)),
    Technique("weights-8", ({"use": "quantize.weights", "bits": 8, **_NEAR},)),
    Technique("weights-4", ({"use": "quantize.weights", "bits": 4, **_NEAR},)),
    Technique("float16", ({"use": "cast", "dtype": "float16"},)),
    Technique("kmeans", ({"use": "share.kmeans"},), storage="compressed"),
    Technique("pack"),
)


@dataclass(frozen=True)
class Attempt:
    """file: what was handed over, None where nothing was. said: the message that ended it, or warnings. undone: stages."""

    code: int
    seconds: float
    file: Path | None
    said: str
    undone: str = ""
    reported: dict[str, Any] | None = None


def data_section(inputs: Path) -> dict[str, Any]:
    """How a recipe names the recorded inputs: the one place that knows the data source."""
    return {
        "source": "requests",
        "path": str(inputs),
        "calibration": CALIBRATION,
        "validation": VALIDATION,
        "test": TEST,
    }


def recipe(model: Published, technique: Technique, inputs: Path) -> dict[str, Any]:
    return {
        "recipe": "compressctl/v1",
        "name": f"{model.name}-{technique.name}",
        "seed": SEED,
        "task": "custom",
        "model": {"source": "onnx", "path": str(model_path(model))},
        "data": data_section(inputs),
        "target": {"backend": "onnxruntime", "threads": 1},
        "stages": [{"id": technique.name, **stage} for stage in technique.stages],
        "export": [{"backend": "onnxruntime", "storage": technique.storage}],
    }


def attempt(model: Published, technique: Technique, inputs: Path, folder: Path) -> Attempt:
    """Run one technique on one model. folder is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if not technique.stages:
        return _packed(model, folder)
    written = folder / "recipe.yaml"
    written.write_text(yaml.safe_dump(recipe(model, technique, inputs), sort_keys=False, allow_unicode=True))
    run = folder / "run"
    code, seconds, printed = _compressctl(
        "apply", str(written), "--output", str(run), "--measure", "quick", "--log-format", "plain", "--no-cache"
    )
    report = json.loads((run / "report.json").read_text()) if (run / "report.json").is_file() else None
    files = sorted(path for path in run.glob("artifacts/onnxruntime/*.onnx") if path.is_file())
    undone = "; ".join(
        str(stage["facts"]["skipped"]) for stage in (report or {}).get("stages", []) if "skipped" in stage["facts"]
    )
    return Attempt(code, seconds, files[0] if files else None, _said(code, printed, report), undone, _speed(report))


def _packed(model: Published, folder: Path) -> Attempt:
    """Packed and unpacked again: the file that comes back is what is compared. reported: the packed bytes."""
    packed, back = folder / "model.cctl", folder / "model.onnx"
    code, seconds, printed = _compressctl("pack", str(model_path(model)), "--output", str(packed))
    if code == 0:
        code, more, said = _compressctl("unpack", str(packed), "--output", str(back))
        seconds, printed = seconds + more, printed + said
    size = packed.stat().st_size if packed.is_file() else 0
    return Attempt(code, seconds, back if back.is_file() else None, _said(code, printed, None), "", {"bytes": size})


def _compressctl(*arguments: str) -> tuple[int, float, str]:
    """Exit code (124 for a run over its time, negative for a signal), seconds, and all that was printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "250"}
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "compressctl", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        printed, _ = process.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return 124, time.monotonic() - started, f"error: no end after {LIMIT_SECONDS} s"
    return process.returncode, time.monotonic() - started, printed


def _said(code: int, printed: str, report: dict[str, Any] | None) -> str:
    if "Traceback (most recent call last)" in printed:
        return "Traceback: " + printed.rstrip().splitlines()[-1]
    if code != 0:
        lines = printed.splitlines()
        first = next((index for index, line in enumerate(lines) if "error" in line), max(0, len(lines) - 3))
        return " ".join(line.strip() for line in lines[first : first + 4]) or f"exit code {code}, nothing printed"
    if report is None:
        return ""
    return " ".join([*report["summary"], *(text for text in report["warnings"] if "machine was noisy" not in text)])


def _speed(report: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the report says of the deliverable, to hold against the independent script."""
    if not report or not report.get("backends"):
        return None
    part = report["backends"][0]
    return {
        "speed": part["compressed"]["speed"],
        "bytes": part["compressed"]["total_bytes"],
        "fidelity": part["compressed"]["fidelity"],
        "summary": report["summary"],
    }
