"""compressctl export: one ONNX file in other runtimes' forms, without a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compressctl.cli.options import Shapes

if TYPE_CHECKING:
    from compressctl.core.errors import CompressctlError
    from compressctl.core.model import OnnxModel
    from compressctl.core.target import Target
    from compressctl.measure.samples import Samples
    from compressctl.measure.session_host import SessionHost


def export(
    file: Annotated[Path, typer.Argument(help="An ONNX file, in float or with QuantizeLinear and DequantizeLinear.")],
    to: Annotated[list[str], typer.Option("--to", help="A backend, as in openvino. Repeatable, or joined by commas.")],
    output: Annotated[Path, typer.Option(help="Folder for the files, one folder per backend in it.")] = Path(
        "exported"
    ),
    options: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="BACKEND.KEY=VALUE", help="As under export in a recipe. Repeatable."),
    ] = None,
    profile: Annotated[str, typer.Option(help="Instruction set to write for, as target.profile in a recipe.")] = "auto",
    batch: Annotated[int, typer.Option(min=1, help="Samples per inference that an engine shall be fastest at.")] = 1,
    shape: Shapes = None,
    data: Annotated[
        Path | None, typer.Option(metavar="RECIPE", help="Compare on a sample of the data that a recipe names.")
    ] = None,
) -> None:
    """Write an ONNX file in the form that each runtime executes fast.

    The quantization that a Q/DQ file carries, whoever wrote it, is read into a plan and written again in each target's own
    dialect. Each result is run beside the original, on a recipe's data or else on random inputs, and the largest difference is
    printed. Axes that the file leaves open have the sizes of --shape, or the data's.

    \b
    Examples:
      compressctl export model.onnx --to openvino
      compressctl export quantized.onnx --to onnxruntime --to tensorrt --data model.yaml --output deliver
    """
    from compressctl.cli.files import timed_samples
    from compressctl.measure.samples import parse_shapes
    from compressctl.measure.session_host import SessionHost

    names = [name for entry in to for name in entry.split(",")]
    targets = [_target(name, options or [], profile, batch, data) for name in names]
    model = _read(file)
    samples = timed_samples(data, model.signature, parse_shapes(shape or ()))
    shapes = samples.call(batch).shapes
    with SessionHost() as host:
        for target in targets:
            placed = replace(target, input_shapes=shapes)
            reference = _reference(samples, file, host, placed)
            _write(model, placed, output / target.backend, reference, host, samples.sample_shapes())


def _target(name: str, options: list[str], profile: str, batch: int, data: Path | None) -> Target:
    from typing import get_args

    from compressctl.cli.files import data_section
    from compressctl.core.backend import backends
    from compressctl.core.errors import UsageError
    from compressctl.core.machine import this_machine
    from compressctl.core.nearest import suggestion
    from compressctl.core.target import Profile, Target, resolve_profile
    from compressctl.recipe.order import with_image_steps

    if name not in backends:
        raise UsageError(f"--to {name}: there is no such backend", hint=backends.nearest(name))
    if profile not in get_args(Profile):
        raise UsageError(f"--profile {profile}: there is no such profile", hint=suggestion(profile, get_args(Profile)))
    given = {key: value for text in options for backend, key, value in [_option(text)] if backend == name}
    params = _checked(name, given)
    resolved = resolve_profile(profile, this_machine(), name)  # type: ignore[arg-type]
    return Target(name, profile=resolved, batch_size=batch, options=with_image_steps(params, data_section(data)))


def _option(text: str) -> tuple[str, str, Any]:
    from compressctl.core.errors import UsageError
    from compressctl.recipe.nodes import plain, short
    from compressctl.recipe.strict_yaml import Source, parse

    path, mark, value = text.partition("=")
    backend, dot, key = path.partition(".")
    if not (mark and dot):
        raise UsageError(
            f"--option {short(text)}: not BACKEND.KEY=VALUE", hint="as in --option openvino.precision=bfloat16"
        )
    node = parse(Source(f"--option {short(text)}", value))
    return backend, key, None if node is None else plain(node)


def _checked(name: str, given: dict[str, Any]) -> dict[str, Any]:
    import json

    from pydantic import ValidationError

    from compressctl.core.backend import backends
    from compressctl.core.errors import UsageError

    try:
        params = backends.get(name).params.model_validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(step) for step in (name, *problem["loc"]))
        known = ", ".join(backends.get(name).params.model_fields) or "none"
        raise UsageError(f"--option {where}: {problem['msg']}", hint=f"{name} knows: {known}") from None
    return params.model_dump(mode="json")


def _read(file: Path) -> OnnxModel:
    from compressctl.core.model import OnnxModel
    from compressctl.graph.canonical import canonical
    from compressctl.graph.import_qdq import absorb, is_quantized
    from compressctl.graph.unpack_constants import unpack_constants
    from compressctl.sources.onnx_file import read_onnx, signature_of

    proto = canonical(unpack_constants(read_onnx(file)))
    signature = signature_of(proto.graph, file)
    if not is_quantized(proto):
        return OnnxModel(proto, signature)
    found = absorb(proto)
    print(
        f"{file}: {len(found.plan.activations)} quantized activations and {len(found.plan.weights)} weights were read "
        "from its Q/DQ nodes"
    )
    for line in found.ignored:
        print(f"  not read: {line}")
    return OnnxModel(found.model, signature, found.plan)


def _write(
    model: OnnxModel,
    target: Target,
    folder: Path,
    reference: _Reference,
    host: SessionHost,
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    from compressctl.backends.onnx_file import opset_note
    from compressctl.core.backend import backends
    from compressctl.core.count import by_operator, nodes
    from compressctl.core.errors import MissingDependencyError, UsageError
    from compressctl.core.failures import refusal
    from compressctl.graph.requantize import fitted
    from compressctl.measure.size import integer_mac_share
    from compressctl.pipeline.run import check_extras
    from compressctl.pipeline.workspace import open_backend

    backend, found = open_backend(target.backend), open_backend(target.backend).probe()
    if not found.installed:
        raise MissingDependencyError(f"the {target.backend} backend", target.backend, found.install)
    check_extras(backends.get(target.backend), target.options)
    if reference.refused is not None and target.backend != "openvino":
        # What ONNX Runtime does not open can neither serve there nor stand in for an engine.
        raise reference.refused
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(error) or UsageError(
            f"cannot write to {folder}: {error.strerror}", hint="choose another --output"
        ) from None
    fitting, changed = fitted(model, target)
    artifact = backend.build(fitting, target, folder)
    print(f"{target.backend}: {', '.join(str(path) for path in artifact.files)}")
    for note in (*changed, *artifact.notes, *opset_note(model, artifact)):
        print(f"  {note}")
    executed = host.explain(artifact, target, shapes)
    multiplying = [node for node in executed if node.macs != 0]
    if multiplying:
        share, unknown = integer_mac_share(executed)
        shown = "an unknown share" if share is None else f"{share:.0%}"
        without = (
            f", without {nodes(sum(unknown.values()))} of unknown cost ({by_operator(unknown)})" if unknown else ""
        )
        print(f"  {shown} of the multiply-accumulates run on integers{without}")
        for node in [node for node in multiplying if node.rule][:5]:
            kernel = f", {node.kernel}" if node.kernel else ""
            print(f"  in float: {node.name} ({node.op}{kernel}): {node.rule}")
    print(f"  {_compared(model, target, artifact, reference, host)}")


@dataclass(frozen=True)
class _Reference:
    """What the file itself computes in ONNX Runtime.

    refused: it cannot, whatever the inputs. failed: not on random inputs, which may be its good right.
    """

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    refused: CompressctlError | None = None
    failed: CompressctlError | None = None
    is_random: bool = True


def _reference(samples: Samples, original: Path, host: SessionHost, target: Target) -> _Reference:
    from compressctl.backends.preprocess import as_prepared, asked_steps
    from compressctl.core.backend import Artifact
    from compressctl.core.errors import CompressctlError
    from compressctl.core.target import Target

    try:
        session = host.open(
            Artifact("onnxruntime", original, (original,)),
            Target("onnxruntime", options={"integer_activations": False}),
        )
    except CompressctlError as error:
        return _Reference({}, {}, refused=error)
    problem = None
    for batch in (4, 1):
        # Some graphs name their batch and hold a Reshape that takes only 1.
        call = samples.call(batch)
        inputs = dict(call.inputs)
        if call.is_random:
            inputs = as_prepared(inputs, asked_steps(samples.signature, target))
        try:
            return _Reference(inputs, session.run(inputs), is_random=call.is_random)
        except CompressctlError as error:
            problem = problem or error
    are_free = samples.signature.open_axes or any(
        not spec.dtype.startswith("float") for spec in samples.signature.inputs
    )
    if samples.dataset is None and are_free:
        # Random indices, lengths or masks, and sizes that go together, may be none that the model takes.
        return _Reference({}, {}, failed=problem)
    return _Reference({}, {}, refused=problem)


def _compared(model: OnnxModel, target: Target, artifact: Any, reference: _Reference, host: SessionHost) -> str:
    problem = reference.refused or reference.failed
    if problem is not None:
        return f"not compared with the original: {problem.message}"
    from compressctl.backends.preprocess import called_signature
    from compressctl.core.data import as_wide
    from compressctl.core.model import Signature
    from compressctl.measure.fidelity import Comparison, is_far, nearness, why_uncompared

    comparison = Comparison(Signature((), ()))
    types = {spec.name: spec.dtype for spec in called_signature(model.signature, target).inputs}
    inputs = {name: as_wide(array, types[name]) for name, array in reference.inputs.items()}
    comparison.add(reference.outputs, host.open(artifact, target).run(inputs), 1, is_filled=False)
    found = comparison.result()
    words = ", ".join(
        f"{output.name} {nearness(output) if output.samples else f'not compared ({why_uncompared(output)})'}"
        for output in found
    )
    values = "random values" if reference.is_random else "a sample of the data"
    return f"{'DIFFERS from' if any(map(is_far, found)) else 'beside'} the original, on {values}: {words}"
