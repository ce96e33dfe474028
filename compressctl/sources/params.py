"""The parameters of each model source and dataset, as recipes give them. Light: pydantic and nothing else."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from compressctl.core.author_code import AuthorCode
from compressctl.core.errors import UsageError
from compressctl.store.address import SecretInAddressError, is_address, parse

PositiveInt = Annotated[int, Field(ge=1, le=2_147_483_647)]
Pixels = Annotated[int, Field(ge=1, le=65_536)]
ImageSize = Pixels | tuple[Pixels, Pixels]


Sha256 = Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{64}$")]


def _followed(text: str) -> str:
    """Wrong addresses are told with their line of the recipe, but for those that nobody should read there."""
    try:
        if is_address(text):
            parse(text)
    except SecretInAddressError:
        pass
    except UsageError as error:
        raise ValueError("; ".join(filter(None, (error.message, error.hint)))) from None
    return text


FilePath = Annotated[str, AfterValidator(_followed)]
"""A path, or an address that `store` reads."""


class SourceParams(BaseModel):
    # Built when first used: a recipe needs two of these, and building all of them costs more than checking it.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


WithStructure = TypeVar("WithStructure", "BuiltinParams", "PythonModelParams", "HuggingFaceParams", "TimmParams")


def _with_weights(params: WithStructure) -> WithStructure:
    if params.structure is not None and params.weights is None:
        raise ValueError("structure needs weights: name the model.safetensors that was written with it")
    return params


class BuiltinParams(SourceParams):
    name: Literal["digits-resnet", "digits-depthwise"] = Field(description="which of the shipped trained networks")
    weights: str | None = Field(
        None, description="a .safetensors file instead of the shipped weights, as a run leaves it"
    )
    structure: str | None = Field(
        None, description="the structure.json that a run left beside such weights, for a network that it cut or split"
    )

    @model_validator(mode="after")
    def _structure_has_weights(self) -> BuiltinParams:
        return _with_weights(self)


def _no_batch(name: str) -> str:
    if name == "batch":
        raise ValueError("the axis of samples is not part of a sample's shape: leave batch out")
    return name


OpenAxis = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$", max_length=64), AfterValidator(_no_batch)]
"""A name instead of a size. Axes of one name have one size in a call."""

InputType = Literal["float32", "int32", "int64"]


Argument = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.\w+)*$", max_length=200)]
"""Of a forward, and the way into what it holds: keys of dictionaries, places of tuples."""

Plain = bool | int | float | str | None


class InputParams(SourceParams):
    name: str = Field(min_length=1, description="in the exported graph, and the name under which the data has it")
    shape: tuple[PositiveInt | OpenAxis, ...] = Field(
        description="of one sample, without the batch axis; a name stands for a size that samples differ in, as in [tokens]; [] for one number"
    )
    dtype: InputType = Field("float32", description="element type")
    argument: Argument | None = Field(
        None,
        description="of forward, where it goes; as in batch.image for a dictionary, states.0 for a tuple. Default: the argument of that name where every "
        "input has one, else those of forward in their order",
    )


class PythonModelParams(SourceParams):
    factory: AuthorCode = Field(
        description='the function that makes the network: "file.py:name", relative to the recipe, or "package.module:name"'
    )
    args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments for the factory")
    weights: str | None = Field(
        None,
        description="a .safetensors file, or a .pt/.pth checkpoint that holds tensors only; code is never unpickled",
    )
    structure: str | None = Field(
        None, description="the structure.json that a run left beside its weights, for a network that it cut or split"
    )
    input_shape: tuple[PositiveInt | OpenAxis, ...] | None = Field(
        None,
        min_length=1,
        description="shape of one sample, without the batch axis, as in [3, 32, 32], or [3, height, width] where sizes differ",
    )
    input_name: str = Field("input", min_length=1, description="the input's name in the exported graph")
    input_dtype: InputType = Field("float32", description="element type of the input")
    inputs: tuple[InputParams, ...] | None = Field(
        None,
        min_length=1,
        description="instead of input_shape, for a network that takes several tensors: each of them, by the names of forward's arguments, or in their order",
    )
    forward_args: dict[str, Plain] = Field(
        default_factory=dict,
        description="other arguments of forward, the same in every call, as in {output_hidden_states: true}",
    )
    outputs: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="names of the outputs that are kept, as in [logits]; a name stands for all that it holds (boxes for boxes.0 and boxes.1). Default: all",
    )

    @model_validator(mode="after")
    def _structure_has_weights(self) -> PythonModelParams:
        return _with_weights(self)

    @model_validator(mode="after")
    def _one_input_for_an_argument(self) -> PythonModelParams:
        ways = [one.argument for one in self.inputs or () if one.argument is not None]
        for way in ways:
            around = [other for other in ways if f"{way}.".startswith(f"{other}.")]
            if len(around) > 1:
                raise ValueError(f"two of `inputs` go to the argument {min(around, key=len)}")
            if way.partition(".")[0] in self.forward_args:
                raise ValueError(f"{way.partition('.')[0]} is an argument of an input, and stands in forward_args too")
        return self

    @model_validator(mode="after")
    def _one_way_to_name_inputs(self) -> PythonModelParams:
        if (self.input_shape is None) == (self.inputs is None):
            raise ValueError("give input_shape, the shape of one sample, or inputs where forward takes several tensors")
        if self.inputs is not None:
            alone = {"input_name", "input_dtype"} & self.model_fields_set
            if alone:
                raise ValueError(f"{' and '.join(sorted(alone))} stand inside each of `inputs`")
            names = [one.name for one in self.inputs]
            if len(set(names)) < len(names):
                raise ValueError(f"two of `inputs` have one name: {', '.join(names)}")
        return self


HuggingFaceTask = Literal[
    "feature-extraction",
    "sentence-similarity",
    "text-classification",
    "token-classification",
    "question-answering",
    "fill-mask",
    "text-generation",
    "image-classification",
]
"""As the Hub calls them (`pipeline_tag`)."""


class HuggingFaceParams(SourceParams):
    path: str = Field(
        min_length=1,
        description="a folder as `save_pretrained` writes it, relative to the recipe, or a model's id on the Hub (org/name), which needs revision",
    )
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = Field(
        None, description="the commit on the Hub, all 40 digits; a folder has none"
    )
    task: HuggingFaceTask | None = Field(
        None,
        description="what the network gives; default: what the folder was saved for (`architectures` in its config.json, "
        "sentence-similarity where modules.json says how tokens become one vector)",
    )
    inputs: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="names of the inputs, in their order; default: those that the folder's tokenizer gives",
    )
    outputs: tuple[str, ...] | None = Field(
        None, min_length=1, description="names of the outputs that are kept; default: the task's own, as in [logits]"
    )
    image_size: ImageSize | None = Field(
        None,
        description="of a network that takes images: pixels, [height, width] where they differ; default: the config's",
    )
    weights: str | None = Field(
        None, description="a .safetensors file instead of the folder's weights, as a run leaves it"
    )
    structure: str | None = Field(
        None, description="the structure.json that a run left beside such weights, for a network that it cut or split"
    )

    @model_validator(mode="after")
    def _structure_has_weights(self) -> HuggingFaceParams:
        return _with_weights(self)


class TimmParams(SourceParams):
    name: str = Field(
        min_length=1,
        max_length=200,
        description="as timm.create_model takes it, as in resnet50 or vit_small_patch16_224",
    )
    weights: str = Field(
        description="the .safetensors file (or a .pt, .pth or .bin checkpoint of tensors alone), relative to the recipe; nothing is downloaded. A config.json "
        "beside it, as timm's folders on the Hub have, says how large images are"
    )
    structure: str | None = Field(
        None, description="the structure.json that a run left beside such weights, for a network that it cut or split"
    )
    args: dict[str, Any] = Field(
        default_factory=dict, description="other arguments of timm.create_model, as in {num_classes: 10}"
    )
    image_size: ImageSize | None = Field(
        None,
        description="pixels, [height, width] where they differ; default: as config.json or timm itself has it for this name",
    )

    @model_validator(mode="after")
    def _arguments_are_others(self) -> TimmParams:
        taken = {"model_name", "pretrained", "checkpoint_path"} & self.args.keys()
        if taken:
            raise ValueError(f"args: {', '.join(sorted(taken))} is said by name and weights")
        return self


class OnnxParams(SourceParams):
    path: FilePath = Field(
        description="the .onnx file, relative to the recipe, or its address (s3://, gs://, hf://, https://); external data is found next to it"
    )
    sha256: Sha256 | None = Field(None, description="what the file must have; https:// needs it")
    external: dict[str, Sha256] = Field(
        default_factory=dict,
        description="the same for files of external data, by what the model calls them; needed beside sha256 where the model lies at an address",
    )
    batch_axes: dict[str, Annotated[int, Field(ge=0, le=63)] | None] = Field(
        default_factory=dict,
        description="by input, the axis that counts samples, null where none does, as in {state: 1, sr: null}; read from the "
        "file's shapes and names otherwise",
    )
    states: Literal["auto"] | dict[str, str] = Field(
        default_factory=dict,
        description="of a streaming model: input to the output that is its value at the next step, as in {state: stateN}; auto: those of equal "
        "names and shapes. Samples are sequences then, an axis of steps before a step's axes; each file goes on from its own states",
    )
    constants: dict[str, float] = Field(
        default_factory=dict, description="inputs that have the same value in every call, as in {sr: 16000}"
    )
    trainable: bool = Field(
        False,
        description="make a PyTorch network of the graph, which equals the file on real samples: structured pruning, low rank, training and distillation from "
        "the file itself (`teacher: original`) then serve it. Of floats, with an open batch axis; operators without a counterpart are named",
    )
    shapes: dict[str, Annotated[int, Field(ge=1, le=2_147_483_647)]] = Field(
        default_factory=dict,
        description="beside trainable: sizes of open axes by name, or `input.axis`, that are the same in every call, as in {x.2: 48}: the files that are made have them fixed. "
        "torch exports fewer open axes more readily",
    )
    custom_ops: tuple[AuthorCode, ...] = Field(
        (),
        description="libraries (.so, .dylib, .dll) of operators that ONNX Runtime does not bring, relative to the recipe, or "
        "onnxruntime-extensions for that package's. They run as code. Nodes that need them are left as they are",
    )

    @model_validator(mode="after")
    def _trains_alone(self) -> OnnxParams:
        others = [name for name in ("states", "custom_ops") if getattr(self, name)]
        if self.trainable and others:
            raise ValueError(f"trainable does not go with {' and '.join(others)}: such models stay graphs")
        if self.shapes and not self.trainable:
            raise ValueError("shapes goes with trainable; of a graph, target.shapes says what is timed and counted")
        return self


BatchAxes = dict[str, Annotated[int, Field(ge=0, le=63)] | None]
BATCH_AXES = (
    "by input, the axis of its array that counts samples, null for what all samples share, as in {state: 1, sr: null}; "
    "default: the axis of as many entries as there are samples"
)


class RequestsParams(SourceParams):
    path: str = Field(
        description="the folder, relative to the recipe: one .npz for each recorded call, arrays called like the model's inputs, as "
        "the model takes them"
    )
    labels: str | None = Field(None, description="array of labels in each file")
    classes: tuple[str, ...] | None = Field(None, description="class names, in the order of the labels")
    sequences: bool = Field(
        False,
        description="of a model with states: each subfolder is a sequence, its files by name are the calls one after another; states "
        "need not be recorded",
    )


class OnnxTestDataParams(SourceParams):
    path: str = Field(description="the folder that holds test_data_set_0, test_data_set_1, ..., relative to the recipe")
    inputs: tuple[str, ...] | None = Field(
        None, description="the model's inputs in the order of input_0.pb, input_1.pb, ...; default: as the files say"
    )
    outputs: tuple[str, ...] | None = Field(None, description="the same for its outputs")


class RandomInput(SourceParams):
    shape: tuple[Annotated[int, Field(ge=1, le=2_147_483_647)], ...] = Field(
        description="of one sample, without the batch axis"
    )
    dtype: Literal[
        "float32",
        "float16",
        "float64",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint64",
        "uint32",
        "uint16",
        "uint8",
        "bool",
    ] = Field("float32", description="element type")
    low: float = Field(0.0, description="least value")
    high: float = Field(1.0, description="largest value of floats; integers stay below it")
    shared: bool = Field(False, description="one array for all samples, as a model without that batch axis takes it")


class RandomParams(SourceParams):
    inputs: dict[str, RandomInput] = Field(min_length=1, description="by the model's input names")
    samples: int = Field(64, ge=1, le=10_000_000, description="how many samples there are")


class DigitsParams(SourceParams):
    """scikit-learn's 8x8 digits need no parameters."""


