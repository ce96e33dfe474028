"""What others' searches make of EfficientNet-Lite0 in a given time: every file that they write, with the same 200 and 100 images.

    python benchmarks/search_efficientnet_peers.py {onnxruntime,nncf,olive} {onnxruntime,openvino} RECIPE FOLDER [--time 20m]

search_efficientnet.py runs it, Olive's with an interpreter that has olive-ai. ONNX Runtime's tools and NNCF have no search over their own options,
so these are tried in a fixed order, the usual ones first, until the time is over; nncf.quantize_with_accuracy_control is NNCF's search over layers.
Olive searches by itself (TPE, jointly over all parameters of OnnxQuantization), by accuracy on the 100 images and latency.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from compressctl.core.data import Dataset, SplitName, bind
from compressctl.recipe.loader import load
from compressctl.sources.load import load_dataset
from compressctl.sources.onnx_file import signature_of

MODEL = Path(__file__).parent.parent / "build" / "efficientnet_lite0.onnx"
_RECIPE = "SEARCH_EFFICIENTNET_RECIPE"
"""Environment variable, since Olive imports this file anew."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=("onnxruntime", "nncf", "olive"))
    parser.add_argument("runtime", choices=("onnxruntime", "openvino"))
    parser.add_argument("recipe", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--time", default="20m", help="minutes, as in 20m")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    os.environ[_RECIPE] = str(asked.recipe.resolve())
    seconds = 60 * float(asked.time.removesuffix("m"))
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.peer == "olive":
        _olive(asked.folder.resolve(), seconds)
        return
    ways = _onnxruntime() if asked.peer == "onnxruntime" else _nncf(asked.runtime)
    ends = time.monotonic() + seconds
    for name, make in ways:
        if time.monotonic() > ends:
            print(f"{asked.peer}: {name} and what follows not tried, the time is over")
            break
        began = time.monotonic()
        try:
            make(asked.folder / name)
        except Exception as error:  # a peer's fault is its result
            print(
                f"{asked.peer}: {name} failed: {str(error).splitlines()[0][:200] if str(error) else type(error).__name__}"
            )
            continue
        print(f"{asked.peer}: {name}, {time.monotonic() - began:.0f} s", flush=True)


def _data() -> Dataset:
    recipe = load(Path(os.environ[_RECIPE]), [], [])
    assert recipe.data is not None
    return load_dataset(recipe.data, recipe.base, recipe.seed)


def _inputs(split: SplitName) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """One image after another as the network takes it, (1, 3, 224, 224) float32, and its label, (1,)."""
    signature = signature_of(onnx.load(MODEL).graph, MODEL)
    for batch in _data().split(split).batches(1):
        assert batch.labels is not None
        yield bind(batch, signature), np.asarray(batch.labels)


Ways = Iterator[tuple[str, Callable[[Path], None]]]


def _onnxruntime() -> Ways:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = (inputs for inputs, _ in _inputs("calibration"))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    def make(output: Path, method: Any, per_channel: bool, activations: Any, symmetric: bool) -> None:
        prepared = output.with_suffix(".prepared")
        quant_pre_process(str(MODEL), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            prepared, output.with_suffix(".onnx"), Reader(), quant_format=QuantFormat.QDQ, per_channel=per_channel,
            activation_type=activations, weight_type=QuantType.QInt8, calibrate_method=method,
            extra_options={"ActivationSymmetric": symmetric},
        )  # fmt: skip
        prepared.unlink()

    options = itertools.product(
        (CalibrationMethod.MinMax, CalibrationMethod.Percentile, CalibrationMethod.Entropy),
        (True, False),
        ((QuantType.QUInt8, False), (QuantType.QInt8, False), (QuantType.QInt8, True)),
    )
    for method, per_channel, (activations, symmetric) in options:
        granularity = "per channel" if per_channel else "per tensor"
        name = f"{method.name} {granularity} {activations.name}{' symmetric' if symmetric else ''}"
        yield name, lambda output, given=(method, per_channel, activations, symmetric): make(output, *given)


def _nncf(runtime: str) -> Ways:
    import nncf

    calibration = nncf.Dataset([inputs for inputs, _ in _inputs("calibration")])
    validation = nncf.Dataset(list(_inputs("validation")), lambda pair: pair[0])
    labelled = nncf.Dataset(list(_inputs("validation")), lambda pair: pair)

    def opened() -> Any:
        if runtime == "onnxruntime":
            return onnx.load(MODEL)
        import openvino

        return openvino.convert_model(str(MODEL))

    def save(model: Any, output: Path) -> None:
        if runtime == "onnxruntime":
            onnx.save(model, output.with_suffix(".onnx"))
            return
        import openvino

        openvino.save_model(model, output.with_suffix(".xml"), compress_to_fp16=False)

    def quantize(output: Path, **options: Any) -> None:
        save(nncf.quantize(opened(), calibration, subset_size=200, **options), output)

    def controlled(output: Path, drop: float) -> None:
        def right(model: Any, data: Any) -> tuple[float, list[float]]:
            told = [float(_answer(model, inputs).argmax() == label[0]) for inputs, label in data]
            return float(np.mean(told)), told

        made = nncf.quantize_with_accuracy_control(
            opened(), calibration, labelled, validation_fn=right, subset_size=200, max_drop=drop,
            preset=nncf.QuantizationPreset.MIXED,
        )  # fmt: skip
        save(made, output)

    mixed, performance = nncf.QuantizationPreset.MIXED, nncf.QuantizationPreset.PERFORMANCE
    del validation
    yield "performance", lambda output: quantize(output, preset=performance)
    yield "mixed", lambda output: quantize(output, preset=mixed)
    yield "accuracy control, one point", lambda output: controlled(output, 0.01)
    yield "mixed, accurate bias correction", lambda output: quantize(output, preset=mixed, fast_bias_correction=False)
    yield "weights in 8 bits", lambda output: save(nncf.compress_weights(opened()), output)


def _answer(model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Of a compiled OpenVINO model, or an ONNX one, which NNCF hands over as the file's content."""
    if hasattr(model, "graph"):
        import onnxruntime

        key = id(model)
        if key not in _SESSIONS:
            _SESSIONS.clear()
            _SESSIONS[key] = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.asarray(_SESSIONS[key].run(None, inputs)[0])
    return np.asarray(model(inputs)[0])


_SESSIONS: dict[int, Any] = {}


def _olive(folder: Path, seconds: float) -> None:
    from olive.workflows import run

    script = str(Path(__file__).resolve())
    config = {
        "input_model": {"type": "ONNXModel", "model_path": str(MODEL)},
        "systems": {"here": {"type": "LocalSystem", "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]}},
        "data_configs": [_olive_data("images", script, "calibration_images"), _olive_data("chosen_by", script, "validation_images")],
        "evaluators": {
            "both": {
                "type": "OnnxEvaluator",
                "metrics": [
                    {
                        "name": "accuracy", "type": "accuracy", "data_config": "chosen_by",
                        "sub_types": [{"name": "accuracy_score", "priority": 1, "metric_config": {"task": "multiclass", "num_classes": 1000}}],
                    },
                    {
                        "name": "latency", "type": "latency", "data_config": "images",
                        "sub_types": [{"name": "p50", "priority": 2, "metric_config": {"warmup_num": 5, "repeat_test_num": 20}}],
                    },
                ]
            }
        },
        "passes": {"quantization": {"type": "OnnxQuantization", "data_config": "images"}},
        "search_strategy": {"execution_order": "joint", "sampler": "tpe", "max_time": int(seconds), "max_iter": 100, "output_model_num": 8, "sampler_config": {"seed": 0}},
        "evaluator": "both", "host": "here", "target": "here", "cache_dir": str(folder / "cache"), "output_dir": str(folder / "out"),
        "log_severity_level": 2,
    }  # fmt: skip
    run(config)
    seen = set()
    for found in sorted((folder / "cache").rglob("*.onnx")) + sorted((folder / "out").rglob("*.onnx")):
        content = found.read_bytes()
        if content not in seen and len(content) < MODEL.stat().st_size:
            seen.add(content)
            shutil.copy(found, folder / f"found {len(seen):02}.onnx")


def _olive_data(name: str, script: str, images: str) -> dict[str, Any]:
    return {
        "name": name,
        "user_script": script,
        "load_dataset_config": {"type": images},
        "pre_process_data_config": {"type": "skip_pre_process"},
        "post_process_data_config": {"type": "likeliest"},
        "dataloader_config": {"type": "default_dataloader", "params": {"batch_size": 1}},
    }


def _register() -> None:
    """Where Olive imports this file for its data."""
    from olive.data.registry import Registry

    def images(split: SplitName) -> list[tuple[dict[str, np.ndarray], int]]:
        return [({name: array[0] for name, array in inputs.items()}, int(label[0])) for inputs, label in _inputs(split)]

    @Registry.register_dataset()
    def calibration_images(*_given: Any, **_more: Any) -> list[tuple[dict[str, np.ndarray], int]]:
        return images("calibration")

    @Registry.register_dataset()
    def validation_images(*_given: Any, **_more: Any) -> list[tuple[dict[str, np.ndarray], int]]:
        return images("validation")

    @Registry.register_post_process()
    def likeliest(output: Any, **_more: Any) -> Any:
        return output.argmax(dim=-1)


if __name__ == "__main__":
    main()
elif _RECIPE in os.environ:
    _register()
