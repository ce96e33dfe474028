"""What `factorize.*` stages can be told. Light: recipes are checked against this without numpy or torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from compressctl.core.model import Form
from compressctl.core.needs import Need, Needs, Section, TechniqueParams
from compressctl.core.patterns import Override
from compressctl.core.technique import TechniqueSpec
from compressctl.training.params import TrainingParams
from compressctl.training.supervision.params import RecoveryParams


class RankRule(Section):
    """How a layer's rank is found. Exactly one of the keys."""

    ratio: float | None = Field(
        None, gt=0, lt=1, description="the most parameters that each layer keeps, as a share of its own"
    )
    energy: float | None = Field(
        None, gt=0, lt=1, description="the share of the squares of each layer's output that is kept, such as 0.99"
    )
    error: float | None = Field(
        None, gt=0, lt=1, description="the largest relative error of each layer's output, such as 0.1"
    )
    global_ratio: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="what all layers together keep, as a share of what `saves` counts, given up where it costs least error",
    )
    validation_drop: float | None = Field(
        None,
        ge=0,
        le=1e9,
        description="points of the task's metric that may be lost on the validation split: the layers give up ranks in the "
        "order of the error that each step costs until the measured score says stop",
    )

    @model_validator(mode="after")
    def _has_one_key(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            names = ", ".join(type(self).model_fields)
            raise ValueError(f"a rank is found in one way: give exactly one of {names}")
        return self

    @property
    def is_shared(self) -> bool:
        """Whether the layers decide together."""
        return self.global_ratio is not None or self.validation_drop is not None


Number = Annotated[int, Field(ge=1, le=2_147_483_647)]
_WAYS = (
    "a number, evbmf (what stands out of the weight's noise), or a mapping with one of ratio, energy, error, global_ratio, "
    "validation_drop"
)
_OR_WHOLE = f"{_WAYS}; or full, to leave the layer as it is"
_TWO = "; two numbers are output and input channels"


class Regularization(TrainingParams):
    """Training of the whole layers before they are cut, with a penalty that gathers their weights in few directions."""

    penalty: Literal["nuclear", "l2"] = Field(
        "nuclear",
        description="what is kept small: the sum of each layer's singular values, which makes small ones vanish (nuclear), or "
        "the sum of squares of its weights (l2)",
    )
    strength: float = Field(
        1e-3,
        gt=0,
        le=1e9,
        description="of the penalty: each step lowers singular values by learning rate x strength (nuclear), or adds "
        "strength x weight to the gradient (l2)",
    )
    every: int = Field(
        10, ge=1, le=1_000_000, description="steps between two looks at the singular values, each for all steps since"
    )


class Shared(TechniqueParams):
    """What every `factorize.*` stage can be told."""

    saves: Literal["macs", "parameters"] = Field(
        "macs", description="what ranks are given up for, where layers decide together"
    )
    round_to: int = Field(
        8,
        ge=1,
        le=65_536,
        description="ranks from this number on are multiples of it: kernels compute in blocks of 8 or 16 channels",
    )
    whitening: bool = Field(
        True, description="count errors in a layer's output for the calibration data instead of in its weight"
    )
    damping: float = Field(
        1e-6,
        gt=0,
        le=1,
        description="of whitening: share of the mean input power that is added to every direction, so that those that no sample has stay defined",
    )
    skip_slower: bool = Field(
        True,
        description="leave a layer whole when it was measured to be slower in pieces, alone, on the target's runtime",
    )
    regularization: Regularization | None = Field(
        None, description="training before the ranks are chosen; torch models only"
    )
    finetune: RecoveryParams | None = Field(None, description="training of the pieces afterwards; torch models only")

    def needs(self) -> Needs:
        """Two samples, where there are any, show which layers of a network are called with which shapes; of a graph the call that is
        timed does."""
        found = super().needs() | Needs.of(reads=(Need.CALIBRATION_DATA, Need.TRAINING_DATA, Need.LATENCY, Need.TARGET))
        if self.whitening:
            found |= Needs.of(Need.CALIBRATION_DATA)
        if self.is_scored:
            found |= Needs.of(Need.VALIDATION_DATA, Need.LABELS, Need.METRIC, Need.SCORE)
        return found

    @property
    def is_scored(self) -> bool:
        """Whether any layer's rank is found on the validation split."""
        rules = [self.rank, *(override.rank for override in self.overrides)]  # type: ignore[attr-defined]
        return any(isinstance(rule, RankRule) and rule.validation_drop is not None for rule in rules)


class SvdOverride(Override):
    """Another treatment for the layers that a pattern matches."""

    rank: Number | Literal["evbmf", "full"] | RankRule | None = Field(None, description=_OR_WHOLE)
    conv: Literal["auto", "channel", "spatial", "skip"] | None = Field(None, description="as in the stage itself")


class SvdParams(Shared):
    """factorize.svd: a layer becomes two, by the singular value decomposition of its weight."""

    rank: Number | Literal["evbmf"] | RankRule = Field(RankRule(energy=0.99), description=_WAYS)
    conv: Literal["auto", "channel", "spatial", "skip"] = Field(
        "auto",
        description="how convolutions are split: the same kernel to few channels, then 1x1 (channel); k x 1, then 1 x k "
        "(spatial); whichever is better for each layer (auto); not at all (skip)",
    )
    overrides: tuple[SvdOverride, ...] = Field((), description="exceptions by pattern, later ones win")


class TuckerOverride(Override):
    """Another treatment for the layers that a pattern matches."""

    rank: Number | tuple[Number, Number] | Literal["evbmf", "full"] | RankRule = Field(description=_OR_WHOLE + _TWO)


class TuckerParams(Shared):
    """factorize.tucker: a convolution becomes 1x1, kernel, 1x1."""

    rank: Number | tuple[Number, Number] | Literal["evbmf"] | RankRule = Field("evbmf", description=_WAYS + _TWO)
    overrides: tuple[TuckerOverride, ...] = Field((), description="exceptions by pattern, later ones win")


class CpOverride(Override):
    """Another treatment for the layers that a pattern matches."""

    rank: Number | Literal["evbmf", "full"] | RankRule = Field(description=_OR_WHOLE)


class CpParams(Shared):
    """factorize.cp: a convolution becomes 1x1, a kernel for each channel alone, 1x1."""

    rank: Number | Literal["evbmf"] | RankRule = Field(RankRule(ratio=0.5), description=_WAYS)
    split_kernel: bool = Field(
        False, description="write the kernel as k x 1 and 1 x k too: four layers instead of three"
    )
    overrides: tuple[CpOverride, ...] = Field((), description="exceptions by pattern, later ones win")


_BOTH = (Form.TORCH, Form.ONNX)
_DESTROYS = ("the factorized layers' weights: what training wanted of them, such as zeros, is gone",)

SVD = TechniqueSpec(
    name="factorize.svd",
    version=3,
    summary="linear layers and convolutions as two thinner ones, by singular value decomposition",
    params=SvdParams,
    takes=_BOTH,
    gives=None,
    destroys=_DESTROYS,
    sources=(
        "Wang et al. 2024, SVD-LLM, section 3.1 (whitening)",
        "Jaderberg, Vedaldi and Zisserman 2014, Speeding up Convolutional Neural Networks with Low Rank Expansions, section 2.1",
        "Nakajima et al. 2013, Global Analytic Solution of Fully-observed Variational Bayesian Matrix Factorization",
        "Xu et al. 2020, TRP: Trained Rank Pruning for Efficient Deep Neural Networks, section 3.3 (nuclear norm)",
    ),
)

TUCKER = TechniqueSpec(
    name="factorize.tucker",
    version=3,
    summary="convolutions as 1x1, kernel, 1x1 between few channels, by Tucker decomposition",
    params=TuckerParams,
    takes=_BOTH,
    gives=None,
    destroys=_DESTROYS,
    sources=(
        "Kim et al. 2016, Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications",
    ),
)

CP = TechniqueSpec(
    name="factorize.cp",
    version=3,
    summary="convolutions as 1x1, depthwise, 1x1, by canonical polyadic decomposition",
    params=CpParams,
    takes=_BOTH,
    gives=None,
    destroys=_DESTROYS,
    sources=("Lebedev et al. 2015, Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition",),
)
