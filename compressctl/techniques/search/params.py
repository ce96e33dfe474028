"""What `search.*` stages can be told. Light: recipes are checked against this without numpy or torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from compressctl.core.backend import backends
from compressctl.core.errors import Problem
from compressctl.core.model import Form
from compressctl.core.needs import Need, Needs, Section, TechniqueParams
from compressctl.core.technique import ModelFacts, TechniqueSpec
from compressctl.training.supervision.params import RecoveryParams, SupervisedParams

WidthKind = Literal["channels", "heads", "tokens", "resolution"]
Cheaper = Literal["separable", "bottleneck", "low_rank", "gone"]

WIDTH_KINDS: tuple[WidthKind, ...] = ("channels", "heads", "tokens", "resolution")


class SpaceParams(TechniqueParams):
    """Which subnetworks a network has: how many channels stay, how many heads of attentions, how many residual blocks, how many tokens later blocks see, and how large its images are."""

    min_keep: float = Field(
        0.25,
        gt=0,
        le=1,
        description="share of its channels that each layer keeps at least, and of its heads each attention",
    )
    round_to: Literal["auto"] | int = Field(
        "auto", description="numbers of channels are multiples of this; auto: 8, as kernels compute them"
    )
    blocks: Literal["auto"] | int = Field(
        "auto", description="most residual blocks that may be gone; auto: half of those that can go; 0 keeps all"
    )
    tokens: Literal["all", "prune", "merge"] = Field(
        "all",
        description="of a transformer: whether later blocks may see fewer tokens, behind a quarter, a half and three quarters of the blocks, and how they go, as in dynamic.tokens; "
        "all: every block sees all",
    )
    min_resolution: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of their height and width that images keep at least, in steps of a tenth; a subnetwork makes them smaller itself. For networks whose outputs' "
        "shapes do not follow the images'; 1: it sees them whole",
    )

    @model_validator(mode="after")
    def _are_numbers_of_something(self) -> SpaceParams:
        if self.round_to != "auto" and not 1 <= self.round_to <= 65_536:
            raise ValueError("round_to is auto or a number of channels, 1 or more")
        if self.blocks != "auto" and not 0 <= self.blocks <= 65_536:
            raise ValueError("blocks is auto or a number of blocks, 0 or more")
        return self


class SupernetParams(SpaceParams, SupervisedParams):
    """search.supernet: the network is trained together with its subnetworks, which share its weights."""

    subnetworks: int = Field(
        2, ge=0, le=64, description="random subnetworks in each step, beside the whole network and the smallest"
    )

    def needs(self) -> Needs:
        """What training needs, and samples on which a subnetwork is compared before and after it."""
        compared = (Need.TRAINING_DATA, Need.CALIBRATION_DATA, Need.VALIDATION_DATA, Need.TASK, Need.LABELS)
        return super().needs() | Needs.of(reads=compared)


Share = Annotated[float, Field(gt=0, le=1)]
Milliseconds = Annotated[float, Field(gt=0, le=1e9)]


@dataclass(frozen=True)
class Measured:
    """A limit that is held by measuring. name: as the report has it, `latency.openvino` of a runtime that the recipe names. of: what is measured. backend: where,
    None for the target's runtime. share: of what the whole takes. most_ms: milliseconds."""

    name: str
    of: Literal["latency", "energy"]
    backend: str | None = None
    share: float | None = None
    most_ms: float | None = None


