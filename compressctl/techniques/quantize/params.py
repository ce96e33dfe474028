"""What `quantize.*` stages can be told. Light: recipes are checked against this without numpy, torch or a runtime."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from compressctl.core.backend import ProductWeights
from compressctl.core.errors import Problem
from compressctl.core.model import Form
from compressctl.core.needs import Need, Needs, Section, TechniqueParams
from compressctl.core.patterns import Override
from compressctl.core.technique import ModelFacts, TechniqueSpec
from compressctl.recipe.schema import Duration, WrittenSize, parse_size
from compressctl.training.supervision.params import SupervisedParams

RangeMethod = Literal["minmax", "percentile", "entropy", "mse"]
SaturationGuard = Annotated[
    Literal["auto", "pairs", "reduce_range", "off"],
    Field(
        description="on processors that add pairs of 8-bit products in 16 bits: limit each channel just so that no pair "
        "can overflow (pairs), or store weights in 7 bits (reduce_range); auto is pairs where the target needs it"
    ),
]
CalibratedGuard = Annotated[
    Literal["auto", "calibrated", "pairs", "reduce_range", "off"],
    Field(
        description="on processors that add pairs of 8-bit products in 16 bits: limit each channel just so that no pair can overflow with the "
        "inputs of the calibration samples and a margin (calibrated), or with any (pairs), or store weights in 7 bits (reduce_range); auto is "
        "calibrated where the target needs it"
    ),
]
SmoothquantAlpha = Annotated[
    float | None,
    Field(
        ge=0,
        le=1,
        description="SmoothQuant's alpha, 0.5 for most: how much of activations' outliers the weights of matrix products "
        "take over; needs a calibration split. Default: none",
    ),
]


class StaticOverride(Override):
    """Another treatment for the nodes that a pattern matches."""

    weights: Literal["int8", "int4", "float"] | None = Field(
        None, description="another width of the weights; float keeps the node out of quantization"
    )
    ranges: RangeMethod | None = Field(None, description="how the output's range is chosen")


class StaticParams(TechniqueParams):
    """quantize.static: weights of 8 or 4 bits and 8-bit activations with ranges fixed by calibration."""

    takes_rounded_weights: ClassVar[bool] = True

    ranges: Literal["auto"] | RangeMethod = Field(
        "auto",
        description="how an activation's range is chosen from calibration: everything seen (minmax), without the tails "
        "(percentile), nearest distribution (entropy), least squared error (mse); auto is percentile, and minmax in a network "
        "whose outputs are decoded (boxes and scores), where the rare values are those that count",
    )
    percentile: float = Field(99.999, gt=50, le=100, description="share of values, in percent, that `percentile` keeps")
    weights: Literal["int8", "int4"] = Field(
        "int8",
        description="width of the weights; int4 are codes from -8 to 7 on the scale of least squared error, which integer "
        "kernels multiply as 8 bits: a plain file holds one to a byte, `storage: compressed` two",
    )
    rounding: Literal["nearest", "adaround"] = Field(
        "nearest",
        description="to the nearest code, or up or down as each layer's output on calibration data asks for (adaround): "
        "what 4 bits need; takes a run of the calibration split and some learning per layer",
    )
    rounding_steps: int = Field(2000, ge=1, le=1_000_000, description="adaround: steps of learning per layer")
    per_channel: bool = Field(True, description="a scale for each output channel of a weight instead of one for all")
    saturation_guard: CalibratedGuard = "auto"
    keep_float: Literal["auto", "overrides"] = Field(
        "auto",
        description="what stays in float: where several layers' outputs are joined and decoded, with these last layers, and, where "
        "rounding leaves the outputs less than 20 dB on calibration data, few layers that cost them most for little arithmetic "
        "(auto); or what overrides say alone",
    )
    float_macs: float | None = Field(
        None,
        gt=0,
        le=1,
        description="keep_float: auto, where rounding leaves the outputs less than 20 dB: of all multiply-accumulates, the share that may stay in "
        "float, in the layers that bring most for it, until outputs have 26 dB. Default: 0.1, and only in layers that stand out",
    )
    placement: Literal["all", "measured"] = Field(
        "all",
        description="which of the other layers compute in integers: all that can, or those that are not faster in float where they "
        "stand, by the clock (measured): placements are timed as whole files in turn in the target's runtime, and float is taken "
        "only where the file is faster beyond the noise. The file is larger then",
    )
    placement_time: Duration = Field(
        300, description="`placement: measured`: about how long placements are timed, as in 90s or 5m"
    )
    equalize: bool = Field(
        False,
        description="give the channels between two convolutions, or two Gemm, equal weight ranges first; Clip (ReLU6) "
        "between them forbids it",
    )
    smoothquant_alpha: SmoothquantAlpha = None
    bias_correction: Literal["layerwise"] | bool = Field(
        True,
        description="take the mean error that rounding causes out of the biases: by the float network's inputs in one run "
        "(true), or layer by layer with the inputs that the quantized network has there (layerwise, what adaround always does)",
    )
    overrides: tuple[StaticOverride, ...] = Field((), description="exceptions by pattern, later ones win")

    @model_validator(mode="after")
    def _somebody_spends_it(self) -> StaticParams:
        if self.float_macs is not None and self.keep_float != "auto":
            raise ValueError(
                "float_macs says how much `keep_float: auto` may leave in float; with `overrides` say the layers themselves"
            )
        return self

    def needs(self) -> Needs:
        """The target decides the saturation guard."""
        timed = (Need.LATENCY,) if self.placement == "measured" else ()
        return super().needs() | Needs.of(Need.CALIBRATION_DATA, reads=(Need.TARGET, *timed))


Bits = Literal[8, 4, 3, 2]
WeightMethod = Literal["rtn", "gptq", "awq", "hqq"]
Granularity = Literal["tensor", "channel", "group"]


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        nearest = 1 << round(value.bit_length() - 0.5)
        raise ValueError(f"{value} is not a power of two, which kernels need; the next is {nearest}")
    return value


GroupSize = Annotated[int, Field(ge=16, le=1_048_576), AfterValidator(_power_of_two)]
_GROUP_SIZE = "weights of a row that share a scale; a power of two"


class WeightOverride(Override):
    """Another treatment for the weights of the nodes that a pattern matches."""

    bits: Bits | Literal["float"] | None = Field(None, description="another width; float leaves the weight as it is")
    method: WeightMethod | None = Field(None, description="another way to round")
    symmetric: bool | None = Field(None, description="codes around zero, or with a zero point")
    granularity: Granularity | None = Field(
        None,
        description="how many weights share a scale; a convolution's kernels are split into groups only where an override says so",
    )
    group_size: GroupSize | None = Field(None, description=_GROUP_SIZE)


class WeightsParams(TechniqueParams):
    """quantize.weights: weights alone in 8 to 2 bits, activations left as they are."""

    bits: Bits = Field(
        4, description="of each weight; 3 are computed with 3-bit numbers and stored in 4, since no runtime reads 3"
    )
    method: WeightMethod = Field(
        "rtn",
        description="round to nearest (rtn); make each rounding error good in the columns that follow (gptq); scale "
        "input channels so that important weights are rounded finely (awq); fit the grid to all but the outliers, "
        "without data (hqq)",
    )
    symmetric: bool = Field(
        False,
        description="codes around zero, without zero points; with 4 bits and fewer a scale may be below zero, so that the value of largest "
        "magnitude gets the code -8, unless the target is TensorRT",
    )
    granularity: Granularity = Field(
        "group",
        description="how many weights share a scale: all of a tensor, an output channel's, or a group of its inputs; "
        "convolutions take at least a whole channel",
    )
    group_size: GroupSize = Field(32, description=_GROUP_SIZE)
    clip_search: bool = Field(True, description="search each range for the least squared error instead of covering all")
    damping: float = Field(
        0.01, gt=0, le=1, description="gptq: share of the Hessian's mean diagonal that is added to it"
    )
    act_order: bool = Field(True, description="gptq: columns with the largest inputs first; the stored order stays")
    propagate_error: bool = Field(
        False,
        description="gptq: calibrate each layer behind the layers that are already rounded; takes a run per layer",
    )
    overrides: tuple[WeightOverride, ...] = Field((), description="exceptions by pattern, later ones win")

    @property
    def is_symmetric_somewhere(self) -> bool:
        return self.symmetric or any(override.symmetric for override in self.overrides)

    def needs(self) -> Needs:
        """GPTQ and AWQ look at what each layer is given, for all weights or for those of an override. The target decides which
        sign the scales of symmetric codes may have."""
        methods = {self.method, *(override.method for override in self.overrides)}
        watched = (Need.CALIBRATION_DATA,) if methods & {"gptq", "awq"} else ()
        return super().needs() | Needs.of(*watched, reads=(Need.TARGET,) if self.is_symmetric_somewhere else ())

    def products(self) -> list[ProductWeights]:
        """By the line of the recipe that says so; 3 bits take 4.

        What an override says of other operators alone, or of all products, shows in the file.
        """
        found = []
        if not any(one.match in ("MatMul", "Gemm", "*") for one in self.overrides):
            found.append(_stored("bits" if "bits" in self.model_fields_set else "use", self.bits, self.granularity))
        for place, one in enumerate(self.overrides):
            is_product = one.match not in ("Conv", "ConvTranspose", "Gather")
            if is_product and one.bits != "float" and (one.bits or one.granularity):
                said = f"overrides[{place}].{'bits' if one.bits else 'granularity'}"
                found.append(_stored(said, one.bits or self.bits, one.granularity or self.granularity))
        return found


def _stored(path: str, bits: int, granularity: Granularity) -> ProductWeights:
    return ProductWeights(path, 4 if bits == 3 else bits, granularity == "group")


class DynamicOverride(Override):
    """Another treatment for the nodes that a pattern matches."""

    weights: Literal["int8", "float"] = Field(description="float keeps the node out of quantization")


class DynamicParams(TechniqueParams):
    """quantize.dynamic: 8-bit weights, and activations in 8 bits by the range that each inference shows, those of GRU and RNN in float."""

    per_channel: bool = Field(True, description="a scale for each output of a weight instead of one for all")
    saturation_guard: SaturationGuard = "auto"
    embeddings: Literal["int8", "int4", "float"] = Field(
        "int8", description="of embeddings' tables: int8 with one scale per entry, int4 in groups of 32, or float"
    )
    smoothquant_alpha: SmoothquantAlpha = None
    overrides: tuple[DynamicOverride, ...] = Field((), description="exceptions by pattern, later ones win")

    def needs(self) -> Needs:
        """SmoothQuant looks at the largest activations; the target decides the saturation guard."""
        seen = () if self.smoothquant_alpha is None else (Need.CALIBRATION_DATA,)
        return super().needs() | Needs.of(*seen, reads=(Need.TARGET,))


STATIC = TechniqueSpec(
    name="quantize.static",
    version=10,
    summary="integers for weights (8 or 4 bits) and activations (8 bits), ranges fixed by calibration",
    params=StaticParams,
    takes=Form.ONNX,
    gives=Form.ONNX,
    destroys=("trainability: the weights are integers from here on",),
    quantizes=True,
    bisects=True,
    sources=(
        "Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        "Nagel et al. 2019, Data-Free Quantization Through Weight Equalization and Bias Correction, sections 4.1, 4.2",
        "Xiao et al. 2022, SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
        "Nagel et al. 2020, Up or Down? Adaptive Rounding for Post-Training Quantization, equations 21 to 25",
    ),
    promises_speed=True,
)

WEIGHTS = TechniqueSpec(
    name="quantize.weights",
    version=9,
    summary="weights alone in 8, 4, 3 or 2 bits, recurrent layers, embeddings and tied weights included",
    params=WeightsParams,
    takes=Form.ONNX,
    gives=Form.ONNX,
    destroys=("trainability: the weights are integers from here on",),
    quantizes=True,
    of_weights_alone=True,
    bisects=True,
    sources=(
        "Frantar et al. 2022, GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
        "Lin et al. 2023, AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration",
        "Badri and Shaji 2023, Half-Quadratic Quantization of Large Machine Learning Models",
    ),
)

DYNAMIC = TechniqueSpec(
    name="quantize.dynamic",
    version=7,
    summary="8-bit weights, and activations quantized while the model runs: for transformers and LSTM layers, without calibration",
    params=DynamicParams,
    takes=Form.ONNX,
    gives=Form.ONNX,
    destroys=("trainability: the weights are integers from here on",),
    quantizes=True,
    bisects=True,
    sources=("ONNX, operator DynamicQuantizeLinear-11", "Zafrir et al. 2019, Q8BERT: Quantized 8Bit BERT"),
    promises_speed=True,
)


class TrainedParams(SupervisedParams):
    """A network learns with rounded numbers, from labels, from a teacher, or from both. Few bits want a teacher."""

    freeze_bn_after: float = Field(
        0.9,
        ge=0,
        le=1,
        description="share of the epochs after which BatchNorm uses its running means and variances, as the exported file "
        "does, and no longer each batch's; 1 for never. Frozen while the learning rate is high, training may swing",
    )

    def problems(self, facts: ModelFacts) -> Iterator[Problem]:
        yield from super().problems(facts)
        if self.epochs == 0:
            yield Problem(
                "this technique is its training: rounding alone, without an epoch, leaves nothing usable",
                "epochs",
                "set 1 or more, or use quantize.static or quantize.weights, which need no training",
            )


WeightType = Literal["int8", "int4", "int2"]


class QatOverride(Override):
    """Another treatment for the layers that a pattern matches."""

    weights: WeightType | Literal["float"] | None = Field(
        None, description="another width; float keeps the layer out of quantization"
    )
    ranges: RangeMethod | None = Field(None, description="how the output's first range is chosen")


class QatParams(TrainedParams):
    """quantize.qat: the network is trained with weights and activations rounded as the exported file will round them."""

    weights: WeightType = Field(
        "int8",
        description="how weights are rounded, a scale for each output channel: -127 to 127 (int8), -7 to 7 (int4), -1 to 1 "
        "(int2). Computed with in 8 bits whatever they are, so that fewer bits make files smaller, not faster",
    )
    first_and_last: Literal["int8", "same"] = Field(
        "int8", description="weights of the first and the last layer: 8 bits, as is usual, or like all others"
    )
    learn_scales: bool = Field(
        True,
        description="train the scales of activations, and of weights in fewer than 8 bits, too (LSQ); without, and in 8 bits, "
        "a weight's scale follows its channel's largest value, and activations keep their calibrated ranges",
    )
    ranges: RangeMethod = Field(
        "percentile", description="how activations' ranges are chosen from calibration, where training begins"
    )
    percentile: float = Field(99.999, gt=50, le=100, description="share of values, in percent, that `percentile` keeps")
    overrides: tuple[QatOverride, ...] = Field((), description="exceptions by pattern, later ones win")

    def needs(self) -> Needs:
        """What training needs, and what quantize.static does: the network is calibrated before and after. It is scored too."""
        return super().needs() | Needs.of(Need.CALIBRATION_DATA, reads=(Need.TARGET, Need.SCORE))


QAT = TechniqueSpec(
    name="quantize.qat",
    version=5,
    summary="training with weights and activations rounded as the exported file will round them, in 8, 4 or 2 bits",
    params=QatParams,
    takes=Form.TORCH,
    gives=Form.ONNX,
    destroys=("trainability: the weights are integers from here on",),
    quantizes=True,
    sources=(
        "Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        "Krishnamoorthi 2018, Quantizing deep convolutional networks for efficient inference, section 3.2.1",
        "Esser et al. 2020, Learned Step Size Quantization",
    ),
    promises_speed=True,
)


class BinaryParams(TrainedParams):
    """quantize.binary: weights of two or three values per output channel, trained."""

    levels: Literal["binary", "ternary"] = Field(
        "binary", description="a weight is -s or s (1 bit), or -s, 0 or s (2 bits); s belongs to its output channel"
    )
    estimator: Literal["ede", "straight-through"] = Field(
        "ede",
        description="how gradients pass the sign: by a curve that grows steeper from epoch to epoch (IR-Net's error decay "
        "estimator), or as if there were no sign",
    )
    balance: bool = Field(
        True,
        description="binary: shift each channel's weights to mean 0 first, so that half of them are positive (Libra-PB)",
    )
    threshold: Literal["twn", "learned"] = Field(
        "twn",
        description="ternary: which weights become 0: those below 0.7 of their channel's mean magnitude (twn), or those below "
        "half of a step that is trained (learned)",
    )
    first_and_last: Literal["int8", "float"] = Field(
        "int8",
        description="the first and the last layer, which few bits hurt most: weights on a grid of 255 values, or as they are",
    )
    checkpoint: Literal["best", "last"] = Field(
        "last",
        description="the epoch whose weights are kept: the last, since gradients are truest there, or the best one",
    )
    freeze_bn_after: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of the epochs after which BatchNorm uses its running means and variances and no longer each "
        "batch's; 1 for never: each weight that changes its sign moves them",
    )
    exclude: tuple[str, ...] = Field(
        (), description="shell-style patterns of layers that keep their weights; matching nothing is an error"
    )

    @model_validator(mode="after")
    def _belongs_to_its_levels(self) -> BinaryParams:
        if self.levels == "binary" and self.threshold == "learned":
            raise ValueError("threshold belongs to levels: ternary")
        return self


BINARY = TechniqueSpec(
    name="quantize.binary",
    version=2,
    summary="weights of 1 or 2 bits with a scale per output channel, trained; activations stay float until quantize.static",
    params=BinaryParams,
    takes=Form.TORCH,
    gives=Form.TORCH,
    destroys=("further training: it would move weights off their two or three values",),
    sources=(
        "Rastegari et al. 2016, XNOR-Net, section 3.1 (the scale)",
        "Qin et al. 2020, Forward and Backward Information Retention for Accurate Binary Neural Networks, sections 3.2, 3.3",
        "Li and Liu 2016, Ternary Weight Networks, section 2.2",
    ),
)


Width = Literal["int8", "int4", "float"]


class WeightChoice(Section):
    """What a layer's weights may get; what is left out is as `weights_only` says."""

    bits: Bits | Literal["float"] = Field(description="of each weight; float leaves them as they are")
    method: WeightMethod | None = Field(None, description="another way to round")
    symmetric: bool | None = Field(None, description="codes around zero, or with a zero point")
    granularity: Granularity | None = Field(None, description="how many weights share a scale")
    group_size: GroupSize | None = Field(None, description=_GROUP_SIZE)

    @property
    def said(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)

    def __str__(self) -> str:
        rest = [str(value) if key != "group_size" else f"groups of {value}" for key, value in self.said.items()]
        return ", ".join([str(self.bits), *rest[1:]])


