"""ONNX files packed for transport, beside Zstandard at its level 19: bytes, seconds, and whether they come back.

python benchmarks/packed.py [FILE.onnx ...]       the networks that can be made here, and the files that are named

COMPRESSCTL_DATA adds ResNet-20 in float and INT8, build/efficientnet_lite0.onnx and COMPRESSCTL_MINILM theirs (README.md).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import zstandard

from compressctl import packed
from compressctl.packed.pack import pack

ROOT = Path(__file__).parent.parent
LEVEL = 19


def main(files: list[Path]) -> None:
    print("| file | bytes | zstd -19 | packed | packed / zstd | smaller | pack | unpack | MB/s | the same |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, file in [*_made(Path(folder)), *((file.stem, file) for file in files)]:
            print(_row(name, file, Path(folder)), flush=True)


def _made(folder: Path) -> Iterator[tuple[str, Path]]:
    """The float file and the compressed one of each recipe whose data are there."""
    recipes = {"digits ResNet": "quickstart", "ResNet-20": "int8-cpu", "MiniLM": "sentences-int8"}
    needs = {"ResNet-20": "COMPRESSCTL_DATA", "MiniLM": "COMPRESSCTL_MINILM"}
    for name, recipe in recipes.items():
        if name in needs and needs[name] not in os.environ:
            print(f"{name} is left out: {needs[name]} names no folder", file=sys.stderr)
            continue
        output = folder / recipe
        command = [sys.executable, "-m", "compressctl", "apply", str(ROOT / "recipes" / f"{recipe}.yaml")]
        subprocess.run([*command, "--output", output, "--measure", "quick"], check=False, stdout=subprocess.DEVNULL)
        files = output / "artifacts" / "onnxruntime"
        yield f"{name}, float", files / "baseline" / "model.onnx"
        yield f"{name}, INT8", files / "model.onnx"
    efficientnet = ROOT / "build" / "efficientnet_lite0.onnx"
    if efficientnet.exists():
        yield "EfficientNet-Lite0, float", efficientnet


def _row(name: str, file: Path, folder: Path) -> str:
    original = file.read_bytes()
    other = len(zstandard.ZstdCompressor(level=LEVEL).compress(original))
    started = time.perf_counter()
    pack(file, folder / "packed.cctl")
    between = time.perf_counter()
    packed.unpack(folder / "packed.cctl", folder / "back.onnx")
    ended = time.perf_counter()
    taken = (folder / "packed.cctl").stat().st_size
    is_same = (folder / "back.onnx").read_bytes() == original
    figures = [
        f"{len(original):,}",
        f"{other:,}",
        f"{taken:,}",
        f"{taken / other:.3f}",
        f"{len(original) / taken:.2f}x",
    ]
    seconds = [
        f"{between - started:.1f} s",
        f"{ended - between:.2f} s",
        f"{len(original) / 1e6 / (ended - between):.0f}",
    ]
    return f"| {name} | {' | '.join([*figures, *seconds])} | {'yes' if is_same else 'NO'} |"


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
