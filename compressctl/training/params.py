"""How a stage trains: the fields that fine-tuning, distillation and quantization-aware training share. Light."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainingParams(BaseModel):
    """Part of a stage's own params where training is what it does, a section of them where training recovers a loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(5, ge=0, description="passes over the train split")
    batch_size: int = Field(128, ge=1, description="samples per step, over all processes together")
    optimizer: Literal["sgd", "adam", "adamw"] = Field("sgd", description="sgd has Nesterov momentum 0.9")
    learning_rate: float = Field(0.01, gt=0, description="the highest; the schedule goes up to it and down from it")
    weight_decay: float = Field(5e-4, ge=0, description="of weights; biases and norms have none")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="how the learning rate falls")
    warmup: float = Field(0.05, ge=0, le=1, description="share of the steps in which the learning rate rises")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of all gradients together")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of each label that is spread over all classes")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16 computes products in 16 bits where the processor does that faster"
    )
