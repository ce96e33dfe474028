"""compressctl auto: from a budget to the best measured file, and the recipe that makes it again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressctl.cli.options import ServedBy, Shapes, SharedCacheAddress, SharedCacheMode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from compressctl.core.events import Event, Listener
    from compressctl.recipe.schema import SearchSection
    from compressctl.search.document import Search
    from compressctl.search.request import Request
    from compressctl.search.subject import Asked


class Level(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    EXTREME = "extreme"


class Prefer(StrEnum):
    BALANCED = "balanced"
    SIZE = "size"
    SPEED = "speed"
    QUALITY = "quality"


def auto(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="An .onnx file, a recipe whose `model` and `data` are taken, or builtin:NAME."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Samples: a folder of recorded calls (.npz) or of test_data_set_*, an .npz file, a YAML file with a `data` section, or "
            "digits. [default: the recipe's, else none: then quality is not judged]",
            show_default=False,
        ),
    ] = None,
    drop: Annotated[
        float | None,
        typer.Option(
            help="Most that may be lost: points of the metric; without labels per cent of changed decisions and of 1 - cosine. [default: 1]",
            show_default=False,
        ),
    ] = None,
    speedup: Annotated[
        float | None, typer.Option(help="At least so many times as fast as the float file.", show_default=False)
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="At most so large a file, as in 5MB or 800KB.", show_default=False)
    ] = None,
    smaller: Annotated[
        float | None, typer.Option(help="At least so many times smaller than the float file.", show_default=False)
    ] = None,
    level: Annotated[
        Level | None,
        typer.Option(
            help="The usual scale: low is 2x smaller and 0.5 lost; medium 4x, 2x faster, 1; high 8x, 4x, 3; extreme 16x, 8x, 8. Limits that "
            "are given replace its own.",
            show_default=False,
        ),
    ] = None,
    prefer: Annotated[
        Prefer | None,
        typer.Option(help="What counts among files that keep all limits. [default: balanced]", show_default=False),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="How long it may take, as in 90s, 30m or 2h; or unlimited, until nothing is left to try. [default: 30m]",
            show_default=False,
        ),
    ] = None,
    backend: ServedBy = None,
    costs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What layers take on another machine, as `compressctl tables measure` wrote it there: speeds are foretold for that one.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of splits and training.", show_default=False)] = None,
    shape: Shapes = None,
    train: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A value for whatever trains, as in epochs=10 or augment={crop_padding: 4}. Repeatable.",
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Change a value of the model, its data or the target, as in target.threads=2. Repeatable.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the search; one that is there is gone on from. [default: auto/<model>]", show_default=False
        ),
    ] = None,
    cache: Annotated[
        bool, typer.Option("--resume/--no-cache", help="Take finished stages from the cache, or run everything again.")
    ] = True,
    shared_cache: SharedCacheAddress = None,
    shared_cache_mode: SharedCacheMode = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Find what makes a model as small and fast as asked, without a recipe: budget in, recipe out.

    It looks at the model and its data, tries what fits, cheap before dear, and measures every file beside the original. Of those
    that keep what was asked it hands over the best: the file, recipe.yaml to read and change, recipe.pinned.yaml that makes the
    same file again, and search.html with all others. What has been measured is kept: the same command goes on where it was stopped.

    Samples that nothing was fitted to choose (the validation split); the test split is looked at for the file that is handed over.
    Exit code 1 where no file keeps what was asked: the nearest are named, with the limit that stands in the way.
    A recipe may say what is asked itself, in a section `search`; `compressctl apply` then does the same.

    \b
    Examples:
      compressctl auto model.onnx --data recorded/ --drop 1 --speedup 1.5
      compressctl auto builtin:digits-resnet --level high --time 10m
      compressctl auto model.onnx
      compressctl auto net.yaml --size 200KB --drop 2 --train epochs=10 --set target.threads=2
    """
    from compressctl.measure.samples import parse_shapes
    from compressctl.search.subject import Asked
    from compressctl.store.cache_place import use_shared_cache

    given = {
        "drop": drop,
        "speedup": speedup,
        "size": size,
        "smaller": smaller,
        "level": level,
        "prefer": prefer,
        "time": time,
        "costs": costs,
    }
    request = _request(_section(model, sets or (), ()), Path(model).parent, given, train or ())
    use_shared_cache(shared_cache, shared_cache_mode)
    asked = Asked(model, data, backend, seed, parse_shapes(shape or ()), tuple(sets or ()))
    raise typer.Exit(carry_out(request, asked, output or Path("auto") / _name(model), cache=cache, as_json=as_json))


