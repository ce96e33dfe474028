"""What is finished is not done again, and what is damaged is."""

from pathlib import Path

import pytest
from support.searching import figures, point

from compressctl.core.errors import UsageError
from compressctl.search.journal import Journal, claimed


def test_a_point_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    written = point("int8", figures(1000, 1.7, 0.56))
    Journal(tmp_path).write(written)
    assert Journal(tmp_path).read("int8") == written


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"schema_version": "1.1", "point": {"key": "int8"}}', b"\xff\x00"]
)
def test_a_damaged_file_counts_as_not_there(content: bytes, tmp_path: Path) -> None:
    Journal(tmp_path).write(point("int8", figures()))
    (file,) = (tmp_path / "journal").iterdir()
    file.write_bytes(content)
    assert Journal(tmp_path).read("int8") is None


def test_a_point_under_another_key_counts_as_not_there(tmp_path: Path) -> None:
    Journal(tmp_path).write(point("int8", figures()))
    (file,) = (tmp_path / "journal").iterdir()
    file.rename(file.with_name("other.json"))
    assert Journal(tmp_path).read("other") is None


def test_a_folder_of_something_else_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="holds no search"), claimed(tmp_path):
        pass
    for _ in range(2):
        with claimed(tmp_path / "new"):
            assert (tmp_path / "new").is_dir()


def test_two_searches_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with claimed(tmp_path / "one"), claimed(tmp_path / "two"):  # noqa: SIM117
        with pytest.raises(UsageError, match="another search works in"), claimed(tmp_path / "one"):
            pass
