"""Recorded inputs of every model: a folder with one .npz a sample, arrays under the model's input names."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from published import images, speech, text
from published.packages import BUILD, Published, model_path

CALIBRATION, VALIDATION, TEST = 16, 8, 16
COUNT = CALIBRATION + VALIDATION + TEST
SEED = 0

Sample = dict[str, np.ndarray]
Source = Callable[[np.random.Generator], Iterator[Sample]]

_SOURCES: dict[str, Source] = {
    "rapidocr-det": images.detector_pages,
    "rapidocr-rec": images.recogniser_lines,
    "rapidocr-cls": images.turned_lines,
    "silero-sequence": speech.sequences,
    "magika": text.files,
    "nudenet": images.nude_photos,
    "orientation": images.turned_pages,
    "basic-pitch": speech.music,
    "ddddocr": images.captchas,
    "ddddocr-old": images.captchas,
    "ddddocr-det": images.objects,
    "khmer": text.khmer,
    "lac": text.chinese,
    "attacut-c": partial(text.attacut, "attacut-c-characters.json", None),
    "attacut-sc": partial(text.attacut, "attacut-sc-characters.json", "attacut-sc-syllables.json"),
    "deepcut": partial(text.windows, "input_1", "input_2"),
    "oskut-deepcut": partial(text.windows, "inputs", "inputs_1"),
    "oskut-ws": text.refined,
    "mtcnn-pnet": images.face_pyramid,
    "mtcnn-rnet": partial(images.faces, "input_2", 24),
    "mtcnn-onet": partial(images.faces, "input_3", 48),
    "layout": images.layout_pages,
    "minilm": text.tokens,
    "nsfw": images.open_nsfw_photos,
}
_WITH_RATE = {"silero": True, "silero-16k": True, "silero-half": False, "silero-ifless": True, "silero-openvino": False}


def record(model: Published) -> Path:
    """The folder of a model's samples, written where it is not there yet. The same on every machine and in every run."""
    where = BUILD / "inputs" / model.name
    if where.is_dir():
        return where
    beside = where.with_name(where.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for index, sample in enumerate(islice(samples(model), COUNT)):
        np.savez(beside / f"{index:03d}.npz", **sample)
    beside.rename(where)
    return where


def samples(model: Published) -> Iterator[Sample]:
    """The model's inputs, one sample after the other."""
    random = np.random.default_rng(zlib.crc32(model.name.encode()))
    if model.name in _WITH_RATE:
        return speech.streamed(str(model_path(model)), _WITH_RATE[model.name], COUNT, random)
    return _SOURCES[model.name](random)


def dealt() -> tuple[list[int], list[int]]:
    """Positions of the calibration and of the test samples, as a recipe with SEED deals them: test first, then validation."""
    order = np.random.default_rng(SEED).permutation(COUNT).tolist()
    return order[TEST + VALIDATION :], order[:TEST]
