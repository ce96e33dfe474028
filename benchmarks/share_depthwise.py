"""Weight sharing on a depthwise network without retraining: accuracy and the size of the real file, by what shares a codebook.

COMPRESSCTL_IMAGENET=... python benchmarks/share_depthwise.py build/efficientnet_lite0.onnx [--only NAME ...] [--test 700]

Every row is a packed ONNX file (storage: compressed), scored through ONNX Runtime on images that calibration has not seen. `naive`
is what most tools call weight sharing: 16 values for each tensor, nothing corrected.
"""

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from compressctl.backends.onnxruntime import BACKEND
from compressctl.core.events import Events
from compressctl.core.model import Model
from compressctl.core.source import SplitSizes
from compressctl.core.target import Target
from compressctl.core.technique import RunContext
from compressctl.measure.score import predict
from compressctl.recipe.schema import DataSection
from compressctl.sources.load import load_dataset
from compressctl.sources.onnx_file import load
from compressctl.sources.params import ImageFolderParams, OnnxParams
from compressctl.techniques.share.kmeans import apply
from compressctl.techniques.share.params import KmeansParams

_FINE = (
    {"match": "*depthwise*", "clusters": 256, "granularity": "tensor"},
    {"match": "*stem*", "clusters": 256, "granularity": "tensor"},
)
"""The depthwise kernels and the stem: 1.5 % of the weights, and most of the harm."""

WAYS: dict[str, dict[str, Any]] = {
    "naive, tensor, 16": {"granularity": "tensor", "bias_correction": False},
    "tensor, 16, bias": {"granularity": "tensor"},
    "channel, 16": {"granularity": "channel"},
    "group of 64, 16": {"granularity": "group"},
    "scaled, 16": {},
    "scaled, 16, compensated": {"compensate": True, "importance": "activation"},
    "scaled, 16, compensated, depthwise 256": {"compensate": True, "importance": "activation", "overrides": _FINE},
    "scaled, 32, compensated, depthwise 256": {
        "clusters": 32, "compensate": True, "importance": "activation", "overrides": _FINE,
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--only", nargs="*", default=list(WAYS), help=f"of {', '.join(WAYS)}")
    parser.add_argument("--test", type=int, default=700)
    asked = parser.parse_args()
    model = load(OnnxParams(path=str(asked.model.resolve())), Path(), 0)
    images = ImageFolderParams(
        path=os.environ["COMPRESSCTL_IMAGENET"], labels="prefix", resize=256, center_crop=224, interpolation="bicubic", scale=1,
        mean=[127], std=[128],
    )  # fmt: skip
    data = load_dataset(
        DataSection("image_folder", images, SplitSizes(calibration=300, validation=0, test=asked.test)), Path(), 0
    )
    with tempfile.TemporaryDirectory() as folder:
        run = RunContext(0, Events(), Path(folder), Target("onnxruntime"), data=data)
        print("| what shares values | bytes | smaller | top-1 | seconds to share |\n|---|---|---|---|---|", flush=True)
        plain = _row("float32", model, 0.0, None, run)
        for name in asked.only:
            started = time.perf_counter()
            result = apply(model, KmeansParams.model_validate(WAYS[name]), run)
            _row(name, result.model, time.perf_counter() - started, plain, run)


def _row(name: str, model: Model, seconds: float, plain: int | None, run: RunContext) -> int:
    target = replace(run.target, threads=1, options={"storage": "compressed"})
    artifact = BACKEND.build(model, target, run.folder)
    session = BACKEND.open(artifact, target)
    assert run.data is not None
    found = predict(session, run.data.split("test"), model.signature, 32, None)
    top1 = 100 * float((found.outputs.argmax(axis=1) == found.labels).mean())
    size = artifact.path.stat().st_size
    print(f"| {name} | {size:,} | {(plain or size) / size:.2f}x | {top1:.2f} % | {seconds:.0f} |", flush=True)
    return size


if __name__ == "__main__":
    main()
