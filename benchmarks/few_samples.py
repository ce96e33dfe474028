"""How well what is fitted to few calibration images holds for others: GPTQ and low ranks by plain second moments and by shrunk ones.

    python benchmarks/few_samples.py [--images 20 50 200]

EfficientNet-Lite0 (COMPRESSCTL_IMAGENET, build/efficientnet_lite0.onnx; see README.md). Of its last layer (1,280 inputs, one vector an image) and its convolutions
of one pixel with at least 192 inputs (49 or 196 places an image): the squared error of the outputs on 200 other images, over the outputs' own
variance. Rounded to 4 bits with a scale for each output, to nearest and by GPTQ; in two thinner layers of 40 % of their products.
Plain: the mean of x x^T over all vectors, with GPTQ's usual damping of 1 %, as others take it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx.numpy_helper import to_array

from compressctl.core.data import bind
from compressctl.core.machine import this_machine
from compressctl.numerics.gptq import gptq
from compressctl.numerics.grid import fit_grid
from compressctl.numerics.low_rank import decompose, low_rank, whitening
from compressctl.numerics.second_moments import SecondMoments
from compressctl.recipe.loader import load
from compressctl.sources.load import load_dataset
from compressctl.sources.onnx_file import signature_of

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "build" / "efficientnet_lite0.onnx"
_OTHERS, _LEAST_INPUTS, _SHARE = 200, 192, 0.4
WAYS = ("nearest", "GPTQ, plain", "GPTQ, shrunk", "low rank, weights alone", "low rank, plain", "low rank, shrunk")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[20, 50, 200])
    asked = parser.parse_args()
    if "COMPRESSCTL_IMAGENET" not in os.environ or not MODEL.is_file():
        sys.exit("set COMPRESSCTL_IMAGENET and export the network; see benchmarks/README.md")
    weights, seen = _layers(max(asked.images))
    print(f"{this_machine().cpu}; {len(weights) - 1} convolutions and the last layer\n")
    print(f"| calibration images | layers | {' | '.join(WAYS)} |\n|---|---|{'---|' * len(WAYS)}")
    last = list(weights)[-1]
    for images in asked.images:
        errors = {name: _errors(weights[name], *seen[name], images) for name in weights}
        convolutions = np.mean([errors[name] for name in weights if name != last], axis=0)
        for words, row in (("the last one", errors[last]), ("convolutions, mean", convolutions)):
            print(f"| {images} | {words} | {' | '.join(f'{100 * value:.2f} %' for value in row)} |", flush=True)


def _layers(most: int) -> tuple[dict[str, np.ndarray], Mapping[str, tuple[np.ndarray, np.ndarray]]]:
    """By node: the weight (outputs, inputs), and its inputs on calibration and on other images, (images, places, inputs)."""
    model = onnx.load(MODEL)
    signature, arrays = signature_of(model.graph, MODEL), {tensor.name: tensor for tensor in model.graph.initializer}
    wanted, weights = {}, {}
    for node in model.graph.node:
        weight = to_array(arrays[node.input[1]]) if node.op_type in ("Conv", "Gemm") else np.zeros((1, 1))
        if int(np.prod(weight.shape[1:])) >= _LEAST_INPUTS and weight.shape[2:] in ((), (1, 1)):
            wanted[node.name], weights[node.name] = node.input[0], weight.reshape(len(weight), -1)
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(wanted.values()))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    recipe = load(
        ROOT / "recipes" / "int8-cpu.yaml",
        [f"data={json.dumps(_data(most))}", f"model={{source: onnx, path: {MODEL}}}"],
        [],
    )
    assert recipe.data is not None
    data = load_dataset(recipe.data, recipe.base, recipe.seed)
    found: dict[str, list[list[np.ndarray]]] = {name: [[], []] for name in wanted}
    for place, (split, count) in enumerate((("calibration", most), ("test", _OTHERS))):
        done = 0
        for batch in data.split(split).batches(20):  # type: ignore[arg-type]
            if done >= count:
                break
            values = session.run(list(wanted.values()), bind(batch, signature))
            for name, value in zip(wanted, values, strict=True):
                found[name][place].append(value.reshape(*value.shape[:2], -1).swapaxes(1, 2))
            done += len(batch.indices)
    return weights, {name: (np.concatenate(parts[0]), np.concatenate(parts[1])) for name, parts in found.items()}


def _data(calibration: int) -> dict[str, object]:
    return {
        "source": "image_folder", "path": os.environ["COMPRESSCTL_IMAGENET"], "labels": "prefix", "resize": 256, "center_crop": 224,
        "interpolation": "bicubic", "scale": 1, "mean": [127], "std": [128], "calibration": calibration, "validation": 0, "test": 700,
    }  # fmt: skip


def _errors(weight: np.ndarray, seen: np.ndarray, others: np.ndarray, images: int) -> list[float]:
    """In the order of `WAYS`."""
    rows = seen[:images].reshape(-1, seen.shape[2]).astype(np.float64)
    plain, sums = rows.T @ rows / len(rows), SecondMoments(rows.shape[1])
    sums.add(rows, np.repeat(np.arange(images), seen.shape[1]))
    shrunk = sums.matrices()[0]
    grid = fit_grid(weight, 4, weight.shape[1], symmetric=True)
    rank = int(_SHARE * weight.size / sum(weight.shape))
    thin = [
        np.matmul(*low_rank(decompose(weight, factor), rank)) for factor in (None, whitening(plain), whitening(shrunk))
    ]
    fitted = [grid.values(weight), gptq(weight, plain, grid), gptq(weight, shrunk, grid), *thin]
    tested = others.reshape(-1, others.shape[2]).astype(np.float64)
    whole = float(np.square((tested - tested.mean(axis=0)) @ weight.T).sum())
    return [float(np.square(tested @ (weight - one).T).sum()) / whole for one in fitted]


if __name__ == "__main__":
    main()
