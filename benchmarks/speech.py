"""Whisper tiny.en in 8 bits: word errors on recorded sentences, size, and the time of whole transcriptions, beside ONNX Runtime's own tool.

COMPRESSCTL_WHISPER=build/whisper python benchmarks/speech.py --into build/speech

COMPRESSCTL_WHISPER names the folder that export_whisper.py wrote. The sentences (published/utterances.py: 5 to 30 seconds each, spoken by
people) come from Debian's packages, and want g722, jiwer and transformers. Encoder and decoder are compressed by `compressctl apply` with
`quantize.dynamic`; the peer is `onnxruntime.quantization.quantize_dynamic`: with its defaults, per channel with 7-bit weights, and so
on a decoder whose last product has a table of its own, since it leaves the product with the tied table of tokens in float. All
variants transcribe each sentence before the next one begins, the order turned by one each time, one thread. Intervals are of paired
bootstraps over sentences. Interrupted, it goes on with the next sentence.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import jiwer
import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic
from published.utterances import utterances, write

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "examples"))

import whisper  # noqa: E402

FLOAT, OURS = "float", "compressctl, quantize.dynamic"
_ADVISED = {"per_channel": True, "reduce_range": True}
PEERS: dict[str, tuple[bool, dict[str, bool]]] = {
    "onnxruntime quantize_dynamic": (False, {}),
    "the same, per channel, 7 bits": (False, _ADVISED),
    "the same, the tied table stored twice before": (True, _ADVISED),
}
"""Whether the decoder's last product is given a table of its own, and the tool's options."""

PARTS = ("encoder", "decoder")

_RECIPE = """\
recipe: compressctl/v1
model: {{source: onnx, path: {model}}}
data: {{source: requests, path: {calls}, calibration: 1, validation: 2, test: 3}}
target: {{backend: onnxruntime, threads: 1, batch_size: 1}}
stages: [{{use: quantize.dynamic}}]
export: [onnxruntime]
"""

Model = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=HERE / "build" / "speech")
    parser.add_argument(
        "--sounds", type=Path, help="write the sentences there, as examples/whisper.yaml reads them, and stop"
    )
    asked = parser.parse_args()
    if asked.sounds:
        _, plain = whisper.readers()
        write([replace(one, text=plain(one.text)) for one in utterances()], asked.sounds)
        return
    asked.into.mkdir(parents=True, exist_ok=True)
    given = {part: Path(os.environ["COMPRESSCTL_WHISPER"]).resolve() / f"{part}.onnx" for part in PARTS}
    variants = {FLOAT: given, OURS: compressed(given, asked.into.resolve())}
    for number, (name, (is_untied, options)) in enumerate(PEERS.items()):
        source = {**given, "decoder": untied(given["decoder"], asked.into)} if is_untied else given
        variants[name] = by_peer(source, asked.into / f"peer{number}", options)
    print(table(variants, heard(variants, asked.into / "heard.jsonl")))


def compressed(given: Mapping[str, Path], into: Path) -> dict[str, Path]:
    """The files that `compressctl apply` hands over."""
    files = {part: into / part / "artifacts" / "onnxruntime" / "model.onnx" for part in PARTS}
    if not all(path.exists() for path in files.values()):
        record_calls(given, into / "calls")
    for part, path in files.items():
        if path.exists():
            continue
        recipe = into / f"{part}.yaml"
        recipe.write_text(_RECIPE.format(model=given[part], calls=into / "calls" / part))
        command = ["apply", str(recipe), "--output", str(into / part), "--measure", "untimed"]
        done = subprocess.run([sys.executable, "-m", "compressctl", *command], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
    return files


def record_calls(given: Mapping[str, Path], into: Path) -> None:
    """Six calls of each file, which outputs are compared on: the first ones of short sentences, and the decoder's with longer caches."""
    models = {part: opened(path) for part, path in given.items()}
    sentences = sorted(utterances(), key=lambda one: one.seconds)[:6]

    def recording(part: str, sentence: int) -> Model:
        count = 0
        (into / part).mkdir(parents=True, exist_ok=True)

        def call(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            nonlocal count
            if count == (2 * sentence if part == "decoder" else 0):
                np.savez(into / part / f"{sentence}.npz", **inputs)
            count += 1
            return models[part](inputs)

        return call

    for number, one in enumerate(sentences):
        whisper.spoken({part: recording(part, number) for part in PARTS}, one.samples)


def by_peer(given: Mapping[str, Path], into: Path, options: Mapping[str, bool]) -> dict[str, Path]:
    into.mkdir(exist_ok=True)
    files = {part: into / f"{part}.onnx" for part in PARTS}
    for part, path in files.items():
        if not path.exists():
            quantize_dynamic(given[part], path, weight_type=QuantType.QInt8, **options)
    return files


def untied(decoder: Path, into: Path) -> Path:
    """The file as exporters leave it without a pass that ties: the tool sees a stored weight in the last product, and quantizes it."""
    path = into / "untied.onnx"
    if not path.exists():
        model = onnx.load(decoder)
        tables = {one.name for one in model.graph.initializer}
        [transpose] = [node for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in tables]
        [table] = [one for one in model.graph.initializer if one.name == transpose.input[0]]
        turned = np.ascontiguousarray(onnx.numpy_helper.to_array(table).T)
        model.graph.initializer.append(onnx.numpy_helper.from_array(turned, transpose.output[0]))
        model.graph.node.remove(transpose)
        onnx.save(model, path)
    return path


def heard(variants: Mapping[str, Mapping[str, Path]], kept: Path) -> list[dict[str, dict[str, float]]]:
    """Of each sentence, by variant: words, wrong ones, and the seconds that both files' calls took."""
    lines = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    models = {name: {part: opened(path) for part, path in files.items()} for name, files in variants.items()}
    _, plain = whisper.readers()
    for number, one in enumerate(utterances()):
        if number < len(lines):
            continue
        turn = number % len(models)
        found = {}
        for name in [*models, *models][turn : turn + len(models)]:
            calls = {part: Timed(model) for part, model in models[name].items()}
            text = whisper.spoken(calls, one.samples)
            errors = jiwer.process_words(plain(one.text), text)
            wrong = errors.substitutions + errors.deletions + errors.insertions
            found[name] = {
                "words": len(plain(one.text).split()),
                "wrong": wrong,
                "text": text,
                **{part: timed.seconds for part, timed in calls.items()},
                "steps": calls["decoder"].count,
            }
        lines.append(found)
        with kept.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(f"{number + 1} of the sentences, {one.name}", file=sys.stderr, flush=True)
    return lines


class Timed:
    """A model with the seconds that its calls took."""

    def __init__(self, model: Model) -> None:
        self._model, self.seconds, self.count = model, 0.0, 0

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        started = time.perf_counter()
        outputs = self._model(inputs)
        self.seconds, self.count = self.seconds + time.perf_counter() - started, self.count + 1
        return outputs


def opened(path: Path) -> Model:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, dict(inputs)), strict=True))


