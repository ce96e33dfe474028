"""The networks that come with the package, with weights that benchmarks/train_builtin.py trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compressctl.core.model import TensorSpec, TorchModel
from compressctl.sources.fingerprint import source_fingerprint
from compressctl.sources.params import BuiltinParams
from compressctl.sources.torch_modules import require_torch, signature_of, weight_files, with_weights

if TYPE_CHECKING:
    from torch import nn

VERSION = 1
INPUT = TensorSpec("input", "float32", ("batch", 1, 8, 8))
NAMES = ("digits-resnet", "digits-depthwise")


def load(params: BuiltinParams, base: Path, seed: int) -> TorchModel:
    """Trained on the default train split of the `digits` dataset. Raises MissingDependencyError without torch."""
    require_torch(f"the built-in network {params.name}")
    from safetensors.torch import load_file

    network = untrained(params.name)
    if params.weights is None:
        network.load_state_dict(load_file(weights_path(params.name)))
    else:
        network = with_weights(network, params.weights, params.structure, base)
    network.eval()
    return TorchModel(network, signature_of(network, (INPUT,)))


def fingerprint(params: BuiltinParams, base: Path) -> str:
    files = weight_files(params.weights, params.structure, base)
    return source_fingerprint("builtin", VERSION, params, files or {params.name: weights_path(params.name)})


def untrained(name: str) -> nn.Module:
    """The network as torch initialises it."""
    from compressctl.sources import networks

    return {"digits-resnet": networks.digits_resnet, "digits-depthwise": networks.digits_depthwise}[name]()


def weights_path(name: str) -> Path:
    return Path(__file__).parent / "weights" / f"{name}.safetensors"
