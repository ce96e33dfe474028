"""Where models and datasets come from, and what scores them: light descriptions, code imported on use."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from compressctl.core.model import Form
from compressctl.core.registry import Registry, load
from compressctl.core.tasks import Decode, Task

if TYPE_CHECKING:
    import numpy as np

    from compressctl.core.data import Dataset
    from compressctl.core.model import Model


class SplitSizes(BaseModel):
    """How many samples go where: a whole number counts samples, a number between 0 and 1 is a share of the whole."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    validation: int | float | None = Field(
        None,
        description="held-out samples that choose: gates, search, early stopping; default: the dataset's own validation split, else a tenth",
        ge=0,
        le=2_147_483_647,
    )
    calibration: int | float | None = Field(
        None,
        description="samples that set quantization ranges; default: 300, or half of what is left of fewer",
        ge=0,
        le=2_147_483_647,
    )
    test: int | float | None = Field(
        None,
        description="samples that report; default: the dataset's own test split, else a fifth",
        ge=0,
        le=2_147_483_647,
    )
    validation_from: Literal["train", "test"] = Field(
        "train",
        description="where the data have a test split of their own: what the validation samples are taken from. test: for a model that was "
        "trained on all others, of which it knows too much to judge files that are trained anew; the rest of the test split reports",
    )
    train: int | float | None = Field(
        None, description="most samples to train on; default: all that no other split takes", ge=0, le=2_147_483_647
    )


class LoadModel(Protocol):
    """base: the folder that relative paths start from (the recipe's). seed: for sources that initialise weights."""

    def __call__(self, params: Any, base: Path, seed: int) -> Model: ...


class Fingerprint(Protocol):
    """A hash of everything that decides what would be loaded (file contents included), without loading it into memory."""

    def __call__(self, params: Any, base: Path) -> str: ...


class LoadDataset(Protocol):
    def __call__(self, params: Any, sizes: SplitSizes, base: Path, seed: int) -> Dataset: ...


