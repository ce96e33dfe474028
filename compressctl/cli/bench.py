"""compressctl bench: latency of files, without a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressctl.cli.options import Shapes

if TYPE_CHECKING:
    from compressctl.core.model import Signature
    from compressctl.measure.latency import LatencyRun


def bench(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="ONNX files, packed ones (.cctl), OpenVINO's .xml; the others are compared with the first."
        ),
    ],
    threads: Annotated[int, typer.Option(min=0, help="Threads for one inference; 0 means all.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Samples per inference.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, help="Least time that each file runs.")] = 3.0,
    shape: Shapes = None,
    data: Annotated[
        Path | None, typer.Option(metavar="RECIPE", help="Time a sample of the data that a recipe names.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Time files against the first of them: each on its own runtime in its own process, interleaved, threads pinned.

    All are given the same call: with --data the recipe's sample of median size, else random values. Axes that the first file
    leaves open have the sizes of --shape, or the data's. Where a file has branches (If, Loop) --data give many samples in turn, and what is told is the mean over them.

    \b
    Examples:
      compressctl bench model.onnx smaller.onnx --threads 2
      compressctl bench model.onnx model.xml --data model.yaml --json
    """
    from compressctl.cli.files import exported_files, timed_samples
    from compressctl.core.target import Target
    from compressctl.measure.latency import BenchmarkSettings, compare, operating_point
    from compressctl.measure.samples import in_words, parse_shapes
    from compressctl.measure.speed_words import load_words

    with exported_files(files) as found:
        signature = found[0][1]
        _check_inputs(files, [entry for _, entry in found])
        target = Target(found[0][0].backend, threads=threads, batch_size=_batch_of(signature, batch))
        samples = timed_samples(data, signature, parse_shapes(shape or ()))
        turns = _TURNS if data is not None and any(map(_has_branches, files)) else 1
        at = operating_point(target, samples, turns=turns)
        timing = compare(
            [artifact for artifact, _ in found],
            [at],
            [entry for _, entry in found],
            None,
            BenchmarkSettings(seconds=seconds),
        )
    runs = timing.points[0]
    if as_json:
        import json

        from pydantic_core import to_jsonable_python

        figures = [{"file": str(file), **vars(run)} for file, run in zip(files, runs, strict=True)]
        print(json.dumps(to_jsonable_python({"noise": timing.noise, "files": figures}), indent=1))
        return
    print(
        f"{load_words(at.call.samples, threads)}, {in_words(at.call) if at.inputs == 1 else f'{at.inputs} samples in turn'}"
    )
    for file, run in zip(files, runs, strict=True):
        print(f"{file}\n  {_words(run)}")
    if timing.noise.noisy:
        print(
            f"The machine was noisy: one file's latency varied by {timing.noise.spread:.0%}, other programs took "
            f"{timing.noise.other_load:.0%} of the processors."
        )


_TURNS = 256


def _has_branches(file: Path) -> bool:
    """Whether what the file computes may depend on its input."""
    if file.suffix != ".onnx":
        return False
    from compressctl.graph.branches import depends_on_input
    from compressctl.graph.model_file import parse

    return depends_on_input(parse(file).model.graph)


def _batch_of(signature: Signature, asked: int) -> int:
    """The batch asked for, or the only one that the file takes; throughput is counted in its samples."""
    return signature.fixed_batch or asked


def _check_inputs(files: Sequence[Path], signatures: Sequence[Signature]) -> None:
    from compressctl.core.errors import UsageError

    def names(signature: Signature) -> list[str]:
        return sorted(spec.name for spec in signature.inputs)

    for file, signature in zip(files, signatures, strict=True):
        if names(signature) != names(signatures[0]):
            raise UsageError(
                f"{file} takes {', '.join(names(signature))}, the first file takes {', '.join(names(signatures[0]))}",
                hint="files are compared on the same inputs, so that these must have the same names",
            )


def _words(run: LatencyRun) -> str:
    from compressctl.measure.speed_words import sentence

    latency, speed = run.latency, run.speed
    words = [f"p50 {latency.p50_ms:.3f} ms", f"p90 {latency.p90_ms:.3f} ms"]
    if latency.inputs > 1:
        words.insert(
            0, f"mean {latency.mean_ms:.3f} ms ({latency.fastest_ms:.3f} to {latency.slowest_ms:.3f} by input)"
        )
    if latency.p99_ms is not None:
        words.append(f"p99 {latency.p99_ms:.3f} ms")
    words.append(f"{latency.samples_per_second:,.0f} per second")
    if speed is not None:
        words.append(f"against the first: {sentence(speed)}")
    return ", ".join(words)
