"""Recompute a report's figures with numpy and plain onnxruntime alone: python recompute.py RUN TEST.npz [--latency]

TEST.npz holds the test samples as x_test and y_test. Prints JSON. Nothing of compressctl is imported: this is what a sceptic
would write. --latency adds the ratio of median latencies, each file in processes of its own that take turns.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

LAUNCHES, TURNS, SECONDS = 5, 5, 0.08


def main() -> None:
    if sys.argv[1] == "--serve":
        serve(sys.argv[2], json.loads(sys.argv[3]))
        return
    run, data = Path(sys.argv[1]), sys.argv[2]
    part = json.loads((run / "report.json").read_text())["backends"][0]
    files = {name: run / part[name]["path"] for name in ("baseline", "compressed")}
    found = recompute(files, data)
    if "--latency" in sys.argv:
        found["ratio"] = ratio(files["baseline"], files["compressed"], part["baseline"]["latency"]["threads"], data)
    print(json.dumps(found))


def recompute(files: dict[str, Path], data: str) -> dict[str, float]:
    import numpy as np
    import onnxruntime

    arrays = np.load(data)
    right, chosen = {}, {}
    for name, file in files.items():
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        inputs = arrays["x_test"].astype(np.float32)
        outputs = session.run(None, {session.get_inputs()[0].name: inputs})[0]
        chosen[name] = outputs.argmax(axis=1)
        right[name] = chosen[name] == arrays["y_test"]
    return {
        "accuracy_before": float(right["baseline"].mean() * 100),
        "accuracy_after": float(right["compressed"].mean() * 100),
        "right_to_wrong": int((right["baseline"] & ~right["compressed"]).sum()),
        "wrong_to_right": int((~right["baseline"] & right["compressed"]).sum()),
        "disagreements": int((chosen["baseline"] != chosen["compressed"]).sum()),
        "bytes_before": files["baseline"].stat().st_size,
        "bytes_after": files["compressed"].stat().st_size,
    }


def ratio(before: Path, after: Path, threads: int, data: str) -> float:
    """Geometric mean over launches of the ratio of medians."""
    ratios = []
    for _ in range(LAUNCHES):
        served = [
            subprocess.Popen(
                [sys.executable, __file__, "--serve", str(file), json.dumps([threads, data])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for file in (before, after)
        ]
        times: list[list[float]] = [[], []]
        for turn in range(TURNS):
            for position in (0, 1) if turn % 2 == 0 else (1, 0):
                process = served[position]
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write("go\n")
                process.stdin.flush()
                times[position] += json.loads(process.stdout.readline())
        for process in served:
            process.kill()
            process.communicate()
        ratios.append(statistics.median(times[0]) / statistics.median(times[1]))
    return statistics.geometric_mean(ratios)


def serve(file: str, job: tuple[int, str]) -> None:
    import numpy as np
    import onnxruntime

    threads, data = job
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: np.load(data)["x_test"][:1].astype(np.float32)}
    for _ in range(20):
        session.run(None, inputs)
    for _ in sys.stdin:
        seconds: list[float] = []
        while sum(seconds) < SECONDS:
            started = time.perf_counter()
            session.run(None, inputs)
            seconds.append(time.perf_counter() - started)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
