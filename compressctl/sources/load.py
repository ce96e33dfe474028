"""Models and datasets from the sections of a recipe, whatever their source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from compressctl.core.custom_ops import library
from compressctl.core.data import Dataset
from compressctl.core.model import Model, OnnxModel
from compressctl.core.registry import load
from compressctl.core.source import Fingerprint, LoadDataset, LoadModel, datasets, model_sources
from compressctl.core.tasks import Task
from compressctl.recipe.schema import DataSection, ModelSection
from compressctl.sources.fingerprint import splits_fingerprint
from compressctl.sources.params import OnnxParams


def load_model(section: ModelSection, base: Path, seed: int) -> Model:
    """The model in its source's form. base: the folder that relative paths start from. seed: for untrained weights.

    Raises UsageError when it cannot be loaded or holds weights that are no numbers, MissingDependencyError when its source
    needs what is not installed.
    """
    from compressctl.sources.sanity import check_weights

    read = cast(LoadModel, load(model_sources.get(section.source).implementation))
    model = read(section.params, base, seed)
    check_weights(model, "the model")
    return model


def graph_of(section: ModelSection, base: Path) -> OnnxModel | None:
    """The file's graph where the model is a network made of one (`trainable`); None for every other."""
    params = section.params
    if not isinstance(params, OnnxParams) or not params.trainable:
        return None
    from compressctl.sources.onnx_file import load_graph

    return load_graph(params, base)


def libraries(section: ModelSection, base: Path) -> list[Path]:
    """Libraries of operators that every session of the model must know. Raises UsageError and MissingDependencyError."""
    params = section.params
    return [library(name, base) for name in params.custom_ops] if isinstance(params, OnnxParams) else []


def model_fingerprint(section: ModelSection, base: Path) -> str:
    """A hash of everything that decides what load_model would give, without loading it or importing torch."""
    identify = cast(Fingerprint, load(model_sources.get(section.source).fingerprint))
    return identify(section.params, base)


def load_dataset(
    section: DataSection,
    base: Path,
    seed: int,
    task: Task | None = None,
    outputs: Callable[[], int | None] = lambda: None,
    heads: Mapping[str, tuple[Task, Callable[[], int | None]]] | None = None,
) -> Dataset:
    """The dataset, its splits dealt by seed. task: the recipe's; for a language model the labels are checked and completed.

    Samples are checked when they are first read: see `sanity.CheckedDataset`. outputs: how many classes the model tells apart.
    heads: task and outputs of each, where there are several.
    Raises UsageError when it cannot be read, the sizes do not fit, or a language model's labels are not its tokens.
    """
    from compressctl.sources.sanity import CheckedDataset

    read = cast(LoadDataset, load(datasets.get(section.source).implementation))
    dataset = read(section.params, section.sizes, base, seed)
    if task == "language-model":
        from compressctl.sources.language_model import language_model_data

        dataset = language_model_data(dataset)
    return CheckedDataset(dataset, task, outputs, heads or {})


def dataset_fingerprint(section: DataSection, base: Path, seed: int) -> str:
    """A hash of everything that decides what load_dataset would give: the files' contents, and what decides the splits."""
    identify = cast(Fingerprint, load(datasets.get(section.source).fingerprint))
    return splits_fingerprint(identify(section.params, base), section.sizes, seed)
