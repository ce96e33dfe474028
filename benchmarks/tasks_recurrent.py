"""Recurrent networks: silero-vad's files in 8 bits, step by step with their states; a GRU and an LSTM of our own, pruned and in 8 bits.

python benchmarks/tasks.py recurrent [--minutes 12] [--data FOLDER] [--only silero|own]

silero-vad (PyPI, pinned by hash) hears people from packages of Debian (published/recordings.py); nothing is calibrated. Each file
keeps its own states from step to step. Steps of both files are timed in turns, one thread. The two networks of ours read MNIST row by
row: --data (or COMPRESSCTL_DATA) names the folder with mnist.npz, see README.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from published.packages import PACKAGES, fetch, folder
from published.recordings import RATE, stream
from scipy.signal import resample_poly

SILERO = {
    "silero_vad.onnx": (8000, 16000),
    "silero_vad_16k_op15.onnx": (16000,),
    "silero_vad_16k_sequence.onnx": (16000,),
    "silero_vad_half.onnx": (16000,),
    "silero_vad_op18_ifless.onnx": (8000, 16000),
    "silero_vad_openvino_16k.onnx": (16000,),
}
"""File of the package to the sampling rates that it takes."""

SPEECH = 0.5


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="tasks.py recurrent", description=__doc__)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("COMPRESSCTL_DATA"),
        help="the folder with mnist.npz; without it only silero-vad is measured",
    )
    parser.add_argument("--only", choices=("silero", "own"))
    parser.add_argument(
        "--cells", nargs="+", choices=("lstm", "gru"), default=("lstm", "gru"), help="of our own networks"
    )
    asked = parser.parse_args(arguments)
    if asked.only != "own":
        silero(60 * asked.minutes)
    if asked.only == "own" and asked.data is None:
        parser.error("--data names the folder with mnist.npz")
    if asked.only != "silero" and asked.data is not None:
        from row_networks import own

        own(asked.data / "mnist.npz" if asked.data.is_dir() else asked.data, asked.cells)


def silero(seconds: float) -> None:
    fetch([package for package in PACKAGES if package.name == "silero-vad"])
    heard, share = stream(seconds)
    heard_at = {RATE: heard, RATE // 2: resample_poly(heard, 1, 2).astype(np.float32)}
    print(
        f"silero-vad, {seconds / 60:.0f} minutes, {share:.0%} of them spoken (as recorded, pauses inside sentences included)\n"
    )
    print(
        "| file | kHz | steps | speech | decisions equal | largest change | size | smaller | step, float | step, 8 bits | faster |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for file, rates in SILERO.items():
            before = folder("silero-vad") / "silero_vad" / "data" / file
            after = compressed(before, Path(name) / file)
            sizes = [path.stat().st_size for path in (before, after)]
            for rate in rates:
                files = [Vad(path, rate) for path in (before, after)]
                steps = list(frames(heard_at[rate], rate))
                was, now = (vad.probabilities(steps) for vad in files)
                decided = (was > SPEECH) == (now > SPEECH)
                slow, fast, ratio = timed([vad.repeated(steps) for vad in files])
                print(
                    f"| {file} | {rate // 1000} | {len(steps):,} | {np.mean(was > SPEECH):.1%} | {np.mean(decided):.2%} | "
                    f"{np.max(np.abs(was - now)):.3f} | {sizes[1] / 1e3:.0f} kB | {sizes[0] / sizes[1]:.2f}x | "
                    f"{slow * 1e6:.0f} us | {fast * 1e6:.0f} us | {ratio} |",
                    flush=True,
                )


RECIPE = """\
recipe: compressctl/v1
model: {{source: onnx, path: {model}}}
target: {{shapes: {shapes}}}
stages:
  - {{use: quantize.weights, bits: 8, granularity: group, group_size: 64, overrides: [{{match: Conv, granularity: group, group_size: 32}}]}}
export: [onnxruntime]
"""


def compressed(model: Path, into: Path) -> Path:
    """The file that `compressctl apply` hands over."""
    into.mkdir()
    given = {
        "silero_vad.onnx": "{input.1: 288}",  # a rate that is not 16000 is 8000 there
        "silero_vad_op18_ifless.onnx": "{sequence: 288}",
        "silero_vad_16k_sequence.onnx": "{sequence_length: 1}",
        "silero_vad_openvino_16k.onnx": "{}",
    }.get(model.name, "{sequence: 576}")
    recipe = into / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=model, shapes=given))
    command = ["apply", recipe, "--output", into / "run", "--measure", "quick"]
    done = subprocess.run([sys.executable, "-m", "compressctl", *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return into / "run" / "artifacts" / "onnxruntime" / "model.onnx"


def frames(heard: np.ndarray, rate: int) -> Iterator[np.ndarray]:
    """(1, context + samples): 32 ms, and the last eighth of the step before, as silero-vad's own code does."""
    size, context = (512, 64) if rate == 16000 else (256, 32)
    padded = np.concatenate([np.zeros(context, np.float32), heard])
    for start in range(0, len(heard) - size + 1, size):
        yield padded[None, start : start + context + size]


class Vad:
    """A file of silero-vad with its own states."""

    def __init__(self, path: Path, rate: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        taken = {spec.name for spec in self._session.get_inputs()}
        self._fixed = {"sr": np.array(rate, np.int64)} if "sr" in taken else {}
        fed_back = {"stateN": "state"} if "state" in taken else {"hn": "h", "cn": "c"}
        self._outputs = [spec.name for spec in self._session.get_outputs()]
        self._fed_back = {self._outputs.index(made): read for made, read in fed_back.items()}
        shape = (2, 1, 128) if "state" in taken else (1, 1, 128)
        self._zeros = {read: np.zeros(shape, np.float32) for read in fed_back.values()}

    def steps(self, given: list[np.ndarray]) -> Iterator[float]:
        states: dict[str, Any] = dict(self._zeros)
        for frame in given:
            made = self._session.run(None, {"input": frame, **self._fixed, **states})
            states = {read: made[place] for place, read in self._fed_back.items()}
            yield float(made[0].reshape(-1)[0])

    def probabilities(self, given: list[np.ndarray]) -> np.ndarray:
        return np.fromiter(self.steps(given), float)

    def repeated(self, given: list[np.ndarray], count: int = 200) -> Callable[[], float]:
        """Seconds of one step, over so many."""
        some = given[:count]

        def run() -> float:
            started = time.perf_counter()
            for _ in self.steps(some):
                pass
            return (time.perf_counter() - started) / len(some)

        return run


def timed(runs: list[Callable[[], float]], rounds: int = 41) -> tuple[float, float, str]:
    """Median seconds of two, in turns, and how much faster the second is: the median of the rounds' ratios, with its 95 % interval."""
    rng = np.random.default_rng(0)
    for run in runs:
        run()
    found = np.array(
        [[run() for run in (runs if turn % 2 else runs[::-1])][:: 1 if turn % 2 else -1] for turn in range(rounds)]
    )
    ratios = found[:, 0] / found[:, 1]
    drawn = np.median(rng.choice(ratios, (2000, rounds)), axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    before, after = np.median(found, axis=0)
    return float(before), float(after), f"{np.median(ratios):.2f}x ({low:.2f} to {high:.2f})"
