"""compressctl diff: two files of one model, output by output, then layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compressctl.cli.options import Shapes

if TYPE_CHECKING:
    import numpy as np

    from compressctl.core.backend import Artifact
    from compressctl.core.data import Dataset
    from compressctl.core.model import Signature
    from compressctl.measure.results import OutputFidelity
    from compressctl.measure.samples import Samples
    from compressctl.measure.tensor_diff import Tensor

    Inputs = Mapping[str, np.ndarray]

_SHOWN = 10
_LAYER_CALLS = 4
"""Every tensor of the model is kept for each."""
_FAR_DB = 20.0


def diff(
    first: Annotated[
        Path, typer.Argument(help="An ONNX file, a packed one (.cctl), or OpenVINO's .xml: the original.")
    ],
    other: Annotated[Path, typer.Argument(help="The file to hold against it.")],
    data: Annotated[
        Path | None, typer.Option(metavar="RECIPE", help="Compare on the test split of the data that a recipe names.")
    ] = None,
    shape: Shapes = None,
    samples: Annotated[int, typer.Option(min=1, help="How many samples outputs are compared on.")] = 64,
    layers: Annotated[int, typer.Option(min=0, help="How many layers to show, those that differ most first.")] = _SHOWN,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Compare two files of one model: every output, then where they first part, then which layers differ most.

    Signal to noise is in dB: 20 dB is an error of a tenth of the signal, 40 dB of a hundredth. Without --data both get random
    values, which says little about a model that expects photos or words.

    \b
    Examples:
      compressctl diff model.onnx smaller.onnx --data model.yaml
    """
    import tempfile

    from compressctl.cli.files import dataset_of, declared_in, exported_files
    from compressctl.measure.samples import Samples, parse_shapes
    from compressctl.measure.tensor_diff import tensor_fidelity

    with exported_files([first, other]) as found, tempfile.TemporaryDirectory() as folder:
        (one, signature), (two, second) = found
        _check_inputs(first, other, signature, second)
        signature, second = (declared_in(data, known) for known in (signature, second))
        chosen = Samples(signature, dataset_of(data), parse_shapes(shape or ()))
        if signature.states and chosen.dataset is not None:
            outputs, steps, count = _sequences((one, two), (signature, second), chosen.dataset, samples)
            calls = [(given, _retyped(given, second)) for given in steps]
        else:
            calls = [(given, _retyped(given, second)) for given in _calls(chosen, samples)]
            outputs, count = _outputs((one, two), signature, calls), len(calls)
        tensors = tensor_fidelity((one.path, two.path), calls[:_LAYER_CALLS], Path(folder)) if layers else []
    if as_json:
        import json

        entries = [{"layer": tensor.layer, **tensor.found.model_dump()} for tensor in tensors]
        print(json.dumps({"outputs": [output.model_dump() for output in outputs], "tensors": entries}, indent=1))
        return
    what = "steps of sequences, each file with its own states" if signature.states else "samples"
    _print(outputs, tensors, layers, f"{count} {'call of random values' if data is None else what}", len(calls))
    for file, theirs, ours in ((first, signature, second), (other, second, signature)):
        alone = [spec.name for spec in theirs.outputs if spec.name not in {known.name for known in ours.outputs}]
        if len(theirs.outputs) != len(ours.outputs) and alone:
            print(f"only {file} gives {', '.join(alone)}")


def _check_inputs(first: Path, other: Path, signature: Signature, second: Signature) -> None:
    from compressctl.core.errors import UsageError

    names = [sorted(spec.name for spec in found.inputs) for found in (signature, second)]
    if names[0] != names[1]:
        raise UsageError(
            f"{first} takes {', '.join(names[0])} and {other} takes {', '.join(names[1])}",
            hint="two files of one model have the same inputs",
        )


def _calls(samples: Samples, count: int) -> list[dict[str, Any]]:
    """The test split one sample at a time (or in the model's own batch), else one random call."""
    from compressctl.core.feeds import first_feeds
    from compressctl.measure.artifact import scored_split

    split = None if samples.dataset is None else scored_split(samples.dataset)
    if samples.dataset is None or split is None:
        return [dict(samples.call(1).inputs)]
    return [dict(feed.inputs) for feed in first_feeds(samples.dataset.split(split), samples.signature, count, 1)]


