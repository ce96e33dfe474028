"""Whether INT8 ever hands over a slower file: the default recipe on nine graphs, on each runtime.

python benchmarks/never_slower.py [--backend onnxruntime openvino] [--threads 1] [--json FILE]

Each graph goes through `stages: [{use: quantize.static}]` with every default, in a process of its own, and the table is
read from the reports. Weights are random where speed is all that matters here. A file that is slower than its float
original beyond the report's 95 % interval is a failure, and the exit code is 1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

_HERE = Path(__file__).parent
_IMAGE = "[3, 64, 64]"
GRAPHS = {
    "residual (digits)": ("{source: builtin, name: digits-resnet}", "digits"),
    "depthwise (digits)": ("{source: builtin, name: digits-depthwise}", "digits"),
    "attention (digits)": ("{source: python, factory: 'networks.py:Attention', input_shape: [1, 8, 8]}", "digits"),
    "concat, HardSwish (digits)": ("{source: python, factory: 'networks.py:Concat', input_shape: [1, 8, 8]}", "digits"),
    "one Linear of 64 x 10": ("{source: python, factory: 'networks.py:Small', input_shape: [1, 8, 8]}", "digits"),
    "wide perceptron": ("{source: python, factory: 'networks.py:Wide', input_shape: [1, 8, 8]}", "digits"),
    "depthwise, ReLU6 (64 px)": (
        f"{{source: python, factory: 'networks.py:Depthwise', args: {{activation: ReLU6}}, input_shape: {_IMAGE}}}",
        "images",
    ),
    "depthwise, HardSwish, squeeze (64 px)": (
        f"{{source: python, factory: 'networks.py:Depthwise', args: {{activation: Hardswish, squeeze: true}}, "
        f"input_shape: {_IMAGE}}}",
        "images",
    ),
    "grouped, SiLU (64 px)": (
        f"{{source: python, factory: 'networks.py:Depthwise', args: {{activation: SiLU, per_group: 8}}, input_shape: {_IMAGE}}}",
        "images",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_images(folder / "images.npz")
        for backend in asked.backend:
            for name, (model, data) in GRAPHS.items():
                found.append({"graph": name, "backend": backend, **_run(folder, model, data, backend, asked.threads)})
                print(_row(found[-1]), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    worse = [entry for entry in found if entry["high"] < 1]
    print(f"\n{len(found) - len(worse)} of {len(found)} files are not slower than float on their runtime.")
    sys.exit(bool(worse))


def write_images(path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(path, inputs=rng.normal(size=(400, 3, 64, 64)).astype(np.float32), labels=rng.integers(0, 10, 400))


def _run(folder: Path, model: str, data: str, backend: str, threads: int) -> dict[str, Any]:
    """What the report of one run says of speed and size."""
    (folder / "networks.py").write_text((_HERE / "networks.py").read_text())
    sources = {
        "digits": "{source: digits, calibration: 200}",
        "images": "{source: npz, path: images.npz, calibration: 100}",
    }
    (folder / "recipe.yaml").write_text(
        f"recipe: compressctl/v1\nmodel: {model}\ndata: {sources[data]}\ntarget: {{backend: {backend}, threads: {threads}}}\n"
        "stages: [{use: quantize.static, id: int8}]\n"
    )
    output = folder / "out"
    command = [
        sys.executable,
        "-m",
        "compressctl",
        "apply",
        "recipe.yaml",
        "--output",
        str(output),
        "--measure",
        "final",
    ]
    done = subprocess.run([*command, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr or done.stdout)
    report = json.loads((output / "report.json").read_text())
    part, facts = report["backends"][0], report["stages"][-1]["facts"]
    speed = part["compressed"]["speed"]
    for path in sorted(output.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    return {
        "undone": facts.get("slower"),
        "speedup": speed["ratio"],
        "low": speed["low"],
        "high": speed["high"],
        "smaller": part["smaller"],
    }


def _row(entry: dict[str, Any]) -> str:
    undone = entry["undone"]
    said = (
        "kept" if undone is None else f"undone: {undone['before_ms'] / undone['after_ms']:.2f}x measured in the stage"
    )
    return (
        f"| {entry['graph']} | {entry['backend']} | {entry['speedup']:.2f}x ({entry['low']:.2f} to {entry['high']:.2f}) "
        f"| {entry['smaller']:.2f}x | {said} |"
    )


if __name__ == "__main__":
    main()
