"""From files to one tree: `extends`, `--set`, `--unset` and `vars`, each value keeping where it came from."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from compressctl.core.errors import Origin, Problem, RecipeError, UsageError
from compressctl.core.regular_files import read_regular
from compressctl.recipe.nodes import MAX_DEPTH, Node, Step, join, short, shown, stage_id
from compressctl.recipe.renames import Renamed, steps_with_new_names, with_new_names
from compressctl.recipe.strict_yaml import MAX_BYTES, Source, decode, parse
from compressctl.recipe.variables import substituted

_MAX_EXTENDS, _MAX_FILES = 20, 64
_MAX_ENTRIES = 256
"""Stages, and what is exported."""
_MODELS = (".onnx", ".pt", ".pth", ".safetensors", ".bin", ".h5", ".tflite", ".xml")
_HOW_TO = "`compressctl explain onnx` and `compressctl explain python` say which models a recipe takes, and how"
_BUILTIN, _BUILTIN_FOLDER = "builtin:", Path(__file__).parent / "builtin"


@dataclass(frozen=True)
class Composed:
    """A recipe as one mapping, in the names that keys and values have now. renamed: what it calls otherwise."""

    root: Node
    renamed: tuple[Renamed, ...]


def compose(path: Path, sets: Sequence[str], unsets: Sequence[str], text: str | None = None) -> Composed:
    """The recipe without `extends` and `vars`. Raises RecipeError with what was found.

    path: a file, or `builtin:NAME` for a recipe that comes with the package. text: what the file would hold, for a recipe that is in none; the path then says what paths in it are relative to.
    """
    reading = _Reading()
    root, renamed = _read(path, (), reading, text), reading.renamed
    for text in unsets:
        root = _unset(root, text, renamed)
    for text in sets:
        root = _set(root, text, renamed)
    root = substituted(root)
    _check_lengths(root)
    return Composed(with_new_names(root, renamed), tuple(renamed))


def merged(path: Path) -> Composed:
    """The recipe with what it extends, `vars` still in it."""
    reading = _Reading()
    return Composed(_read(path, (), reading), tuple(reading.renamed))


@dataclass
class _Reading:
    """What was read of one recipe and of all that it extends, however often."""

    renamed: list[Renamed] = field(default_factory=list)
    files: int = 0
    characters: int = 0

    def add(self, source: Source) -> None:
        self.files += 1
        self.characters += len(source.text)
        if self.files > _MAX_FILES or self.characters > MAX_BYTES:
            what = f"{_MAX_FILES} files" if self.files > _MAX_FILES else f"{MAX_BYTES // 1024} KiB"
            raise RecipeError([Problem(f"with `extends`, this recipe is more than {what}", origin=Origin(source.name))])


def _read(path: Path, chain: tuple[Path, ...], reading: _Reading, text: str | None = None) -> Node:
    path = _file(path)
    resolved = _resolved(path)
    if resolved in chain:
        circle = " -> ".join(str(file.name) for file in (*chain, resolved))
        raise RecipeError([Problem(f"`extends` goes in a circle: {circle}", "extends", origin=Origin(str(path)))])
    if len(chain) >= _MAX_EXTENDS:
        raise RecipeError([Problem(f"`extends` is more than {_MAX_EXTENDS} files deep", origin=Origin(str(path)))])
    source = _source(path) if text is None else decode(str(path), text.encode("utf-8", "surrogatepass"))
    reading.add(source)
    root = parse(source)
    if root is None:
        raise RecipeError(
            [Problem("the file is empty", hint="start with `recipe: compressctl/v1`", origin=Origin(str(path), 1, 1))]
        )
    if not isinstance(root.value, dict):
        what = shown(root.value) if source.is_quoted or isinstance(root.value, list) else "a single value"
        raise RecipeError([Problem(f"a recipe is a mapping, this is {what}", origin=root.origin)])
    _check_lengths(root)
    extends = root.child("extends")
    if extends is None:
        return with_new_names(root, reading.renamed)
    below: Node | None = None
    for parent in extends.items or [extends]:
        if not isinstance(parent.value, str):
            raise RecipeError([Problem("extends names files", "extends", origin=parent.origin)])
        try:
            loaded = _read(_beside(path, parent.value), (*chain, resolved), reading)
        except RecipeError as error:
            if all(problem.origin and problem.origin.line is None for problem in error.problems):
                raise RecipeError(
                    [replace(problem, path="extends", origin=parent.origin) for problem in error.problems]
                ) from None
            raise
        below = loaded if below is None else merge(below, loaded)
    child = with_new_names(root.without("extends"), reading.renamed, below)
    return child if below is None else merge(below, child)


def _check_lengths(root: Node) -> None:
    """Each entry of these lists is compared with the others."""
    for key in ("stages", "export"):
        node = root.child(key)
        if node is not None and len(node.items) > _MAX_ENTRIES:
            what = f"{len(node.items):,} entries, {_MAX_ENTRIES} are allowed"
            raise RecipeError([Problem(what, key, origin=node.origin)])


def _beside(path: Path, named: str) -> Path:
    """What a recipe's `extends` names."""
    return Path(named) if named.startswith(_BUILTIN) else path.parent / named


