"""How a folder of transformers says that images are prepared, in its preprocessor_config.json, as keys of a dataset. Imports no transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from compressctl.core.errors import UsageError, in_short
from compressctl.core.quiet import quiet
from compressctl.core.source import ImageSteps
from compressctl.sources.huggingface.folder import is_on_the_hub, pinned, read_object
from compressctl.sources.params import HuggingFaceParams

_FILES = ("preprocessor_config.json", "processor_config.json")
_INSIDE = "image_processor"
"""Where the second file keeps what the first one says."""


class _Kind(NamedTuple):
    """What a class of the library does where its file does not say. resample: Pillow's number. is_square: a single number for the size is
    that of both sides, else the shorter one's. crops: whether the centre is cut out. normalizes, flips: whether mean and std count, and whether channels are turned."""

    resample: int
    is_square: bool
    crops: bool
    normalizes: bool = True
    flips: bool = False


_NEAREST, _LANCZOS, _BILINEAR, _BICUBIC = range(4)
_INTERPOLATIONS = {_NEAREST: "nearest", _LANCZOS: "lanczos", _BILINEAR: "bilinear", _BICUBIC: "bicubic"}
"""By Pillow's number, which files have (4 is box, 5 hamming)."""
_CONVNEXT = "ConvNext"
_KINDS = {
    "ViT": _Kind(_BILINEAR, True, False),
    "DeiT": _Kind(_BICUBIC, True, True),
    "Beit": _Kind(_BICUBIC, True, False),
    "Blip": _Kind(_BICUBIC, True, False),
    "Pvt": _Kind(_BICUBIC, True, False),
    "Siglip": _Kind(_BICUBIC, True, False),
    "Segformer": _Kind(_BILINEAR, True, False),
    "CLIP": _Kind(_BICUBIC, False, True),
    "ChineseCLIP": _Kind(_BICUBIC, False, True),
    "Bit": _Kind(_BICUBIC, False, True),
    "MobileNetV1": _Kind(_BILINEAR, False, True),
    "MobileNetV2": _Kind(_BILINEAR, False, True),
    "MobileViT": _Kind(_BICUBIC, False, True, normalizes=False, flips=True),
    _CONVNEXT: _Kind(_BICUBIC, False, False),
}
"""Classes that resize, crop, scale and normalise in this order and nothing else. Source: transformers' image processors, their attributes."""
_DONE = {"resize", "center_crop", "rescale", "normalize", "flip_channel_order", "convert_rgb", "reduce_labels"}
_WHOLE_FROM = 384
"""ConvNeXt's images of that size and more are squeezed, smaller ones cropped (Liu et al. 2022, as transformers prepares them)."""

Said = Mapping[str, Any]


def image_steps(params: HuggingFaceParams, base: Path) -> ImageSteps | None:
    """None where the folder says nothing about images. Raises UsageError for a file that is damaged or cannot be brought."""
    for name in _FILES:
        file = _file(params, name, base)
        said = read_object(file) if file is not None else {}
        said = said.get(_INSIDE, {}) if name == _FILES[1] else said
        if isinstance(said, dict) and said:
            return steps_of(said, f"{params.path}/{name}", params.image_size)
    return None


def steps_of(said: Said, file: str, image_size: int | tuple[int, int] | None) -> ImageSteps:
    """image_size: that of the model's section of a recipe, which the file may not know."""
    named = str(said.get("image_processor_type") or said.get("feature_extractor_type") or "")
    name = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", named)
    kind, undone = _KINDS.get(name), {step: "resize" for step in said if _is_more(step, said)}
    usual = kind or _KINDS["ViT"]
    values: dict[str, Any] = {}
    try:
        if kind is None and (named or not isinstance(said.get("size"), dict)):
            undone[f"how {named or 'it'} sizes images"] = "resize"
        else:
            values |= _sizes(said, usual, name == _CONVNEXT, undone)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        sizes = {key: said[key] for key in ("size", "crop_size", "crop_pct") if key in said}
        undone[f"sizes as {_short(sizes)}"] = "resize"
    if image_size is not None:
        values |= _for_size(values, image_size)
    resample = said.get("resample", usual.resample)
    if type(resample) is int and resample in _INTERPOLATIONS:
        values["interpolation"] = _INTERPOLATIONS[resample]
    else:
        undone[f"resample {_short(resample)}"] = "interpolation"
    return ImageSteps(values | _normalised(said, usual, undone), file, undone)


