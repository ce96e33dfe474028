"""What a `prune.unstructured` stage can be told. Light: recipes are checked against this without numpy or torch."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from compressctl.core.errors import Problem
from compressctl.core.model import Form
from compressctl.core.needs import Need, Needs, TechniqueParams
from compressctl.core.technique import ModelFacts, TechniqueSpec
from compressctl.training.supervision.params import SupervisedParams

Method = Literal["magnitude", "lamp", "movement", "wanda", "sparsegpt"]

_CALIBRATED = ("wanda", "sparsegpt")
_GLOBAL = ("magnitude", "lamp", "movement")
_GRADUAL = ("magnitude", "lamp", "movement")


Pattern = str | tuple[int, int]
_LARGEST_SIDE = 1024


def _checked(pattern: Pattern | None) -> Pattern | None:
    if pattern is None or pattern == "unstructured":
        return pattern
    if isinstance(pattern, str):
        found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", pattern)
        fits = found is not None and 0 < int(found[1]) < int(found[2])
    else:
        fits = all(1 <= side <= _LARGEST_SIDE for side in pattern)
    if not fits:
        raise ValueError(
            'a pattern is unstructured, N:M with 0 < N < M as in "2:4" (at most N of M are not zero), or a block as in [4, 1]'
        )
    return pattern


def n_of_m(pattern: Pattern) -> tuple[int, int] | None:
    """N and M of an N:M pattern, None for another."""
    if not isinstance(pattern, str) or pattern == "unstructured":
        return None
    kept, _, of = pattern.partition(":")
    return int(kept), int(of)


class SparsityOverride(BaseModel):
    """Another treatment for the weights that a pattern matches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: str = Field(
        description="shell-style pattern over names of weights and layers; matching nothing is an error", min_length=1
    )
    sparsity: float | None = Field(
        None, ge=0, lt=1, description="share of zeros in each of these layers by itself; 0 keeps them as they are"
    )
    pattern: Pattern | None = Field(None, description='how their zeros lie, as in "1:4" or [4, 1]')

    _pattern = field_validator("pattern")(_checked)


class UnstructuredParams(TechniqueParams):
    """prune.unstructured: single weights, or N of M neighbours, or small blocks, become zero; no shape changes."""

    method: Method = Field(
        "magnitude",
        description="what decides: |w| (magnitude), |w| scaled to compare layers (lamp), -w * gradient summed while fine-tuning "
        "(movement), |w| times the norm of its input (wanda), least output error with an update of the rest (sparsegpt)",
    )
    sparsity: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of zeros in the weights that are pruned; default 0.5, or what an N:M pattern says",
    )
    pattern: Pattern = Field(
        "unstructured",
        description='how zeros lie: unstructured, N:M as in "2:4" (at most N of M neighbouring input channels are not zero), '
        "or blocks as in [4, 1] (output channels x input channels)",
    )
    scope: Literal["local", "global"] | None = Field(
        None,
        description="the share holds for each layer (default), or for all together (always so for lamp): then what is lowest "
        "anywhere goes first",
    )
    schedule: Literal["one-shot", "iterative", "gradual"] = Field(
        "one-shot",
        description="all at once, then fine-tuning where given; several cuts with fine-tuning after each; or more and more "
        "while fine-tuning",
    )
    iterations: int = Field(
        3, ge=2, le=100, description="iterative: cuts, each removing the same share of what is left"
    )
    begin: float = Field(
        0.0, ge=0, lt=1, description="gradual: share of the fine-tuning after which the first cut comes"
    )
    end: float = Field(
        0.75, gt=0, le=1, description="gradual: share of the fine-tuning after which nothing more is cut"
    )
    every: int | None = Field(
        None, ge=1, description="gradual: optimizer steps between cuts; by default there are about 100 cuts"
    )
    finetune: SupervisedParams | None = Field(
        None, description="training that makes up for what is cut; iterative does it after each cut"
    )
    first_and_last: Literal["auto", "keep", "prune"] = Field(
        "auto",
        description="the first and the last layer; auto keeps each dense where it holds less than 5 % of the weights: they "
        "decide much and save little. An override that names one decides for it",
    )
    embeddings: bool = Field(False, description="prune embedding tables too")
    damping: float = Field(
        0.01, gt=0, le=1, description="sparsegpt: what is added to the Hessian's diagonal, as a share of its mean"
    )
    rounds: int = Field(
        16,
        ge=1,
        description="sparsegpt: passes over the calibration data; in each the next layers are pruned, for inputs that come from "
        "pruned layers. As many as there are layers is most exact",
    )
    bias_correction: bool = Field(
        True, description="wanda and sparsegpt: shift biases by the mean of what the zeros take away from each output"
    )
    recalibrate_bn: bool | None = Field(
        None,
        description="without fine-tuning, measure BatchNorm's means and variances anew on the calibration data (torch models "
        "only); by default where the method uses those data anyway",
    )
    overrides: tuple[SparsityOverride, ...] = Field((), description="exceptions by pattern, later ones win")

    _pattern = field_validator("pattern")(_checked)

    def needs(self) -> Needs:
        calibrated = (Need.CALIBRATION_DATA,) if self.is_calibrated or self.measures_norms else ()
        return super().needs() | Needs.of(*calibrated)

    @property
    def is_calibrated(self) -> bool:
        """Whether the method decides from what layers are given."""
        return self.method in _CALIBRATED

    @property
    def share(self) -> float:
        """The share of zeros that is wanted."""
        if self.sparsity is not None:
            return self.sparsity
        return implied(self.pattern)

    @property
    def measures_norms(self) -> bool:
        """Whether BatchNorm's statistics are measured anew after the cut. Fine-tuning brings its own."""
        wanted = self.is_calibrated if self.recalibrate_bn is None else self.recalibrate_bn
        return wanted and self.finetune is None

    @property
    def is_global(self) -> bool:
        return self.method == "lamp" or self.scope == "global"


