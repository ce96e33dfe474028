"""What `dynamic.*` stages can be told. Light: recipes are checked against this without numpy or torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from compressctl.core.model import Form
from compressctl.core.needs import Need, Needs, TechniqueParams
from compressctl.core.technique import TechniqueSpec
from compressctl.training.supervision.params import RecoveryParams, SupervisedParams


def _default(params: TechniqueParams, name: str) -> Any:
    """What a resolved recipe says where nobody did."""
    return type(params).model_fields[name].default


class ExitsParams(SupervisedParams):
    """dynamic.exits: heads on the way answer where they are sure, and the rest of the network is not computed."""

    exits: int = Field(2, ge=1, le=16, description="how many, spread evenly over the network's multiply-accumulates")
    at: tuple[str, ...] = Field(
        (),
        description="modules behind which the exits are, in the order in which they run, instead of `exits`; the report of a run names those that can be",
    )
    learn: Literal["all", "heads"] = Field(
        "all",
        description="what is trained: the whole network with its exits, or their heads alone, so that the network stays as it is",
    )
    head: Literal["convolutions", "pooled"] = Field(
        "convolutions",
        description="what stands in front of an exit's linear layer: for maps three convolutions, the first two with a stride, and pooling; or pooling alone, as for tokens",
    )
    head_width: Literal["auto"] | Annotated[int, Field(ge=1, le=65_536)] = Field(
        "auto",
        description="channels of a head's first convolution, the others have twice as many; auto: so many that a head takes a twentieth of the network's multiply-accumulates, and 8 at least",
    )
    exit_weight: float = Field(1.0, gt=0, le=1e9, description="of all exits' losses together, beside the network's own")
    drop: float = Field(
        0.5,
        ge=0,
        le=100,
        description="percentage points of right answers on the validation split that may be lost by leaving early; without labels, of answers that are the network's own; of an encoder, hundredths of the mean cosine with its own vectors",
    )
    margin: float = Field(
        1.0,
        ge=0,
        le=10,
        description="standard errors by which the loss on the validation split stays below `drop`: thresholds are chosen among many, so that they lose more on other samples; 0 takes the samples at their word",
    )
    average: float | None = Field(
        None,
        gt=0,
        le=1,
        description="instead of drop: the mean cost of a sample as a share of the network's; the thresholds are the best that keep it",
    )
    cost: Literal["latency", "macs"] = Field(
        "latency",
        description="what a sample that leaves early saves: as the target's runtime takes to get there, or multiply-accumulates",
    )
    thresholds: tuple[float, ...] = Field(
        (),
        description="confidences between 0 and 1 above which the exits answer, as a report names them: nothing is chosen. -1 always, 2 never",
    )
    temperatures: tuple[float, ...] = Field(
        (),
        description="beside thresholds: what the scores of the exits are divided by, so that they are as sure as they are right",
    )

    def needs(self) -> Needs:
        """Thresholds are chosen on the validation split, by its labels where it has some."""
        found = super().needs()
        chosen = Needs() if self.thresholds else Needs.of(Need.VALIDATION_DATA, reads=(Need.LABELS,))
        timed = Needs.of(reads=(Need.LATENCY,)) if self.cost == "latency" and not self.thresholds else Needs()
        return found | chosen | timed | Needs.of(reads=(Need.TASK,))

    @model_validator(mode="after")
    def _agree(self) -> ExitsParams:
        if self.at and self.exits not in (len(self.at), _default(self, "exits")):
            raise ValueError(f"at names {len(self.at)} modules and exits says {self.exits}: leave one of them out")
        if len(set(self.at)) < len(self.at):
            raise ValueError("at names a module twice")
        if any(not 0 <= one <= 1 and one not in (-1, 2) for one in self.thresholds):
            raise ValueError(
                "thresholds are confidences between 0 and 1, -1 for an exit that always answers, 2 for one that never does"
            )
        if self.average is not None and self.drop != _default(self, "drop"):
            raise ValueError("give either drop or average: one is kept, the other is what comes of it")
        count = len(self.at) or self.exits
        if self.temperatures and (len(self.temperatures) != len(self.thresholds) or min(self.temperatures) <= 0):
            raise ValueError("temperatures go with thresholds, one above 0 for each")
        if self.thresholds and len(self.thresholds) != count:
            raise ValueError(f"thresholds has {len(self.thresholds)} numbers for {count} exits")
        return self


class BlocksParams(SupervisedParams):
    """dynamic.blocks: residual blocks are skipped where a gate that looks at their input says so."""

    average: float = Field(
        0.7, gt=0, lt=1, description="the mean cost of a sample, as a share of the network's multiply-accumulates"
    )
    match: str = Field(
        "*",
        min_length=1,
        description="shell-style pattern over the names of residual blocks; matching none is an error",
    )
    cost_weight: float = Field(
        10.0, gt=0, le=1e9, description="of the loss that says how far a batch's mean cost is above `average`"
    )
    threshold: float | None = Field(
        None,
        ge=-1e6,
        le=1e6,
        description="the score from which gates open, as recipe.pinned.yaml has it; without, the least that keeps `average` on the validation split",
    )

    def needs(self) -> Needs:
        """The threshold is set on the validation split, without its labels, and scored there where a metric does."""
        return super().needs() | Needs.of(reads=(Need.VALIDATION_DATA, Need.SCORE))


BLOCKS = TechniqueSpec(
    name="dynamic.blocks",
    version=3,
    summary="gated blocks: a residual block is computed for the inputs that need it, and skipped for the others",
    params=BlocksParams,
    takes=Form.TORCH,
    gives=Form.TORCH,
    sources=(
        "Convolutional Networks with Adaptive Inference Graphs, Veit & Belongie 2018, section 3: gates with noise, a loss of costs",
        "SkipNet, Wang et al. 2018: blocks skipped by their input",
    ),
)


class ExpertsParams(TechniqueParams):
    """dynamic.experts: feed-forward layers in parts, of which each input gets those that a router chooses."""

    experts: int = Field(16, ge=2, le=1024, description="parts of each layer, of equally many hidden units")
    chosen: int = Field(4, ge=1, le=1024, description="how many of them an input gets")
    match: str = Field(
        "*",
        min_length=1,
        description="shell-style pattern over the names of feed-forward layers; matching none is an error",
    )
    samples: int = Field(
        4096,
        ge=1,
        le=2_147_483_647,
        description="rows of inputs of a layer by which its units are grouped, and its router is fitted",
    )
    finetune: RecoveryParams | None = Field(None, description="training of the network with its experts")

    def needs(self) -> Needs:
        """Inputs of the layers, of whichever split has some."""
        return super().needs() | Needs.of(reads=(Need.TRAINING_DATA, Need.CALIBRATION_DATA))

    @model_validator(mode="after")
    def _some_are_left(self) -> ExpertsParams:
        if self.chosen >= self.experts:
            raise ValueError(f"chosen is below experts, {self.experts}: all of them are the layer as it is")
        return self


EXPERTS = TechniqueSpec(
    name="dynamic.experts",
    version=2,
    summary="experts: hidden units that are active together are grouped, and of each feed-forward layer only the groups that an input needs are computed",
    params=ExpertsParams,
    takes=Form.TORCH,
    gives=Form.TORCH,
    promises_speed=True,
    sources=("MoEfication, Zhang et al. 2022, section 3: experts by balanced clustering, routers that are fitted",),
)


class TokensParams(TechniqueParams):
    """dynamic.tokens: the blocks of a transformer see fewer tokens the further they are."""

    method: Literal["prune", "merge"] = Field(
        "prune",
        description="prune: the least attended tokens become one, their mean; merge: the most alike ones become their means",
    )
    keep: float | tuple[float, ...] = Field(
        0.7,
        description="share of its tokens that a block passes on at each place, a number or one for each place; merging keeps 0.55 at least",
    )
    at: Literal["spread", "every"] | tuple[str, ...] = Field(
        "spread",
        description="blocks behind which tokens go: spread, behind a quarter, a half and three quarters of them; every block but the last; or their names",
    )
    attended: Literal["auto", "class", "all"] = Field(
        "auto",
        description="of prune, whose attention counts: the first token's or everybody's; auto: the first token's where the network's result is read off it alone",
    )
    latency: float | None = Field(
        None,
        gt=0,
        le=1,
        description="instead of keep: the latency on the target's runtime as a share of the network's; of four schedules, each timed a dozen times, the one whose outputs are nearest",
    )
    finetune: RecoveryParams | None = Field(None, description="training of the network with its fewer tokens")

    def needs(self) -> Needs:
        """Samples tell schedules apart."""
        samples = (Need.VALIDATION_DATA, Need.CALIBRATION_DATA, Need.TRAINING_DATA)
        timed = Needs.of(Need.LATENCY, reads=(*samples, Need.TASK)) if self.latency is not None else Needs()
        return super().needs() | timed

    @model_validator(mode="after")
    def _agree(self) -> TokensParams:
        if self.latency is not None and self.keep != _default(self, "keep"):
            raise ValueError("give either keep or latency: one decides the other")
        if self.method == "merge" and self.attended != "auto":
            raise ValueError("attended is of method: prune, and merging looks at no attention")
        if self.at == ():
            raise ValueError("at names no block")
        least = 0.55 if self.method == "merge" else 0.0
        shares = self.keep if isinstance(self.keep, tuple) else (self.keep,)
        if not shares or any(not least <= share <= 1 or share == 0 for share in shares):
            raise ValueError(f"keep is a share between {least:g} and 1, or one for each place")
        if self.latency is None and all(share == 1 for share in shares):
            raise ValueError("keep: 1 keeps every token, so that nothing would change")
        if isinstance(self.keep, tuple) and isinstance(self.at, tuple) and len(self.keep) != len(self.at):
            raise ValueError(f"keep has {len(self.keep)} shares for {len(self.at)} places")
        return self


TOKENS = TechniqueSpec(
    name="dynamic.tokens",
    version=2,
    summary="fewer tokens: those that a transformer attends to least, or that are most alike, become one on the way, so that later blocks compute less",
    params=TokensParams,
    takes=Form.TORCH,
    gives=Form.TORCH,
    sources=(
        "EViT, Liang et al. 2022, sections 3.2 and 3.3: attentive tokens stay, the others are fused",
        "Token Merging, Bolya et al. 2023, section 3: bipartite soft matching, means by weight",
    ),
)

EXITS = TechniqueSpec(
    name="dynamic.exits",
    version=3,
    summary="early exits: a classifier or encoder answers behind part of its layers where it is sure, and does not compute the rest",
    params=ExitsParams,
    takes=Form.TORCH,
    gives=Form.TORCH,
    sources=(
        "BranchyNet, Teerapittayanon et al. 2016: heads on the way, trained together",
        "Shallow-Deep Networks, Kaya et al. 2019, section 4: mixed pooling, exits by confidence",
        "Guo et al. 2017, section 4.2: confidences that are as sure as they are right",
    ),
)
