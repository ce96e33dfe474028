"""What `compressctl inspect` shows of a packed file: the ledger, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compressctl.packed import PackedModel
from compressctl.packed.read import TensorLine


def document(path: Path) -> dict[str, Any]:
    """As JSON. Raises PackedError."""
    with PackedModel(path) as model:
        return {
            "model": str(path),
            "packed_bytes": model.packed_bytes,
            "raw_bytes": model.ledger.raw_bytes,
            "graph_bytes": model.head_bytes,
            "files": [{"name": file.name, "raw_bytes": file.size} for file in model.ledger.files],
            "tensors": [
                {
                    "name": line.name,
                    "dtype": line.dtype,
                    "shape": line.shape,
                    "coding": line.coding,
                    "packed_bytes": line.packed_bytes,
                    "raw_bytes": line.raw_bytes,
                }
                for line in model.lines()
            ],
        }


def show(path: Path, every: bool) -> None:
    """As a table; bits are those of one value. Raises PackedError.

    Tensors of less than a thousandth of the file are shown together, unless every one is wanted.
    """
    from rich.text import Text

    from compressctl.cli.columns import print_columns
    from compressctl.cli.screen import Screen

    with PackedModel(path) as model:
        lines, raw, packed, head = model.lines(), model.ledger.raw_bytes, model.packed_bytes, model.head_bytes
    shown = [line for line in lines if every or line.packed_bytes * 1000 >= packed]
    rows = [
        (line.name, line.dtype, "x".join(map(str, line.shape)) or "scalar", line.coding, *_figures(line))
        for line in shown
    ]
    hidden = [line for line in lines if line not in shown]
    if hidden:
        small, unpacked = sum(line.packed_bytes for line in hidden), sum(line.raw_bytes for line in hidden)
        rows.append((f"{len(hidden)} small ones (--all)", "", "", "", f"{unpacked:,}", f"{small:,}", "", ""))
    rows.append(("the graph and this ledger", "", "", "", "", f"{head:,}", "", ""))
    total = ("total", "", "", "", f"{raw:,}", f"{packed:,}", f"{raw / packed:.2f}x", "")
    console = Screen(highlight=False, soft_wrap=False)
    console.print(Text(str(path), style="bold"), "")
    titles = ("tensor", "type", "shape", "coding", "raw", "packed", "ratio", "bits")
    print_columns(console, titles, rows, total, left=4)


def _figures(line: TensorLine) -> tuple[str, str, str, str]:
    ratio = f"{line.raw_bytes / line.packed_bytes:.2f}x" if line.packed_bytes else ""
    bits = f"{8 * line.packed_bytes / line.values:.2f}" if line.values else ""
    return f"{line.raw_bytes:,}", f"{line.packed_bytes:,}", ratio, bits
