"""A model in either form, as factorizing sees it: layers that can become chains of pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from compressctl.core.data import first_filled
from compressctl.core.feeds import feeds, zeros
from compressctl.core.model import Model, Signature, TorchModel
from compressctl.core.technique import RunContext
from compressctl.layers.network import Network
from compressctl.techniques.factorize._pieces import Piece, Survey


class Factorizable(Protocol):
    @property
    def network(self) -> Network:
        """The model's layers, which are only read."""
        ...

    def survey(self) -> Survey:
        """What can be factorized, and why the rest cannot."""
        ...

    def with_pieces(self, chains: Mapping[str, Sequence[Piece]]) -> Model:
        """A new model with chains in the place of modules or nodes; this one stays. Raises StageError when it does not run."""
        ...


def open_factorizable(model: Model, run: RunContext) -> Factorizable:
    if isinstance(model, TorchModel):
        from compressctl.techniques.factorize._torch_network import TorchChains

        return TorchChains(model, _example(model.signature, run))
    from compressctl.techniques.factorize._onnx_network import OnnxChains

    return OnnxChains(model, run.events, run.target.input_shapes)


def _example(signature: Signature, run: RunContext) -> Mapping[str, np.ndarray]:
    """Two samples of the data, or zeros: enough to see which layers are called, with which shapes."""
    split = first_filled(run.data, "calibration", "train")
    found = None if split is None else next(feeds(split, signature, 2), None)
    return zeros(signature.inputs, 2) if found is None else found.inputs