def _file(path: Path) -> Path:
    """The recipe's file, also of one that comes with the package."""
    if not str(path).startswith(_BUILTIN):
        return path
    name = str(path).removeprefix(_BUILTIN)
    known = sorted(file.stem for file in _BUILTIN_FOLDER.iterdir())
    if name not in known:
        problem = Problem(
            f"no recipe {name!r} comes with compressctl",
            hint=f"{', '.join(f'{_BUILTIN}{name}' for name in known)} does; `compressctl init MODEL` writes one for a model",
            origin=Origin(str(path)),
        )
        raise RecipeError([problem])
    return _BUILTIN_FOLDER / f"{name}.yaml"


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # no file can have that name, or links go in a circle
        problem = Problem(f"{shown(str(path))} is not a path: {error}", hint="check the path", origin=Origin(str(path)))
        raise RecipeError([problem]) from None


def _source(path: Path) -> Source:
    try:
        if path.is_dir():
            raise RecipeError([Problem("this is a directory, a recipe is a file", origin=Origin(str(path)))])
        if path.suffix.lower() in _MODELS and path.is_file():
            problem = Problem(
                "this is a model, a recipe is a YAML file that names one",
                hint=f"`compressctl init {shlex.quote(str(path))}` writes a recipe for it"
                if path.suffix.lower() == ".onnx"
                else _HOW_TO,
                origin=Origin(str(path)),
            )
            raise RecipeError([problem])
        return decode(str(path), read_regular(path, MAX_BYTES))
    except RecipeError:
        raise
    except UsageError as error:  # a device, or more than a recipe may hold
        raise RecipeError([Problem(error.message, hint=error.hint, origin=Origin(str(path)))]) from None
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise RecipeError([Problem(f"the file {reason}", hint="check the path", origin=Origin(str(path)))]) from None


def merge(below: Node, above: Node, path: str = "") -> Node:
    """above over below: mappings key by key, stages by id, everything else replaced."""
    if isinstance(below.value, dict) and isinstance(above.value, dict):
        if path in ("model", "data") and _differs(below, above, "source"):
            return above
        entries = dict(below.value)
        for key, node in above.value.items():
            entries[key] = merge(entries[key], node, join(path, key)) if key in entries else node
        return above.with_value(entries)
    if path == "stages" and isinstance(below.value, list) and isinstance(above.value, list):
        return above.with_value(_merge_stages(below.items, above.items))
    return above


def _differs(below: Node, above: Node, key: str) -> bool:
    """Parameters of one source mean nothing to another."""
    new, old = above.child(key), below.child(key)
    return new is not None and old is not None and new.value != old.value


def _merge_stages(below: Sequence[Node], above: Sequence[Node]) -> list[Node]:
    result = list(below)
    positions = {stage_id(node): position for position, node in enumerate(result)}
    for node in above:
        position = positions.get(stage_id(node)) if node.child("id") is not None else None
        if position is None:
            result.append(node)
        elif _differs(result[position], node, "use"):
            result[position] = node
        else:
            result[position] = merge(result[position], node, "stage")
    return result