class EncodedSplit(SourceParams):
    blob: str = Field(description="array of bytes: all image files, joined")
    offsets: str = Field(description="array of n + 1 positions; image i is blob[offsets[i]:offsets[i+1]]")
    labels: str | None = Field(None, description="array of labels")


class EncodedParams(SourceParams):
    train: EncodedSplit = Field(description="arrays of the samples to split")
    test: EncodedSplit | None = Field(None, description="arrays of the dataset's own test split")


class Normalised(SourceParams):
    """(value * scale - mean) / std, per channel."""

    mean: tuple[float, ...] | None = Field(
        None, description="subtracted per channel, after scaling; one number serves all channels"
    )
    std: tuple[Annotated[float, Field(gt=0, le=1e9)], ...] | None = Field(
        None, description="divided by per channel, after the mean; one number serves all channels"
    )


class NpzParams(Normalised):
    path: FilePath = Field(description="the .npz file, relative to the recipe, or its address")
    sha256: Sha256 | None = Field(None, description="what the file must have; https:// needs it")
    inputs: str | tuple[str, ...] | dict[str, str] = Field(
        "inputs",
        description="array of inputs, samples along axis 0; for several inputs a list of arrays that are called like the model's "
        "inputs, or {input: array}",
    )
    labels: str | dict[str, str] | None = Field(
        "labels", description="array of labels; null when there are none; {head: array} where the recipe has heads"
    )
    test_inputs: str | tuple[str, ...] | dict[str, str] | None = Field(
        None, description="the same for the dataset's own test split"
    )
    batch_axes: BatchAxes = Field(default_factory=dict, description=BATCH_AXES)
    test_labels: str | dict[str, str] | None = Field(None, description="array of the dataset's own test labels")
    encoded: EncodedParams | None = Field(
        None, description="arrays of encoded images (JPEG, PNG, ...) instead of inputs and labels"
    )
    classes: str | None = Field(None, description="array of class names, in the order of the labels")
    groups: str | None = Field(
        None, description="array of each sample's group, for the report on fairness; no model sees it"
    )
    test_groups: str | None = Field(None, description="the same for the dataset's own test split")
    layout: Literal["NCHW", "NHWC", "NHW"] | None = Field(
        None,
        description="how images are stored: NHW gains a channel axis and NHWC becomes NCHW; default: used as stored",
    )
    scale: float | None = Field(None, description="multiplies the values; default: 1/255 for bytes, otherwise 1")
    input_name: str = Field("input", min_length=1, description="the name under which batches carry the inputs")

    def image_steps(self) -> dict[str, Any]:
        """See PreparesImages; nothing where the arrays are not said to be images."""
        if self.layout is None and self.encoded is None:
            return {}
        normalised = {"scale": 1 / 255 if self.scale is None else self.scale, "mean": self.mean, "std": self.std}
        return {**normalised, "model_layout": "NCHW", "model_color": "gray" if self.layout == "NHW" else "rgb"}

    @model_validator(mode="after")
    def _one_way_to_store(self) -> NpzParams:
        plain = {"inputs", "labels", "test_inputs", "test_labels", "layout"} & self.model_fields_set
        if self.encoded is not None and plain:
            raise ValueError(f"encoded images have no {', '.join(sorted(plain))}; name the arrays under `encoded`")
        changed = {"layout", "scale", "mean", "std", "input_name"} & self.model_fields_set
        if not isinstance(self.inputs, str) and changed:
            raise ValueError(
                f"{', '.join(sorted(changed))} belongs to a single array; several inputs are used as stored"
            )
        if isinstance(self.inputs, str) and self.batch_axes:
            raise ValueError("batch_axes belongs to several inputs: a single array has its samples along axis 0")
        if self.test_inputs is not None and isinstance(self.test_inputs, str) != isinstance(self.inputs, str):
            raise ValueError("test_inputs is written like inputs: one array, or several")
        if self.test_labels is not None and self.test_inputs is None:
            raise ValueError("test_labels needs test_inputs")
        has_test = self.test_inputs is not None or (self.encoded is not None and self.encoded.test is not None)
        if has_test and (self.groups is None) != (self.test_groups is None):
            raise ValueError("groups and test_groups belong together when the dataset has a test split of its own")
        return self


