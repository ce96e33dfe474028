"""A small Llama in bundles for ONNX Runtime GenAI and OpenVINO GenAI, beside what their own builders make of the same folder.

    python benchmarks/language_model.py [--point NAME ...] [--model build/lm] [--windows 200] [--rounds 30] [--quick]

The folder is what train_lm.py writes. Each point is one command, kept under build/language_model/ and not run again; perplexity is of the file
in the bundle, on the first windows of test.txt (<s> and 255 tokens, side by side), the same for all. What chooses (calibration) comes from train.txt.
At the end all bundles of a runtime are timed in turns, in one process with one thread each. Results go to results/language_model/.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results" / "language_model"
METHODS = ("rtn", "gptq", "awq", "hqq")
RUNTIMES = {"onnxruntime": "ONNX Runtime GenAI", "openvino": "OpenVINO GenAI"}
_DISTILLED = "{use: distill.logits, epochs: 2, batch_size: 8, optimizer: adamw, learning_rate: 0.0005, temperature: 1}"


@dataclass(frozen=True)
class Point:
    """stages: of a recipe of ours; builder: options of ONNX Runtime GenAI's; nncf: arguments of nncf.compress_weights. widths: bits of the
    weights. train: windows that are learned, 0 for none. cache: element type of ONNX Runtime's keys and values."""

    widths: str
    stages: str | None = None
    builder: Sequence[str] = ()
    nncf: str | None = None
    train: int = 0
    cache: str = "float32"

    @property
    def runtimes(self) -> tuple[str, ...]:
        if self.stages is not None:
            return tuple(RUNTIMES) if self.cache == "float32" else ("onnxruntime",)
        return ("onnxruntime",) if self.builder else ("openvino",)


def _weights(bits: int, method: str, more: str = "") -> str:
    return f"{{use: quantize.weights, bits: {bits}, method: {method}, if_slower: keep{more}}}"


def _mixed(size: str) -> str:
    """As many bytes as 4 bits for all, as 8 for head and embeddings, and as ONNX Runtime GenAI's k_quant_mixed."""
    options = "[{bits: 8, group_size: 128}, 4, {bits: 4, group_size: 64}, {bits: 4, group_size: 16}]"
    return (
        f"{{use: quantize.mixed, weights_only: {{symmetric: true}}, bits: {options}, size: {size}MB, samples: 6, "
        "if_slower: keep}"
    )


