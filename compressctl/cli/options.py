"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipePath = Annotated[Path, typer.Argument(help="The recipe: a YAML file, or builtin:quickstart.", metavar="RECIPE")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a value, as in stages.int8.ranges=mse. Repeatable."),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape", metavar="NAME=SIZE", help="Size of an open axis, by its name or as input.axis. Repeatable."
    ),
]
Unsets = Annotated[list[str] | None, typer.Option("--unset", metavar="PATH", help="Remove a value. Repeatable.")]
SharedCacheAddress = Annotated[
    str | None,
    typer.Option(
        "--shared-cache",
        metavar="ADDRESS",
        help="A cache that a team shares, behind this machine's, as in s3://bucket/cache. [env: COMPRESSCTL_SHARED_CACHE]",
        show_default=False,
    ),
]
SharedCacheMode = Annotated[
    str | None,
    typer.Option(
        "--shared-cache-mode",
        metavar="MODE",
        help="write: what is made is put there, too; read: entries are taken alone. [env: COMPRESSCTL_SHARED_CACHE_MODE] [default: write]",
        show_default=False,
    ),
]

ServedBy = Annotated[
    str | None,
    typer.Option(
        help="The runtime that will serve the file. [default: the recipe's, else onnxruntime]", show_default=False
    ),
]