class SplitFolders(SourceParams):
    train: str = Field(description="subfolder of the samples to split")
    validation: str | None = Field(None, description="subfolder of the dataset's own validation split")
    test: str | None = Field(None, description="subfolder of the dataset's own test split")


class PixelParams(Normalised):
    """What becomes of an image's pixels: resized, letterboxed, channels ordered, scaled, normalised, axes ordered."""

    resize: ImageSize | None = Field(
        None, description="pixels of the shorter side, or [height, width]; default: as stored"
    )
    letterbox: Literal["center", "corner"] | None = Field(
        None,
        description="resize to [height, width] keeps the ratio of an image's sides: what remains is filled on both sides (center, as "
        "YOLOv5 and v8 do) or right and below (corner); boxes and masks move along",
    )
    fill: int = Field(114, ge=0, le=255, description="pixel value, before scale, that letterbox fills with")
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = Field(
        "bilinear", description="how resizing computes pixels"
    )
    center_crop: ImageSize | None = Field(None, description="pixels of the centre that is kept, or [height, width]")
    orientation: Literal["displayed", "stored"] = Field(
        "displayed",
        description="images lie as their EXIF data say, as viewers and OpenCV show them, or as their pixels are stored",
    )
    color: Literal["rgb", "bgr", "gray"] = Field("rgb", description="three channels, in OpenCV's order, or one")
    layout: Literal["NCHW", "NHWC"] = Field("NCHW", description="the order of axes that the model takes")
    scale: float = Field(1 / 255, description="multiplies the pixel values 0 to 255, before mean and std")
    input_name: str = Field("input", min_length=1, description="the name under which batches carry the images")

    def image_steps(self) -> dict[str, Any]:
        """See PreparesImages."""
        normalised = {"scale": self.scale, "mean": self.mean, "std": self.std}
        return {**normalised, "model_layout": self.layout, "model_color": self.color}

    @classmethod
    def open_steps(cls, given: Collection[str]) -> frozenset[str]:
        """See TakesImageSteps. Keys that only mean something together are taken together, or none of them."""
        alone = _ALONE_STEPS.difference(given)
        return alone.union(*(steps for steps in (_SIZE_STEPS, _VALUE_STEPS) if steps.isdisjoint(given)))

    @model_validator(mode="after")
    def _letterbox_has_a_size(self) -> Self:
        if self.letterbox is not None and not isinstance(self.resize, tuple):
            raise ValueError("letterbox fits an image into resize: [height, width]; set that")
        if self.letterbox is None and "fill" in self.model_fields_set:
            raise ValueError("fill belongs to letterbox: set that, or leave fill out")
        return self