_SYMMETRIC = ", symmetric: true"
_WIDE = ", overrides: [{match: '*down_proj*', bits: 8}, {match: '*v_proj*', bits: 8}]"
_HEAD_8 = ", overrides: [{match: '*lm_head*', bits: 8}]"
_HEAD_NEAREST = ", overrides: [{match: '*lm_head*', method: rtn}]"
POINTS: dict[str, Point] = {
    "float": Point("float", stages=""),
    **{f"{bits} bits, {method}": Point(str(bits), _weights(bits, method)) for bits in (4, 8) for method in METHODS},
    **{f"4 bits, {method}, symmetric": Point("4", _weights(4, method, _SYMMETRIC)) for method in METHODS},
    "8 bits, rtn, symmetric": Point("8", _weights(8, "rtn", _SYMMETRIC)),
    "4 bits, down and value projections 8, gptq, symmetric": Point("4 and 8", _weights(4, "gptq", _SYMMETRIC + _WIDE)),
    "4 bits, head and embeddings 8, rtn, symmetric": Point("4 and 8", _weights(4, "rtn", _SYMMETRIC + _HEAD_8)),
    "4 bits, gptq, head and embeddings rtn, symmetric": Point("4", _weights(4, "gptq", _SYMMETRIC + _HEAD_NEAREST)),
    "4 bits, rtn, symmetric, cache 8 bits": Point("4", _weights(4, "rtn", _SYMMETRIC), cache="int8"),
    **{f"mixed, {size} MB of weights": Point("4 and 8", _mixed(size)) for size in ("3.25", "3.78", "4.23")},
    "builder fp32": Point("float", builder=("-p", "fp32")),
    "builder int4": Point("4", builder=("-p", "int4")),
    "builder int4, k_quant": Point("4", builder=("-p", "int4", "--extra_options", "algo_config=k_quant")),
    "builder int4, k_quant_mixed": Point("4 and 8", builder=("-p", "int4", "--extra_options", "algo_config=k_quant_mixed")),
    "builder int8": Point("8", builder=("-p", "int8")),
    "NNCF int4_asym, groups of 128, head 8 bits": Point("4 and 8", nncf="{'mode': 'INT4_ASYM'}"),
    "NNCF int4_sym, groups of 32, all layers": Point("4", nncf="{'mode': 'INT4_SYM', 'group_size': 32, 'all_layers': True}"),
    "NNCF int4_asym, groups of 32, all layers": Point(
        "4", nncf="{'mode': 'INT4_ASYM', 'group_size': 32, 'all_layers': True}"
    ),
    "NNCF int4_asym, groups of 32, all layers, AWQ and scales on data": Point(
        "4", nncf="{'mode': 'INT4_ASYM', 'group_size': 32, 'all_layers': True, 'awq': True, 'scale_estimation': True}"
    ),
    "NNCF int8_asym": Point("8", nncf="{'mode': 'INT8_ASYM'}"),
}  # fmt: skip
TRAINED: dict[str, Point] = {
    "a layer less, distilled, 4 bits, symmetric": Point(
        "4",
        f"{{use: prune.layers, remove: 1, samples: 64}}, {_DISTILLED}, {_weights(4, 'gptq', _SYMMETRIC)}",
        train=1000,
    ),
    "inner widths less 30 %, distilled, 4 bits, symmetric": Point(
        "4",
        "{use: prune.channels, keep: 0.7, of: channels, scope: local, criterion: taylor, samples: 64, "
        "overrides: [{match: '*', keep: 1}, {match: '*gate_proj*', keep: 0.7}, {match: '*up_proj*', keep: 0.7}]}, "
        f"{_DISTILLED}, {_weights(4, 'gptq', _SYMMETRIC)}",
        train=1000,
    ),
}
PEERS = {
    ("onnxruntime", "float"): "builder fp32",
    ("onnxruntime", "8"): "builder int8",
    ("onnxruntime", "4"): "builder int4",
    ("onnxruntime", "4 and 8"): "builder int4, k_quant_mixed",
    ("openvino", "float"): "float",
    ("openvino", "8"): "NNCF int8_asym",
    ("openvino", "4"): "NNCF int4_sym, groups of 32, all layers",
    ("openvino", "4 and 8"): "NNCF int4_asym, groups of 128, head 8 bits",
}
"""Whose perplexity and speed those of the same widths are held against."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--point", nargs="*", choices=[*POINTS, *TRAINED], default=list(POINTS), metavar="NAME")
    parser.add_argument("--model", type=Path, default=ROOT / "build" / "lm", help="what train_lm.py wrote")
    parser.add_argument("--windows", type=int, default=200, help="of test.txt")
    parser.add_argument("--rounds", type=int, default=30, help="in which bundles are timed in turns")
    parser.add_argument("--quick", action="store_true", help="few samples, in another folder: to try the script")
    asked = parser.parse_args()
    if not (asked.model / "test.txt").is_file():
        parser.error(f"{asked.model} is no folder of train_lm.py")
    folder = ROOT / "build" / ("language_model_quick" if asked.quick else "language_model")
    folder.mkdir(parents=True, exist_ok=True)
    windows, rounds = (4, 3) if asked.quick else (asked.windows, asked.rounds)
    names = ["float", *(name for name in asked.point if name != "float")]
    failed = [name for name in names if not _made(name, asked.model.resolve(), folder, 8 if asked.quick else 128)]
    made = [name for name in {**POINTS, **TRAINED} if _is_made(name, folder)]
    results = RESULTS.with_name(folder.name)
    for runtime in RUNTIMES:
        here = {name: str(bundle_of(folder, runtime, name)) for name in made if runtime in _point(name).runtimes}
        _measure(folder, runtime, here, asked.model, windows, rounds, results)
    _tell(results, made)
    print(f"failed: {', '.join(failed)}" if failed else "", file=sys.stderr)
    return int(bool(failed))


def _point(name: str) -> Point:
    return {**POINTS, **TRAINED}[name]


def bundle_of(folder: Path, runtime: str, name: str) -> Path:
    point, run = _point(name), folder / _slug(name)
    if name == "float":
        return run / "artifacts" / runtime / "baseline" / "genai"
    return run if point.stages is None else run / "artifacts" / runtime / "genai"


def _slug(name: str) -> str:
    """OpenVINO takes commas in a path for the end of it."""
    return name.replace(", ", "-").replace(" ", "-").replace("%", "")


def _is_made(name: str, folder: Path) -> bool:
    return (folder / f"{_slug(name)}.seconds").is_file()


def _made(name: str, model: Path, folder: Path, calibration: int) -> bool:
    """Whether the bundle is there; what the tool said is kept beside it."""
    if _is_made(name, folder):
        return True
    point, began = _point(name), time.monotonic()
    if point.stages is not None:
        recipe = folder / f"{_slug(name)}.yaml"
        recipe.write_text(_recipe(point, model, calibration))
        command = [
            "-m",
            "compressctl",
            "apply",
            str(recipe),
            "--output",
            str(folder / _slug(name)),
            "--measure",
            "untimed",
        ]
    else:
        shutil.rmtree(folder / _slug(name), ignore_errors=True)
        if point.builder:
            paths = ["-i", str(model), "-o", str(folder / _slug(name)), "-e", "cpu", "-c", str(folder / "cache")]
            command = ["-m", "onnxruntime_genai.models.builder", *paths, *point.builder]
        else:
            source = bundle_of(folder, "openvino", "float")
            script = str(HERE / "language_model_nncf.py")
            command = [script, str(source), str(folder / _slug(name)), str(model), str(calibration), str(point.nncf)]
    with (folder / f"{_slug(name)}.log").open("w") as log:
        code = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=log, stderr=log, check=False).returncode
    taken = time.monotonic() - began
    print(f"{name}: {code}, {taken:.0f} s", file=sys.stderr, flush=True)
    if code == 0:
        (folder / f"{_slug(name)}.seconds").write_text(f"{taken:.1f}")
    return code == 0


def _recipe(point: Point, model: Path, calibration: int) -> str:
    """`float` is the baseline of a run that changes nothing but float's form."""
    stages = point.stages or "{use: quantize.weights, bits: 8, granularity: channel, if_slower: keep}"
    return (
        "recipe: compressctl/v1\nname: language-model\ntask: language-model\n"
        f"model: {{source: huggingface, path: {model}}}\n"
        f"data: {{source: text, files: [{model}/train.txt], test_files: [{model}/valid.txt], tokenizer: {model}, window: 256, "
        f"bos_token: <s>, calibration: {calibration}, validation: 16, test: 8{f', train: {point.train}' if point.train else ''}}}\n"
        f"target: {{threads: 1}}\nstages: [{stages}]\n"
        f"export: [{{backend: onnxruntime, bundle: genai, kv_cache: {point.cache}}}, {{backend: openvino, bundle: genai}}]\n"
    )


