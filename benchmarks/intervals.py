"""Does another's measurement fall into the intervals of `compressctl bench`? Many repeats beside two plain onnxruntime scripts.

python benchmarks/intervals.py [--repeats 20] [--threads 1] [--json FILE] [--files FLOAT.onnx COMPRESSED.onnx]

Each repeat of each pair of files: `compressctl bench`, then the two loops that people write, in processes of their own which
import nothing of compressctl: one process whose calls alternate between the files, and one process per file that calls it
again and again. Files: the digits networks and their INT8, and a depthwise network for 64-pixel images.
At the end: how many ratios were inside, how wide intervals were, and by how much measurements that agree within themselves
differ, which is what `BETWEEN_RUNS` in compressctl/numerics/ratio.py stands for. Exit code 1 where less than 90 % are inside.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_SECONDS = 3.0
"""Of each loop, both files together."""

_DIGITS = "data: {source: digits, calibration: 200}\n"
_IMAGES = "data: {source: npz, path: images.npz, calibration: 50}\n"
_PAIRS = {
    "residual, 8 px": f"model: {{source: builtin, name: digits-resnet}}\n{_DIGITS}",
    "depthwise, 8 px": f"model: {{source: builtin, name: digits-depthwise}}\n{_DIGITS}",
    "depthwise, 64 px": (
        "model: {source: python, factory: 'networks.py:Depthwise', args: {activation: ReLU6}, input_shape: [3, 64, 64]}\n"
        f"{_IMAGES}"
    ),
}


def main() -> None:
    if sys.argv[1:2] == ["--loop"]:
        print(json.dumps(_loop(sys.argv[3:], int(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--files", type=Path, nargs=2, metavar=("FLOAT", "COMPRESSED"))
    asked = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as place:
        pairs = {"given": tuple(asked.files)} if asked.files else _made(Path(place))
        print("| files | bench (95 % interval), alternating | calls that alternate | calls of one file alone |")
        print("|---|---|---|---|")
        for _ in range(asked.repeats):
            for name, files in pairs.items():
                found.append({"files": name, **_repeat(files, asked.threads)})
                print(_row(found[-1]), flush=True)
                if asked.json:
                    asked.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(_summary(found))


def _made(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Float and INT8 files, by a recipe each."""
    import numpy as np

    rng = np.random.default_rng(0)
    np.savez(
        folder / "images.npz",
        inputs=rng.normal(size=(200, 3, 64, 64)).astype(np.float32),
        labels=rng.integers(0, 10, 200),
    )
    (folder / "networks.py").write_text((_HERE / "networks.py").read_text())
    pairs = {}
    for number, (name, sources) in enumerate(_PAIRS.items()):
        (folder / "recipe.yaml").write_text(
            f"recipe: compressctl/v1\n{sources}stages: [{{use: quantize.static, if_slower: keep}}]\n"
        )
        command = ["apply", "recipe.yaml", "--measure", "quick", "--output", str(number)]
        done = subprocess.run(
            [sys.executable, "-m", "compressctl", *command], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(done.stderr or done.stdout)
        files = folder / str(number) / "artifacts" / "onnxruntime"
        pairs[name] = (files / "baseline" / "model.onnx", files / "model.onnx")
    return pairs


def _repeat(files: tuple[Path, Path], threads: int) -> dict[str, Any]:
    names = [str(file) for file in files]
    bench = ["-m", "compressctl", "bench", *names, "--threads", str(threads), "--json"]
    report = _printed(bench)
    speed = report["files"][1]["speed"]
    alternate, alone = (_printed([__file__, "--loop", str(threads), *group]) for group in (names, names[:1]))
    compressed = _printed([__file__, "--loop", str(threads), names[1]])
    return {
        "ratio": speed["ratio"],
        "low": speed["low"],
        "high": speed["high"],
        "alternating": speed["alternating"],
        "their_alternating": alternate[0] / alternate[1],
        "their_alone": alone[0] / compressed[0],
        "noise": report["noise"],
    }


def _printed(arguments: list[str]) -> Any:
    done = subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def _loop(files: list[str], threads: int) -> list[float]:
    """Median seconds of a call of each file; the files' calls alternate."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    sessions = [onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]) for file in files]
    feeds = []
    for session in sessions:
        entry = session.get_inputs()[0]
        shape = [size if isinstance(size, int) else 1 for size in entry.shape]
        feeds.append({entry.name: np.random.default_rng(1).normal(size=shape).astype(np.float32)})
    seconds: list[list[float]] = [[] for _ in files]
    for _ in range(30):
        for session, feed in zip(sessions, feeds, strict=True):
            session.run(None, feed)
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        for session, feed, taken in zip(sessions, feeds, seconds, strict=True):
            started = time.perf_counter()
            session.run(None, feed)
            taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in seconds]


def _row(entry: dict[str, Any]) -> str:
    def cell(ratio: float) -> str:
        return f"{ratio:.3f}x {'inside' if _is_inside(entry, ratio) else 'OUTSIDE'}"

    return (
        f"| {entry['files']} | {entry['ratio']:.3f}x ({entry['low']:.3f} to {entry['high']:.3f}), "
        f"{entry['alternating']:.3f}x | "
        f"{cell(entry['their_alternating'])} | {cell(entry['their_alone'])} |"
    )


def _is_inside(entry: dict[str, Any], ratio: float) -> bool:
    return bool(entry["low"] <= ratio <= entry["high"])


def _summary(found: list[dict[str, Any]]) -> bool:
    """Prints it, and says whether too few are inside."""
    few = False
    print()
    for what, theirs, ours in (
        ("alternate in one process", "their_alternating", "alternating"),
        ("run one file alone", "their_alone", "ratio"),
    ):
        inside = sum(_is_inside(entry, entry[theirs]) for entry in found)
        few |= inside < 0.9 * len(found)
        differences = [math.log(entry[theirs] / entry[ours]) for entry in found if entry[ours]]
        deviation = math.sqrt(statistics.fmean(value**2 for value in differences))
        within = f"{min(map(math.exp, differences)):.3f} to {max(map(math.exp, differences)):.3f}"
        print(
            f"Calls that {what}: {inside} of {len(found)} inside. Theirs over ours by the same protocol: {within}, "
            f"root mean square {deviation:.2%}."
        )
    widths = [entry["high"] / entry["low"] for entry in found]
    print(f"Upper over lower end: median {statistics.median(widths):.3f}, widest {max(widths):.3f}.")
    return few


if __name__ == "__main__":
    main()
