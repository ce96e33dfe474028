"""What `prune.*` stages can be told. Light: recipes are checked against this without numpy or torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator

from compressctl.core.errors import Problem
from compressctl.core.model import Form
from compressctl.core.needs import Need, Needs, TechniqueParams
from compressctl.core.patterns import Override
from compressctl.core.technique import ModelFacts, TechniqueSpec
from compressctl.training.params import TrainingParams
from compressctl.training.supervision.params import RecoveryParams

Criterion = Literal["l1", "l2", "bn_scale", "fpgm", "taylor", "hessian", "activation", "random"]
Scope = Literal["local", "global", "isomorphic", "measured"]
Budgeted = Literal["macs", "parameters", "latency", "channels"]


class ChannelOverride(Override):
    """Another treatment for the layers that a pattern matches."""

    keep: float = Field(
        gt=0,
        le=1,
        description="share of the output channels that stays, whatever the scope says; 1 leaves the layer alone. Layers whose "
        "channels are tied follow",
    )


class SparseLearning(TrainingParams):
    """Training that shrinks the weakest channels before they are cut, so that the cut loses little."""

    method: Literal["group_norm", "growing"] = Field(
        "group_norm",
        description="pull all channels to zero, weak ones up to 16 times harder (group_norm), or only those that shall go, "
        "harder and harder (growing)",
    )
    strength: float = Field(
        5e-4,
        gt=0,
        le=1e9,
        description="how hard a channel is pulled; for growing, by how much that rises over each tenth of the steps",
    )


class ChannelsParams(TechniqueParams):
    """prune.channels: whole channels are removed; the layers become smaller."""

    keep: float = Field(0.5, gt=0, le=1, description="share that is left of what `of` names")
    of: Budgeted = Field(
        "macs",
        description="what `keep` is a share of: multiply-accumulates and parameters of convolutions and linear layers, output "
        "channels, or latency, which is measured on the target's runtime",
    )
    criterion: Criterion = Field(
        "l2",
        description="which channels are weakest: size of their weights (l1, l2), of BatchNorm's scale (bn_scale), nearness to "
        "the layer's other filters (fpgm), first- or second-order estimate of the loss without them (taylor, hessian), mean "
        "activation, or random, as a baseline",
    )
    scope: Scope = Field(
        "global",
        description="how the cut is spread: the same share of each layer (local), the weakest of all layers (global), of layers "
        "of one structure (isomorphic), or what costs least for each microsecond that it saves on the target (measured)",
    )
    samples: int = Field(
        256, ge=1, le=2_147_483_647, description="training samples that taylor, hessian and activation look at"
    )
    round_to: Literal["auto"] | int = Field(
        "auto",
        description="widths become multiples of this; auto: 8, since kernels for processors and GPUs compute channels in blocks "
        "of 8 or 16 and fill up the last one; 1 does not round",
    )
    min_keep: float = Field(0.1, ge=0, le=1, description="share of its channels that each layer keeps")
    iterations: int = Field(
        1, ge=1, le=10_000, description="cuts that lead to the goal, with scores measured anew before each"
    )
    regularization: SparseLearning | None = Field(None, description="train channels towards zero before the first cut")
    finetune: RecoveryParams | None = Field(None, description="training after each cut; a later stage can do the rest")
    bn_samples: int = Field(
        2048,
        ge=0,
        le=2_147_483_647,
        description="training samples on which BatchNorm's statistics are measured again after a cut",
    )
    overrides: tuple[ChannelOverride, ...] = Field((), description="exceptions by pattern, later ones win")

    def needs(self) -> Needs:
        """Samples for what a criterion or BatchNorm looks at, from calibration where there are none to train on."""
        found = super().needs()
        if self.looks_at_samples:
            found |= Needs.of(Need.TRAINING_DATA, reads=(Need.CALIBRATION_DATA,))
        if self.looks_at_the_loss:
            found |= Needs.of(Need.LABELS, Need.TASK_LOSS, reads=(Need.TASK,))
        if self.bn_samples:
            found |= Needs.of(reads=(Need.TRAINING_DATA, Need.CALIBRATION_DATA))
        if self.scope == "measured" or self.of == "latency":
            found |= Needs.of(reads=(Need.LATENCY,))
        return found

    @property
    def looks_at_samples(self) -> bool:
        """Whether the criterion judges channels by what samples make of them."""
        return self.looks_at_the_loss or self.criterion == "activation"

    @property
    def looks_at_the_loss(self) -> bool:
        return self.criterion in ("taylor", "hessian")


CHANNELS = TechniqueSpec(
    name="prune.channels",
    version=2,
    summary="whole channels are removed from all the layers that they run through, so that the network becomes smaller",
    params=ChannelsParams,
    takes=Form.TORCH,
    gives=Form.TORCH,
    sources=(
        "DepGraph, Fang et al. 2023, sections 3.2 and 3.3: groups of coupled channels, group norm, sparse learning",
        "Importance Estimation for Neural Network Pruning, Molchanov et al. 2019, equation 8: taylor",
        "Filter Pruning via Geometric Median, He et al. 2019, section 3.3: fpgm",
        "Optimal Brain Damage, LeCun et al. 1990, with squared gradients as the diagonal of the Hessian: hessian",
        "Neural Pruning via Growing Regularization, Wang et al. 2021, section 3: sparse learning by growing pulls",
        "Isomorphic Pruning for Vision Models, Fang et al. 2024: scope isomorphic",
    ),
)


class LayersParams(TechniqueParams):
    """prune.layers: whole residual blocks are removed."""

    remove: int = Field(1, ge=1, le=65_536, description="number of blocks that go")
    match: str = Field(
        "*",
        min_length=1,
        description="shell-style pattern over the names of blocks that may go; matching none is an error",
    )
    criterion: Literal["loss_increase", "latency", "outputs"] = Field(
        "loss_increase",
        description="the block that goes first: the one without which the loss rises least (loss_increase), or rises least for each "
        "millisecond that it takes on the target's runtime (latency), or without which outputs stay nearest to those of the whole network, "
        "which takes no labels (outputs)",
    )
    samples: int = Field(
        1024, ge=1, le=2_147_483_647, description="validation samples on which the loss is measured without each block"
    )
    bn_samples: int = Field(
        2048,
        ge=0,
        le=2_147_483_647,
        description="training samples on which BatchNorm's statistics are measured again after a block went",
    )

    def needs(self) -> Needs:
        """Samples of whichever split has some, with labels unless outputs are compared."""
        samples = (Need.VALIDATION_DATA, Need.CALIBRATION_DATA, Need.TRAINING_DATA)
        timed = (Need.LATENCY,) if self.criterion == "latency" else ()
        labelled = () if self.criterion == "outputs" else (Need.LABELS, Need.TASK_LOSS)
        return super().needs() | Needs.of(*labelled, reads=(*samples, Need.TASK, *timed))


LAYERS = TechniqueSpec(
    name="prune.layers",
    version=1,
    summary="whole residual blocks are removed, those first without which the measured loss rises least",
    params=LayersParams,
    takes=Form.TORCH,
    gives=Form.TORCH,
)


class HeadsParams(TechniqueParams):
    """prune.heads: whole attention heads are removed."""

    keep: float = Field(0.5, gt=0, le=1, description="share of all heads that is left")
    criterion: Literal["taylor", "l2", "random"] = Field(
        "taylor",
        description="which heads are weakest: slope of the loss in a factor before each head, on samples (taylor), size of the "
        "head's value and output weights (l2), or random, as a baseline",
    )
    scope: Literal["local", "global"] = Field(
        "global", description="the same share of each attention (local), or the weakest of all (global)"
    )
    samples: int = Field(256, ge=1, le=2_147_483_647, description="training samples that taylor looks at")
    min_heads: int = Field(1, ge=1, le=65_536, description="heads that each attention keeps")

    def needs(self) -> Needs:
        slope = Needs.of(Need.TRAINING_DATA, Need.LABELS, Need.TASK_LOSS, reads=(Need.TASK,))
        return super().needs() | (slope if self.criterion == "taylor" else Needs())


HEADS = TechniqueSpec(
    name="prune.heads",
    version=1,
    summary="whole attention heads are removed, with their part of the query, key, value and output projections",
    params=HeadsParams,
    takes=Form.TORCH,
    gives=Form.TORCH,
    sources=("Are Sixteen Heads Really Better than One?, Michel et al. 2019, section 2.3 and equation 2: taylor",),
)


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


class SparsityOverride(Override):
    """Another treatment for the weights that a pattern matches."""

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
        None,
        ge=1,
        le=1_000_000,
        description="gradual: optimizer steps between cuts; by default there are about 100 cuts",
    )
    finetune: RecoveryParams | None = Field(
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
        le=10_000,
        description="sparsegpt: passes over the calibration data; in each the next layers are pruned, for inputs that come from "
        "pruned layers. As many as there are layers is most exact; there are more where the matrices of one round take over 0.5 GB",
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

    def problems(self, facts: ModelFacts) -> Iterator[Problem]:
        yield from super().problems(facts)
        yield from _patterns(self)
        yield from _schedules(self)


def implied(pattern: Pattern) -> float:
    """The share of zeros of an N:M pattern, 0.5 for another."""
    found = n_of_m(pattern)
    return 0.5 if found is None else 1.0 - found[0] / found[1]


def _patterns(params: UnstructuredParams) -> Iterator[Problem]:
    if n_of_m(params.pattern) and params.sparsity is not None and abs(params.sparsity - implied(params.pattern)) > 1e-9:
        said = f"{params.pattern} makes a share of {implied(params.pattern):g} zero"
        yield Problem(f"{said}, not {params.sparsity:g}", "sparsity", "leave sparsity out")
    if n_of_m(params.pattern) and params.is_global:
        hint = "leave scope out" if params.scope == "global" else "use magnitude, wanda or sparsegpt"
        where = "scope" if params.scope == "global" else "method"
        yield Problem("an N:M pattern fixes the share of each layer", where, hint)
    if params.scope == "global" and params.method not in _GLOBAL:
        yield Problem(f"scores of {params.method} cannot be compared between layers", "scope", "use lamp or magnitude")
    if params.scope == "local" and params.method == "lamp":
        yield Problem("lamp spreads the share over layers", "scope", "use magnitude for a share per layer")
    for position, override in enumerate(params.overrides):
        path = f"overrides[{position}]"
        if override.sparsity is None and override.pattern is None:
            yield Problem("it changes nothing", path, "give sparsity (0 keeps the layer dense) or pattern")
        ratio = n_of_m(override.pattern or params.pattern)
        if ratio and override.sparsity and abs(override.sparsity - (1 - ratio[0] / ratio[1])) > 1e-9:
            yield Problem("an N:M pattern fixes the share of zeros", f"{path}.sparsity", "leave it out, or set pattern")


def _schedules(params: UnstructuredParams) -> Iterator[Problem]:
    if params.schedule != "one-shot" and params.finetune is None:
        what = "prunes while fine-tuning" if params.schedule == "gradual" else "fine-tunes after each cut"
        yield Problem(
            f"schedule {params.schedule} {what}, and there is no `finetune`",
            "schedule",
            "add finetune: {epochs: 5}",
        )
    if params.schedule == "gradual" and params.method not in _GRADUAL:
        yield Problem(f"{params.method} decides from calibration data, not while training", "schedule", "use iterative")
    if params.method == "movement" and params.schedule != "gradual":
        yield Problem(
            "movement is what fine-tuning shows, so that it prunes gradually", "schedule", "set schedule: gradual"
        )
    if params.schedule != "one-shot" and params.finetune is not None and params.finetune.epochs == 0:
        yield Problem(f"schedule {params.schedule} needs epochs to train", "finetune.epochs", "give 1 or more")
    if params.schedule == "gradual" and params.finetune is not None and params.finetune.lora is not None:
        hint = "use schedule: one-shot or iterative, which train after each cut, or leave lora out"
        yield Problem("gradual pruning moves the weights that adapters leave as they are", "finetune.lora", hint)
    if params.begin >= params.end:
        yield Problem(f"it begins at {params.begin:g} and ends at {params.end:g}", "begin", "begin before the end")


UNSTRUCTURED = TechniqueSpec(
    name="prune.unstructured",
    version=4,
    summary="weights become zero, singly, N of M, or in blocks; a smaller file for transport, rarely more speed",
    params=UnstructuredParams,
    takes=(Form.TORCH, Form.ONNX),
    gives=None,
    sources=(
        "Zhu & Gupta 2017, To prune, or not to prune: exploring the efficacy of pruning for model compression, equation 1",
        "Lee et al. 2021, Layer-adaptive Sparsity for the Magnitude-based Pruning (LAMP), equation 3",
        "Sanh et al. 2020, Movement Pruning: Adaptive Sparsity by Fine-Tuning, section 4",
        "Sun et al. 2023, A Simple and Effective Pruning Approach for Large Language Models (Wanda), section 3",
        "Frantar & Alistarh 2023, SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot, algorithm 1",
        "An et al. 2024, Fluctuation-based Adaptive Structured Pruning for Large Language Models, section 3.3 (bias_correction)",
        "Mishra et al. 2021, Accelerating Sparse Deep Neural Networks (2:4), section 3",
    ),
)
