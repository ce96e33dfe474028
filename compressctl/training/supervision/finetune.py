"""Training that recovers what a stage cost, as a section of the stage's params."""

from __future__ import annotations

from collections.abc import Sequence

from compressctl.core.model import TorchModel
from compressctl.core.technique import RunContext
from compressctl.training.hooks import Hook
from compressctl.training.loop import Trained
from compressctl.training.lora.train import train_adaptable
from compressctl.training.supervision.objective import objective_of
from compressctl.training.supervision.params import RecoveryParams


def finetune(model: TorchModel, params: RecoveryParams, run: RunContext, hooks: Sequence[Hook] = ()) -> Trained:
    """Train model.body in place on the labels, on the outputs of a teacher where one is named, or on both."""
    objective, losses = objective_of(model, params, run)
    return train_adaptable(model, objective, params, run, [*hooks, *losses])
