"""A detector in 8 bits: how many of the float file's boxes remain on photographs that nothing was calibrated with, and how fast it is.

python benchmarks/tasks.py detection [--runs N] [--seed N]

The package nudenet's 320n.onnx, as it is published, calibrated with photographs of other packages and crops around what it finds in them. Boxes
are kept where one of the same class overlaps them by an IoU of 0.5. Beside it ONNX Runtime's quantize_static with its defaults and set by
hand (per channel, U8S8), and a file in which boxes and scores share a scale, which the gate has to catch and `diagnose` to name and mend.
All files are timed in turn, one photograph at a time, in processor time of one thread. What a file in 8 bits keeps depends on the last bits of its
inputs, so that it is also counted on inputs that differ by 0.004 % at most. Says what was measured, pass or not.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image, ImageOps
from published.packages import MODELS, PACKAGES, fetch, model_path
from tasks_images import calibration_photographs, test_photographs

from compressctl.core.objects import as_objects
from compressctl.tasks.box_decoders import yolo
from compressctl.tasks.detection import BOXES
from compressctl.tasks.params import YoloParams

BUILD = Path(__file__).parent / "build" / "tasks_detection"
SIDE = 320
HELD_OUT = 100
"""Of the pictures to calibrate with, those on which gates choose."""

_VALUES = 22
"""Of a place in the output: a box and a score for each of 18 classes."""

_SCALES = (1.6, 2.5, 4.0, 6.0)
"""Sides of a crop, in the box's longer side."""

_SMALLEST_CROP = 60
"""Pixels."""

_NUDGES = (1.0, 1 + 1e-6, 1 - 1e-6, 1 + 1e-5, 1 - 1e-5, 1 + 4e-5, 1 - 4e-5)
"""What inputs are multiplied by."""

RECIPE = """recipe: compressctl/v1
seed: {seed}
task: detection
decode: yolo
model: {{source: onnx, path: "{model}"}}
data: {{source: npz, path: photographs.npz, inputs: calibration, test_inputs: test, labels: null, layout: NHWC, validation: {held_out}, calibration: {calibration}}}
stages:
  - {{use: quantize.static{more}, gate: {{kept: 95, added: 5, otherwise: stop}}}}
budget: {{kept: 97, added: 3}}
"""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="calls of each file that are timed")
    parser.add_argument("--seed", type=int, default=0, help="deals the pictures to calibrate with")
    asked = parser.parse_args(arguments)
    runs = asked.runs
    BUILD.mkdir(parents=True, exist_ok=True)
    model = _model()
    test, calibration = _arrays(model)
    files = {"float": model, **_by_onnxruntime(model, calibration)}
    ours = {}
    for name, more in (("compressctl", ", float_macs: 0.2"), ("compressctl, defaults", "")):
        made, holds = _apply("ours" if more else "ours-defaults", model, len(calibration), asked.seed, more)
        print(f"{name}: gate and budget {'hold' if holds else 'MISSED'}")
        if made.exists():
            ours[name] = made
    files |= ours
    _, holds = _apply(
        "shared", _planted(model), len(calibration), asked.seed, ", keep_float: overrides, ranges: minmax"
    )
    print(f"a shared scale: {'NOT caught' if holds else 'caught by its gate or budget'}")
    results = {name: _boxes(path, test) for name, path in files.items()}
    speeds = _speeds(files, test[:1], runs)
    print(
        f"{len(test)} photographs, {sum(map(len, results['float']))} boxes of the float file, {len(calibration)} others to calibrate with"
    )
    for name, path in files.items():
        tally = BOXES.tally(results["float"], results[name])
        print(
            f"{name}: kept {100 * tally.kept / tally.reference:.2f} %, added {100 * tally.added / tally.reference:.2f} %, "
            f"{path.stat().st_size / 1e6:.2f} MB, {1000 * speeds[name]:.2f} ms, {speeds['float'] / speeds[name]:.2f}x"
        )
    for name, made in ours.items():
        print(f"{name}, on inputs times {_NUDGES}: {_nudged(model, made, test)}")
    print(f"diagnose, of the shared scale:\n{_diagnosis('shared')}")


def _model() -> Path:
    fetch([package for package in PACKAGES if package.name == "nudenet"])
    return model_path(next(model for model in MODELS if model.name == "nudenet"))


def _planted(model: Path) -> Path:
    """The same function, with a convolution behind the tensor of boxes and scores, for which both need one scale."""
    planted = onnx.load(model)
    [output] = [value.name for value in planted.graph.output]
    [made] = [node for node in planted.graph.node if output in node.output]
    made.output[:] = ["joined"]
    identity = np.eye(_VALUES, dtype=np.float32).reshape(_VALUES, _VALUES, 1)
    planted.graph.initializer.append(numpy_helper.from_array(identity, "identity"))
    planted.graph.node.append(helper.make_node("Conv", ["joined", "identity"], [output], "behind"))
    onnx.save(planted, BUILD / "planted.onnx")
    return BUILD / "planted.onnx"


