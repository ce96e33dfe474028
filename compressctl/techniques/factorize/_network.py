"""A network in either form, as factorizing sees it: layers as plain data, their inputs, and pieces in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from compressctl.core.data import SplitName
from compressctl.core.feeds import feeds
from compressctl.core.model import Model, Signature, TorchModel
from compressctl.core.technique import RunContext
from compressctl.techniques.factorize._layers import Piece, Survey

_BATCH = 32


class Network(Protocol):
    @property
    def model(self) -> Model:
        """What the layers' names belong to: the model as it is looked at."""
        ...

    @property
    def before(self) -> tuple[str, ...]:
        """What was quantized before, in sentences."""
        ...

    def survey(self) -> Survey:
        """What can be factorized, and why the rest cannot."""
        ...

    def inputs(
        self, layers: Sequence[str], batches: Iterator[dict[str, np.ndarray]]
    ) -> Iterator[dict[str, list[np.ndarray]]]:
        """For each batch what the layers were given, one array per call."""
        ...

    def with_pieces(self, chains: Mapping[str, Sequence[Piece]]) -> Model:
        """A new model with chains in the place of layers; this one stays. Raises StageError when it does not run."""
        ...


def open_network(model: Model, run: RunContext) -> Network:
    if isinstance(model, TorchModel):
        from compressctl.techniques.factorize._torch_network import TorchNetwork

        return TorchNetwork(model, _example(model.signature, run))
    from compressctl.techniques.factorize._onnx_network import OnnxNetwork

    return OnnxNetwork(model)


def calibration_batches(model: Model, run: RunContext) -> Iterator[dict[str, np.ndarray]]:
    assert run.data is not None, "the plan gives calibration data to a technique that needs it"
    for feed in feeds(run.data.split("calibration"), model.signature, _BATCH):
        yield dict(feed.inputs)


def _example(signature: Signature, run: RunContext) -> dict[str, np.ndarray]:
    """Two samples of the data, or zeros: enough to see which layers are called, with which shapes."""
    names: tuple[SplitName, ...] = ("calibration", "train")
    for name in names if run.data is not None else ():
        assert run.data is not None
        found = next(feeds(run.data.split(name), signature, 2), None)
        if found is not None:
            return dict(found.inputs)
    shapes = {
        spec.name: [2, *(1 if isinstance(size, str) else size for size in spec.shape[1:])] for spec in signature.inputs
    }
    return {spec.name: np.zeros(shapes[spec.name], dtype=spec.dtype) for spec in signature.inputs}
