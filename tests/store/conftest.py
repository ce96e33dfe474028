"""A bucket in memory, and a cache of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    """What lies at memory:// addresses, empty at first."""
    monkeypatch.setenv("COMPRESSCTL_CACHE", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
