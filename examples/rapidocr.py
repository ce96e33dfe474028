"""PP-OCR as the package rapidocr-onnxruntime calls its three files: pages in, the text of their lines out.

pip install rapidocr-onnxruntime
"""

from functools import cache

import numpy as np


def read(models, inputs):
    """models: by name, functions of arrays by input. inputs: pages, (n, height, width, 3) RGB from 0 to 255. Returns a text for each."""
    engine = _engine()
    engine.text_det.infer = _as_called(models["det"])
    engine.text_cls.infer = _as_called(models["cls"])
    engine.text_rec.session = _as_called(models["rec"])
    texts = []
    for page in next(iter(inputs.values())):
        found, _ = engine(np.ascontiguousarray(page[..., ::-1]).astype(np.uint8))  # it reads BGR, as OpenCV does
        texts.append("\n".join(text for _, text, _ in found or ()))
    return texts


def _as_called(model):
    """The package gives its sessions the only input, and takes a list of outputs."""
    return lambda array: list(model({"x": array}).values())


@cache
def _engine():
    from rapidocr_onnxruntime import RapidOCR

    return RapidOCR()