class Limits(Section):
    """What a network may take that a search finds, as shares of what the network takes that the stage is given; every one of them holds."""

    macs: Share | None = Field(None, description="of its multiply-accumulates")
    parameters: Share | None = Field(None, description="of the parameters of its layers")
    memory: Share | None = Field(
        None,
        description="of search.architecture: of the bytes that its weights and the values that live at once take in float, at the target's batch",
    )
    latency: Share | dict[str, Share] | None = Field(
        None,
        description="of its latency, which is measured on the target's runtime; or by backend, as in {onnxruntime: 0.6, openvino: 0.7}, on each of these",
    )
    latency_ms: Milliseconds | dict[str, Milliseconds] | None = Field(
        None,
        description="the latency in milliseconds of one call of the target's batch, before it is quantized; by backend too",
    )
    energy: Share | None = Field(
        None, description="of the energy that one call takes on the target's runtime, where this machine counts it"
    )

    @model_validator(mode="after")
    def _limits_something(self) -> Limits:
        if not self.counted and not self.measured:
            names = "macs, parameters, memory, latency, latency_ms and energy"
            raise ValueError(f"name at least one of {names}, as in {{macs: 0.5}}")
        return self

    @property
    def counted(self) -> dict[str, float]:
        """Limits on what follows from the network alone, as far as they are set."""
        named: tuple[tuple[str, float | None], ...] = (
            ("macs", self.macs), ("parameters", self.parameters), ("memory", self.memory),
        )  # fmt: skip
        return {name: share for name, share in named if share is not None}

    @property
    def reads(self) -> tuple[Need, ...]:
        """What holds the limits. Memory is that of the target's batch."""
        of = {one.of for one in self.measured}
        needs = {
            Need.LATENCY: "latency" in of or self.memory is not None,
            Need.TARGET: self.memory is not None,
            Need.ENERGY: "energy" in of,
        }
        return tuple(need for need, is_read in needs.items() if is_read)

    @property
    def measured(self) -> tuple[Measured, ...]:
        """Limits on what only a runtime tells, as far as they are set; one for each runtime."""
        shares, most = _by_backend(self.latency), _by_backend(self.latency_ms)
        latencies = [
            Measured(
                f"latency.{name}" if name else "latency", "latency", name or None, shares.get(name), most.get(name)
            )
            for name in dict.fromkeys([*shares, *most])
        ]
        return (*latencies, *(() if self.energy is None else (Measured("energy", "energy", share=self.energy),)))


def _by_backend(asked: float | Mapping[str, float] | None) -> dict[str, float]:
    """The target's own under no name."""
    if isinstance(asked, Mapping):
        return dict(asked)
    return {} if asked is None else {"": asked}


class Architecture(Section):
    """One subnetwork. What it does not name is as in the whole network."""

    channels: dict[str, int] = Field(
        default_factory=dict, description="channels that stay, by the first layer that gives them"
    )
    heads: dict[str, int] = Field(
        default_factory=dict,
        description="heads that stay, of keys where several of queries share one, by the attention",
    )
    tokens: dict[str, int] = Field(
        default_factory=dict, description="per cent of its tokens that a block passes on, by the block"
    )
    resolution: dict[str, int] = Field(
        default_factory=dict, description="per cent of their height and width that images keep, by the input"
    )
    without: tuple[str, ...] = Field((), description="residual blocks that are gone")

    @property
    def kinds(self) -> dict[WidthKind, dict[str, int]]:
        return {"channels": self.channels, "heads": self.heads, "tokens": self.tokens, "resolution": self.resolution}


class SearchedParams(TechniqueParams):
    """What every search within limits can be told, and what it looks at."""

    at_most: Limits | None = Field(None, description="what the network that is found may take")
    criterion: Literal["auto", "loss", "outputs"] = Field(
        "auto",
        description="what networks are compared by: the task's loss on labels, or the distance of their outputs from the whole network's; auto: the loss where there are labels for it",
    )
    samples: int = Field(1024, ge=1, le=2_147_483_647, description="validation samples that networks are compared on")
    bn_samples: int = Field(
        2048, ge=0, le=2_147_483_647, description="training samples on which BatchNorm's statistics are measured again"
    )
    finetune: RecoveryParams | None = Field(None, description="training of the network that was found")

    @property
    def is_told(self) -> bool:
        """Whether the network is spelled out, so that nothing is searched."""
        return self.at_most is None

    def needs(self) -> Needs:
        """Samples of whichever split has some; labels are read where they are, unless the loss on them is asked for."""
        found = super().needs()
        learned = (Need.TRAINING_DATA, Need.CALIBRATION_DATA)
        if self.is_told:
            return found | Needs.of(reads=learned)
        labelled = (Need.LABELS, Need.TASK_LOSS) if self.criterion == "loss" else ()
        reads = (Need.LABELS,) if self.criterion == "auto" else ()
        timed = () if self.at_most is None else self.at_most.reads
        return found | Needs.of(*labelled, reads=(*learned, Need.VALIDATION_DATA, Need.TASK, *reads, *timed))

    def problems(self, facts: ModelFacts) -> Iterable[Problem]:
        yield from super().problems(facts)
        for name in self.runtimes():
            if name and name not in backends.names():
                known = ", ".join(backends.names())
                yield Problem(f"there is no backend {name} to time in", "at_most.latency", f"there are: {known}")

    def runtimes(self) -> Sequence[str]:
        named = () if self.at_most is None else self.at_most.measured
        return [one.backend or "" for one in named]