_SIZE_STEPS = frozenset({"resize", "letterbox", "center_crop"})
_VALUE_STEPS = frozenset({"scale", "mean", "std"})
_ALONE_STEPS = frozenset({"interpolation", "color"})


class ImageParams(PixelParams):
    """How images of a folder are prepared."""

    folders: SplitFolders | None = Field(
        None,
        description="subfolders that are splits; default: train, val and test are taken as such when there is nothing else",
    )


class MaskFolderParams(ImageParams):
    path: str = Field(description="the folder of images, relative to the recipe")
    masks: str = Field(
        description="the folder of masks, relative to the recipe: an image's mask has its path, with any ending; pixels are classes"
    )
    mask_suffix: str = Field("", max_length=100, description="what a mask's name has after its image's, as in _mask")
    values: dict[str, Annotated[int, Field(ge=-100, le=65_535)]] | None = Field(
        None,
        description="class of each pixel value, as in {0: 0, 255: 1}; -100 for pixels that do not count; default: values are classes, and "
        "255 does not count",
    )
    classes: str | None = Field(None, description="text file with one class name per line, in the order of the classes")

    @model_validator(mode="after")
    def _values_are_numbers(self) -> MaskFolderParams:
        wrong = [value for value in self.values or {} if not value.isdecimal() or int(value) > 65_535]
        if wrong:
            raise ValueError(f"values are pixels, 0 to 65535, and {wrong[0]!r} is none")
        return self


