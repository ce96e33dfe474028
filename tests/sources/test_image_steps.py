"""How a model's own files say that images are prepared: what recipes take of it gives the pixels that the libraries give."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compressctl.core.errors import UsageError
from compressctl.sources.huggingface.images import image_steps, steps_of
from compressctl.sources.images import Preparation, as_inputs, decode_one
from compressctl.sources.params import HuggingFaceParams, PixelParams, TimmParams
from compressctl.sources.timm_network import images as timm_images

SHAPES = [(300, 400), (301, 453), (500, 333), (100, 640)]


def drawn(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))


def prepared(image: Image.Image, values: Any) -> np.ndarray:
    """As a dataset does it whose keys have these values."""
    file, params = io.BytesIO(), PixelParams.model_validate(values)
    image.save(file, "PNG")
    return as_inputs(decode_one(file.getvalue(), "image", Preparation.of(params))[None], params)


PROCESSORS = {
    "vit": ("vit", "ViT", {}),
    "vit, sides that differ": ("vit", "ViT", {"size": {"height": 64, "width": 96}, "resample": 1}),
    "vit, not normalised": ("vit", "ViT", {"do_normalize": False}),
    "vit, not scaled": ("vit", "ViT", {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3}),
    "vit, nearest": ("vit", "ViT", {"resample": 0}),
    "deit": ("deit", "DeiT", {}),
    "clip": ("clip", "CLIP", {}),
    "convnext, cropped": ("convnext", "ConvNext", {"size": {"shortest_edge": 224}}),
    "convnext, whole": ("convnext", "ConvNext", {"size": {"shortest_edge": 384}}),
    "mobilevit": ("mobilevit", "MobileViT", {"size": {"shortest_edge": 256}}),
    "bit": ("bit", "Bit", {"crop_size": {"height": 200, "width": 160}}),
}


@pytest.mark.parametrize(("module", "name", "fields"), PROCESSORS.values(), ids=PROCESSORS)
def test_pixels_are_those_of_transformers(tmp_path, module, name, fields):
    pytest.importorskip("transformers")
    code = pytest.importorskip(f"transformers.models.{module}.image_processing_pil_{module}")
    processor = getattr(code, f"{name}ImageProcessorPil")(**fields)
    processor.save_pretrained(tmp_path / "model")
    steps = image_steps(HuggingFaceParams(path="model"), tmp_path)
    assert (steps.file, steps.undone) == ("model/preprocessor_config.json", {})
    for shape in SHAPES:
        image = drawn(*shape)
        own = processor(image, return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(prepared(image, steps.values), own, atol=1e-5)


OLD = {
    "a size for both sides": (
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 2},
        {"resize": [224, 224], "interpolation": "bilinear"},
    ),
    "a size and a crop": (
        {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224, "do_center_crop": True},
        {"resize": [256, 256], "center_crop": [224, 224], "interpolation": "bicubic"},
    ),
    "the shorter side": (
        {"image_processor_type": "CLIPImageProcessorFast", "size": 224, "crop_size": 224},
        {"resize": 224, "center_crop": [224, 224], "interpolation": "bicubic"},
    ),
    "a share": (
        {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224, "crop_pct": 0.875, "resample": 3},
        {"resize": 256, "center_crop": [224, 224], "interpolation": "bicubic"},
    ),
}


@pytest.mark.parametrize(("said", "sizes"), OLD.values(), ids=OLD)
def test_files_of_older_releases_say_the_same_in_fewer_words(said, sizes):
    steps = steps_of({**said, "image_mean": [0.5], "image_std": [0.25]}, "f", None)
    assert steps.values == {**sizes, "scale": 1 / 255, "mean": [0.5], "std": [0.25]}


ASKED = {
    "an unknown resample": ({"resample": 4}, "resample 4", "interpolation"),
    "padding": ({"do_pad": True}, "do_pad", "resize"),
    "a longest side": ({"size": {"shortest_edge": 800, "longest_edge": 1333}}, "longest_edge", "resize"),
    "a size that is none": ({"size": "large"}, "large", "resize"),
    "a crop that is larger": (
        {"do_center_crop": True, "size": {"shortest_edge": 64}, "crop_size": 96},
        "a crop of 96, more than",
        "resize",
    ),
    "an offset": ({"rescale_offset": True}, "rescale_offset", "scale"),
    "no mean": ({"image_mean": None}, "image_mean", "mean"),
    "another class": ({"image_processor_type": "DPTImageProcessor"}, "how DPTImageProcessor sizes images", "resize"),
}


@pytest.mark.parametrize(("said", "words", "key"), ASKED.values(), ids=ASKED)
def test_what_is_not_done_here_is_named_with_its_key(said, words, key):
    usual = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 224, "width": 224},
        "image_mean": [0.5],
        "image_std": [0.5],
    }
    steps = steps_of({**usual, **said}, "f", None)
    assert [(found, its) for found, its in steps.undone.items() if words in found and its == key]
    assert set(steps.undone.values()) == {key}
    assert key not in steps.values or key in ("resize", "scale")


@pytest.mark.parametrize(
    ("said", "size", "sizes"),
    [
        ({"size": {"height": 224, "width": 224}}, 96, {"resize": [96, 96]}),
        ({"size": {"height": 256, "width": 256}, "crop_size": 224, "do_center_crop": True}, 112, {"resize": [128, 128], "center_crop": [112, 112]}),
        ({"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": True}, 112, {"resize": 128, "center_crop": [112, 112]}),
    ],
)  # fmt: skip
def test_a_network_of_another_size_keeps_the_proportions(said, size, sizes):
    steps = steps_of({**said, "image_mean": [0.5], "image_std": [0.5]}, "f", size)
    assert {key: steps.values[key] for key in ("resize", "center_crop") if key in steps.values} == sizes


def test_a_folder_of_texts_says_nothing_about_images(tmp_path):
    (tmp_path / "model").mkdir()
    assert image_steps(HuggingFaceParams(path="model"), tmp_path) is None
    assert image_steps(HuggingFaceParams(path="elsewhere"), tmp_path) is None


def test_a_damaged_file_is_one_message(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "preprocessor_config.json").write_text("{")
    with pytest.raises(UsageError, match=r"preprocessor_config\.json is not JSON"):
        image_steps(HuggingFaceParams(path="model"), tmp_path)


def test_a_processor_beside_a_tokenizer_is_found(tmp_path):
    (tmp_path / "model").mkdir()
    inner = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}
    (tmp_path / "model" / "processor_config.json").write_text(json.dumps({"image_processor": inner}))
    steps = image_steps(HuggingFaceParams(path="model"), tmp_path)
    assert steps.values["resize"] == [8, 8]


CFG = {
    "input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
}  # fmt: skip


def of_timm(folder: Path, said: Any, **fields: Any) -> Any:
    (folder / "net").mkdir()
    (folder / "net" / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": said}))
    return timm_images.image_steps(TimmParams(name="resnet18", weights="net/model.safetensors", **fields), folder)


def test_pixels_are_those_of_timms_formula(tmp_path):
    """Its evaluation: the shorter side to floor(size / crop_pct), the centre, 0 to 1, mean and std."""
    steps = of_timm(tmp_path, CFG)
    assert (steps.file, steps.undone) == ("net/config.json", {})
    for height, width in ((300, 400), (500, 333)):
        image, short = drawn(height, width), math.floor(224 / 0.9)
        around = image.resize(
            (int(short * width / min(height, width)), int(short * height / min(height, width))),
            Image.Resampling.BICUBIC,
        )
        left, top = round((around.width - 224) / 2), round((around.height - 224) / 2)
        pixels = np.asarray(around.crop((left, top, left + 224, top + 224)), np.float64) / 255
        wanted = ((pixels - CFG["mean"]) / CFG["std"]).transpose(2, 0, 1)[None]
        np.testing.assert_allclose(prepared(image, steps.values), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("said", "fields", "sizes"),
    [
        ({"crop_pct": 1.0}, {}, {"resize": 224, "center_crop": [224, 224]}),
        ({"crop_pct": None}, {}, {"resize": 256, "center_crop": [224, 224]}),
        ({"crop_mode": "squash"}, {}, {"resize": [248, 248], "center_crop": [224, 224]}),
        ({}, {"image_size": 90}, {"resize": 100, "center_crop": [90, 90]}),
        ({"crop_mode": "squash", "crop_pct": 0.5}, {"image_size": (32, 64)}, {"resize": [64, 128], "center_crop": [32, 64]}),
    ],
)  # fmt: skip
def test_sizes_of_timm_follow_crop_pct_and_crop_mode(tmp_path, said, fields, sizes):
    values = of_timm(tmp_path, {**CFG, **said}, **fields).values
    assert {key: values[key] for key in ("resize", "center_crop")} == sizes


@pytest.mark.parametrize(
    ("said", "words", "key"),
    [
        ({"crop_mode": "border"}, "crop_mode border for images of 224x224", "resize"),
        ({"input_size": [3, 128, 256]}, "crop_mode center for images of 128x256", "resize"),
        ({"input_size": None}, "how large images are", "resize"),
        ({"crop_pct": 0}, None, None),
        ({"crop_pct": "all"}, "crop_pct all", "resize"),
        ({"interpolation": "random"}, "interpolation random", "interpolation"),
        ({"mean": None}, "mean, which it does not say", "mean"),
    ],
)
def test_what_timm_asks_for_and_is_not_done_is_named(tmp_path, said, words, key):
    assert of_timm(tmp_path, {**CFG, **said}).undone == ({} if words is None else {words: key})


def test_weights_without_a_config_say_nothing(tmp_path):
    assert timm_images.image_steps(TimmParams(name="resnet18", weights="model.safetensors"), tmp_path) is None
