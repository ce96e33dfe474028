"""How far one ONNX file's outputs are from another's, and how much faster it is: plain ONNX Runtime and numpy, nothing else.

python benchmarks/published/independent.py ORIGINAL COMPRESSED INPUTS [--samples 3,7,...] [--decisions JSON] [--seconds S]

INPUTS is a folder of recorded inputs, one .npz a sample; those at these positions (default: all) are compared, all outputs:

- `sqnr_db`: 10 log10 of the sum of squares over the sum of squared differences, over all samples; 200 where nothing differs.
- `cosine`: of both files' outputs, each laid end to end over all samples.
- `agreement`: percent of equal decisions, for outputs whose decisions are told: `largest` (along the last axis), `above X`
  (each number), `equal` (each number).

Both files then run in turns, one thread each, on the sample whose number of elements is the median: blocks of 10 ms or more
alternate, and the ratio is the median of the blocks' ratios with a bootstrapped 95 % interval. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import onnxruntime

Sample = dict[str, np.ndarray]
EXACT_DB = 200.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original", type=Path)
    parser.add_argument("compressed", type=Path)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--samples", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--decisions", type=json.loads, default={})
    parser.add_argument("--seconds", type=float, default=2.0)
    asked = parser.parse_args()
    paths = sorted(asked.inputs.glob("*.npz"))
    samples = _read(paths if asked.samples is None else [paths[position] for position in asked.samples])
    original, compressed = _open(asked.original), _open(asked.compressed)
    outputs = compare_outputs(original, compressed, samples, asked.decisions)
    timed = sorted(samples, key=_elements)[len(samples) // 2]
    found = {
        "outputs": outputs,
        "bytes": [_bytes(asked.original), _bytes(asked.compressed)],
        "shape": {name: list(array.shape) for name, array in timed.items()},
        **ratio(original, compressed, timed, asked.seconds),
    }
    print(json.dumps(found))


def compare_outputs(
    original: onnxruntime.InferenceSession,
    compressed: onnxruntime.InferenceSession,
    samples: list[Sample],
    decisions: dict[str, str],
) -> dict[str, dict[str, float]]:
    """For each output, by its name in the original: sqnr_db, cosine, largest difference and, where told, agreement."""
    names = [output.name for output in original.get_outputs()]
    before = [original.run(None, sample) for sample in samples]
    after = [compressed.run(None, _for(compressed, sample)) for sample in samples]
    if {len(run) for run in after} != {len(names)}:
        raise ValueError(f"the compressed file has {len(after[0])} outputs, the original {len(names)}")
    found = {}
    for index, name in enumerate(names):
        pairs = [(np.asarray(old[index]), np.asarray(new[index])) for old, new in zip(before, after, strict=True)]
        if any(old.shape != new.shape for old, new in pairs):
            raise ValueError(f"output {name} has another shape")
        found[name] = _distance(pairs)
        if name in decisions:
            same = [decide(old, decisions[name]) == decide(new, decisions[name]) for old, new in pairs]
            found[name]["agreement"] = 100 * float(np.mean(np.concatenate([part.ravel() for part in same])))
    return found


def decide(values: np.ndarray, how: str) -> np.ndarray:
    """What an output decides: the index of the largest along the last axis, above a number or not, or the number itself."""
    if how == "largest":
        return np.asarray(values.argmax(axis=-1))
    if how == "equal":
        return values
    return values > float(how.removeprefix("above "))


def ratio(
    original: onnxruntime.InferenceSession, compressed: onnxruntime.InferenceSession, sample: Sample, seconds: float
) -> dict[str, float]:
    """Latency of the original over that of the compressed file: median of paired blocks, 95 % bootstrapped."""
    runs = [(original, sample), (compressed, _for(compressed, sample))]
    once = []
    for session, given in runs:
        for _ in range(3):
            session.run(None, given)
        started = time.perf_counter()
        session.run(None, given)
        once.append(time.perf_counter() - started)
    repeats = max(1, int(0.01 / max(min(once), 1e-6)))
    rounds = int(np.clip(seconds / (sum(once) * repeats), 7, 60))
    times = np.empty((rounds, 2))
    for row in range(rounds):
        for column in (0, 1) if row % 2 == 0 else (1, 0):
            session, given = runs[column]
            started = time.perf_counter()
            for _ in range(repeats):
                session.run(None, given)
            times[row, column] = (time.perf_counter() - started) / repeats
    logs = np.log(times[:, 0] / times[:, 1])
    drawn = np.random.default_rng(0).integers(rounds, size=(1000, rounds))
    low, high = np.percentile(np.median(logs[drawn], axis=1), [2.5, 97.5])
    return {
        "ratio": float(np.exp(np.median(logs))),
        "low": float(np.exp(low)),
        "high": float(np.exp(high)),
        "original_ms": float(np.median(times[:, 0])) * 1e3,
        "compressed_ms": float(np.median(times[:, 1])) * 1e3,
    }


def _distance(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    before = np.concatenate([old.astype(np.float64).ravel() for old, _ in pairs])
    after = np.concatenate([new.astype(np.float64).ravel() for _, new in pairs])
    if not np.isfinite(after).all():
        return {"sqnr_db": -EXACT_DB, "cosine": 0.0, "largest_difference": 1e30}
    signal, noise = float((before**2).sum()), float(((before - after) ** 2).sum())
    norms = float(np.linalg.norm(before) * np.linalg.norm(after))
    same = noise == 0
    return {
        "sqnr_db": EXACT_DB if same else 10 * float(np.log10(max(signal, 1e-300) / noise)),
        "cosine": 1.0 if same else float(before @ after) / norms if norms else 0.0,
        "largest_difference": float(np.abs(before - after).max(initial=0.0)),
    }


def _open(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _for(session: onnxruntime.InferenceSession, sample: Sample) -> Sample:
    """The inputs that a file still has, by name, in the width of float that it takes."""
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    return {
        given.name: sample[given.name].astype(types[given.type]) if given.type in types else sample[given.name]
        for given in session.get_inputs()
    }


def _read(paths: list[Path]) -> list[Sample]:
    samples = []
    for path in paths:
        with np.load(path) as opened:
            samples.append({name: opened[name] for name in opened.files})
    return samples


def _elements(sample: Sample) -> int:
    return sum(array.size for array in sample.values())


def _bytes(path: Path) -> int:
    """The file and what lies beside it under its name, as external data does."""
    return sum(file.stat().st_size for file in path.parent.iterdir() if file.name.startswith(path.name))


if __name__ == "__main__":
    main()
