"""A recipe for several files that work together, one after the other: what it says about each, as a recipe for that file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from compressctl.core.errors import Problem, RecipeError
from compressctl.recipe.compose import compose
from compressctl.recipe.nodes import Node, find, shown

_STAGES = ["pipeline", "stages"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def files_of(path: Path, sets: Sequence[str] = (), unsets: Sequence[str] = ()) -> tuple[str, ...]:
    """What the recipe calls the files that it compresses, in its order; none where it is a recipe for one. Raises RecipeError."""
    root = compose(path, sets, unsets).root
    stages = find(root, _STAGES)
    return () if stages is None or find(root, ["pipeline", "role"]) is not None else tuple(stages.entries)


def for_one_file(root: Node) -> Node:
    """The recipe for the file that `pipeline.role` names: its model, its stages, the others beside it. Other recipes as they are."""
    stages = find(root, _STAGES)
    if stages is None:
        return root
    pipeline, models, role = (find(root, at) for at in (["pipeline"], ["pipeline", "models"], ["pipeline", "role"]))
    known = models.entries if models is not None else {}
    problems = [
        _problem(f"`pipeline.stages` compresses the files of `pipeline.models`, so `{name}` has no place here", node)
        for name in ("model", "stages")
        if (node := root.child(name)) is not None
    ]
    problems += [
        _problem(f"{name} is none of `pipeline.models`", node, f"there are: {', '.join(known)}")
        for name, node in stages.entries.items()
        if name not in known
    ]
    problems += [
        _problem(f"a folder is called {shown(name)}, which should be letters, digits, `.`, `_` and `-`", node)
        for name, node in stages.entries.items()
        if not _NAME.fullmatch(name)
    ]
    if not stages.entries:
        problems.append(
            _problem("`pipeline.stages` names no file", stages, "give each file's stages by its name in `models`")
        )
    elif role is None:
        first = next(iter(stages.entries))
        hint = (
            f"the command `compressctl apply` takes all; everything else takes one: --set pipeline.role={first}, in Python "
            f'overrides={{"pipeline.role": "{first}"}}'
        )
        problems.append(
            _problem(f"this recipe compresses {', '.join(stages.entries)} one after the other", stages, hint)
        )
    elif not isinstance(role.value, str) or role.value not in stages.entries:
        problems.append(_problem(f"{shown(role.value)} has no stages", role, f"there are: {', '.join(stages.entries)}"))
    if problems:
        raise RecipeError(problems)
    assert pipeline is not None
    assert models is not None
    assert role is not None
    name = str(role.value)
    beside = pipeline.without("stages").entries | {"models": models.without(name)}
    single = {"model": known[name], "stages": stages.entries[name], "pipeline": pipeline.with_value(beside)}
    return root.with_value({**root.entries, **single})


def _problem(message: str, node: Node, hint: str | None = None) -> Problem:
    return Problem(message, hint=hint, origin=node.key or node.origin)
