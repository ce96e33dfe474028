"""Does a sceptic's own measurement fall into the interval that the report gives? Ten runs, ten independent measurements.

python benchmarks/agreement.py [--runs 10]

Each time: `compressctl apply` on the digits network, then tests/independent/recompute.py (plain onnxruntime, processes of its
own) on the two exported files. Everything but the ratio must agree exactly.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[1]
RECIPE = """recipe: compressctl/v1
model: {source: builtin, name: digits-resnet}
data: {source: npz, path: data.npz, test_inputs: x_test, test_labels: y_test, calibration: 100, validation: 0}
stages: [{use: quantize.static}]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _write_data(folder)
        inside = 0
        print("| report | interval | sceptic | inside |\n|---|---|---|---|")
        for number in range(asked.runs):
            part, found = _once(folder, f"run{number}")
            speed = part["compressed"]["speed"]
            agrees = speed["low"] <= found["ratio"] <= speed["high"]
            inside += agrees
            print(
                f"| {speed['ratio']:.3f}x | {speed['low']:.3f} to {speed['high']:.3f} | {found['ratio']:.3f}x | "
                f"{'yes' if agrees else 'no'} |",
                flush=True,
            )
            assert found["accuracy_after"] == part["compressed"]["score"]["value"]
            assert found["bytes_after"] == part["compressed"]["total_bytes"]
            assert found["disagreements"] == part["compressed"]["change"]["disagreements"]
    print(f"\n{inside} of {asked.runs} inside")


def _write_data(folder: Path) -> None:
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    noisy = images + np.random.default_rng(0).normal(0, 0.35, size=images.shape).astype(np.float32)
    train, test = (images[:900], digits.target[:900]), (noisy[900:], digits.target[900:])
    np.savez(folder / "data.npz", inputs=train[0], labels=train[1], x_test=test[0], y_test=test[1])
    (folder / "recipe.yaml").write_text(RECIPE)


def _once(folder: Path, name: str) -> tuple[dict, dict]:
    command = [
        sys.executable,
        "-m",
        "compressctl.cli.main",
        "apply",
        "recipe.yaml",
        "--output",
        name,
        "--measure",
        "final",
    ]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    script = [sys.executable, str(ROOT / "tests/independent/recompute.py"), name, "data.npz", "--latency"]
    found = json.loads(subprocess.run(script, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return json.loads((folder / name / "report.json").read_text())["backends"][0], found


if __name__ == "__main__":
    main()