ClassChoice = tuple[str, ...] | dict[str, Annotated[int, Field(ge=0, le=1_048_576)]]
CLASS_CHOICE = (
    "names of the classes whose boxes count, in the order of the model's classes, or {name: the model's class}; default: all, in the "
    "data's order"
)


class CocoDataParams(PixelParams):
    path: str = Field(description="the folder of images, relative to the recipe")
    annotations: str = Field(
        description="the JSON file with images, annotations (bbox, category_id, iscrowd) and categories, relative to the recipe; categories "
        "become classes 0, 1, ... in the order of their ids"
    )
    test_path: str | None = Field(None, description="the folder of test_annotations' images; default: the same")
    test_annotations: str | None = Field(None, description="a second such file: the dataset's own test split")
    classes: ClassChoice | None = Field(None, min_length=1, description=CLASS_CHOICE)

    @model_validator(mode="after")
    def _test_images_have_annotations(self) -> CocoDataParams:
        if self.test_path is not None and self.test_annotations is None:
            raise ValueError("test_path needs test_annotations")
        return self


class YoloDataParams(ImageParams):
    path: str = Field(
        description="a folder of images/ and labels/, or a data.yaml with train, val, test and names, relative to the recipe. Boxes stand in "
        "the .txt file of an image's path below labels/, `class cx cy w h` in shares of the image on each line; without a file there are none"
    )
    names: tuple[str, ...] | None = Field(
        None, min_length=1, description="names of the classes, in the order of their numbers; default: data.yaml's"
    )
    classes: ClassChoice | None = Field(None, min_length=1, description=CLASS_CHOICE)


class ImageFolderParams(ImageParams):
    path: str = Field(description="the folder, relative to the recipe")
    labels: str | None = Field(
        "folders",
        min_length=1,
        description="where labels are: `folders` (one per class), `prefix` (of the file name, up to the separator), "
        "or a CSV file with the columns file and label, relative to the recipe; null where there are none",
    )
    separator: str = Field("_", min_length=1, description="what ends the class in a file name, for labels: prefix")
    classes: str | None = Field(
        None,
        description="text file with one class name per line, in the order of the labels; default: the names found, sorted",
    )


