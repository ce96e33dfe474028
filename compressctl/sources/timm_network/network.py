"""A network of timm by its name, with weights from a file: nothing is downloaded."""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressctl.core.errors import MissingDependencyError, UsageError, in_short
from compressctl.core.failures import refused_in
from compressctl.core.model import TensorSpec, TorchModel
from compressctl.core.process_state import process_state_kept
from compressctl.core.quiet import quiet
from compressctl.sources.params import TimmParams
from compressctl.sources.timm_network.config import config_file, image_size, pretrained
from compressctl.sources.torch_modules import require_torch, signature_of, with_weights

if TYPE_CHECKING:
    from torch import nn

INSTALL = "pip install 'compressctl[timm]'"


def load(params: TimmParams, base: Path, seed: int) -> TorchModel:
    """The network in eval mode, with attention in plain operations, which every exporter and every technique here sees.

    Raises MissingDependencyError without timm, or without the torchvision that it imports; UsageError for names and arguments that timm does not know, and for
    weights that do not fit.
    """
    require_torch(f"the model {params.name}")
    timm = _imported(params.name)
    network = with_weights(_made(timm, params, seed), params.weights, params.structure, base)
    return TorchModel(network, signature_of(network, [TensorSpec("input", "float32", _shape(network, params, base))]))


def _imported(model: str) -> Any:
    found = importlib.util.find_spec("timm")
    if found is None or found.origin is None:  # a folder of that name beside the recipe is no package
        raise MissingDependencyError(f"the model {model}", "timm", INSTALL)
    try:
        with process_state_kept(), quiet(prints=True):
            import timm

            return timm
    except ModuleNotFoundError as error:
        package = (error.name or "timm").partition(".")[0]
        install = install_torchvision() if package == "torchvision" else f"pip install {package}"
        raise MissingDependencyError(f"timm, for the model {model},", package, install) from error
    except Exception as error:  # a torchvision of another torch lacks operators and libraries
        raise UsageError(
            f"timm, which the model {model} needs, cannot be imported: {in_short(error)}",
            hint=f"its torchvision has to be the one of this torch: {install_torchvision()}",
        ) from error


def install_torchvision() -> str:
    """The command that brings the build which fits the torch that is installed: 0.28 belongs to torch 2.13, and each has its processors' own index."""
    import torch

    release, _, build = torch.__version__.partition("+")
    found = re.match(r"2\.(\d+)", release)
    package = f"'torchvision==0.{int(found[1]) + 15}.*'" if found else "torchvision"
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    return f"pip install {package}{index}"


def _made(timm: Any, params: TimmParams, seed: int) -> nn.Module:
    import torch

    with torch.random.fork_rng(devices=[]), process_state_kept(), quiet(prints=True):
        torch.manual_seed(seed)
        try:
            network: nn.Module = timm.create_model(params.name, pretrained=False, **params.args)
        except Exception as error:  # of any kind, by name and arguments
            said = f"timm cannot make {params.name}"
            raise refused_in(said, error) or UsageError(
                f"{said}: {in_short(error)}", hint=_hint(timm, params.name)
            ) from error
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
    return network


def _hint(timm: Any, name: str) -> str:
    known = timm.list_models()
    stem = name.rpartition("/")[2].partition(".")[0]
    if stem in known:
        return "check model.args; timm.create_model says what it takes"
    near = difflib.get_close_matches(stem, known, 3)
    return f"did you mean {', '.join(near)}?" if near else "timm.list_models() names those that it knows"


def _shape(network: nn.Module, params: TimmParams, base: Path) -> tuple[int | str, ...]:
    own: Mapping[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    said = {**own, **pretrained(params, base)}
    size = image_size(params, said, config_file(params, base))
    if size is None:
        raise UsageError(
            f"timm does not say how large images of {params.name} are", hint="give model.image_size, as in 224"
        )
    return "batch", int(params.args.get("in_chans", said["input_size"][0] if said.get("input_size") else 3)), *size
