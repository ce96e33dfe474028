"""Keys and values that earlier recipes called otherwise: one table, and what puts the new names into a recipe that is read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from compressctl.core.backend import backends
from compressctl.core.errors import Origin, Problem, RecipeError, RenamedWarning
from compressctl.core.registry import Registry
from compressctl.core.source import SplitSizes, datasets, model_sources
from compressctl.core.technique import techniques
from compressctl.recipe.describe import literals_in, models_in
from compressctl.recipe.nodes import Node, Scalar, Step, find, join, plain, put, stage_id
from compressctl.recipe.schema import BudgetSection, GateSection, SearchSection, TargetSection
from compressctl.recipe.strict_yaml import Source, parse


class Rename(NamedTuple):
    """where: a pattern over names of techniques, sources and backends, and over target, gate and budget.

    value: the value of the key `old` that is called `new` now; None where the key itself has another name.
    """

    where: str
    old: str
    new: Scalar
    value: Scalar = None


RENAMES = (
    Rename("target", "batch", "batch_size"),
    Rename("gate", "otherwise", "undo", "skip"),
    Rename("image_folder", "crop", "center_crop"),
    Rename("sentence_pairs", "length", "max_length"),
    Rename("*", "average", "ema_decay"),
    Rename("*", "keep", "checkpoint"),
    Rename("*", "reestimate_norms", "recalibrate_bn"),
    Rename("*", "other_outputs", "other_outputs_weight"),
    Rename("*", "crop", "crop_padding"),
    Rename("*", "flip", "horizontal_flip"),
    Rename("cast", "blocklist", "exclude"),
    Rename("distill.*", "shrink", "width_multiplier"),
    Rename("distill.logits", "weight", "teacher_weight"),
    Rename("distill.features", "weight", "feature_weight"),
    Rename("distill.features", "contrast_width", "contrast_dim"),
    Rename("factorize.*", "hold_latency", "skip_slower"),
    Rename("factorize.*", "ridge", "damping"),
    Rename("factorize.*", "regularize", "regularization"),
    Rename("factorize.*", "penalty", "l2", "ridge"),
    Rename("factorize.*", "shared_ratio", "global_ratio"),
    Rename("factorize.*", "rank", "full", "whole"),
    Rename("factorize.svd", "conv", "skip", "whole"),
    Rename("prune.channels", "sparse", "regularization"),
    Rename("prune.channels", "at_least", "min_keep"),
    Rename("prune.channels", "steps", "iterations"),
    Rename("prune.channels", "reestimate", "bn_samples"),
    Rename("prune.heads", "at_least", "min_heads"),
    Rename("prune.layers", "rank", "criterion"),
    Rename("prune.layers", "criterion", "loss_increase", "damage"),
    Rename("prune.layers", "reestimate", "bn_samples"),
    Rename("prune.unstructured", "scope", "local", "layer"),
    Rename("prune.unstructured", "cuts", "iterations"),
    Rename("prune.unstructured", "ends", "first_and_last"),
    Rename("quantize.*", "smooth", "smoothquant_alpha"),
    Rename("quantize.*", "freeze_norms", "freeze_bn_after"),
    Rename("quantize.weights", "propagate", "propagate_error"),
    Rename("quantize.dynamic", "embeddings", "int8", 8),
    Rename("quantize.dynamic", "embeddings", "int4", 4),
    Rename("share.kmeans", "group", "group_size"),
    Rename("share.kmeans", "rate", "rate_weight"),
    Rename("share.kmeans", "membership", "assignment"),
    Rename("*", "storage", "compressed", "packed"),
    Rename("openvino", "cache", "cache_dir"),
    Rename("openvino", "half_constants", "float16_constants"),
    Rename("tensorrt", "sparse", "sparse_weights"),
)


@dataclass(frozen=True)
class Renamed:
    """An old name in a recipe. at: its entry's steps, in the old names; origin: where the old name itself stands."""

    old: Scalar
    new: Scalar
    at: tuple[Step, ...]
    origin: Origin

    @property
    def problem(self) -> Problem:
        return Problem(f"`{self.old}` is called `{self.new}` now", join("", *self.at), _HOW_TO, self.origin)


_HOW_TO = "`compressctl migrate` writes the new names into recipes"


def warn(found: Sequence[Renamed]) -> None:
    """Issue one RenamedWarning with a line for each."""
    if found:
        lines = [f"{one.origin}  {join('', *one.at)}: {one.problem.message}" for one in found]
        warnings.warn("\n".join([*lines, _HOW_TO]), RenamedWarning, stacklevel=3)


def with_new_names(root: Node, found: list[Renamed], below: Node | None = None) -> Node:
    """The recipe in new names; adds the old ones to `found`. Raises RecipeError where an old and a new name stand together.

    below: the recipe that this one extends, which says what a stage is that gives only its id.
    """
    for at, section in _sections(root, below):
        node = find(root, at)
        if node is not None:
            root = put(root, at, _renamed(node, at, section, found))
    return root