_CLASSES = (
    "names of classes in the order of the model's outputs; default: as the config.json beside the tokenizer has them (id2label) where it names "
    "all that occur, else sorted"
)

MaxLength = Annotated[int, Field(ge=1, le=1_048_576)]
Padding = Literal["longest", "max_length"]
_PADDING = (
    "to what shorter texts are filled up: the longest text of the same batch (one text alone has its own length), or max_length, for models of "
    "one length; the attention mask tells them apart"
)
_LONGEST = (
    "tokens of a text, special ones included: longer ones are cut; default: what sentence_bert_config.json beside the tokenizer says, else 128, and "
    "never more than the model there has positions for"
)
_TOKENIZER = "a folder with a tokenizer.json (a model's own), or such a file, relative to the recipe"


class TokenizeParams(SourceParams):
    tokenizer: str = Field(min_length=1, description=_TOKENIZER)
    texts: tuple[str, ...] = Field(
        min_length=1,
        max_length=2,
        description="the column or field of the text, or both of a pair, as in [premise, hypothesis]",
    )
    max_length: MaxLength | None = Field(None, description=_LONGEST)
    padding: Padding = Field("longest", description=_PADDING)


class CsvParams(SourceParams):
    path: FilePath = Field(
        description="the file, relative to the recipe, or its address; its first line names the columns"
    )
    sha256: Sha256 | None = Field(None, description="what the file must have; https:// needs it")
    test_path: FilePath | None = Field(
        None, description="a second file with the same columns: the dataset's own test split"
    )
    label: str = Field(description="the column to predict")
    classes: tuple[str, ...] | None = Field(None, min_length=1, description=_CLASSES)
    tokenize: TokenizeParams | None = Field(
        None, description="for columns of text: how they become tokens; instead of features, input_name and standardize"
    )
    features: tuple[str, ...] | None = Field(
        None, min_length=1, description="the columns to predict from, all numbers; default: all but the label"
    )
    group: str | None = Field(
        None, description="the column that names each row's group, for the report on fairness; no model sees it"
    )
    delimiter: str = Field(",", min_length=1, max_length=1, description="what separates values")
    task: Literal["classification", "regression"] = Field(
        "classification", description="labels are class names, or numbers"
    )
    standardize: bool = Field(
        True, description="give each feature mean 0 and deviation 1, computed on the train split only"
    )
    input_name: str = Field("input", min_length=1, description="the name under which batches carry the features")

    @model_validator(mode="after")
    def _texts_or_features(self) -> CsvParams:
        alone = {"features", "input_name", "standardize"} & self.model_fields_set
        if self.tokenize is not None and alone:
            raise ValueError(
                f"{' and '.join(sorted(alone))} are for columns of numbers; tokenize names columns of text"
            )
        if self.classes is not None and self.task == "regression":
            raise ValueError("classes are not for task: regression")
        return self


Column = str | Annotated[int, Field(ge=0, le=1_048_576)]


class PairColumns(SourceParams):
    first: Column = Field(description="the first text: a column's name, or its position from 0 when there is no header")
    second: Column = Field(description="the second text")
    label: Column = Field(description="how alike the two are, a number")


class SentencePairsParams(SourceParams):
    path: str = Field(description="the table, relative to the recipe")
    test_path: str | None = Field(None, description="a second table: the dataset's own test split")
    columns: PairColumns = Field(description="where the texts and the label stand")
    delimiter: str = Field("\t", min_length=1, max_length=1, description="what separates values")
    quotes: bool = Field(
        False, description='values may stand in double quotes, as in CSV; else a " is part of the text'
    )
    tokenizer: str = Field(min_length=1, description=_TOKENIZER)
    max_length: MaxLength | None = Field(None, description=_LONGEST)
    padding: Padding = Field("max_length", description=_PADDING)
    score_range: tuple[float, float] | None = Field(
        None,
        description="the score of texts that have nothing in common and that of texts that mean the same, as in [0, 5]: what `loss: cosine` "
        "trains towards cosines of 0 and 1; default: the lowest and the highest score outside the test split, 0 and 1 where all are from -1 to 1",
    )

    @model_validator(mode="after")
    def _from_low_to_high(self) -> SentencePairsParams:
        if self.score_range is not None and self.score_range[0] >= self.score_range[1]:
            raise ValueError("score_range is the lower score and then the higher one, as in [0, 5]")
        return self


