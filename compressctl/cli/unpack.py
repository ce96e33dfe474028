"""compressctl unpack: the ONNX file that was packed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def unpack(
    packed: Annotated[Path, typer.Argument(metavar="PACKED", help="A file that `compressctl pack` wrote.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="File to write. [default: PACKED with the ending .onnx]", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
    limit: Annotated[
        str, typer.Option(metavar="SIZE", help="Refuse a file that would take more than this when unpacked.")
    ] = "4GiB",
) -> None:
    """Unpack a packed model: the ONNX file, and its external data beside it, byte by byte as they were packed.

    Everything is checked: a damaged file writes nothing.

    \b
    Examples:
      compressctl unpack smaller.cctl --output smaller.onnx
    """
    from compressctl.cli.files import parsed_size, writable
    from compressctl.packed import PackedModel

    target = output or packed.with_suffix(".onnx")
    with PackedModel(packed, parsed_size("--limit", limit)) as model:
        for file in model.ledger.files:
            writable(target.parent / file.name if file.name else target, force, makes_folder=True)
        for path in model.write(target):
            print(f"{path}: {path.stat().st_size:,} bytes")
