"""A stage that calibration stopped because a tensor is infinite or no number: where that comes from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compressctl.core.model import OnnxModel
from compressctl.diagnosis.causes import Found, masking_constant
from compressctl.diagnosis.document import Cause
from compressctl.diagnosis.noise import Inputs
from compressctl.diagnosis.trace import TracedStage
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.index import index
from compressctl.graph.simplify import simplify
from compressctl.graph.sites import activations, find_sites


def not_a_number(stage: TracedStage, calls: Sequence[Inputs]) -> list[Found]:
    """The mask constant that makes tensors infinite which a quantizing stage would give ranges to; nothing where it is not that."""
    if not stage.stage.use.startswith("quantize.") or not isinstance(stage.before, OnnxModel):
        return []
    body = simplify(stage.before.body)
    sites, looked_up = find_sites(body.graph), index(body.graph)
    recorder = ActivationRecorder(body, activations(sites))
    infinite: dict[str, None] = {}
    for inputs in calls:
        infinite.update(
            dict.fromkeys(name for name, values in recorder.run(inputs).items() if not np.isfinite(values).all())
        )
    layers = tuple(site.node for site in sites if infinite.keys() & {*site.inputs, site.output})
    for tensor in activations(sites):
        constant = masking_constant(looked_up, tensor, np.inf) if tensor in infinite else None
        if constant is not None:
            evidence = f"{constant[0]} puts {constant[1]:.3g} into it, and no range covers that"
            return [
                Found(Cause(name="mask constant", tensor=tensor, layers=layers, share=None, evidence=evidence), layers)
            ]
    return []
