"""compressctl bench: latency of files, without a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from compressctl.measure.latency import LatencyRun


def bench(
    files: Annotated[list[Path], typer.Argument(help="ONNX files; the first is what the others are compared with.")],
    threads: Annotated[int, typer.Option(min=0, help="Threads for one inference; 0 means all.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Samples per inference.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, help="Least time that each file runs.")] = 3.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Time ONNX files against the first of them: each in its own process, interleaved, threads pinned.

    Inputs are random, in the shapes that the first file's inputs have.
    """
    from compressctl.core.backend import Artifact
    from compressctl.core.target import Target
    from compressctl.measure.latency import Effort, compare
    from compressctl.sources.onnx_file import read_onnx, signature_of

    signature = signature_of(read_onnx(files[0]).graph, files[0])
    artifacts = [Artifact("onnxruntime", file, (file,)) for file in files]
    target = Target("onnxruntime", threads=threads, batch=batch)
    timing = compare(artifacts, [target], signature, None, Effort(seconds=seconds))
    runs = timing.points[0]
    if as_json:
        import json
        from dataclasses import asdict

        found = [{"file": str(file), **asdict(run)} for file, run in zip(files, runs, strict=True)]
        print(json.dumps({"noise": asdict(timing.noise), "files": found}, indent=1))
        return
    print(f"batch {batch}, {threads or 'all'} thread{'' if threads == 1 else 's'}")
    for file, run in zip(files, runs, strict=True):
        print(f"{file}\n  {_words(run)}")
    if timing.noise.noisy:
        print(
            f"The machine was noisy: one file's latency varied by {timing.noise.spread:.0%}, other programs took "
            f"{timing.noise.other_load:.0%} of the processors."
        )


def _words(run: LatencyRun) -> str:
    latency, speed = run.latency, run.speedup
    words = [f"p50 {latency.p50_ms:.3f} ms", f"p90 {latency.p90_ms:.3f} ms"]
    if latency.p99_ms is not None:
        words.append(f"p99 {latency.p99_ms:.3f} ms")
    words.append(f"{latency.samples_per_second:,.0f} per second")
    if speed is not None:
        low, high = speed.interval.low, speed.interval.high
        words.append(f"{speed.ratio:.2f}x the first's speed (95 %: {low:.2f} to {high:.2f}), {speed.verdict}")
    return ", ".join(words)
