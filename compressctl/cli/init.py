"""compressctl init: a starter recipe for a model."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressctl.cli.options import Shapes
from compressctl.core.errors import UsageError
from compressctl.core.whole_files import write_whole

if TYPE_CHECKING:
    from compressctl.pipeline.starter_text import Starter

_BUILTIN = "builtin:"


def init(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help='An .onnx file, a folder as transformers saves it, "file.py:name" for a PyTorch network, or builtin:NAME.',
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Samples: a folder of recorded calls (.npz), of test_data_set_*, or of one folder of images per class; or an .npz "
            "file; for a model's folder texts, a table, or images. [default: random values, or an example to fill in]",
            show_default=False,
        ),
    ] = None,
    shape: Shapes = None,
    output: Annotated[
        Path | None,
        typer.Option(help="The recipe to write. [default: the model's name with .yaml]", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a commented starter recipe for a model: its inputs and their shapes as the file has them, and a technique that fits.

    What the file does not tell (the size of an open axis, which integers an input takes) is guessed, marked, and named here.

    \b
    Examples:
      compressctl init model.onnx --data recorded/
      compressctl init model.onnx --shape sequence=128 --output small.yaml
      compressctl init models/small-llama --data texts.txt
      compressctl init net.py:make
    """
    from compressctl.measure.samples import parse_shapes

    path = output or Path(f"{_stem(model)}.yaml")
    if path.exists() and not force:
        raise UsageError(f"{path} exists", hint="name another with --output, or write over it with --force")
    made = _starter(model, path, data, parse_shapes(shape or ()))
    write_whole(path, [made.text.encode()])
    print(f"wrote {path}")
    for line in made.unsure:
        print(f"look at: {line}")
    print(f"next: compressctl apply {shlex.quote(str(path))}")


def _stem(model: str) -> str:
    name = model.removeprefix(_BUILTIN) if model.startswith(_BUILTIN) else Path(model.partition(".py:")[0]).stem
    return name or "recipe"


def _starter(model: str, path: Path, data: Path | None, shapes: dict[str, int]) -> Starter:
    from compressctl.pipeline import starter

    if model.startswith(_BUILTIN):
        from compressctl.sources import builtin

        name = model.removeprefix(_BUILTIN)
        if name not in builtin.NAMES:
            raise UsageError(f"there is no built-in network {name!r}", hint=f"known: {', '.join(builtin.NAMES)}")
        return starter.for_builtin(name)
    if ".py:" in model:
        code = Path(model.rpartition(":")[0])
        if not code.is_file():
            raise UsageError(f"{code} does not exist", hint='write "file.py:name", a function that returns the network')
        return starter.for_python(model)
    file = Path(model)
    if file.is_dir():
        return _for_folder(file, path, data, shapes)
    if file.suffix.lower() != ".onnx":
        raise UsageError(
            f"{model!r} is no model that a recipe can be written for",
            hint='name an .onnx file, a folder as transformers saves it, "file.py:name" for a PyTorch network, or builtin:NAME',
        )
    return starter.for_onnx(file, path, data, shapes)


def _for_folder(folder: Path, path: Path, data: Path | None, shapes: dict[str, int]) -> Starter:
    from compressctl.pipeline.starter_folder import for_folder

    if shapes:
        raise UsageError(
            "--shape is for open axes of an .onnx file",
            hint="a folder's network takes texts and images of the data's sizes",
        )
    return for_folder(folder, path, data)
