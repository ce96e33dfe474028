"""What a recipe may say about each deliverable, under `export`. Light: nothing here imports a runtime."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compressctl.core.author_code import AuthorCode

Count = Annotated[int, Field(ge=1, le=2_147_483_647)]


class BackendParams(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class StorageParams(BackendParams):
    """How constants lie in the file; what is computed is the same to the last bit."""

    storage: Literal["plain", "compressed"] = Field(
        "plain",
        description="compressed: constants of few values as 1 to 8-bit indices and a codebook, those of many zeros as a mask and values, "
        "made whole by standard operators when the file is loaded; a smaller file, a slower start, the same speed",
    )


class Preprocess(BackendParams):
    """Images as bytes are what the file takes: what prepares them becomes part of it."""

    input: str | None = Field(None, description="the input that takes images; default: the only one of four axes")
    layout: Literal["NCHW", "NHWC"] = Field("NHWC", description="axes of the images that the file shall take")
    color: Literal["rgb", "bgr"] = Field("rgb", description="order of their channels")
    scale: float | None = Field(
        None, gt=0, le=1e9, description="multiplies the pixel values first; default: the data's, 1/255 without"
    )
    mean: tuple[float, ...] | None = Field(
        None, description="subtracted per channel, in the model's order; default: the data's"
    )
    std: tuple[Annotated[float, Field(gt=0, le=1e9)], ...] | None = Field(
        None, description="divided by per channel; default: the data's"
    )
    model_layout: Literal["NCHW", "NHWC"] | None = Field(
        None, description="axes of what the model takes; default: the data's layout, NCHW without"
    )
    model_color: Literal["rgb", "bgr", "gray"] | None = Field(
        None, description="channels that the model takes; default: the data's color, rgb without"
    )


class CallParams(BackendParams):
    """What a file takes and gives."""

    preprocess: Preprocess | Literal[True] | None = Field(
        None,
        description="let the file take images as bytes, and prepare them inside as the data say; true, or what is otherwise",
    )
    io_dtype: Literal["float32", "float16"] = Field(
        "float32", description="element type of the file's float inputs and outputs; inside nothing changes"
    )


class TasksParams(BackendParams):
    """Tasks of lm-eval that a bundle is asked, and the float model's bundle beside it."""

    tasks: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=1, description="their names, as `lm_eval ls tasks` has them, and those of tasks in include_path"
    )
    limit: Count | None = Field(None, description="first samples of each task alone; default: all")
    num_fewshot: int | None = Field(
        None, ge=0, le=1000, description="solved samples before each question; default: what the task says"
    )
    include_path: AuthorCode | None = Field(
        None,
        description="folder with tasks of your own, as YAML files whose data may lie there too; functions that they name are run as code",
    )


class BundleParams(BackendParams):
    """Language models for the runtime's own serving tool."""

    bundle: Literal["genai"] | None = Field(
        None,
        description="write the language model also as a folder that the runtime's own tool opens: the decoder with its cache, "
        "tokenizer and settings; perplexity, time to the first token, tokens a second and memory are measured on it",
    )
    kv_cache: Literal["float32", "int8"] = Field(
        "float32",
        description="how a bundle of `genai` keeps keys and values of earlier tokens; int8: a quarter of the memory, and slightly other results",
    )
    lm_eval: TasksParams | None = Field(
        None,
        description="tasks that the bundle and the float model's are scored on, by lm-eval (pip install 'compressctl[lm-eval]'); nothing is downloaded",
    )

    @model_validator(mode="after")
    def _are_of_a_bundle(self) -> BundleParams:
        if self.kv_cache != "float32" and self.bundle != "genai":
            raise ValueError(
                "kv_cache is how such a bundle keeps keys and values: add `bundle: genai`, or leave it out"
            )
        if self.lm_eval is not None and self.bundle is None:
            raise ValueError("lm_eval scores a bundle: add `bundle: genai`, or leave it out")
        return self