def plain_with_new_names(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a recipe as plain data, as reports hold it."""
    import json

    root = parse(Source("", json.dumps(recipe)))
    renamed: dict[str, Any] = plain(with_new_names(root, [])) if root is not None else {}
    return renamed


def steps_with_new_names(root: Node, steps: Sequence[Step], origin: Origin, found: list[Renamed]) -> list[Step]:
    """A path into the recipe in new names."""
    at, section = max(
        ((at, section) for at, section in _sections(root) if tuple(steps[: len(at)]) == at),
        key=lambda part: len(part[0]),
        default=((), _NOTHING),
    )
    renamed: list[Step] = [*at]
    for position, step in enumerate(steps[len(at) :], len(at)):
        new = section.new_key(step) if isinstance(step, str) else step
        if new != step:
            found.append(Renamed(str(step), str(new), tuple(steps[: position + 1]), origin))
        section = section.below(new) if isinstance(new, str) else section
        renamed.append(new)
    return renamed


@dataclass(frozen=True)
class _Section:
    """A mapping of a recipe. name: what `Rename.where` matches. models: what checks its keys."""

    name: str
    models: tuple[type[BaseModel], ...]

    def field(self, key: str) -> FieldInfo | None:
        return next((model.model_fields[key] for model in self.models if key in model.model_fields), None)

    def new_key(self, key: str) -> str:
        """An old name counts only where it is not a key itself and the new one is."""
        if self.field(key) is not None:
            return key
        names = (str(rename.new) for rename in RENAMES if rename.value is None and self._has(rename, key))
        return next((name for name in names if self.field(name) is not None), key)

    def new_value(self, key: str, value: Scalar) -> Scalar:
        field = self.field(key)
        options = literals_in(field.annotation) if field is not None else []
        names = (rename.new for rename in RENAMES if rename.value is not None and self._has(rename, key, value))
        return value if value in options else next((name for name in names if name in options), value)

    def _has(self, rename: Rename, key: str, value: Scalar = None) -> bool:
        is_it = rename.old == key and type(rename.value) is type(value) and rename.value == value
        return is_it and fnmatchcase(self.name, rename.where)

    def below(self, key: str) -> _Section:
        field = self.field(key)
        return replace(self, models=tuple(models_in(field.annotation)) if field is not None else ())


_NOTHING = _Section("", ())


def _sections(root: Node, below: Node | None = None) -> Iterator[tuple[tuple[Step, ...], _Section]]:
    """Every part of a recipe whose keys a model checks, parts that are not there included."""
    yield ("target",), _Section("target", (TargetSection,))
    yield ("budget",), _Section("budget", (BudgetSection,))
    yield ("search",), _Section("search", (SearchSection,))
    for key, registry, more in (("model", model_sources, ()), ("data", datasets, (SplitSizes,))):
        named = [node.entries.get("source") for tree in (root, below) if tree and (node := tree.child(key))]
        yield (key,), _registered(registry, named, more)
    inherited = {
        stage_id(node): node.child("use")
        for node in (below.entries["stages"].items if below and "stages" in below.entries else [])
    }
    for position, stage in enumerate(_items(root, "stages")):
        yield ("stages", position), _registered(techniques, [stage.child("use"), inherited.get(stage_id(stage))])
        yield ("stages", position, "gate"), _Section("gate", (GateSection,))
    for position, export in enumerate(_items(root, "export")):
        yield ("export", position), _registered(backends, [export.child("backend")])


def _items(root: Node, key: str) -> list[Node]:
    node = root.child(key)
    return node.items if node is not None else []


def _registered(
    registry: Registry[Any], names: Sequence[Node | None], more: tuple[type[BaseModel], ...] = ()
) -> _Section:
    """What the first name that is given names; nothing where it is unknown, which is an error of its own."""
    name = next((node.value for node in names if node is not None), None)
    if not isinstance(name, str) or name not in registry:
        return _NOTHING
    return _Section(name, (registry.get(name).params, *more))


def _renamed(node: Node, at: tuple[Step, ...], section: _Section, found: list[Renamed]) -> Node:
    if isinstance(node.value, list):
        return node.with_value([_renamed(item, (*at, step), section, found) for step, item in enumerate(node.items)])
    entries: dict[str, Node] = {}
    for key, child in node.entries.items():
        new, here = section.new_key(key), (*at, key)
        if new != key:
            found.append(Renamed(key, new, here, child.key or child.origin))
            if new in node.entries:
                problem = Problem(
                    f"`{key}` is called `{new}` now, which is here too", join("", *here), "keep one of them", child.key
                )
                raise RecipeError([problem])
        entries[new] = _renamed_value(child, here, section, new, found)
    return node.with_value(entries) if isinstance(node.value, dict) else node


def _renamed_value(node: Node, at: tuple[Step, ...], section: _Section, key: str, found: list[Renamed]) -> Node:
    if isinstance(node.value, list | dict):
        return _renamed(node, at, section.below(key), found)
    new = section.new_value(key, node.value)
    if new == node.value:
        return node
    found.append(Renamed(node.value, new, at, node.origin))
    return node.with_value(new)
