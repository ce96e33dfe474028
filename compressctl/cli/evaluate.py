"""compressctl evaluate: the score of a file on a recipe's data."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressctl.cli.options import Sets, Unsets

if TYPE_CHECKING:
    from compressctl.core.data import SplitName
    from compressctl.measure.results import Score


def evaluate(
    file: Annotated[Path, typer.Argument(help="An ONNX file, a packed one (.cctl), or OpenVINO's .xml.")],
    data: Annotated[
        Path, typer.Option("--data", metavar="RECIPE", help="The recipe whose data, task and metric to use.")
    ],
    split: Annotated[str, typer.Option(help="test or validation.")] = "test",
    sets: Sets = None,
    unsets: Unsets = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the score as JSON.")] = False,
) -> None:
    """Score any ONNX file through ONNX Runtime, or OpenVINO file through OpenVINO, on the data that a recipe names.

    \b
    Examples:
      compressctl evaluate smaller.onnx --data model.yaml
      compressctl evaluate model.xml --data model.yaml --split validation --json
    """
    import numpy as np

    from compressctl.cli.files import exported_files
    from compressctl.core.custom_ops import using
    from compressctl.core.errors import UsageError
    from compressctl.core.target import Target
    from compressctl.measure.score import predict_heads, score
    from compressctl.measure.session_host import SessionHost
    from compressctl.recipe.loader import load
    from compressctl.sources.load import libraries, load_dataset
    from compressctl.sources.onnx_file import declared
    from compressctl.sources.params import OnnxParams
    from compressctl.tasks.judge import judge_of
    from compressctl.tasks.told_apart import class_count, class_counts

    if split not in ("test", "validation"):
        raise UsageError(f"--split {split}: not a split to score", hint="test or validation")
    recipe = load(data, sets or (), unsets or ())
    if recipe.data is None:
        raise UsageError(f"{data} names no data to score on", hint="add a `data` section")
    if recipe.pipeline is not None:
        raise UsageError(f"{data}: a file that works together with others is not scored alone", hint="use `apply`")
    if not any(where.metric_name for where in recipe.judges.values()):
        raise UsageError(f"{data}: the task {recipe.task} has no metric of its own", hint="add a `metric`")
    chosen: SplitName = "test" if split == "test" else "validation"
    with using(libraries(recipe.model, recipe.base)), exported_files([file]) as [(artifact, signature)]:
        if isinstance(recipe.model.params, OnnxParams):
            signature = declared(signature, recipe.model.params)
        known, of_heads = class_count(recipe, signature.outputs), class_counts(recipe, signature.outputs)
        heads = {name: (head.task, partial(of_heads.get, name)) for name, head in recipe.heads.items()}
        dataset = load_dataset(recipe.data, recipe.base, recipe.seed, recipe.task, lambda: known, heads)
        with SessionHost() as host:
            session = host.open(artifact, Target(artifact.backend, threads=0))
            judge = judge_of(recipe, [spec.name for spec in signature.outputs])
            seen = predict_heads(session, dataset.split(chosen), signature, 64, judge=judge)
        for head, predictions in seen.items():
            metric = judge.parts[head].metric
            if metric is None:
                continue
            if predictions.outputs.dtype != object and np.isnan(predictions.outputs).any():
                raise UsageError(
                    f"{file}: outputs are NaN, which no metric can score", hint="look for NaN in its weights"
                )
            found = score(predictions, metric, dataset.classes, chosen)
            if not np.isfinite(found.value):
                raise UsageError(f"{file}: {found.metric} is {found.value}, which is no score")
            _print_score(file, head, found, metric.unit, as_json=as_json)


def _print_score(file: Path, head: str, found: Score, unit: str, *, as_json: bool) -> None:
    if as_json:
        import json

        named = {"head": head} if head else {}
        values = {"metric": found.metric, "value": found.value, "samples": found.samples}
        print(json.dumps({"file": str(file), **named, **values}))
    else:
        of = f"{head}: " if head else ""
        print(f"{of}{found.metric} {found.value:.4f}{unit and f' {unit}'} on {found.samples:,} {found.split} samples")