def table(variants: Mapping[str, Mapping[str, Path]], lines: list[dict[str, dict[str, float]]]) -> str:
    """Paired over sentences: each resample takes the same ones of both variants."""
    draws = np.random.default_rng(0).integers(len(lines), size=(10_000, len(lines)))

    def of(name: str, *keys: str) -> np.ndarray:
        return np.array([sum(line[name][key] for key in keys) for line in lines])

    words = of(FLOAT, "words")
    rows = [
        f"{len(lines)} sentences, {words.sum():.0f} words",
        "",
        "| files | word errors | more than float, points (95 %) | size | encoder faster | decoder faster, a step | both faster (95 %) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, files in variants.items():
        more = of(name, "wrong") - of(FLOAT, "wrong")
        low, high = np.percentile(100 * more[draws].sum(1) / words[draws].sum(1), [2.5, 97.5])
        before, after = of(FLOAT, *PARTS), of(name, *PARTS)
        slow, fast = np.percentile(before[draws].sum(1) / after[draws].sum(1), [2.5, 97.5])
        encoder = of(FLOAT, "encoder").sum() / of(name, "encoder").sum()
        step = [of(one, "decoder").sum() / of(one, "steps").sum() for one in (FLOAT, name)]
        size = sum(path.stat().st_size for path in files.values()) / 1e6
        rows.append(
            f"| {name} | {100 * of(name, 'wrong').sum() / words.sum():.2f} % | {100 * more.sum() / words.sum():+.2f} ({low:+.2f} to {high:+.2f}) | "
            f"{size:.1f} MB | {encoder:.2f}x | {step[0] / step[1]:.2f}x | {before.sum() / after.sum():.2f}x ({slow:.2f} to {fast:.2f}) |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
