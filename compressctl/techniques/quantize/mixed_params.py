"""What `quantize.mixed` can be told. Light: recipes are checked against this without numpy or a runtime."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from compressctl.core.errors import Problem
from compressctl.core.model import Form
from compressctl.core.needs import Need, Needs, TechniqueParams
from compressctl.core.technique import ModelFacts, TechniqueSpec
from compressctl.recipe.schema import WrittenSize, parse_size
from compressctl.techniques.quantize.params import STATIC, StaticParams, check_static

Width = Literal["int8", "int4", "float"]


class MixedParams(TechniqueParams):
    """quantize.mixed: a width for each layer, by what its rounding costs, under a budget of size or of speed or of both."""

    size: (
        Annotated[float, Field(gt=0), BeforeValidator(parse_size, json_schema_input_type=float | WrittenSize)] | None
    ) = Field(
        None,
        description="most bytes of all layers' weights at their widths, scales included, as in 45KB; up to 1, the share of "
        "what they take in float. A plain file holds a 4-bit code in a byte, `storage: compressed` in half of one",
    )
    speedup: float | None = Field(
        None, gt=0, description="least ratio of latency, float / mixed, measured on the target's runtime"
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
    samples: int = Field(256, ge=1, description="calibration samples on which sensitivities are measured")
    probes: int = Field(8, ge=1, description="hessian: random directions per layer that its trace is estimated from")
    static: StaticParams = Field(
        StaticParams(),
        description="everything else, as quantize.static takes it; an override that says `weights` decides for its layers",
    )

    @model_validator(mode="after")
    def _has_a_budget(self) -> MixedParams:
        if self.size is None and self.speedup is None:
            raise ValueError("nothing to choose by: give `size`, `speedup` or both")
        return self

    def needs(self) -> Needs:
        """What `static` needs; the task decides how outputs are compared, the runtime gives them and times widths."""
        opened = (Need.SESSION,) if self.sensitivity != "hessian" else ()
        timed = (Need.LATENCY,) if self.speedup is not None else ()
        return super().needs() | Needs.of(Need.CALIBRATION_DATA, reads=(Need.TARGET, Need.TASK, *opened, *timed))


def check_mixed(params: MixedParams, facts: ModelFacts) -> list[Problem]:
    found = check_static(params.static, facts)
    if params.static.weights != "int8":
        found.append(
            Problem(
                "the width of each layer is what this stage chooses",
                path="static.weights",
                hint="leave it out; say what may be chosen in `widths`",
            )
        )
    return found


MIXED = TechniqueSpec(
    name="quantize.mixed",
    version=2,
    summary="8 bits, 4 bits or float for each layer, chosen exactly by measured sensitivity under budgets",
    params=MixedParams,
    takes=Form.ONNX,
    gives=Form.ONNX,
    implementation="compressctl.techniques.quantize.mixed:apply",
    destroys=STATIC.destroys,
    quantizes=True,
    sources=(
        "Dong et al. 2020, HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks, equation 9",
        "Yao et al. 2021, HAWQ-V3: Dyadic Neural Network Quantization, section 3.3 (integer program)",
        "Kellerer, Pferschy and Pisinger 2004, Knapsack Problems, chapter 11 (multiple choice)",
    ),
    check=check_mixed,
    promises_speed=True,
)