def _retyped(inputs: Inputs, signature: Signature) -> dict[str, Any]:
    from compressctl.measure.samples import Call

    return Call(inputs).for_model(signature)


def _outputs(
    artifacts: tuple[Artifact, Artifact], signature: Signature, calls: Sequence[tuple[Inputs, Inputs]]
) -> tuple[OutputFidelity, ...]:
    from compressctl.core.target import Target
    from compressctl.measure.fidelity import Comparison
    from compressctl.measure.session_host import SessionHost

    comparison = Comparison(signature)
    with SessionHost() as host:
        sessions = [host.open(artifact, Target(artifact.backend, threads=0)) for artifact in artifacts]
        for given in calls:
            one, two = (session.run(inputs) for session, inputs in zip(sessions, given, strict=True))
            comparison.add(one, two, 1, is_filled=False)
    return comparison.result()


def _sequences(
    artifacts: tuple[Artifact, Artifact], signatures: tuple[Signature, Signature], data: Dataset, most: int
) -> tuple[tuple[OutputFidelity, ...], list[Inputs], int]:
    """The outputs of both files, each with its own states; some of the first one's calls; how many steps there were."""
    from compressctl.core.feeds import first_feeds
    from compressctl.core.streaming import Unrolled, by_step, of_sequences
    from compressctl.core.target import Target
    from compressctl.measure.artifact import scored_split
    from compressctl.measure.fidelity import Comparison
    from compressctl.measure.session_host import SessionHost
    from compressctl.sources.called import Recording

    whole, steps = of_sequences(signatures[0]), 0
    comparison, name = Comparison(whole), scored_split(data)
    with SessionHost() as host:
        sessions = [host.open(artifact, Target(artifact.backend, threads=0)) for artifact in artifacts]
        recording = Recording(sessions[0])
        unrolled = (Unrolled(recording, signatures[0]), Unrolled(sessions[1], signatures[1]))
        for feed in first_feeds(data.split(name), whole, most, 1) if name else ():
            one, two = (by_step(session.run(feed.inputs), whole, feed.count) for session in unrolled)
            comparison.add(one, two, len(next(iter(one.values()))), is_filled=False)
            steps += len(next(iter(one.values())))
    calls = recording.calls[:: max(1, len(recording.calls) // _LAYER_CALLS)]
    return comparison.result(), calls, steps


def _print(outputs: Sequence[OutputFidelity], tensors: Sequence[Tensor], shown: int, on: str, calls: int) -> None:
    """on: what outputs were compared on, in words."""
    from compressctl.measure.fidelity import nearness, why_uncompared

    print(f"outputs, on {on}:")
    for output in outputs:
        if output.samples == 0:
            print(f"  {output.name}: not compared: {why_uncompared(output)}")
            continue
        agreement = (
            "" if output.agreement is None else f", {output.agreement:.2%} equal decisions ({output.decided_by})"
        )
        largest = "" if output.largest_difference is None else f", largest difference {output.largest_difference:.3g}"
        print(f"  {output.name}: {nearness(output)}{largest}{agreement}")
    if not tensors:
        return
    far = next((tensor for tensor in tensors if _decibels(tensor) < _FAR_DB), None)
    where = f"they part at {far.layer} ({nearness(far.found)})" if far else "no tensor that both have is below 20 dB"
    few = min(calls, _LAYER_CALLS)
    print(f"layers, {len(tensors)} tensors in common, on the first {few} of them: {where}")
    for tensor in sorted(tensors, key=_decibels)[:shown]:
        print(f"  {tensor.layer}: {nearness(tensor.found)}")


def _decibels(tensor: Tensor) -> float:
    found = tensor.found
    if found.identical or not found.samples:
        return float("inf")
    return float("-inf") if found.sqnr_db is None else found.sqnr_db
