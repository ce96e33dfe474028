"""NNCF's own weight compression of a float OpenVINO bundle, as a bundle of its own: what language_model.py compares with.

python benchmarks/language_model_nncf.py BUNDLE OUT MODEL SAMPLES "{'mode': 'INT4_ASYM', ...}"      MODEL is what train_lm.py wrote
"""

import ast
import shutil
import sys
from pathlib import Path

import nncf
import numpy as np
import openvino
from language_model_measured import windows_of

MODEL = "openvino_model.xml"


def main() -> None:
    source, out, model = map(Path, sys.argv[1:4])
    settings = ast.literal_eval(sys.argv[5])
    mode = nncf.CompressWeightsMode[settings.pop("mode")]
    if settings.get("awq"):
        settings["dataset"] = nncf.Dataset(_samples(model, int(sys.argv[4])))
    if mode.name.startswith("INT4"):
        fewer = nncf.GroupSizeFallbackMode.ADJUST  # NNCF refuses otherwise: 688 inputs are no multiple of 32
        settings["advanced_parameters"] = nncf.AdvancedCompressionParameters(group_size_fallback_mode=fewer)
    compressed = nncf.compress_weights(openvino.Core().read_model(source / MODEL), mode=mode, **settings)
    shutil.copytree(source, out)
    for name in (MODEL, MODEL.replace(".xml", ".bin")):
        (out / name).unlink()
    openvino.save_model(compressed, out / MODEL, compress_to_fp16=False)


def _samples(model: Path, count: int) -> list[dict[str, np.ndarray]]:
    """As they stand in train.txt, spread over it."""
    windows = windows_of(model, "train.txt")
    chosen = windows[np.linspace(0, len(windows) - 1, count).astype(int)]
    return [
        {"input_ids": row[None], "attention_mask": np.ones_like(row[None]), "beam_idx": np.zeros(1, np.int32)}
        for row in chosen
    ]


if __name__ == "__main__":
    main()
