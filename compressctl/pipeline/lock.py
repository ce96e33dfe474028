"""recipe.lock.yaml: everything that decided a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressctl.core.secrets import for_others
from compressctl.core.whole_files import write_whole
from compressctl.pipeline.plan import Plan, stage_seed, used_plugins
from compressctl.recipe.as_yaml import as_yaml
from compressctl.recipe.lock import read_lock
from compressctl.recipe.schema import Recipe
from compressctl.sources.addressed import pinned
from compressctl.sources.params import OnnxParams
from compressctl.store.address import is_address


def write_lock(path: Path, recipe: Recipe, plan: Plan, environment: Mapping[str, Any]) -> None:
    """The resolved recipe, seeds, hashes of model and data, plugins, packages and hardware."""
    lock = {
        "recipe": _pinned(recipe),
        "base": str(recipe.base.resolve()),
        "target_profile": plan.target.profile,
        "stage_seeds": {stage.id: stage_seed(recipe.seed, stage.id) for stage in recipe.stages},
        "model_sha256": plan.model_fingerprint,
        "data_sha256": plan.data_fingerprint,
        "plugins": [
            {"kind": plugin.kind, "name": plugin.name, "package": plugin.package, "version": plugin.version}
            for plugin in used_plugins(recipe)
        ],
        "environment": dict(environment),
    }
    write_whole(path, [as_yaml(for_others(lock)).encode()])


def add_decided(path: Path, decided: Mapping[str, Mapping[str, Any]]) -> None:
    """Add to a run's lock what a clock decided while its files were written. decided: see Artifact.decided, by backend."""
    if decided and path.is_file():
        write_whole(path, [as_yaml({**read_lock(path), "decided": for_others(decided)}).encode()])


def _pinned(recipe: Recipe) -> Mapping[str, Any]:
    """The recipe with checksums of what it takes from addresses, so that another file there is not taken for it."""
    params = recipe.model.params
    if not isinstance(params, OnnxParams) or not is_address(params.path):
        return recipe.resolved
    found = pinned(params)
    return {
        **recipe.resolved,
        "model": {**recipe.resolved["model"], "sha256": found.sha256, "external": found.external},
    }
