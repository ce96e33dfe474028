"""finetune: more training on the task's own loss."""

from __future__ import annotations

import copy
from dataclasses import replace

from compressctl.core.model import TorchModel
from compressctl.core.technique import RunContext, StageResult
from compressctl.techniques.finetune.params import FinetuneParams
from compressctl.training.lora.train import train_adaptable
from compressctl.training.objective import task_objective


def apply(model: TorchModel, params: FinetuneParams, run: RunContext) -> StageResult:
    trainable = replace(model, body=copy.deepcopy(model.body))
    trained = train_adaptable(trainable, task_objective(run.learning, params.label_smoothing), params, run)
    return StageResult(replace(model, body=trained.network), trained.facts)
