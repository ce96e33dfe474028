"""Deep Compression (Han et al. 2016) again, on real files: LeNet-300-100 and LeNet-5 pruned, shared and packed, three seeds.

python benchmarks/deep_compression.py [--seeds 0 1 2] [--networks lenet-300-100 lenet-5]
python benchmarks/deep_compression.py --networks lenet-5 --choose stages.sparse.sparsity=0.95 stages.sparse.sparsity=0.94

For each seed the dense network is trained (train_lenet.py), the recipe of its name is applied, and the packed file that it
leaves is unpacked here and scored on the test split. The dense network is trained as the paper's, without augmentation. The recipe
shifts its training images; the error of a dense network that was trained on such images stands beside it. Sizes are of that file. Needs COMPRESSCTL_DATA with mnist.npz.

With --choose each alternative to the recipe (settings that belong together are joined by commas) is run for each seed and scored
on the validation split, so that a recipe can be chosen without a look at the test split.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from train_lenet import EPOCHS, ROOT, SHIFT, train, wrong

from compressctl import packed
from compressctl.core.data import SplitName
from compressctl.recipe.loader import load
from compressctl.sources.load import load_dataset

PAPER = {"lenet-300-100": (1.64, 1.58, 40), "lenet-5": (0.80, 0.74, 39)}


@dataclass(frozen=True)
class Outcome:
    """One seed. dense, shifted, compressed: error on the test split in percent; shifted: of a dense network that was trained on
    shifted images. seconds: of training and of the recipe."""

    seed: int
    shifted: float
    dense: float
    compressed: float
    part: dict[str, Any]
    seconds: tuple[float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--networks", nargs="+", default=sorted(EPOCHS), choices=sorted(EPOCHS))
    parser.add_argument("--choose", nargs="+", metavar="KEY=VALUE[,KEY=VALUE]", help="alternatives to compare")
    given = parser.parse_args()
    for name in given.networks:
        if given.choose:
            _choose(name, given.seeds, given.choose)
            continue
        outcomes = []
        for seed in given.seeds:
            outcomes.append(compressed(name, seed))
            print(_row(outcomes[-1]), flush=True)
        _show(name, outcomes)


def compressed(name: str, seed: int) -> Outcome:
    shifted = wrong(name, train(name, seed, EPOCHS[name], SHIFT), seed)
    began = time.perf_counter()
    weights = train(name, seed, EPOCHS[name])
    trained = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        part = _apply(name, seed, weights, [], Path(folder))
        ended = time.perf_counter()
        errors = [_error(file, name, seed, "test") for file in _files(Path(folder))]
    return Outcome(seed, shifted, *errors, part, (trained - began, ended - trained))


def _choose(name: str, seeds: list[int], alternatives: list[str]) -> None:
    weights = {seed: train(name, seed, EPOCHS[name]) for seed in seeds}
    print(f"\n| {name} | seed | dense, validation | packed, validation | bytes | than its parameters |")
    print("|---|---|---|---|---|---|")
    for alternative in alternatives:
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                part = _apply(name, seed, weights[seed], alternative.split(","), Path(folder))
                dense, after = (_error(file, name, seed, "validation") for file in _files(Path(folder)))
            size = part["compressed"]["packed"]
            figures = [f"{dense:.2f} %", f"{after:.2f} %", f"{size['total_bytes']:,}"]
            row = [alternative, str(seed), *figures, f"{size['smaller_than_parameters']:.1f}x"]
            print(f"| {' | '.join(row)} |", flush=True)


def _apply(name: str, seed: int, weights: Path, sets: list[str], folder: Path) -> dict[str, Any]:
    """The report's part about the file. What the command prints stays in a file: it shows the test split."""
    sets = [f"seed={seed}", f"model.weights={weights}", *sets]
    command = [sys.executable, "-m", "compressctl", "apply", ROOT / "recipes" / f"{name}.yaml", "--measure", "quick"]
    command += ["--output", folder / "run", *(part for entry in sets for part in ("--set", entry))]
    # A cache of its own, so that the seconds are those of the whole recipe.
    own = {**os.environ, "COMPRESSCTL_CACHE": str(folder / "cache")}
    with (folder / "log").open("w") as log:
        done = subprocess.run(command, check=False, env=own, stdout=log, stderr=log)
    if done.returncode not in (0, 1):
        raise SystemExit((folder / "log").read_text())
    if done.returncode:
        print(f"seed {seed}: the recipe's budget was missed", flush=True)
    return json.loads((folder / "run" / "report.json").read_text())["backends"][0]


def _files(folder: Path) -> tuple[Path, Path]:
    """The float file, and the packed one unpacked again."""
    files, unpacked = folder / "run" / "artifacts" / "onnxruntime", folder / "unpacked.onnx"
    packed.unpack(files / "model.cctl", unpacked)
    assert unpacked.read_bytes() == (files / "model.onnx").read_bytes()
    return files / "baseline" / "model.onnx", unpacked


def _error(file: Path, name: str, seed: int, split: SplitName) -> float:
    """In percent, in ONNX Runtime, computed here."""
    loaded = load(ROOT / "recipes" / f"{name}.yaml", [f"seed={seed}"], [])
    assert loaded.data is not None
    session = onnxruntime.InferenceSession(file)
    wrong = total = 0
    for batch in load_dataset(loaded.data, loaded.base, seed).split(split).batches(1000):
        (outputs,) = session.run(None, {"input": batch.inputs["input"]})
        assert batch.labels is not None
        wrong += int(np.sum(np.argmax(outputs, axis=1) != batch.labels))
        total += len(batch.labels)
    return 100 * wrong / total


def _row(found: Outcome) -> str:
    size = found.part["compressed"]["packed"]
    figures = [
        f"{found.seed}",
        f"{found.dense:.2f} %",
        f"{found.shifted:.2f} %",
        f"{found.compressed:.2f} %",
        f"{size['total_bytes']:,}",
    ]
    ratios = [f"{size['smaller']:.1f}x", f"{size['smaller_than_parameters']:.1f}x"]
    seconds = [f"{size['decode_seconds']:.2f} s", *(f"{part:.0f} s" for part in found.seconds)]
    return f"| {' | '.join([*figures, *ratios, *seconds])} |"


def _show(name: str, outcomes: list[Outcome]) -> None:
    dense, after, ratio = PAPER[name]
    print(f"\n{name} (paper: {dense:.2f} -> {after:.2f} %, {ratio}x)\n")
    print(
        "| seed | dense error | dense error, shifted images | packed error | bytes | than the float file | than its parameters | unpack | training | recipe |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    print("\n".join(map(_row, outcomes)))
    found = outcomes[0].part["compressed"]["packed"]
    print(
        f"\nSeed {outcomes[0].seed}, bytes by tensor:\n\n| tensor | float32 | packed | smaller | bits a value | coding |"
    )
    print("|---|---|---|---|---|---|")
    for tensor in found["tensors"]:
        raw, taken, values = tensor["raw_bytes"], tensor["packed_bytes"], tensor["values"]
        ratios = [f"{raw / taken:.1f}x", f"{8 * taken / values:.2f}"] if taken else ["", ""]
        print(f"| {tensor['name']} | {raw:,} | {taken:,} | {' | '.join(ratios)} | {tensor['coding']} |")
    rest = found["total_bytes"] - sum(tensor["packed_bytes"] for tensor in found["tensors"])
    print(f"| graph, ledger, checksums | | {rest:,} | | | |\n", flush=True)


if __name__ == "__main__":
    main()
