"""compressctl auto: from a budget to the best measured file, and the recipe that makes it again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressctl.cli.options import Sets, Shapes, SharedCacheAddress, SharedCacheMode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compressctl.core.events import Event, Listener
    from compressctl.search.document import Search
    from compressctl.search.request import Request


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
    prefer: Annotated[Prefer, typer.Option(help="What counts among files that keep all limits.")] = Prefer.BALANCED,
    time: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="How long it may take, as in 90s, 30m or 2h; or unlimited, until nothing is left to try.",
        ),
    ] = "30m",
    backend: Annotated[
        str | None,
        typer.Option(
            help="The runtime that will serve the file. [default: the recipe's, else onnxruntime]", show_default=False
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
    sets: Sets = None,
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
    that keep what was asked it hands over the best: the file, recipe.yaml and recipe.pinned.yaml that make it again, and
    search.html with all others. What has been measured is kept: the same command goes on where it was stopped.

    Samples that nothing was fitted to choose (the validation split); the test split is looked at for the file that is handed over.
    Exit code 1 where no file keeps what was asked: the nearest are named, with the limit that stands in the way.

    \b
    Examples:
      compressctl auto model.onnx --data recorded/ --drop 1 --speedup 1.5
      compressctl auto builtin:digits-resnet --level high --time 10m
      compressctl auto model.onnx
      compressctl auto net.yaml --size 200KB --drop 2 --train epochs=10 --set target.threads=2
    """
    import sys

    from compressctl.measure.samples import parse_shapes
    from compressctl.pipeline.event_listeners import PlainLines
    from compressctl.search.search import search
    from compressctl.search.subject import Asked
    from compressctl.store.cache_place import stage_cache, use_shared_cache

    request = _request(drop, speedup, size, smaller, level, prefer, time, train or ())
    use_shared_cache(shared_cache, shared_cache_mode)
    asked = Asked(model, data, backend, seed, parse_shapes(shape or ()), tuple(sets or ()))
    folder = output or Path("auto") / _name(model)
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
    raise typer.Exit(found.exit_code)


class _OnlyProgress:
    """What takes long within a candidate; its steps are no news beside twenty others."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def __call__(self, event: Event) -> None:
        if event.kind == "step.progress":
            self._listener(event)


def _name(model: str) -> str:
    return model.removeprefix("builtin:") if model.startswith("builtin:") else Path(model).stem or "model"


def _request(
    drop: float | None,
    speedup: float | None,
    size: str | None,
    smaller: float | None,
    level: Level | None,
    prefer: Prefer,
    time: str,
    train: Sequence[str],
) -> Request:
    """Raises UsageError that names the option."""
    from compressctl.cli.files import parsed_size
    from compressctl.cli.limits import time_limit_of
    from compressctl.search.request import Request, goal_of, training_of

    most = None if size is None else parsed_size("--size", size)
    goal = goal_of(level and level.value, drop, speedup, most, smaller)
    seconds = None if time == "unlimited" else time_limit_of(time, "--time")
    return Request(goal, prefer.value, seconds, level and level.value, training_of(train))


def _show(found: Search, folder: Path) -> None:
    from compressctl.cli.screen import Screen
    from compressctl.search.console import render

    console = Screen()
    console.print(render(found))
    console.print(f"report: {folder / 'search.html'}", markup=False, soft_wrap=True)