class OnnxRuntimeParams(StorageParams, CallParams, BundleParams):
    """How products with quantized weights alone are written; everything else follows from the target."""

    bundle: Literal["genai", "gguf"] | None = Field(  # type: ignore[assignment]
        None,
        description="write the language model also as its serving tool opens it: a folder for ONNX Runtime GenAI, with the decoder and its cache, tokenizer and "
        "settings, or a GGUF file for llama.cpp; perplexity, time to the first token, tokens a second and memory are measured on it",
    )

    weight_form: (
        Literal["measured", "matmul_nbits", "qdq", "at_load"]
        | dict[str, Literal["matmul_nbits", "matmul_nbits_int8", "qdq", "at_load", "dynamic"]]
    ) = Field(
        "measured",
        description="of products whose weights alone are quantized: the fastest here, or always the same; at_load: a small file whose "
        "weights take float's memory once it is loaded; or a form for each node by its name, as recipe.pinned.yaml has what was measured, "
        "where others are measured",
    )
    names: Literal["kept", "short"] = Field(
        "kept",
        description="short: tensors and nodes between inputs and outputs are called by a letter or two; a smaller file where exporters "
        "wrote long names, of which errors and profiles then know none",
    )
    integer_activations: bool = Field(
        True, description="let such products round their inputs to 8 bits inside, where that is faster"
    )


class NncfWeights(BackendParams):
    """Weights that NNCF compresses in OpenVINO's own model, for types that ONNX does not have and for AWQ."""

    mode: Literal["int8_sym", "int8_asym", "int4_sym", "int4_asym", "nf4", "mxfp4"] = Field(
        "int4_sym", description="element type of weights that are still in float"
    )
    group_size: Count | None = Field(
        64, description="inputs that share a scale, less where a layer has fewer; none: one scale per output channel"
    )
    ratio: float = Field(
        1.0, gt=0, le=1, description="share of weights in that type; the others, chosen by NNCF, in INT8"
    )
    awq: bool = Field(
        False,
        description="scale channels first so that large ones lose less (AWQ, Lin et al. 2023), from the weights alone",
    )

    @model_validator(mode="after")
    def _awq_is_for_four_bits(self) -> NncfWeights:
        if self.awq and self.mode.startswith("int8"):
            raise ValueError("awq is for 4 bits: set mode to int4_sym, int4_asym, nf4 or mxfp4")
        return self


class OpenVinoParams(StorageParams, CallParams, BundleParams):
    performance_hint: Literal["latency", "throughput"] = Field(
        "latency", description="one request at a time, or many streams at once"
    )
    streams: Count | None = Field(None, description="inference streams; default: the hint's own choice")
    precision: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "float32", description="of the layers that are not integer; auto lets OpenVINO choose, which may change results"
    )
    cache_dir: str | None = Field(
        None, description="folder in which OpenVINO keeps compiled models, for faster loading"
    )
    integer_activations: bool = Field(
        True, description="let products with quantized weights alone round their inputs to 8 bits inside"
    )
    float16_constants: bool | None = Field(
        None,
        description="store float constants as float16 in the file; default: in bundles the scales of quantized weights alone",
    )
    weights: NncfWeights | None = Field(
        None, description="weights for NNCF to compress (pip install 'compressctl[nncf]')"
    )

    @model_validator(mode="after")
    def _packed_is_onnx(self) -> OpenVinoParams:
        only_in_ir = {
            "weights": self.weights,
            "float16_constants": self.float16_constants,
        }
        told = [name for name, value in only_in_ir.items() if value]
        if self.storage == "compressed" and told:
            raise ValueError(
                f"storage: compressed writes an ONNX file, which cannot hold {told[0]}: leave one of them out"
            )
        return self


class Profile(BackendParams):
    """Shapes of one input that an engine shall serve."""

    min: tuple[Count, ...] = Field(description="smallest shape")
    opt: tuple[Count, ...] = Field(description="the shape to be fastest at")
    max: tuple[Count, ...] = Field(description="largest shape")


class TensorRtParams(StorageParams, CallParams):
    precision: Literal["float16", "float32"] = Field(
        "float16", description="of the layers that are not integer, baked into the graph: networks are strongly typed"
    )
    float32_nodes: tuple[str, ...] = Field(
        (), description="name patterns of nodes that stay float32 when precision is float16"
    )
    workspace: int = Field(4 << 30, ge=1, le=1 << 50, description="most bytes that building may use on the GPU")
    version_compatible: bool = Field(
        False, description="an engine that later TensorRT versions load too, perhaps slower"
    )
    hardware_compatible: bool = Field(
        False, description="an engine that runs on all GPUs from Ampere on, perhaps slower"
    )
    sparse_weights: bool | None = Field(
        None,
        description="allow 2:4 sparse kernels, which the builder takes for weights that hold the pattern; default: where any does",
    )
    profiles: dict[str, Profile] | None = Field(
        None, description="shapes by input; default: from the model's open axes, each 1 to 16"
    )
