"""The config.json beside a network's weights, as timm's folders on the Hub have it: how large images are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressctl.core.errors import UsageError
from compressctl.sources.fingerprint import source_fingerprint
from compressctl.sources.huggingface.folder import CONFIG, read_object
from compressctl.sources.params import TimmParams
from compressctl.sources.torch_modules import weight_files

VERSION = 1


def fingerprint(params: TimmParams, base: Path) -> str:
    """Covers the weights and the config beside them; the network's code is known by its name."""
    files = weight_files(params.weights, params.structure, base)
    config = config_file(params, base)
    return source_fingerprint("timm", VERSION, params, files | ({"config": config} if config.is_file() else {}))


def pretrained(params: TimmParams, base: Path) -> Mapping[str, Any]:
    """What the config says about images; empty where there is none. Raises UsageError for one that is no JSON object."""
    found = read_object(config_file(params, base)).get("pretrained_cfg")
    return found if isinstance(found, Mapping) else {}


def config_file(params: TimmParams, base: Path) -> Path:
    return (base / params.weights).parent / CONFIG


def image_size(params: TimmParams, said: Mapping[str, Any], file: object) -> tuple[int, int] | None:
    """Height and width: the recipe's, else as the config has them."""
    if params.image_size is not None:
        size = params.image_size
        return (size, size) if isinstance(size, int) else size
    shape = said.get("input_size")
    if shape is None:
        return None
    if not isinstance(shape, list | tuple) or len(shape) != 3 or not all(type(n) is int and n > 0 for n in shape):
        raise UsageError(f"{file}: input_size {shape!r} is not [channels, height, width]", hint="give model.image_size")
    return shape[1], shape[2]
