"""recipe.pinned.yaml: the recipe with what its stages and a clock chose written out, so that it gives the same without a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compressctl.core.model import StageRecord
from compressctl.core.secrets import without_secrets
from compressctl.core.whole_files import write_whole
from compressctl.recipe.as_yaml import as_yaml
from compressctl.recipe.lock import with_decided
from compressctl.recipe.schema import Recipe

NAME = "recipe.pinned.yaml"


def write_pinned(
    folder: Path, recipe: Recipe, records: Sequence[StageRecord], decided: Mapping[str, Mapping[str, Any]] | None = None
) -> Path | None:
    """Write it into the run's folder when a stage or a backend chose something that a recipe can say; None otherwise.

    decided: see Artifact.decided, by backend.
    """
    pinned = {record.id: record.pinned for record in records if record.pinned is not None}
    if not pinned and not decided:
        return None
    stages = [
        _explicit(written, pinned.get(stage.id))
        for stage, written in zip(recipe.stages, recipe.resolved["stages"], strict=True)
    ]
    resolved = with_decided({**recipe.resolved, "stages": stages}, decided or {})
    text = as_yaml(without_secrets(resolved))
    path = folder / NAME
    chose = [f"{', '.join(pinned)} chose"] if pinned else []
    chose += [f"a clock chose for {', '.join(decided)}"] if decided else []
    head = f"# What {' and what '.join(chose)}, written out. Relative paths start from this file: put it beside the recipe.\n"
    write_whole(path, [(head + text).encode()])
    return path


def _explicit(stage: dict[str, Any], chosen: Any) -> dict[str, Any]:
    """The stage under its own id, which its seed comes from. Its gate may stop it, but changes nothing that was chosen."""
    if chosen is None:
        return stage
    kept: dict[str, Any] = {key: stage[key] for key in ("id", "enabled", "if_slower") if key in stage}
    if stage.get("gate"):
        kept["gate"] = {**stage["gate"], "otherwise": stage["gate"].get("otherwise") or "stop"}
    return {**kept, **chosen}