class PythonDatasetParams(SourceParams):
    factory: AuthorCode = Field(
        description="the function that gives (inputs, labels), (inputs, labels, (test_inputs, test_labels)), samples one by one, or a Dataset: "
        '"file.py:name", relative to the recipe, or "package.module:name"'
    )
    label: str | None = Field(
        None, min_length=1, description="where samples are dictionaries: the key of the label; others are inputs"
    )
    args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments for the factory")
    batch_axes: BatchAxes = Field(default_factory=dict, description=BATCH_AXES)
    classes: tuple[str, ...] | None = Field(None, description="class names, in the order of the labels")


class TextImagesParams(PixelParams):
    path: str = Field(
        description="the list, relative to the recipe: `picture<tab>text` on each line, a .csv with the columns file and text, or .jsonl; "
        "pictures are named from the list's folder"
    )
    test_path: str | None = Field(None, description="a second list: the dataset's own test split")
    height: Pixels | None = Field(
        None, description="pixels that every picture gets, its width in proportion; default: as stored"
    )
    width: Pixels | None = Field(
        None,
        description="pixels: narrower pictures are padded on the right, wider ones squeezed; default: every picture its own",
    )
    pad: float = Field(0.0, description="what `width` pads with, after scale, mean and std")

    @classmethod
    def open_steps(cls, given: Collection[str]) -> frozenset[str]:
        sizes = {"height", "width"}.intersection(given)
        return super().open_steps(given) - (_SIZE_STEPS if sizes else frozenset())

    @model_validator(mode="after")
    def _one_way_to_resize(self) -> TextImagesParams:
        if self.resize is not None and (self.height is not None or self.width is not None):
            raise ValueError("pictures are resized by height and width, or by resize: leave one of them out")
        return self


class WavFolderParams(SourceParams):
    path: str = Field(description="the folder of .wav files, relative to the recipe")
    labels: str | None = Field(
        "transcripts",
        min_length=1,
        description="`transcripts` (LibriSpeech's *.trans.txt), `folders` (one per class), or a list of files and texts (`file<tab>text`, .csv "
        "with the columns file and text, .jsonl), relative to the recipe; null where there are none",
    )
    sample_rate: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="samples a second; files of another rate are refused. Default: the first file's",
    )
    length: int | None = Field(
        None, ge=1, le=1 << 26, description="samples that every sound is cut or padded to; default: its own"
    )
    frames: tuple[PositiveInt, PositiveInt] | None = Field(
        None,
        description="[length, step]: sounds as frames of so many samples, one every `step`, a 64th of the length at least",
    )
    layout: Literal["NT", "NCT"] = Field("NT", description="whether an axis of one channel stands before the samples")
    input_name: str = Field("input", min_length=1, description="the name under which batches carry the sounds")

    @model_validator(mode="after")
    def _frames_multiply_little(self) -> WavFolderParams:
        if self.frames is not None and self.frames[0] > _MOST_FRAMES_OF_A_SAMPLE * self.frames[1]:
            length, step = self.frames
            raise ValueError(
                f"frames of {length} samples every {step}: each sample would stand in {length // step:,} frames, "
                f"{_MOST_FRAMES_OF_A_SAMPLE} are allowed; take a step of {-(-length // _MOST_FRAMES_OF_A_SAMPLE)} or more"
            )
        return self


_MOST_FRAMES_OF_A_SAMPLE = 64
"""All frames are held in memory, and tasks have 2 to 32."""


class JsonlParams(SourceParams):
    path: FilePath = Field(description="the file, relative to the recipe, or its address: a JSON object on each line")
    sha256: Sha256 | None = Field(None, description="what the file must have; https:// needs it")
    test_path: FilePath | None = Field(None, description="a second file: the dataset's own test split")
    inputs: tuple[str, ...] | dict[str, str] | None = Field(
        None,
        min_length=1,
        description="fields of numbers or lists of them that are called like the model's inputs, or {input: field}",
    )
    tokenize: TokenizeParams | None = Field(
        None,
        description="instead of inputs, for fields of text: how they become tokens. A field that is a list of words goes with a label for each word",
    )
    label: str | None = Field(None, description="the field to predict: numbers, or names of classes")
    classes: tuple[str, ...] | None = Field(None, min_length=1, description=_CLASSES)
    text: bool = Field(False, description="whether that field is text to recognise, not names of classes")

    @model_validator(mode="after")
    def _inputs_or_texts(self) -> JsonlParams:
        if (self.inputs is None) == (self.tokenize is None):
            raise ValueError("give inputs, the fields of numbers, or tokenize, which names fields of text")
        if self.text and (self.tokenize is not None or self.classes is not None):
            raise ValueError("text: true is for labels that are recognised; tokenize and classes are for others")
        return self


