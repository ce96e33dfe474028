"""What a `finetune` stage can be told. Light: recipes are checked against this without torch."""

from __future__ import annotations

from compressctl.core.model import Form
from compressctl.core.technique import TechniqueSpec
from compressctl.training.params import AdaptableParams


class FinetuneParams(AdaptableParams):
    """finetune: more training on the task's own loss."""


FINETUNE = TechniqueSpec(
    name="finetune",
    version=2,
    summary="more training on the task's own loss, as recovery after a stage that lost accuracy",
    params=FinetuneParams,
    takes=Form.TORCH,
    gives=Form.TORCH,
    sources=(
        "Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, section 4.1 (lora)",
        "Zimmer et al. 2023, PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs (lora on pruned weights: MaskLoRA)",
    ),
)
