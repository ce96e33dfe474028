"""Files that appear whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from compressctl.core.failures import refusal
from compressctl.core.whole_files import write_whole


def test_a_full_disk_is_told_with_the_file_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's own error of a stream names none."""

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "file"
    target.write_bytes(b"before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as refused:
        write_whole(target, [b"after"])
    assert f"No space left on device: {target}" in str(refusal(refused.value))
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert target.read_bytes() == b"before"