class DatasetSplits(SourceParams):
    """Which of a dataset's splits serve for what."""

    train: str | None = Field(
        None, min_length=1, description="the split to train on, from which every other is dealt that none is named for"
    )
    validation: str | None = Field(None, min_length=1, description="the split of the validation samples")
    calibration: str | None = Field(None, min_length=1, description="the split of the calibration samples")
    test: str | None = Field(None, min_length=1, description="the split that reports")

    @model_validator(mode="after")
    def _none_serves_twice(self) -> DatasetSplits:
        named = {role: name for role, name in self if name is not None}
        if not named:
            raise ValueError("name the dataset's splits, as in {train: train, test: validation}, or leave splits out")
        for role, name in named.items():
            others = [other for other, its in named.items() if its == name and other != role]
            if others:
                raise ValueError(
                    f"{name} serves for both {role} and {others[0]}: scores would be of what stages saw; name it for {role} alone, the other is "
                    "dealt from train"
                )
        return self


class HfDatasetParams(PixelParams):
    path: str = Field(
        min_length=1,
        description="a folder, relative to the recipe, as `save_to_disk` writes it or of Parquet, Arrow, JSON, CSV, text or image files, or a dataset's id on "
        "the Hub (org/name), which needs revision",
    )
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = Field(
        None, description="the commit on the Hub, all 40 digits; a folder has none"
    )
    name: str | None = Field(
        None, min_length=1, description="the configuration, where the dataset has several, as in sst2; default: its own"
    )
    splits: DatasetSplits | None = Field(
        None,
        description="which of the dataset's splits serve for what; default: train, validation (or val, valid, dev) and test as they are called, a "
        "single held-out split as test, a single split for all",
    )
    inputs: tuple[str, ...] | dict[str, str] | None = Field(
        None,
        min_length=1,
        description="columns of numbers or lists of them that are called like the model's inputs, or {input: column}",
    )
    tokenize: TokenizeParams | None = Field(
        None,
        description="instead of inputs, for columns of text: how they become tokens. A column of lists of words goes with a label for each word",
    )
    image: str | None = Field(
        None, min_length=1, description="instead of inputs, a column of images; what prepares them stands beside it"
    )
    label: str | None = Field(
        None, min_length=1, description="the column to predict: classes, numbers, or names of classes"
    )
    classes: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="names of classes in the order of the model's outputs; default: the model's beside the tokenizer where they name all that occur, else the "
        "column's own, else sorted",
    )
    text: bool = Field(False, description="whether the label is text to recognise, not names of classes")

    @classmethod
    def open_steps(cls, given: Collection[str]) -> frozenset[str]:
        return super().open_steps(given) if "image" in given else frozenset()

    def image_steps(self) -> dict[str, Any]:
        """See PreparesImages; nothing where no column holds images."""
        return {} if self.image is None else super().image_steps()

    @model_validator(mode="after")
    def _one_kind_of_inputs(self) -> HfDatasetParams:
        given = [key for key in ("inputs", "tokenize", "image") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                "give one of inputs (columns of numbers), tokenize (columns of text) and image (a column of images)"
            )
        pixels = sorted(PixelParams.model_fields.keys() & self.model_fields_set)
        if self.image is None and pixels:
            raise ValueError(
                f"{', '.join(pixels)}: these prepare images, and {given[0]} names none; name their column under image"
            )
        if self.text and (self.label is None or self.tokenize is not None or self.classes is not None):
            raise ValueError("text: true is for a label that is recognised; tokenize and classes are for others")
        if self.classes is not None and self.label is None:
            raise ValueError("classes name what a label counts: give label too")
        return self


class TextParams(SourceParams):
    files: tuple[FilePath, ...] = Field(
        min_length=1,
        description="UTF-8 texts, relative to the recipe; train, validation and calibration are blocks from many places of each of them, which share no token",
    )
    test_files: tuple[FilePath, ...] | None = Field(
        None, min_length=1, description="other texts: the dataset's own test split"
    )
    tokenizer: str = Field(min_length=1, description=_TOKENIZER)
    window: MaxLength = Field(512, description="tokens per sample")
    stride: MaxLength | None = Field(
        None,
        description="tokens from one window's begin to the next one's; default: window. Where they overlap, every token is scored once, in the first "
        "window that holds it, the others see it as context",
    )
    bos_token: str | None = Field(
        None,
        description="a token that begins every window and is not scored, as in <s>, for models that were trained so",
    )

    @model_validator(mode="after")
    def _windows_touch(self) -> TextParams:
        if self.stride is not None and self.stride > self.window:
            raise ValueError(f"stride: {self.stride} tokens leave gaps between windows of {self.window}")
        if self.window - (self.bos_token is not None) < 2:
            raise ValueError("window: a token is predicted from those before it; give two or more")
        return self