def _arrays(model: Path) -> tuple[np.ndarray, np.ndarray]:
    """(n, 320, 320, 3) uint8 to test with and to calibrate with, in a file for the recipes too."""
    test = np.stack([_square(_opened(path)) for path in test_photographs()])
    photographs = [_opened(path) for path in calibration_photographs()]
    whole = np.stack([_square(photograph) for photograph in photographs])
    calibration = np.concatenate([whole, np.stack(list(_around_boxes(model, photographs, whole)))])
    np.savez(BUILD / "photographs.npz", test=test, calibration=calibration)
    return test, calibration


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        return opened.convert("RGB")


def _around_boxes(model: Path, photographs: Sequence[Image.Image], whole: np.ndarray) -> Iterator[np.ndarray]:
    """Crops around what the float file finds, at four scales, half of them mirrored: few photographs show people, and each at one size."""
    rng = np.random.default_rng(0)
    for photograph, boxes in zip(photographs, _boxes(model, whole), strict=True):
        pixels = max(photograph.size) / SIDE
        for x1, y1, x2, y2 in pixels * boxes[:, :4]:
            for scale in _SCALES:
                size = scale * max(x2 - x1, y2 - y1)
                middle = np.array([x1 + x2, y1 + y2]) / 2 + rng.uniform(-0.25, 0.25, 2) * (size - size / scale)
                low, high = np.maximum(middle - size / 2, 0), np.minimum(middle + size / 2, photograph.size)
                if min(high - low) < _SMALLEST_CROP:
                    continue
                crop = photograph.crop((*low.astype(int), *high.astype(int)))
                yield _square(ImageOps.mirror(crop) if rng.random() < 0.5 else crop)


def _square(picture: Image.Image) -> np.ndarray:
    """As the package does it: black to the right and below until it is a square, then resized."""
    side = max(picture.size)
    square = Image.new("RGB", (side, side))
    square.paste(picture, (0, 0))
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.uint8)


def _fed(pictures: np.ndarray, nudge: float = 1.0) -> Iterator[dict[str, np.ndarray]]:
    for picture in pictures:
        yield {"images": (picture.astype(np.float32) / 255 * np.float32(nudge)).transpose(2, 0, 1)[None]}


def _nudged(model: Path, ours: Path, pictures: np.ndarray) -> str:
    """What is kept and added, the mean and the extremes."""
    kept, added = [], []
    for nudge in _NUDGES:
        tally = BOXES.tally(_boxes(model, pictures, nudge), _boxes(ours, pictures, nudge))
        kept.append(100 * tally.kept / tally.reference)
        added.append(100 * tally.added / tally.reference)
    return "; ".join(
        f"{statistics.mean(each):.2f} % {name} ({min(each):.2f} to {max(each):.2f})"
        for name, each in (("kept", kept), ("added", added))
    )


class _Reader(CalibrationDataReader):
    def __init__(self, pictures: np.ndarray) -> None:
        self.calls = _fed(pictures)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.calls, None)


def _by_onnxruntime(model: Path, calibration: np.ndarray) -> dict[str, Path]:
    logging.disable(logging.WARNING)
    prepared = BUILD / "prepared.onnx"
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    files = {"ONNX Runtime, defaults": BUILD / "defaults.onnx", "ONNX Runtime, by hand": BUILD / "by_hand.onnx"}
    default, by_hand = files.values()
    quantize_static(str(prepared), str(default), _Reader(calibration))
    quantize_static(
        str(prepared), str(by_hand), _Reader(calibration), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return files


def _apply(name: str, model: Path, pictures: int, seed: int, more: str) -> tuple[Path, bool]:
    """Where the compressed file lies, unless a gate stopped the run, and whether gate and budget hold."""
    recipe, run = BUILD / f"{name}.yaml", BUILD / name
    recipe.write_text(
        RECIPE.format(seed=seed, model=model, held_out=HELD_OUT, calibration=pictures - HELD_OUT, more=more)
    )
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-m", "compressctl", "apply", str(recipe), "--measure", "quick", "--output", str(run)]
    code = subprocess.run(command, check=False).returncode
    if code not in (0, 1):
        sys.exit(f"{recipe} ended with exit code {code}")
    return run / "artifacts" / "onnxruntime" / "model.onnx", code == 0


def _diagnosis(name: str) -> str:
    """What diagnose says of a run, its edits tried and measured."""
    command = [sys.executable, "-m", "compressctl", "diagnose", str(BUILD / name)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 1):
        sys.exit(f"diagnose ended with exit code {done.returncode}")
    return done.stdout.strip()


def _boxes(path: Path, pictures: np.ndarray, nudge: float = 1.0) -> np.ndarray:
    session, decode = _session(path), yolo(YoloParams(), BUILD)
    name = session.get_outputs()[0].name
    return as_objects([decode({name: session.run([name], call)[0]})[0] for call in _fed(pictures, nudge)])


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _speeds(files: dict[str, Path], picture: np.ndarray, runs: int) -> dict[str, float]:
    """Median processor seconds of a call, all files in turn."""
    sessions = {name: _session(path) for name, path in files.items()}
    [call] = _fed(picture)
    seconds: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(runs):
        for name, session in sessions.items():
            begin = time.process_time()
            session.run(None, call)
            seconds[name].append(time.process_time() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}
