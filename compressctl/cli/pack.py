"""compressctl pack: an ONNX file as small as it can be sent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from compressctl.packed.ledger import Ledger


def pack(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file; external data is found beside it.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="File to write. [default: MODEL with the ending .cctl]", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Pack an ONNX file for transport, without loss.

    Zeros, few different values, low-bit numbers and exponents are each coded in about the bits that they are worth.
    `compressctl unpack` gives back the very same bytes; programs read the weights with `compressctl.packed.load(path)`,
    which needs numpy alone. A packed file is not run by a runtime: unpack it where it is used.

    \b
    Examples:
      compressctl pack smaller.onnx
      compressctl pack smaller.onnx --output smaller.cctl --force
    """
    from compressctl.cli.files import writable
    from compressctl.packed.pack import pack as pack_file

    target = writable(output or model.with_suffix(".cctl"), force)
    ledger = pack_file(model, target)
    _say(model, target, ledger)


def _say(model: Path, target: Path, ledger: Ledger) -> None:
    packed = target.stat().st_size
    files = " with its external data" if len(ledger.files) > 1 else ""
    print(f"{model}{files}: {ledger.raw_bytes:,} bytes")
    print(f"{target}: {packed:,} bytes, {ledger.raw_bytes / packed:.2f}x smaller")
    print(f"   compressctl inspect {target}   shows what each tensor takes")
