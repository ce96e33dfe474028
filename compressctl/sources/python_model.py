"""A PyTorch network that the recipe author's function makes."""

from __future__ import annotations

from pathlib import Path

from compressctl.core.errors import UsageError
from compressctl.core.model import TensorSpec, TorchModel
from compressctl.sources.fingerprint import source_fingerprint
from compressctl.sources.forward import called_in_order
from compressctl.sources.params import PythonModelParams
from compressctl.sources.python_code import call_factory, code_files
from compressctl.sources.torch_modules import require_torch, signature_of, weight_files, with_weights

VERSION = 1


def load(params: PythonModelParams, base: Path, seed: int) -> TorchModel:
    """seed: torch's, while the factory runs, so that a network without weights is the same each time.

    Raises UsageError for everything that is wrong with the function, what it returns, or the weights.
    """
    require_torch(f"the model {params.factory}")
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = call_factory(params.factory, params.args, base)
    if not isinstance(network, nn.Module):
        raise UsageError(f"{params.factory} returned a {type(network).__name__}, not a torch.nn.Module")
    inputs = _inputs(params)
    network = called_in_order(network, inputs, params.forward_args, params.outputs)
    if params.weights is not None:
        network = with_weights(network, params.weights, params.structure, base)
    network.eval()
    return TorchModel(network, signature_of(network, inputs))


def _inputs(params: PythonModelParams) -> tuple[TensorSpec, ...]:
    if params.inputs is not None:
        return tuple(
            TensorSpec(one.name, one.dtype, ("batch", *one.shape), argument=one.argument) for one in params.inputs
        )
    assert params.input_shape is not None, "the params ask for one of the two"
    return (TensorSpec(params.input_name, params.input_dtype, ("batch", *params.input_shape)),)


def fingerprint(params: PythonModelParams, base: Path) -> str:
    """Covers the function's file, what it imports from its own folder or package, and the weights."""
    files = {f"code/{name}": path for name, path in code_files(params.factory, base).items()}
    files |= weight_files(params.weights, params.structure, base)
    return source_fingerprint("python", VERSION, params, files)
