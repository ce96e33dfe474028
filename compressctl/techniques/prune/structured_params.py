"""What `prune.channels`, `prune.heads` and `prune.layers` can be told. Light: recipes are checked against this without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from compressctl.core.model import Form
from compressctl.core.needs import Need, Needs, TechniqueParams
from compressctl.core.technique import TechniqueSpec
from compressctl.training.params import TrainingParams
from compressctl.training.supervision.params import SupervisedParams

Criterion = Literal["l1", "l2", "bn_scale", "fpgm", "taylor", "hessian", "activation", "random"]
Scope = Literal["local", "global", "isomorphic", "measured"]
Budgeted = Literal["macs", "parameters", "latency", "channels"]


class ChannelOverride(BaseModel):
    """Another treatment for the layers that a pattern matches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: str = Field(
        description="shell-style pattern over layer names; layers whose channels are tied follow; matching nothing is an error",
        min_length=1,
    )
    keep: float = Field(
        gt=0,
        le=1,
        description="share of the output channels that stays, whatever the scope says; 1 leaves the layer alone",
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
    samples: int = Field(256, ge=1, description="training samples that taylor, hessian and activation look at")
    round_to: Literal["auto"] | int = Field(
        "auto",
        description="widths become multiples of this; auto: 8, since kernels for processors and GPUs compute channels in blocks "
        "of 8 or 16 and fill up the last one; 1 does not round",
    )
    min_keep: float = Field(0.1, ge=0, le=1, description="share of its channels that each layer keeps")
    iterations: int = Field(1, ge=1, description="cuts that lead to the goal, with scores measured anew before each")
    regularization: SparseLearning | None = Field(None, description="train channels towards zero before the first cut")
    finetune: SupervisedParams | None = Field(
        None, description="training after each cut; a later stage can do the rest"
    )
    bn_samples: int = Field(
        2048, ge=0, description="training samples on which BatchNorm's statistics are measured again after a cut"
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
    version=1,
    summary="whole channels are removed from all the layers that they run through, so that the network becomes smaller",
    params=ChannelsParams,
    takes=Form.TORCH,
    gives=Form.TORCH,
    implementation="compressctl.techniques.prune.channels:apply",
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

    remove: int = Field(1, ge=1, description="number of blocks that go")
    match: str = Field(
        "*",
        min_length=1,
        description="shell-style pattern over the names of blocks that may go; matching none is an error",
    )
    criterion: Literal["loss_increase", "latency"] = Field(
        "loss_increase",
        description="the block that goes first: the one without which the loss rises least (loss_increase), or rises least for each "
        "millisecond that it takes on the target's runtime (latency)",
    )
    samples: int = Field(1024, ge=1, description="validation samples on which the loss is measured without each block")
    bn_samples: int = Field(
        2048, ge=0, description="training samples on which BatchNorm's statistics are measured again after a block went"
    )

    def needs(self) -> Needs:
        """Labelled samples of whichever split has some."""
        samples = (Need.VALIDATION_DATA, Need.CALIBRATION_DATA, Need.TRAINING_DATA)
        timed = (Need.LATENCY,) if self.criterion == "latency" else ()
        return super().needs() | Needs.of(Need.LABELS, Need.TASK_LOSS, reads=(*samples, Need.TASK, *timed))


LAYERS = TechniqueSpec(
    name="prune.layers",
    version=1,
    summary="whole residual blocks are removed, those first without which the measured loss rises least",
    params=LayersParams,
    takes=Form.TORCH,
    gives=Form.TORCH,
    implementation="compressctl.techniques.prune.layers:apply",
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
    samples: int = Field(256, ge=1, description="training samples that taylor looks at")
    min_heads: int = Field(1, ge=1, description="heads that each attention keeps")

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
    implementation="compressctl.techniques.prune.heads:apply",
    sources=("Are Sixteen Heads Really Better than One?, Michel et al. 2019, section 2.3 and equation 2: taylor",),
)