def _measure(
    folder: Path, runtime: str, bundles: dict[str, str], model: Path, windows: int, rounds: int, results: Path
) -> None:
    results.mkdir(parents=True, exist_ok=True)
    asked = {"runtime": runtime, "bundles": bundles, "model": str(model), "windows": windows, "rounds": rounds}
    question = folder / f"{runtime}.json"
    question.write_text(json.dumps(asked))
    script = str(HERE / "language_model_measured.py")
    command = [sys.executable, script, str(question), str(folder / "scores"), str(results / f"{runtime}.json")]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _tell(results: Path, made: Sequence[str]) -> None:
    from language_model_measured import compared

    for runtime, tool in RUNTIMES.items():
        measured = json.loads((results / f"{runtime}.json").read_text())
        print(
            f"\n{tool}, {measured['windows']} windows of test.txt, {measured['tokens']:,} tokens; one thread, {measured['rounds']} rounds.\n\n"
            "| bundle | all files | model alone | perplexity | against the peer of its widths | KL to float | tokens a second | "
            "times the peer's | first token of 32 | of 128 |\n|---|---|---|---|---|---|---|---|---|---|"
        )
        for name in made:
            if name in measured["bundles"]:
                peer = PEERS[runtime, _point(name).widths]
                print(_row(name, measured["bundles"][name], compared(results, runtime, name, peer), peer == name))


def _row(name: str, found: dict[str, Any], against: dict[str, Any] | None, is_peer: bool) -> str:
    rise = ratio = "the peer" if is_peer else "the peer is missing"
    if against is not None and not is_peer:
        rise = "{value:+.2f} % ({low:+.2f} to {high:+.2f})".format(**against["perplexity_percent"])
        ratio = "{value:.3f}x ({low:.3f} to {high:.3f})".format(**against["speed"])
    return (
        f"| {name} | {found['bytes'] / 1e6:.2f} MB | {found['model_bytes'] / 1e6:.2f} MB | {found['perplexity']:.2f} | {rise} | "
        f"{found['divergence']:.5f} | {found['tokens_per_second']:.0f} | {ratio} | {found['first_32_ms']:.2f} ms | {found['first_128_ms']:.2f} ms |"
    )


if __name__ == "__main__":
    sys.exit(main())
