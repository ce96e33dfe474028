"""How the config.json beside a network's weights says that images are prepared, as keys of a dataset. Imports no timm."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from compressctl.core.source import ImageSteps
from compressctl.sources.params import TimmParams
from compressctl.sources.timm_network.config import config_file, image_size, pretrained

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
_USUAL_SHARE = 0.875
"""What timm takes for crop_pct where a config has none (timm.data.constants, DEFAULT_CROP_PCT)."""
_USUAL_INTERPOLATION = "bicubic"


def image_steps(params: TimmParams, base: Path) -> ImageSteps | None:
    """As timm's own evaluation prepares images. None where no config says anything. Raises UsageError for a config that is damaged."""
    said = pretrained(params, base)
    if not said:
        return None
    undone: dict[str, str] = {}
    values: dict[str, Any] = {"scale": 1 / 255}
    size = image_size(params, said, config_file(params, base))
    share, mode = said.get("crop_pct") or _USUAL_SHARE, said.get("crop_mode") or "center"
    if size is None:
        undone["how large images are"] = "resize"
    elif isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        undone[f"crop_pct {share}"] = "resize"
    elif mode not in ("center", "squash") or (mode == "center" and size[0] != size[1]):
        undone[f"crop_mode {mode} for images of {size[0]}x{size[1]}"] = "resize"
    else:
        around = [math.floor(side / share) for side in size]
        values |= {"resize": around[0] if mode == "center" else around, "center_crop": list(size)}
    interpolation = said.get("interpolation") or _USUAL_INTERPOLATION
    if interpolation in _INTERPOLATIONS:
        values["interpolation"] = interpolation
    else:
        undone[f"interpolation {interpolation}"] = "interpolation"
    for step in ("mean", "std"):
        if isinstance(said.get(step), list):
            values[step] = said[step]
        else:
            undone[f"{step}, which it does not say"] = step
    return ImageSteps(values, (Path(params.weights).parent / config_file(params, base).name).as_posix(), undone)