def _steps(root: Node, path: str, option: str) -> list[Step]:
    """Path steps with stage ids turned into positions."""
    steps: list[Step] = [int(index) if index else key for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path)]
    if not steps:
        raise RecipeError([Problem(f"{option} needs a path", hint="as in --set stages.int8.ranges=mse")])
    if len(steps) > MAX_DEPTH:
        raise RecipeError([Problem(f"{option} {short(path)}: a path of {len(steps)} steps, {MAX_DEPTH} are allowed")])
    # Stage ids may hold dots (`quantize.static`): try the longest that fits.
    if steps[0] == "stages" and len(steps) > 1 and isinstance(steps[1], str):
        stages = root.child("stages")
        known = {str(stage_id(node)): position for position, node in enumerate(stages.items if stages else [])}
        for length in range(len(steps) - 1, 0, -1):
            name = ".".join(str(step) for step in steps[1 : 1 + length])
            if name in known:
                return [steps[0], known[name], *steps[1 + length :]]
        raise RecipeError(
            [
                Problem(
                    f"{option}: there is no stage {steps[1]!r}",
                    hint=f"stages: {', '.join(known) or 'none'}",
                    origin=Origin(f"{option} {short(path)}"),
                )
            ]
        )
    return steps


def _set(root: Node, text: str, renamed: list[Renamed]) -> Node:
    path, equals, value = text.partition("=")
    if not equals:
        raise RecipeError(
            [Problem(f"--set {short(text)}: write path=value", hint="as in --set stages.int8.ranges=mse")]
        )
    origin = Origin(f"--set {short(text)}")
    parsed = parse(Source(origin.source, value))
    node = _moved(parsed, origin) if parsed is not None else Node(None, origin)
    steps = steps_with_new_names(root, _steps(root, path.strip(), "--set"), origin, renamed)
    return _put(root, steps, node, path)


def _moved(node: Node, origin: Origin) -> Node:
    value = node.value
    if isinstance(value, dict):
        return Node({key: _moved(child, origin) for key, child in value.items()}, origin, origin)
    if isinstance(value, list):
        return Node([_moved(child, origin) for child in value], origin, origin)
    return Node(value, origin, origin)


def _put(root: Node, steps: Sequence[Step], node: Node, path: str) -> Node:
    if not steps:
        return node
    step, rest = steps[0], steps[1:]
    child = root.child(step)
    if isinstance(step, int):
        if child is None:
            raise RecipeError([Problem(f"--set {short(path)}: there is no item {step}", origin=node.origin)])
        items = list(root.items)
        items[step] = _put(child, rest, node, path)
        return root.with_value(items)
    if root.value is not None and not isinstance(root.value, dict):
        raise RecipeError([Problem(f"--set {short(path)}: {step!r} lies below a single value", origin=node.origin)])
    below = child if child is not None else Node({}, node.origin, node.origin)
    return root.with_value({**root.entries, step: _put(below, rest, node, path)})


def _unset(root: Node, path: str, renamed: list[Renamed]) -> Node:
    origin = Origin(f"--unset {short(path)}")
    steps = steps_with_new_names(root, _steps(root, path.strip(), "--unset"), origin, renamed)

    def remove(node: Node, rest: Sequence[Step]) -> Node:
        child = node.child(rest[0])
        if child is None:
            raise RecipeError([Problem(f"--unset {short(path)}: there is nothing", origin=origin)])
        if isinstance(rest[0], int):
            kept = list(node.items)
            kept[rest[0]] = remove(child, rest[1:]) if len(rest) > 1 else child
            return node.with_value(kept if len(rest) > 1 else [*kept[: rest[0]], *kept[rest[0] + 1 :]])
        if len(rest) == 1:
            return node.without(rest[0])
        return node.with_value({**node.entries, rest[0]: remove(child, rest[1:])})

    return remove(root, steps)
