"""What every search within limits does the same way: compare networks, and let the one that was found recover."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from compressctl.core.data import first_filled
from compressctl.core.model import TorchModel
from compressctl.core.technique import RunContext
from compressctl.techniques.prune._losses import By, loss_of
from compressctl.techniques.search.params import SearchedParams
from compressctl.training.batchnorm_recalibration import recalibrate_bn
from compressctl.training.lora.train import train_adaptable
from compressctl.training.supervision.objective import has_labels, objective_of


def comparison_of(model: TorchModel, params: SearchedParams, run: RunContext) -> Callable[[nn.Module], float]:
    """The loss of networks made of the model, as the criterion says."""
    by: By = "outputs" if params.criterion == "outputs" else "labels"
    if params.criterion == "auto" and not (run.data is not None and run.learning.has_loss and has_labels(run)):
        by = "outputs"
    return loss_of(model, by, params.samples, params.bn_samples, run)


def recovered(model: TorchModel, params: SearchedParams, run: RunContext) -> tuple[TorchModel, dict[str, Any]]:
    """Its norms measured again, in place, and trained where the params say so; with what the report shall hold."""
    facts: dict[str, Any] = {}
    split = first_filled(run.data, "train", "calibration") if params.bn_samples else None
    if split is not None:
        facts["norms_reestimated"] = recalibrate_bn(model.body, split, model.signature, samples=params.bn_samples)
    if params.finetune is not None:
        objective, hooks = objective_of(model, params.finetune, run)
        trained = train_adaptable(model, objective, params.finetune, run.part("finetune"), hooks)
        model, facts["finetune"] = replace(model, body=trained.network), dict(trained.facts)
    return model, facts