def implied(pattern: Pattern) -> float:
    """The share of zeros of an N:M pattern, 0.5 for another."""
    found = n_of_m(pattern)
    return 0.5 if found is None else 1.0 - found[0] / found[1]


def check_unstructured(params: UnstructuredParams, facts: ModelFacts) -> list[Problem]:
    problems = [*_patterns(params), *_schedules(params)]
    if facts.quantized:
        problems.append(
            Problem(
                "the model is already quantized by an earlier stage", "use", "prune first: integers keep exact zeros"
            )
        )
    if facts.form is Form.ONNX and params.finetune is not None:
        problems.append(
            Problem(
                "fine-tuning needs a torch model, but the model is an ONNX graph here",
                "finetune",
                "leave it out (sparsegpt loses least without it), or give the model as torch (source: python)",
            )
        )
    return problems


def _patterns(params: UnstructuredParams) -> list[Problem]:
    problems = []
    if n_of_m(params.pattern) and params.sparsity is not None and abs(params.sparsity - implied(params.pattern)) > 1e-9:
        said = f"{params.pattern} makes a share of {implied(params.pattern):g} zero"
        problems.append(Problem(f"{said}, not {params.sparsity:g}", "sparsity", "leave sparsity out"))
    if n_of_m(params.pattern) and params.is_global:
        hint = "leave scope out" if params.scope == "global" else "use magnitude, wanda or sparsegpt"
        where = "scope" if params.scope == "global" else "method"
        problems.append(Problem("an N:M pattern fixes the share of each layer", where, hint))
    if params.scope == "global" and params.method not in _GLOBAL:
        problems.append(
            Problem(f"scores of {params.method} cannot be compared between layers", "scope", "use lamp or magnitude")
        )
    if params.scope == "local" and params.method == "lamp":
        problems.append(Problem("lamp spreads the share over layers", "scope", "use magnitude for a share per layer"))
    for position, override in enumerate(params.overrides):
        path = f"overrides[{position}]"
        if override.sparsity is None and override.pattern is None:
            problems.append(Problem("it changes nothing", path, "give sparsity (0 keeps the layer dense) or pattern"))
        ratio = n_of_m(override.pattern or params.pattern)
        if ratio and override.sparsity and abs(override.sparsity - (1 - ratio[0] / ratio[1])) > 1e-9:
            problems.append(
                Problem("an N:M pattern fixes the share of zeros", f"{path}.sparsity", "leave it out, or set pattern")
            )
    return problems


def _schedules(params: UnstructuredParams) -> list[Problem]:
    problems = []
    if params.schedule != "one-shot" and params.finetune is None:
        what = "prunes while fine-tuning" if params.schedule == "gradual" else "fine-tunes after each cut"
        problems.append(
            Problem(
                f"schedule {params.schedule} {what}, and there is no `finetune`",
                "schedule",
                "add finetune: {epochs: 5}",
            )
        )
    if params.schedule == "gradual" and params.method not in _GRADUAL:
        problems.append(
            Problem(f"{params.method} decides from calibration data, not while training", "schedule", "use iterative")
        )
    if params.method == "movement" and params.schedule != "gradual":
        problems.append(
            Problem(
                "movement is what fine-tuning shows, so that it prunes gradually", "schedule", "set schedule: gradual"
            )
        )
    if params.schedule != "one-shot" and params.finetune is not None and params.finetune.epochs == 0:
        problems.append(
            Problem(f"schedule {params.schedule} needs epochs to train", "finetune.epochs", "give 1 or more")
        )
    if params.begin >= params.end:
        problems.append(
            Problem(f"it begins at {params.begin:g} and ends at {params.end:g}", "begin", "begin before the end")
        )
    return problems


UNSTRUCTURED = TechniqueSpec(
    name="prune.unstructured",
    version=3,
    summary="weights become zero, singly, N of M, or in blocks; a smaller file for transport, rarely more speed",
    params=UnstructuredParams,
    takes=(Form.TORCH, Form.ONNX),
    gives=None,
    implementation="compressctl.techniques.prune.unstructured:apply",
    sources=(
        "Zhu & Gupta 2017, To prune, or not to prune: exploring the efficacy of pruning for model compression, equation 1",
        "Lee et al. 2021, Layer-adaptive Sparsity for the Magnitude-based Pruning (LAMP), equation 3",
        "Sanh et al. 2020, Movement Pruning: Adaptive Sparsity by Fine-Tuning, section 4",
        "Sun et al. 2023, A Simple and Effective Pruning Approach for Large Language Models (Wanda), section 3",
        "Frantar & Alistarh 2023, SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot, algorithm 1",
        "An et al. 2024, Fluctuation-based Adaptive Structured Pruning for Large Language Models, section 3.3 (bias_correction)",
        "Mishra et al. 2021, Accelerating Sparse Deep Neural Networks (2:4), section 3",
    ),
    check=check_unstructured,
)
