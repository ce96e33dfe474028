"""Networks and run contexts for the tests of factorize.*"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

from compressctl.core.events import Events
from compressctl.core.model import Model, Signature, TensorSpec, TorchModel
from compressctl.core.source import SplitSizes
from compressctl.core.target import Target
from compressctl.core.technique import RunContext
from compressctl.recipe.schema import DataSection
from compressctl.sources.load import load_dataset
from compressctl.sources.params import DigitsParams
from compressctl.tasks.metric_specs import ACCURACY


def as_model(network: nn.Module, shape: Sequence[int], outputs: Sequence[int] = (10,)) -> Model:
    """shape: of one sample."""
    signature = Signature(
        (TensorSpec("input", "float32", ("batch", *shape)),), (TensorSpec("output", "float32", ("batch", *outputs)),)
    )
    return TorchModel(network.eval(), signature)


def context(**changes: Any) -> RunContext:
    return replace(RunContext(seed=0, events=Events(), folder=Path(), target=Target("onnxruntime")), **changes)


def digits_context(**changes: Any) -> RunContext:
    """With scikit-learn's digits and a score that ONNX Runtime computes."""
    data = load_dataset(DataSection("digits", DigitsParams(), SplitSizes(calibration=200)), Path(), 0)

    def score(model: Model, split: str) -> float:
        samples = data.split(split)  # type: ignore[arg-type]
        batch = next(samples.batches(len(samples)))
        assert batch.labels is not None
        outputs = run_onnx(model, next(iter(batch.inputs.values())))
        return float((outputs.argmax(axis=1) == batch.labels).mean() * 100)

    return context(data=data, score=score, metric=ACCURACY, **changes)


def run_onnx(model: Model, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.body.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: inputs}
    return np.asarray(session.run(None, given)[0])


def run_torch(network: nn.Module, inputs: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(torch.from_numpy(inputs)).numpy()


def random_images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
