"""Bundles of one language model for one runtime, scored on the same windows and timed in turns, in one process: see language_model.py.

python benchmarks/language_model_measured.py QUESTION.json SCORES RESULT.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BUNDLERS = {
    "onnxruntime": "compressctl.backends.onnxruntime.genai:BUNDLER",
    "openvino": "compressctl.backends.openvino.genai:BUNDLER",
}
_TAKEN = 255
"""Tokens of text in a window, behind <s>: as the network was trained."""
_SHORT, _LONG, _DECODED = 32, 128, 64
_DRAWN = 4000
"""Resamples of the bootstrap."""


def main() -> None:
    question, scores, result = map(Path, sys.argv[1:4])
    asked = json.loads(question.read_text())
    runtime, model = asked["runtime"], Path(asked["model"])
    windows = windows_of(model, "test.txt")[: asked["windows"]]
    scores = scores / runtime
    scores.mkdir(parents=True, exist_ok=True)
    for folder in asked["bundles"].values():
        _use_one_thread(Path(folder))
    for name, folder in asked["bundles"].items():  # float comes first, and its probabilities are kept
        _score(runtime, name, Path(folder), windows, scores)
    times = _timed(runtime, list(asked["bundles"].values()), windows, asked["rounds"])
    found = {
        name: {**_sizes(Path(folder)), **_scored(scores, name), **_summary(times[position])}
        for position, (name, folder) in enumerate(asked["bundles"].items())
    }
    told = {
        "runtime": runtime,
        "windows": len(windows),
        "tokens": int(len(windows) * _TAKEN),
        "rounds": asked["rounds"],
        "bundles": found,
    }
    result.write_text(json.dumps(told, indent=1))


def windows_of(model: Path, text: str) -> np.ndarray:
    """(n, 256) int64: <s> and the tokens of the text, side by side, what is left at its end unused."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokens = tokenizer.encode((model / text).read_text(encoding="utf-8"), add_special_tokens=False).ids
    count = len(tokens) // _TAKEN
    rows = np.array(tokens[: count * _TAKEN], np.int64).reshape(count, _TAKEN)
    return np.insert(rows, 0, tokenizer.token_to_id("<s>"), axis=1)


def compared(results: Path, runtime: str, name: str, peer: str) -> dict[str, Any] | None:
    """Perplexity and speed of a bundle against another's, with 95 % intervals: paired, over windows and over rounds."""
    bundles = json.loads((results / f"{runtime}.json").read_text())["bundles"]
    if peer not in bundles:
        return None
    one, other = bundles[name], bundles[peer]
    rise = np.array(one["losses"]) - np.array(other["losses"])
    ratio = np.log(np.array(other["decode_seconds"]) / np.array(one["decode_seconds"]))
    return {
        "perplexity_percent": _interval(rise, np.mean, lambda value: 100 * (np.exp(value) - 1)),
        "speed": _interval(ratio, np.median, np.exp),
    }


def _interval(values: np.ndarray, statistic: Any, as_told: Any) -> dict[str, float]:
    """values: (n,) of differences. Source: the percentile bootstrap, Efron 1979."""
    drawn = values[np.random.default_rng(0).integers(0, len(values), (_DRAWN, len(values)))]
    low, high = np.percentile(statistic(drawn, axis=1), (2.5, 97.5))
    names = ("value", "low", "high")
    return {name: float(as_told(value)) for name, value in zip(names, (statistic(values), low, high), strict=True)}


def _use_one_thread(folder: Path) -> None:
    config = folder / "genai_config.json"
    if config.is_file():
        told = json.loads(config.read_text())
        told["model"]["decoder"]["session_options"]["intra_op_num_threads"] = 1
        config.write_text(json.dumps(told, indent=2))


def _opened(runtime: str, folder: Path) -> Any:
    from compressctl.core.registry import load

    return load(BUNDLERS[runtime]).open(folder, 1)


