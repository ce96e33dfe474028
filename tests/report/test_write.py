"""The files of a report."""

import os
from pathlib import Path

import pytest
from hostile._reports import named

from compressctl.report.read import read_report
from compressctl.report.write import write


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"caf\xe9", b"\xed\xa0\x80"])
def test_names_that_are_no_text_are_spelled_out_in_every_file(raw: bytes, tmp_path: Path) -> None:
    """As a folder that names a class may be called, in another encoding or in none."""
    written = write(named(os.fsdecode(raw)), tmp_path)
    assert len(written) == 5
    report = read_report(tmp_path)
    assert report.stages[0].id == raw.decode(errors="backslashreplace")
    assert "score" in report.backends[0].compressed.model_dump()