class ArchitectureParams(SpaceParams, SearchedParams):
    """search.architecture: the subnetwork that loses least of those that keep the limits."""

    method: Literal["auto", "evolution", "sensitivity"] = Field(
        "auto",
        description="sensitivity looks at each layer's widths and each block alone, and takes all that lose no more than a threshold; evolution "
        "goes on from there and looks at whole subnetworks. auto: evolution behind search.supernet, whose subnetworks are trained",
    )
    evaluations: int = Field(100, ge=1, le=1_000_000, description="of evolution: subnetworks that are looked at")
    population: int = Field(
        20, ge=2, le=10_000, description="of evolution: the best of them that the next ones come from"
    )
    architecture: Architecture | None = Field(
        None, description="the subnetwork itself, as the report of a search names it: nothing is searched"
    )

    @model_validator(mode="after")
    def _has_a_goal(self) -> ArchitectureParams:
        if (self.at_most is None) == (self.architecture is None):
            raise ValueError("give either at_most, as in {macs: 0.5}, or the architecture itself")
        return self


class ReplacementsParams(SearchedParams):
    """search.replacements: cheaper layers in the place of those that lose least by it, within limits."""

    kinds: tuple[Cheaper, ...] = Field(
        ("separable", "bottleneck", "low_rank", "gone"),
        min_length=1,
        description="what layers may become. separable: a kernel for each channel and then their sums, bottleneck: the kernel between a quarter of the channels, both of convolutions; "
        "low_rank: two thinner linear layers with half of the arithmetic; gone: nothing in the place of a residual block",
    )
    match: str = Field(
        "*",
        min_length=1,
        description="shell-style pattern over the names of layers and blocks; matching none is an error",
    )
    steps: int = Field(
        200, ge=0, le=1_000_000, description="of training of each cheaper layer alone, towards what the layer gives"
    )
    fit_samples: int = Field(
        512,
        ge=1,
        le=2_147_483_647,
        description="training samples whose inputs of the layer it learns from; fewer where they do not fit into 64 MiB",
    )
    replacements: dict[str, Cheaper] | None = Field(
        None, description="the choice itself, as the report names it: nothing is searched"
    )

    @model_validator(mode="after")
    def _has_a_goal(self) -> ReplacementsParams:
        if (self.at_most is None) == (self.replacements is None):
            raise ValueError("give either at_most, as in {macs: 0.6}, or the replacements themselves")
        if self.at_most is not None and self.at_most.memory is not None:
            raise ValueError("cheaper layers give values as large as before: limit parameters, or search.architecture")
        return self


SUPERNET = TechniqueSpec(
    name="search.supernet",
    version=3,
    summary="the network is trained together with narrower and shorter subnetworks of its own weights, for search.architecture to choose among",
    params=SupernetParams,
    takes=Form.TORCH,
    gives=Form.TORCH,
    sources=(
        "Universally Slimmable Networks, Yu & Huang 2019, sections 3.2 and 3.3: the sandwich rule, distillation in place",
        "Once for All, Cai et al. 2020, section 3.3: channels sorted by importance",
    ),
)

ARCHITECTURE = TechniqueSpec(
    name="search.architecture",
    version=3,
    summary="the subnetwork, narrower, shorter, of fewer tokens or smaller images, that loses least within limits on arithmetic, size and measured latency",
    params=ArchitectureParams,
    takes=Form.TORCH,
    gives=Form.TORCH,
    sources=(
        "Once for All, Cai et al. 2020, section 3.4: evolution over subnetworks under a table of latencies",
        "Regularized Evolution for Image Classifier Architecture Search, Real et al. 2019: mutation",
        "NVIDIA ModelOpt's FastNAS, documented there: sensitivity of each layer's widths, binary search over a threshold",
    ),
)

REPLACEMENTS = TechniqueSpec(
    name="search.replacements",
    version=2,
    summary="layers become cheaper ones of a library, each fitted to what the layer gave and scored alone; the best choice within limits is exact",
    params=ReplacementsParams,
    takes=Form.TORCH,
    gives=Form.TORCH,
    sources=(
        "Puzzle: Distillation-Based NAS for Inference-Optimized LLMs, Bercovich et al. 2024: blocks learn alone, are scored one at a time, and an integer program chooses",
    ),
)