def _score(runtime: str, name: str, folder: Path, windows: np.ndarray, scores: Path) -> None:
    """Mean loss and divergence from float of each window, in nats a token. The float bundle's probabilities stay beside them."""
    kept, float_file = scores / f"{name}.npz", scores / "float.npy"
    made = max(file.stat().st_mtime for file in folder.glob("*model*"))
    if kept.is_file() and kept.stat().st_mtime > made and len(np.load(kept)["losses"]) == len(windows):
        return
    logits = _with_empty_cache(folder) if runtime == "onnxruntime" else _opened(runtime, folder).logits
    shape = (len(windows), _TAKEN, logits(windows[0].tolist()).shape[1])
    mode = "w+" if name == "float" else "r"
    reference = np.lib.format.open_memmap(float_file, mode=mode, dtype=np.float32, shape=shape)
    losses, divergence, same = np.zeros(len(windows)), np.zeros(len(windows)), np.zeros(len(windows))
    for number, window in enumerate(windows):
        found = _log_probabilities(logits(window.tolist())[:-1])
        losses[number] = -found[np.arange(_TAKEN), window[1:]].mean(dtype=np.float64)
        if name == "float":
            reference[number] = found
        before = np.asarray(reference[number])
        divergence[number] = (np.exp(before) * (before - found)).sum(dtype=np.float64) / _TAKEN
        same[number] = (before.argmax(1) == found.argmax(1)).mean()
    np.savez(kept, losses=losses, divergence=divergence, same=same)
    print(f"{runtime}, {name}: perplexity {np.exp(losses.mean()):.2f}", file=sys.stderr, flush=True)


def _with_empty_cache(folder: Path) -> Callable[[list[int]], np.ndarray]:
    """The file in a bundle of ours or of ONNX Runtime GenAI's builder, whose caches have no sizes but in its config, as a function."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
    sizes = (1, decoder["num_key_value_heads"], 0, decoder["head_size"])
    caches = {
        value.name: np.zeros(sizes, np.int8 if value.type == "tensor(int8)" else np.float32)
        for value in session.get_inputs()
        if value.name.startswith("past_key_values.")
    }

    def logits(tokens: list[int]) -> np.ndarray:
        given = {"input_ids": np.array([tokens], np.int64), "attention_mask": np.ones((1, len(tokens)), np.int64)}
        found: np.ndarray = session.run(["logits"], {**given, **caches})[0][0]
        return found

    return logits


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
    """In float32, normalised in float64."""
    shifted = logits - logits.max(1, keepdims=True)
    total = np.log(np.exp(shifted).sum(1, keepdims=True, dtype=np.float64))
    return (shifted - total).astype(np.float32)


def _scored(scores: Path, name: str) -> dict[str, Any]:
    kept = np.load(scores / f"{name}.npz")
    return {
        "perplexity": float(np.exp(kept["losses"].mean())),
        "divergence": float(max(kept["divergence"].mean(), 0.0)),
        "same_next": float(kept["same"].mean()),
        "losses": kept["losses"].tolist(),
    }


def _sizes(folder: Path) -> dict[str, int]:
    files = [file for file in folder.iterdir() if file.is_file()]
    model = [file for file in files if file.name.startswith(("model.onnx", "openvino_model."))]
    return {
        "bytes": sum(file.stat().st_size for file in files),
        "model_bytes": sum(file.stat().st_size for file in model),
    }


def _timed(runtime: str, folders: list[str], windows: np.ndarray, rounds: int) -> np.ndarray:
    """(bundles, rounds, 3) seconds: first token of 32, a token while decoding 64, first token of 128. A first round goes unseen."""
    sessions = [_opened(runtime, Path(folder)) for folder in folders]
    taken = np.zeros((len(sessions), rounds + 1, 3))
    order = np.random.default_rng(0)
    for round_ in range(rounds + 1):
        window = windows[round_ % len(windows)].tolist()
        for position in order.permutation(
            len(sessions)
        ):  # none always after the same one, which leaves the caches as it needs them
            short = sessions[position].generate(window[:_SHORT], _DECODED)
            long = sessions[position].generate(window[:_LONG], 1)
            taken[position, round_] = short.first_seconds, short.rest_seconds / (_DECODED - 1), long.first_seconds
    return taken[:, 1:]


def _summary(taken: np.ndarray) -> dict[str, Any]:
    short, token, long = np.median(taken, axis=0)
    return {
        "tokens_per_second": float(1 / token),
        "first_32_ms": float(1e3 * short),
        "first_128_ms": float(1e3 * long),
        "decode_seconds": taken[:, 1].tolist(),
        "first_32_seconds": taken[:, 0].tolist(),
        "first_128_seconds": taken[:, 2].tolist(),
    }


if __name__ == "__main__":
    main()
