"""Arrays of .npz files: large ones stay in the file, and what is damaged is refused either way."""

from pathlib import Path

import numpy as np
import pytest

from compressctl.core.errors import UsageError
from compressctl.sources.npz_file import NpzFile

SMALL = np.arange(5)
LARGE = np.random.default_rng(0).random((400, 1000))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_what_was_saved(tmp_path: Path, save: object) -> None:
    arrays = {"small": SMALL, "large": LARGE, "columns": np.asfortranarray(LARGE), "turned": LARGE[::-1]}
    save(tmp_path / "a.npz", **arrays)  # type: ignore[operator]
    with NpzFile(tmp_path / "a.npz") as file:
        found = {name: file.get(name) for name in file.names}
    assert found.keys() == arrays.keys()
    for name, values in arrays.items():
        assert found[name].dtype == values.dtype
        assert np.array_equal(found[name], values)


def test_large_arrays_stay_in_the_file_unless_it_is_compressed(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", small=SMALL, large=LARGE)
    np.savez_compressed(tmp_path / "packed.npz", large=LARGE)
    with NpzFile(tmp_path / "plain.npz") as plain, NpzFile(tmp_path / "packed.npz") as packed:
        assert isinstance(plain.get("large"), np.memmap)
        assert not isinstance(plain.get("small"), np.memmap)
        assert not isinstance(packed.get("large"), np.memmap)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_changed_bit_is_found(tmp_path: Path, save: object) -> None:
    path = tmp_path / "a.npz"
    save(path, large=LARGE)  # type: ignore[operator]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with NpzFile(path) as file, pytest.raises(UsageError, match="'large' cannot be read"):
        file.get("large")