def _is_more(step: str, said: Said) -> bool:
    """Whether it is something to be done that datasets here do not do."""
    return step.startswith("do_") and bool(said[step]) and step[3:] not in _DONE


def _sizes(said: Said, kind: _Kind, is_convnext: bool, undone: dict[str, str]) -> dict[str, Any]:
    """resize and center_crop. Raises KeyError, TypeError and ValueError for what is none."""
    found: dict[str, Any] = {}
    if said.get("do_resize", True):
        sides = _sides(said["size"], kind.is_square)
        unknown = sides.keys() - {"height", "width", "shortest_edge"}
        if any(sides[key] for key in unknown):
            undone[f"size {_short(sides)}"] = "resize"
            return found
        if is_convnext:
            return _of_convnext(_pixels(sides["shortest_edge"]), said)
        edge = sides.get("shortest_edge")
        found["resize"] = _pixels(edge) if edge else [_pixels(sides["height"]), _pixels(sides["width"])]
    if said.get("do_center_crop", kind.crops):
        sides = _sides(crop := said["crop_size"], True)
        found["center_crop"] = [_pixels(sides["height"]), _pixels(sides["width"])]
        if not _holds(found.get("resize"), found["center_crop"]):
            undone[f"a crop of {_short(crop)}, more than the {_short(said['size'])} that are resized to"] = "resize"
            return {}
    return found


def _sides(size: Any, is_square: bool) -> dict[str, Any]:
    """Of a size that older files write as one number."""
    if isinstance(size, dict):
        return size
    return {"height": size, "width": size} if is_square else {"shortest_edge": size}


def _holds(resize: int | list[int] | None, crop: list[int]) -> bool:
    """Whether resized images are as large as what is cut out of them. None: as they come, which nobody knows here."""
    sides = [resize, resize] if isinstance(resize, int) else resize
    return sides is None or all(side >= part for side, part in zip(sides, crop, strict=True))


def _of_convnext(edge: int, said: Said) -> dict[str, Any]:
    if edge >= _WHOLE_FROM:
        return {"resize": [edge, edge]}
    return {"resize": int(edge / said.get("crop_pct", 224 / 256)), "center_crop": [edge, edge]}


def _for_size(values: Said, image_size: int | tuple[int, int]) -> dict[str, Any]:
    """Sizes for a network that takes others than its file says, in the same proportions."""
    size = [image_size, image_size] if isinstance(image_size, int) else list(image_size)
    crop, resize = values.get("center_crop"), values.get("resize")
    if crop is None or resize is None:
        return {"resize": size} if resize is not None else {}
    if isinstance(resize, int):
        return {"resize": max(max(size), resize * min(size) // min(crop)), "center_crop": size}
    return {
        "resize": [max(new, side * new // old) for side, new, old in zip(resize, size, crop, strict=True)],
        "center_crop": size,
    }


def _normalised(said: Said, kind: _Kind, undone: dict[str, str]) -> dict[str, Any]:
    """scale, mean, std and color."""
    found: dict[str, Any] = {"scale": 1.0}
    if said.get("do_rescale", True):
        found["scale"] = said.get("rescale_factor") or 1 / 255
    if said.get("rescale_offset"):
        undone["rescale_offset"] = "scale"
    if said.get("do_normalize", kind.normalizes):
        for key, step in (("image_mean", "mean"), ("image_std", "std")):
            number = said.get(key)
            if number is None:
                undone[f"{key}, which it does not say"] = step
            else:
                found[step] = number if isinstance(number, list) else [number]
    if said.get("do_flip_channel_order", kind.flips):
        found["color"] = "bgr"
    return found


def _pixels(side: Any) -> int:
    if type(side) is not int or side < 1:
        raise ValueError("a size is a number of pixels")
    return side


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _file(params: HuggingFaceParams, name: str, base: Path) -> Path | None:
    """In the folder, or of the commit on the Hub, of which this one file is brought."""
    if not is_on_the_hub(params.path, base):
        return base / params.path / name
    revision = pinned(params.path, params.revision, "model", "model.revision")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError:  # without it the model cannot be loaded either, which says so
        return None
    try:
        with quiet(prints=True):  # each of its attempts is told otherwise
            return Path(hf_hub_download(params.path, name, revision=revision))
    except Exception as error:  # errors of its own, of its HTTP library and of the system
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        raise UsageError(
            f"how images are prepared stands in {name} of {params.path} at {revision[:12]}, which cannot be brought from the Hub: {in_short(error)}",
            hint="say it in the data section (resize, center_crop, interpolation, color, scale, mean, std), or name a downloaded folder",
        ) from error
