"""What fuzzing and attacks found, read again: each input is refused or read, soon and without much memory."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from compressctl.core.errors import CompressctlError

ROOT = Path(__file__).parents[2] / "fuzz"


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fuzz_{name}", ROOT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


targets = _module("targets")
FINDS = sorted(path for path in (ROOT / "corpus").rglob("*") if path.is_file())


@pytest.mark.parametrize("find", FINDS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_past_find_ends_well(find: Path, tmp_path: Path) -> None:
    refused: CompressctlError | None = None
    try:
        targets.TARGETS[find.parent.name].read(find.read_bytes(), tmp_path)
    except CompressctlError as error:
        refused = error
    assert refused is None or refused.exit_code == 2
    assert len(str(refused or "").encode(errors="backslashreplace")) <= 2000


@pytest.mark.parametrize("name", targets.TARGETS)
def test_the_seeds_of_a_target_are_read_or_refused(name: str, tmp_path: Path) -> None:
    """Most are read: a target whose every input is refused at once tests nothing."""
    read = 0
    for seed in targets.TARGETS[name].seeds():
        try:
            targets.TARGETS[name].read(seed, tmp_path)
            read += 1
        except CompressctlError:
            pass
    assert read
