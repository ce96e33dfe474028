"""What is said of a packed file that cannot be read, or of a model that cannot be packed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressctl.core.errors import UsageError

DAMAGED = "get the file again, or pack the model again"


class PackedError(UsageError):
    """A file is not a packed model, is damaged, or would unpack to more than was allowed."""


def damaged(what: str) -> PackedError:
    """The error for bytes that no packer wrote. what: the part that is wrong, as in "the ledger ends too early"."""
    return PackedError(f"the packed file is damaged: {what}", hint=DAMAGED)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name in front of what is said of it."""
    try:
        yield
    except PackedError as error:
        error.message = f"{path}: {error.message}"
        raise