def apply_search(
    recipe: Path,
    sets: Sequence[str],
    unsets: Sequence[str],
    shapes: Mapping[str, int],
    output: Path | None,
    time_limit: str | None,
    *,
    cache: bool,
) -> int:
    """What `apply` does with a recipe that has a section `search`. Returns the exit code."""
    from compressctl.search.subject import Asked

    request = _request(_section(str(recipe), sets, unsets), recipe.parent, {"time": time_limit}, ())
    asked = Asked(str(recipe), shapes=shapes, sets=tuple(sets), unsets=tuple(unsets))
    return carry_out(request, asked, output or Path("auto") / recipe.stem, cache=cache)


def carry_out(request: Request, asked: Asked, folder: Path, *, cache: bool, as_json: bool = False) -> int:
    """Search, and show what was found. Returns the exit code."""
    import sys

    from compressctl.pipeline.event_listeners import PlainLines
    from compressctl.search.search import search
    from compressctl.store.cache_place import stage_cache

    found = search(
        request,
        asked,
        folder,
        cache=stage_cache() if cache else None,
        listeners=[_OnlyProgress(PlainLines(sys.stderr))],
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if as_json:
        print(found.model_dump_json(indent=1))
    else:
        _show(found, folder)
    if found.error:
        print(found.error, file=sys.stderr)
    return found.exit_code


class _OnlyProgress:
    """What takes long within a candidate; its steps are no news beside twenty others."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def __call__(self, event: Event) -> None:
        if event.kind == "step.progress":
            self._listener(event)


def _name(model: str) -> str:
    return model.removeprefix("builtin:") if model.startswith("builtin:") else Path(model).stem or "model"


def _section(model: str, sets: Sequence[str], unsets: Sequence[str]) -> SearchSection:
    """A recipe's own; an empty one where it has none, or the model is no recipe."""
    from compressctl.recipe.loader import read
    from compressctl.recipe.schema import SearchSection
    from compressctl.search.subject import RECIPES

    if Path(model).suffix.lower() not in RECIPES:
        return SearchSection()
    own = [entry for entry in sets if entry.lstrip().startswith("search.")]
    return read(Path(model), own, unsets)[0].search or SearchSection()


def _request(section: SearchSection, base: Path, given: Mapping[str, Any], train: Sequence[str]) -> Request:
    """base: the recipe's folder. given: what the command line says instead. Raises UsageError that names the option."""
    from dataclasses import replace

    from compressctl.cli.files import parsed_size
    from compressctl.cli.limits import time_limit_of
    from compressctl.search.request import goal_of, request_of, training_of

    asked = request_of(section, base)
    own = section.model_dump()
    texts = {name: getattr(value, "value", value) for name, value in given.items() if value is not None}
    if "size" in texts:
        texts["size"] = parsed_size("--size", texts["size"])
        own["smaller"] = None
    elif "smaller" in texts:
        own["size"] = None
    limits = {name: texts.get(name, own[name]) for name in ("level", "drop", "speedup", "size", "smaller")}
    goal = goal_of(limits["level"], limits["drop"], limits["speedup"], limits["size"], limits["smaller"])
    found = replace(asked, goal=goal, level=limits["level"], prefer=texts.get("prefer", asked.prefer))
    if "costs" in texts:
        found = replace(found, costs=texts["costs"])
    if "time" in texts:
        found = replace(found, seconds=None if texts["time"] == "unlimited" else time_limit_of(texts["time"], "--time"))
    return replace(found, training={**found.training, **training_of(train)})


def _show(found: Search, folder: Path) -> None:
    from compressctl.cli.screen import Screen
    from compressctl.search.console import render

    console = Screen()
    console.print(render(found))
    console.print(f"report: {folder / 'search.html'}", markup=False, soft_wrap=True)
