"""What sources of PyTorch networks share: a clear error without torch, and a signature found by running once."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compressctl.core.errors import MissingDependencyError, UsageError, in_short
from compressctl.core.failures import refused_in
from compressctl.core.model import Signature, TensorSpec
from compressctl.graph.torch_outputs import named_outputs, traced_sizes, zero_inputs
from compressctl.sources.fingerprint import existing
from compressctl.sources.forward import parameters_of

if TYPE_CHECKING:
    from torch import Tensor, nn

INSTALL_TORCH = "pip install 'compressctl[torch]'"


def require_torch(needed_for: str) -> None:
    """Raises MissingDependencyError when torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError(needed_for, "torch", INSTALL_TORCH)


def with_weights(network: nn.Module, weights: str, structure: str | None, base: Path) -> nn.Module:
    """The network with weights from a file, in eval mode; rebuilt as structure.json says where one is given.

    Paths are relative to base. Raises UsageError for files that are missing, broken or do not fit.
    """
    if structure is None:
        from compressctl.sources.checkpoint import load_weights

        load_weights(network, base / weights)
        return network.eval()
    from compressctl.sources.structure import read_network

    files = weight_files(weights, structure, base)
    return read_network(network, files["weights"], files["structure"])


def weight_files(weights: str | None, structure: str | None, base: Path) -> dict[str, Path]:
    """What decides a network's weights besides its code, for a fingerprint. Raises UsageError when a file is missing."""
    files = {"weights": (weights, "the weights file"), "structure": (structure, "the structure file")}
    return {name: existing(base / path, what=what) for name, (path, what) in files.items() if path is not None}


def signature_of(module: nn.Module, inputs: Sequence[TensorSpec]) -> Signature:
    """Run the module on batches of zeros and describe what comes out, named as `named_outputs` does.

    inputs: with "batch" as first axis. Where they have open axes, a second run tells which of the outputs' are.
    Raises UsageError when the module does not take these inputs or gives something else than tensors with a batch axis.
    """
    samples = 3  # a network that fixes its batch size hardly fixes it to this
    outputs = _run(module, inputs, samples)
    for name, output in outputs.items():
        if output.ndim == 0 or output.shape[0] != samples:
            raise UsageError(
                f"the network's {name} has shape {list(output.shape)} for {samples} samples; its first axis must be the batch",
                hint="leave it out: name the outputs that the file shall have, `outputs: [...]` in the model section",
            )
    sizes = traced_sizes(inputs)
    others = _run(module, inputs, samples, _LONGER) if sizes else outputs

    def shape(name: str) -> tuple[int | str, ...]:
        if others[name].ndim != outputs[name].ndim:
            raise UsageError(f"the network's {name} has more axes for longer inputs; that cannot be one graph")
        pairs = zip(outputs[name].shape[1:], others[name].shape[1:], strict=True)
        return (
            "batch",
            *(
                one if one == other else _open_axis(sizes, one, other, f"{name}_{n}")
                for n, (one, other) in enumerate(pairs, 1)
            ),
        )

    return Signature(
        tuple(inputs),
        tuple(
            TensorSpec(name, str(output.dtype).removeprefix("torch."), shape(name)) for name, output in outputs.items()
        ),
    )


_LONGER = 2


def _open_axis(sizes: Mapping[str, int], one: int, other: int, otherwise: str) -> str:
    """The input's open axis that has these sizes in the two runs."""
    return next((name for name, size in sizes.items() if (size, size + _LONGER) == (one, other)), otherwise)


def _run(module: nn.Module, inputs: Sequence[TensorSpec], samples: int, longer: int = 0) -> Mapping[str, Tensor]:
    import torch

    arrays = zero_inputs(inputs, samples, longer)
    shapes = ", ".join(f"{spec.name} {list(array.shape)}" for spec, array in zip(inputs, arrays, strict=True))
    try:
        with torch.no_grad():
            given = module(*arrays)
    except UsageError as error:  # of what is kept of its outputs
        raise UsageError(f"the network does not run on {shapes}: {error.message}", hint=error.hint) from error
    except (Exception, SystemExit) as error:
        said = f"the network does not run on {shapes}"
        raise refused_in(said, error) or UsageError(
            f"{said}: {in_short(error)}", hint=_hint(module, len(inputs))
        ) from error
    return named_outputs(given)


def _hint(module: nn.Module, given: int) -> str:
    """What may be wrong, by how many tensors forward asks for."""
    parameters = list(parameters_of(module).values())
    tensors = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    needed = [one.name for one in parameters if one.name in tensors and one.default is one.empty]
    if len(needed) > given:
        entries = ", ".join(f"{{name: {name}, shape: [...]}}" for name in needed)
        return f"forward takes {len(needed)} tensors: name each in the model section, as in inputs: [{entries}]"
    takes_any = not parameters or any(one.kind is one.VAR_POSITIONAL for one in parameters)
    if len(tensors) < given and not takes_any:
        said = f"forward takes {len(tensors)} tensor{'s' if len(tensors) != 1 else ''} ({', '.join(tensors)}), and the model section names {given}"
        held = next(iter(needed or tensors), None)
        more = f"; where {held} holds several, give each input its place, as in `argument: {held}.KEY` or `argument: {held}.0`"
        return said + (more if held else "")
    return "check the shapes and element types in the model section (input_shape and input_dtype, or inputs)"