class MixedParams(TechniqueParams):
    """quantize.mixed: a width for each layer, by what its rounding costs, under a budget of size or of speed or of both."""

    size: (
        Annotated[
            float, Field(gt=0, le=1 << 50), BeforeValidator(parse_size, json_schema_input_type=float | WrittenSize)
        ]
        | None
    ) = Field(
        None,
        description="most bytes of all layers' weights at their widths, scales included, as in 45KB; up to 1, the share of "
        "what they take in float. A plain file holds a 4-bit code in a byte, `storage: compressed` in half of one",
    )
    bits_per_weight: float | None = Field(
        None,
        gt=0,
        le=32,
        description="weights_only: most bits of a weight on average, scales and zero points included; a table that is the head too counts once",
    )
    speedup: float | None = Field(
        None, gt=0, le=1e9, description="least ratio of latency, float / mixed, measured on the target's runtime"
    )
    weights_only: WeightsParams | None = Field(
        None,
        description="choose widths of weights alone, activations left as they are: how they are rounded, as quantize.weights takes it; an override "
        "that says `bits` decides for its layers. {} takes its defaults",
    )
    bits: tuple[Bits | Literal["float"] | WeightChoice, ...] = Field(
        (8, 4, "float"),
        min_length=1,
        description="weights_only: what a layer may get, a number of bits, or more as in {bits: 8, group_size: 128}",
    )
    widths: tuple[Width, ...] = Field(
        ("int8", "int4", "float"),
        min_length=1,
        description="what a layer may get: weights of 8 or 4 bits beside activations of 8, or float",
    )
    sensitivity: Literal["kl", "mse", "hessian"] | None = Field(
        None,
        description="what a layer's width costs: KL divergence of the outputs when it alone is quantized (kl), their squared "
        "error (mse), or the mean trace of the Hessian times the squared rounding error of its weights (hessian, HAWQ-V2); "
        "default: kl for classes and tokens, mse otherwise",
    )
    samples: int | None = Field(
        None,
        ge=1,
        le=2_147_483_647,
        description="calibration samples on which sensitivities are measured. Default: 256, and with `weights_only` 16 of a language model, each of "
        "whose tokens tells something",
    )
    probes: int = Field(
        8, ge=1, le=2_147_483_647, description="hessian: random directions per layer that its trace is estimated from"
    )
    static: StaticParams = Field(
        StaticParams(),
        description="everything else, as quantize.static takes it; an override that says `weights` decides for its layers",
    )

    @model_validator(mode="after")
    def _has_a_budget(self) -> MixedParams:
        if self.size is None and self.speedup is None and self.bits_per_weight is None:
            raise ValueError(
                "nothing to choose by: give `size`, `speedup` or both, or `bits_per_weight` with `weights_only`"
            )
        return self

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> MixedParams:
        other = ("speedup", "widths", "static") if self.weights_only is not None else ("bits_per_weight", "bits")
        said = [
            name
            for name in other
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True)
        ]
        if said and self.weights_only is not None:
            raise ValueError(f"{said[0]} is about integer activations, and `weights_only` leaves them in float")
        if said:
            raise ValueError(f"{said[0]} is about weights alone: say `weights_only` too")
        if all(choice.bits == "float" for choice in self.choices):
            raise ValueError("bits has nothing to choose but float")
        return self

    @property
    def choices(self) -> tuple[WeightChoice, ...]:
        found = (one if isinstance(one, WeightChoice) else WeightChoice(bits=one) for one in self.bits)
        return tuple(dict.fromkeys(found))

    def needs(self) -> Needs:
        """What `static` or `weights_only` needs; the task decides how outputs are compared, the runtime gives them and times widths."""
        opened = (Need.SESSION,) if self.sensitivity != "hessian" else ()
        timed = (Need.LATENCY,) if self.speedup is not None else ()
        return super().needs() | Needs.of(Need.CALIBRATION_DATA, reads=(Need.TARGET, Need.TASK, *opened, *timed))

    @property
    def leaves_activations(self) -> bool:
        return self.weights_only is not None

    def products(self) -> list[ProductWeights]:
        """None without `weights_only`; 3 bits take 4."""
        if self.weights_only is None:
            return []
        usual = self.weights_only.granularity
        return [
            _stored(f"bits[{place}]", choice.bits, choice.granularity or usual)
            for place, choice in enumerate(self.choices)
            if choice.bits != "float"
        ]

    def problems(self, facts: ModelFacts) -> Iterator[Problem]:
        yield from super().problems(facts)
        if (
            self.weights_only is not None
            and self.weights_only.bits != type(self.weights_only).model_fields["bits"].default
        ):
            yield Problem(
                "the width of each layer is what this stage chooses",
                "weights_only.bits",
                "leave it out; say what may be chosen in `bits`",
            )
        if self.static.weights != "int8":
            yield Problem(
                "the width of each layer is what this stage chooses",
                "static.weights",
                "leave it out; say what may be chosen in `widths`",
            )
        if self.static.placement != "all":
            yield Problem(
                "the width of each layer is what this stage chooses",
                "static.placement",
                "leave it out; `speedup` is what the clock decides here",
            )


MIXED = TechniqueSpec(
    name="quantize.mixed",
    version=11,
    summary="8 bits, 4 bits or float for each layer, of weights alone too, chosen exactly by measured sensitivity under budgets",
    params=MixedParams,
    takes=Form.ONNX,
    gives=Form.ONNX,
    destroys=STATIC.destroys,
    quantizes=True,
    sources=(
        "Dong et al. 2020, HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks, equation 9",
        "Yao et al. 2021, HAWQ-V3: Dyadic Neural Network Quantization, section 3.3 (integer program)",
        "Kellerer, Pferschy and Pisinger 2004, Knapsack Problems, chapter 11 (multiple choice)",
    ),
    promises_speed=True,
)
