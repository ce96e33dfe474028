"""Everything that is measured about an exported file, beside the float model's on the same runtime."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

from compressctl.core.backend import Artifact, Backend
from compressctl.core.data import Dataset
from compressctl.core.events import Events
from compressctl.core.model import Model
from compressctl.core.source import MetricSpec
from compressctl.core.target import Target
from compressctl.graph.cost import costs
from compressctl.measure.behaviour import behaviour
from compressctl.measure.latency import STANDARD, Effort, compare
from compressctl.measure.results import Fusion, Measurement, Size
from compressctl.measure.score import change, predict, score

_SCORING_BATCH = 64
_CHUNK = 1 << 20


def measure(
    baseline: Artifact,
    compressed: Artifact,
    backend: Backend,
    target: Target,
    model: Model,
    dataset: Dataset | None,
    metric: MetricSpec | None,
    events: Events,
    effort: Effort = STANDARD,
) -> tuple[Measurement, Measurement]:
    """Measure both. model: the compressed one in onnx form, whose float graph gives parameters and MACs."""
    timed = compare([baseline, compressed], target, model.signature, events, effort)
    found = [
        Measurement(
            artifact=artifact,
            size=size(artifact, model),
            score=None,
            latency=run.latency,
            memory=run.memory,
            fusion=fusion(backend, artifact, target),
            speedup=run.speedup,
        )
        for artifact, run in zip((baseline, compressed), timed, strict=True)
    ]
    if dataset is None or metric is None:
        return found[0], found[1]
    test, serving = dataset.split("test"), replace(target, threads=0)
    before, after = (
        predict(backend.open(artifact, serving), test, model.signature, _SCORING_BATCH, events)
        for artifact in (baseline, compressed)
    )
    return (
        replace(found[0], score=score(before, metric, dataset.classes, "test")),
        replace(
            found[1],
            score=score(after, metric, dataset.classes, "test"),
            change=change(before, after, metric, dataset.classes, "test"),
            behaviour=behaviour(before, after, dataset.classes)
            if dataset.classes is not None and metric.name == "accuracy"
            else None,
        ),
    )


def size(artifact: Artifact, model: Model) -> Size:
    """Bytes of every file. transport_bytes: each through zlib at level 9, as a download with deflate would take."""
    files = {file.name: file.stat().st_size for file in artifact.files}
    nodes = costs(model.body)
    return Size(
        files=files,
        total_bytes=sum(files.values()),
        transport_bytes=sum(_deflated(file) for file in artifact.files),
        parameters=sum(node.parameters for node in nodes),
        macs=sum(node.macs for node in nodes),
    )


def fusion(backend: Backend, artifact: Artifact, target: Target) -> Fusion:
    nodes = tuple(backend.explain(artifact, target))
    total = sum(node.macs for node in nodes)
    integer = sum(node.macs for node in nodes if node.precision.startswith("int"))
    return Fusion(nodes, integer / total if total else 0.0)


def _deflated(file: Path) -> int:
    packer, total = zlib.compressobj(9), 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            total += len(packer.compress(chunk))
    return total + len(packer.flush())
