"""What is compressed, as a recipe without stages: from a file, or from the sections that recipes have."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.core.target import Profile
from compressctl.recipe.as_yaml import as_yaml
from compressctl.recipe.compose import compose
from compressctl.recipe.loader import read
from compressctl.recipe.nodes import plain
from compressctl.recipe.schema import Recipe
from compressctl.search.paths import moved

_BUILTIN = "builtin:"
RECIPES = (".yaml", ".yml", ".json")
_JUDGING = ("task", "metric", "decode", "loss", "heads", "data")
_OWN = ("stages", "search", "export", "budget")
"""What a search makes itself."""

_NORMS = {"id": "norms", "use": "unfold"}

_SIZES = tuple(SplitSizes.model_fields)
_MOST_CALIBRATION, _MOST_VALIDATION = 300, 1000


@dataclass(frozen=True)
class Subject:
    """content: a recipe's, without stages, deliverables and budget; its paths start from base, the search's folder.

    deals_samples: whether nobody said which samples choose and which calibrate. notes: what was guessed, or is not used.
    short_names: whether files say little of where their tensors come from, so that they are smaller. first: stages before all others.
    """

    content: dict[str, Any]
    base: Path
    deals_samples: bool = False
    notes: tuple[str, ...] = ()
    short_names: bool = False
    first: tuple[Mapping[str, Any], ...] = ()

    def export(self, *, compressed: bool = False) -> dict[str, Any]:
        """The section of the one file that is made. compressed: stored so, where ONNX Runtime unpacks it."""
        backend = self.content["target"]["backend"]
        short = {"names": "short"} if self.short_names and backend == "onnxruntime" else {}
        return {"backend": backend, **({"storage": "compressed"} if compressed else {}), **short}

    def recipe(self, stages: Sequence[Mapping[str, Any]] = (), **sections: Any) -> Recipe:
        """With these stages, read and checked. sections: others of a recipe. Raises RecipeError."""
        content = {**copy.deepcopy(self.content), **sections, "stages": self.stages(stages)}
        return read(self.base / "recipe.yaml", text=as_yaml(content))[0]

    def stages(self, stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """All that are carried out where these are asked for."""
        return [dict(stage) for stage in (*self.first, *stages)]

    def on(self, profile: Profile) -> Subject:
        """For a machine of this profile, unless the recipe says which."""
        own = self.content["target"]
        if own.get("profile", "auto") != "auto":
            return self
        return replace(self, content={**self.content, "target": {**own, "profile": profile}})

    def as_network(self, *, lacks_norms: bool = False) -> Subject:
        """With a network in torch in the place of its ONNX file. lacks_norms: whether it gets them first, without which it trains badly."""
        network = {**self.content, "model": {**self.content["model"], "trainable": True}}
        return replace(self, content=network, first=(_NORMS,) if lacks_norms else ())

    @property
    def is_file(self) -> bool:
        """Whether the model is an ONNX file that stays a graph."""
        model = self.content["model"]
        return model["source"] == "onnx" and not model.get("trainable")

    def dealt(self, validation: int, calibration: int) -> Subject:
        """With other sizes of splits."""
        sizes = {"validation": validation, "calibration": calibration}
        return replace(self, content={**self.content, "data": {**self.content["data"], **sizes}})

    def chosen_by_test_samples(self, count: int) -> Subject:
        """With so many validation samples of the data's own test split, the others report."""
        sizes = {"validation": count, "validation_from": "test"}
        return replace(self, content={**self.content, "data": {**self.content["data"], **sizes}})


