"""SIGKILLs at random moments: what a recipe with training and a packed file are in the end, beside what they are without.

    python benchmarks/kills.py [--kills 20] [--seed 0] [--folder FOLDER]

A recipe of three stages, two of which train, is killed again and again and then left to its end; so is `compressctl pack`. Printed are the
seconds after which each process was killed, and whether the files are equal to the byte. Exits with 1 where they are not, or where
something half-written is left. No stage asks the clock: where one does (`if_slower: undo`, `skip_slower`), two runs may differ anyway.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_RECIPE = """recipe: compressctl/v1
name: kills
model: {source: builtin, name: digits-resnet}
data: {source: digits, calibration: 200}
stages:
  - {id: prune, use: prune.channels, keep: 0.8, finetune: {epochs: 2}}
  - {id: tune, use: finetune, epochs: 3}
  - {id: int8, use: quantize.static, if_slower: keep}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work [default: a temporary folder]")
    chosen = parser.parse_args()
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="compressctl-kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(chosen.seed)
    return int(not all([_packed(folder, chosen.kills, draw), _recipe(folder, chosen.kills, draw)]))


def _recipe(folder: Path, kills: int, draw: random.Random) -> bool:
    (folder / "recipe.yaml").write_text(_RECIPE)
    command = ["apply", "recipe.yaml", "--measure", "quick", "--output"]
    whole_seconds = _to_its_end(folder, [*command, "whole"], "whole")
    expected = _digests(folder / "whole" / "artifacts")
    moments = []
    for _ in range(kills):
        moments.append(
            _killed(folder, [*command, "killed"], "killed", draw, whole_seconds, folder / "killed" / "events.jsonl")
        )
    resumed_seconds = _to_its_end(folder, [*command, "killed"], "killed")
    left = [path for place in ("killed", "cache-killed") for path in (folder / place).rglob(".writing-*")]
    return _told(
        "recipe", moments, whole_seconds, resumed_seconds, expected, _digests(folder / "killed" / "artifacts"), left
    )


def _packed(folder: Path, kills: int, draw: random.Random) -> bool:
    weights = np.random.default_rng(0).normal(size=(64, 1 << 16)).astype(np.float32)
    tensors = [numpy_helper.from_array(row, f"w{number}") for number, row in enumerate(weights)]
    graph = helper.make_graph(
        [], "weights", [], [helper.make_tensor_value_info("w0", TensorProto.FLOAT, [1 << 16])], tensors
    )
    onnx.save(helper.make_model(graph), folder / "weights.onnx")
    out = folder / "weights.cctl"
    whole_seconds = _to_its_end(folder, ["pack", "weights.onnx", "--output", out.name, "--force"], "pack")
    expected = _digests(out)
    out.unlink()
    moments = []
    for _ in range(kills):
        moments.append(
            _killed(folder, ["pack", "weights.onnx", "--output", out.name, "--force"], "pack", draw, whole_seconds)
        )
        if out.exists() and _digests(out) != expected:
            print("a file that is not whole has the packed file's name")
            return False
        out.unlink(missing_ok=True)
    again_seconds = _to_its_end(folder, ["pack", "weights.onnx", "--output", out.name, "--force"], "pack")
    return _told(
        "packed file", moments, whole_seconds, again_seconds, expected, _digests(out), list(folder.glob(".writing-*"))
    )


def _start(folder: Path, arguments: Sequence[str], cache: str) -> subprocess.Popen[bytes]:
    """In a session of its own, so that its children are killed with it."""
    environment = {**os.environ, "COMPRESSCTL_CACHE": str(folder / f"cache-{cache}")}
    command = [sys.executable, "-m", "compressctl", *arguments]
    with (folder / f"{cache}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def _to_its_end(folder: Path, arguments: Sequence[str], cache: str) -> float:
    started = time.perf_counter()
    process = _start(folder, arguments, cache)
    if process.wait():
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}: see {folder / f'{cache}.log'}")
    return time.perf_counter() - started


def _killed(
    folder: Path, arguments: Sequence[str], cache: str, draw: random.Random, longest: float, begins: Path | None = None
) -> float:
    """Seconds that it lived. begins: the file whose newest write tells that the process has begun to work."""
    started_at = time.time_ns()
    process = _start(folder, arguments, cache)
    started = time.perf_counter()
    while begins is not None and process.poll() is None:
        if begins.exists() and begins.stat().st_size and begins.stat().st_mtime_ns >= started_at:
            break
        time.sleep(0.01)
    waits = time.perf_counter() + draw.uniform(0, longest)
    while time.perf_counter() < waits and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
    process.wait()
    return time.perf_counter() - started


def _told(
    what: str,
    moments: Sequence[float],
    whole: float,
    again: float,
    expected: dict[str, str],
    found: dict[str, str],
    left: list[Path],
) -> bool:
    is_equal = expected == found
    print(f"{what}: {len(moments)} SIGKILLs after {', '.join(f'{moment:.1f}' for moment in moments)} s")
    print(
        f"  without any {whole:.1f} s, the last time {again:.1f} s; {len(found)} files, {'equal' if is_equal else 'NOT EQUAL'}"
    )
    print(f"  half-written: {', '.join(str(path) for path in left) or 'nothing'}", flush=True)
    return is_equal and not left


def _digests(path: Path) -> dict[str, str]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {
        file.name if file == path else str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


if __name__ == "__main__":
    sys.exit(main())