@runtime_checkable
class SummedMetric(Protocol):
    """A metric that follows from sums over samples, so that the outputs of a whole split need not be held at once.

    `value(totals(a) + totals(b))` is the metric of a and b together.
    """

    def __call__(self, outputs: np.ndarray, labels: np.ndarray) -> float: ...

    def totals(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(k,) float64."""
        ...

    def value(self, totals: np.ndarray) -> float: ...


@runtime_checkable
class PreparesImages(Protocol):
    """A dataset's params that say how images become arrays."""

    def image_steps(self) -> dict[str, Any]:
        """scale, mean, std, model_layout and model_color, as `preprocess` under a recipe's export has them."""
        ...


@dataclass(frozen=True)
class ImageSteps:
    """How a model's maker says that images are prepared. values: by the keys of datasets that prepare images. file: where that stands.

    undone: what else it asks for, which those datasets do not do, in words, and the key that would have said it.
    """

    values: Mapping[str, Any]
    file: str
    undone: Mapping[str, str]


@runtime_checkable
class TakesImageSteps(Protocol):
    """A dataset's params whose keys about images may come from the model, where a recipe does not say them."""

    @classmethod
    def open_steps(cls, given: Collection[str]) -> frozenset[str]:
        """The keys that are still open when the recipe gives these."""
        ...


class CannotBeWrittenError(Exception):
    """A network has no form that others open; str(error) says what of it."""


@dataclass(frozen=True)
class ModelSourceSpec:
    """write: "module:attribute" of what writes a changed network as others open it, of the model, the params, the recipe's folder and the folder to
    make; it raises CannotBeWrittenError. Empty where a network has no such form. folder: what the folder is called. text: "module:attribute" of what reads a ServedText,
    of the params and the recipe's folder. images: the same of what reads an ImageSteps, or None, without loading anything."""

    name: str
    summary: str
    params: type[BaseModel]
    form: Form
    implementation: str
    fingerprint: str
    write: str = ""
    folder: str = ""
    text: str = ""
    images: str = ""

    def form_of(self, params: object) -> Form:
        """What it gives: a network where the params say `trainable: true`, whatever form it usually has."""
        return Form.TORCH if getattr(params, "trainable", False) is True else self.form


@dataclass(frozen=True)
class DatasetSpec:
    """fingerprint: as for models, so that a plan can name cache keys before anything is loaded.

    tuple_size: samples in a row that belong together, 2 where the source gives pairs.
    """

    name: str
    summary: str
    params: type[BaseModel]
    implementation: str
    fingerprint: str
    tuple_size: int = 1


@dataclass(frozen=True)
class MetricSpec:
    """implementation: a function of outputs, (n, ...) the model's first, and labels, (n, ...); percent where it is a share. Both
    arrays are read-only: other figures are computed from them too.

    version: raise it when the same arrays score otherwise, so that nothing that was judged by the metric is taken from the cache.

    by_class: a function of the same arrays that gives the metric by class number, None where it has no classes.

    needs: the package that it is computed by and how to install it, None where it needs none that is optional.

    unit: "%" or "" ; a drop is counted in it, positive when the compressed model is worse: in points of a metric in percent,
    else in the metric's own value.
    """

    name: str
    summary: str
    tasks: tuple[Task, ...]
    higher_is_better: bool
    unit: str
    implementation: str
    version: int = 1
    by_class: str | None = None
    needs: tuple[str, str] | None = None

    def score(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """What it raises has a note with its name."""
        try:
            return float(load(self.implementation)(read_only(outputs), read_only(labels)))
        except Exception as error:
            error.add_note(f"in the metric {self.name}")
            raise

    def drop(self, before: float, after: float) -> float:
        return before - after if self.higher_is_better else after - before

    def drop_words(self, drop: str) -> str:
        """What a model that is worse by `drop` did: "lost 1.20 points", "perplexity rose by 0.8"."""
        if self.unit == "%":
            return f"lost {drop} points"
        return f"{self.name} {'fell' if self.higher_is_better else 'rose'} by {drop}"


class LoadDecoder(Protocol):
    """base: the folder that relative paths start from (the recipe's)."""

    def __call__(self, params: Any, base: Path) -> Decode: ...


@dataclass(frozen=True)
class DecoderSpec:
    """What reads results off a model's outputs. tasks: whose results it gives, empty for any.

    version: raise it when the same outputs give other results, so that nothing that was judged by them is taken from the cache.
    loss, distance: "module:attribute" of what makes a `Loss` and a `Distance` of params and the recipe's folder, for training; empty
    where the task's own serve.
    """

    name: str
    summary: str
    tasks: tuple[Task, ...]
    params: type[BaseModel]
    implementation: str
    version: int = 1
    loss: str = ""
    distance: str = ""


def read_only(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written through."""
    view = array.view()
    view.flags.writeable = False
    return view


model_sources: Registry[ModelSourceSpec] = Registry(
    "model source",
    "compressctl.model_sources",
    {
        "builtin": "compressctl.sources.specs:BUILTIN",
        "python": "compressctl.sources.specs:PYTHON_MODEL",
        "huggingface": "compressctl.sources.specs:HUGGING_FACE",
        "timm": "compressctl.sources.specs:TIMM",
        "onnx": "compressctl.sources.specs:ONNX",
    },
)

datasets: Registry[DatasetSpec] = Registry(
    "dataset",
    "compressctl.datasets",
    {
        "digits": "compressctl.sources.specs:DIGITS",
        "npz": "compressctl.sources.specs:NPZ",
        "requests": "compressctl.sources.specs:REQUESTS",
        "onnx_test_data": "compressctl.sources.specs:ONNX_TEST_DATA",
        "random": "compressctl.sources.specs:RANDOM",
        "mask_folder": "compressctl.sources.specs:MASK_FOLDER",
        "image_folder": "compressctl.sources.specs:IMAGE_FOLDER",
        "coco": "compressctl.sources.specs:COCO",
        "yolo": "compressctl.sources.specs:YOLO",
        "csv": "compressctl.sources.specs:CSV",
        "sentence_pairs": "compressctl.sources.specs:SENTENCE_PAIRS",
        "text": "compressctl.sources.specs:TEXT",
        "text_images": "compressctl.sources.specs:TEXT_IMAGES",
        "wav_folder": "compressctl.sources.specs:WAV_FOLDER",
        "jsonl": "compressctl.sources.specs:JSONL",
        "hf_dataset": "compressctl.sources.specs:HF_DATASET",
        "python": "compressctl.sources.specs:PYTHON_DATASET",
    },
)

metrics: Registry[MetricSpec] = Registry(
    "metric",
    "compressctl.metrics",
    {
        "accuracy": "compressctl.tasks.metric_specs:ACCURACY",
        "r2": "compressctl.tasks.metric_specs:R2",
        "rmse": "compressctl.tasks.metric_specs:RMSE",
        "spearman": "compressctl.tasks.metric_specs:SPEARMAN",
        "perplexity": "compressctl.tasks.metric_specs:PERPLEXITY",
        "macro_f1": "compressctl.tasks.metric_specs:MACRO_F1",
        "balanced_accuracy": "compressctl.tasks.metric_specs:BALANCED_ACCURACY",
        "roc_auc": "compressctl.tasks.metric_specs:ROC_AUC",
        "mean_average_precision": "compressctl.tasks.metric_specs:MEAN_AVERAGE_PRECISION",
        "micro_f1": "compressctl.tasks.metric_specs:MICRO_F1",
        "token_f1": "compressctl.tasks.metric_specs:TOKEN_F1",
        "frame_accuracy": "compressctl.tasks.metric_specs:FRAME_ACCURACY",
        "frame_f1": "compressctl.tasks.metric_specs:FRAME_F1",
        "active_f1": "compressctl.tasks.metric_specs:ACTIVE_F1",
        "equal_frames": "compressctl.tasks.metric_specs:EQUAL_FRAMES",
        "ndcg_at_10": "compressctl.tasks.metric_specs:NDCG_AT_10",
        "reciprocal_rank": "compressctl.tasks.metric_specs:RECIPROCAL_RANK",
        "recall_at_1": "compressctl.tasks.metric_specs:RECALL_AT_1",
        "recall_at_10": "compressctl.tasks.metric_specs:RECALL_AT_10",
        "mean_iou": "compressctl.tasks.metric_specs:MEAN_IOU",
        "cer": "compressctl.tasks.metric_specs:CER",
        "wer": "compressctl.tasks.metric_specs:WER",
        "exact": "compressctl.tasks.metric_specs:EXACT",
        "map": "compressctl.tasks.metric_specs:MAP",
        "map50": "compressctl.tasks.metric_specs:MAP50",
        "map75": "compressctl.tasks.metric_specs:MAP75",
    },
)

decoders: Registry[DecoderSpec] = Registry(
    "decoder",
    "compressctl.decoders",
    {
        "python": "compressctl.tasks.decoder_specs:PYTHON",
        "argmax": "compressctl.tasks.decoder_specs:ARGMAX",
        "tokens": "compressctl.tasks.decoder_specs:TOKENS",
        "frames": "compressctl.tasks.decoder_specs:FRAMES",
        "active": "compressctl.tasks.decoder_specs:ACTIVE",
        "ctc": "compressctl.tasks.decoder_specs:CTC",
        "sequence": "compressctl.tasks.decoder_specs:SEQUENCE",
        "yolo": "compressctl.tasks.decoder_specs:YOLO",
        "ssd": "compressctl.tasks.decoder_specs:SSD",
        "detr": "compressctl.tasks.decoder_specs:DETR",
        "finished": "compressctl.tasks.decoder_specs:FINISHED",
    },
)