def sizes_to_choose_by(samples: Mapping[str, int]) -> tuple[int, int]:
    """Validation and calibration samples where nothing trains: half of what the test split leaves chooses. samples: by split, as
    the data's own defaults deal them."""
    pool = samples["train"] + samples["validation"] + samples["calibration"]
    validation = min(_MOST_VALIDATION, pool // 2)
    return validation, min(_MOST_CALIBRATION, pool - validation)


@dataclass(frozen=True)
class Asked:
    """What the command line says beside the goal. data: samples, `digits`, or a YAML file with a `data` section; None for the
    model's own. shapes: sizes of open axes. sets, unsets: as `apply` takes them, unsets of a recipe alone."""

    model: str
    data: str | None = None
    backend: str | None = None
    seed: int | None = None
    shapes: Mapping[str, int] | None = None
    sets: Sequence[str] = ()
    unsets: Sequence[str] = ()


def subject_of(asked: Asked, output: Path) -> Subject:
    """output: the folder that paths shall start from. Raises UsageError for a model or data that no recipe can be made of."""
    content, notes, rest = _of_model(asked, output)
    if rest is not None:
        content = {**content, **data_sections(rest, output)}
        if "heads" in content:
            content = {key: value for key, value in content.items() if key not in ("task", "metric")}
    if asked.backend is not None:
        content["target"] = {**content.get("target", {}), "backend": asked.backend}
    if asked.shapes and Path(asked.model).suffix.lower() != ".onnx":
        target = content.get("target", {})
        content["target"] = {**target, "shapes": {**target.get("shapes", {}), **asked.shapes}}
    if asked.seed is not None:
        content["seed"] = asked.seed
    data = content.get("data") or {}
    is_dealt = any(size in data for size in _SIZES) or any(
        entry.split("=")[0].strip() in {f"data.{size}" for size in _SIZES} for entry in asked.sets
    )
    is_recipe = Path(asked.model).suffix.lower() in RECIPES
    sets = [entry for entry in asked.sets if not (is_recipe and _section_of(entry) == "search")]
    if (own := next((name for name in map(_section_of, sets) if name in _OWN), None)) is not None:
        raise UsageError(
            f"--set {own}: auto makes its own {own}",
            hint="say limits as --drop, --size, --speedup and --train; --set changes the model, its data and the target, as in target.threads=2",
        )
    made, _ = read(output / "recipe.yaml", sets, text=as_yaml({**content, "stages": []}))
    if made.pipeline is not None:
        raise UsageError(
            "auto takes one model, and this recipe compresses one that works together with others",
            hint="compressctl apply takes such recipes",
        )
    kept = {key: value for key, value in made.resolved.items() if key not in _OWN}
    return Subject(kept, output, not is_dealt and data.get("source") != "digits", notes)


def _section_of(entry: str) -> str:
    """Of an entry of --set, as in target.threads=2."""
    return re.split(r"[.=\[]", entry.strip(), maxsplit=1)[0].strip()


def _of_model(asked: Asked, output: Path) -> tuple[dict[str, Any], tuple[str, ...], str | None]:
    """A recipe's content, what was guessed or left out, and the data that are still to be looked at."""
    from compressctl.pipeline import starter
    from compressctl.sources import builtin

    model = asked.model
    name, file = model.removeprefix(_BUILTIN), Path(model)
    if model.startswith(_BUILTIN) and name in builtin.NAMES:
        return _without_stages(starter.for_builtin(name).text, output), (), asked.data
    if model.startswith(_BUILTIN) or file.suffix.lower() in RECIPES:
        return *_of_recipe(file, output, asked), asked.data
    if file.suffix.lower() != ".onnx":
        raise UsageError(
            f"{model!r} is no model that auto takes",
            hint="name an .onnx file, builtin:NAME, or a recipe, whose `model` and `data` are taken",
        )
    is_found = asked.data is not None and not _is_section(asked.data)
    made = starter.for_onnx(
        file, output / "recipe.yaml", Path(asked.data) if is_found and asked.data else None, asked.shapes or {}
    )
    unsure = made.unsure if is_found or asked.data is None else ()
    return _without_stages(made.text, output), unsure, None if is_found else asked.data


def _is_section(data: str) -> bool:
    return data == "digits" or Path(data).suffix.lower() in RECIPES


def _without_stages(text: str, output: Path) -> dict[str, Any]:
    content: dict[str, Any] = plain(compose(output / "recipe.yaml", (), (), text).root)
    return {key: value for key, value in content.items() if key not in _OWN}


def _of_recipe(path: Path, output: Path, asked: Asked) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What a recipe says of the model, its data and the target, with paths that start from the output. asked: its sets may name the model."""
    made, _ = read(path, asked.sets, asked.unsets)
    raw: dict[str, Any] = plain(compose(path, asked.sets, asked.unsets).root)
    left = [name for name in _OWN if name != "search" and raw.get(name)]
    notes = (f"{path}: {', '.join(left)} not used: auto makes its own",) if left else ()
    content = {key: value for key, value in raw.items() if key not in _OWN}
    return moved({**content, "name": made.name}, made.base, output), notes


def data_sections(data: str, output: Path) -> dict[str, Any]:
    """Sections of a recipe for data that were named on the command line. output: the folder that paths shall start from."""
    path = Path(data)
    if data == "digits":
        return {"data": {"source": "digits"}, "task": "classification"}
    if path.suffix.lower() in RECIPES:
        raw: dict[str, Any] = plain(compose(path, (), ()).root)
        if not isinstance(raw.get("data"), dict):
            raise UsageError(
                f"{path} has no `data` section", hint="write one, as in `data: {source: requests, path: recorded/}`"
            )
        found = {key: raw[key] for key in _JUDGING if key in raw}
        return dict(moved(found, path.parent, output))
    return dict(moved(_found(path), Path(), output))


def _found(path: Path) -> dict[str, Any]:
    """Samples for a network whose inputs are not known before it is loaded. Raises UsageError."""
    if path.is_dir() and any(path.glob("*.npz")):
        return {"data": {"source": "requests", "path": str(path)}, "task": "custom"}
    if path.is_dir() and any(path.glob("test_data_set_*")):
        return {"data": {"source": "onnx_test_data", "path": str(path)}, "task": "custom"}
    if not path.exists():
        raise UsageError(f"--data {path} does not exist")
    raise UsageError(
        f"--data {path}: no kind of data that fits any network",
        hint="name a folder of recorded calls (.npz), or a YAML file with a `data` section, which says how samples become inputs",
    )
