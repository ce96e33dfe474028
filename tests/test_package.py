"""The wheel and the sdist, as a package index would get them."""

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of both."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True)
    return folder


def test_the_wheel_holds_every_file_that_the_package_reads_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "compressctl").rglob("*") if path.is_file()}
    assert inside == {name for name in files if "__pycache__" not in name}
    assert "compressctl/recipe/builtin/quickstart.yaml" in inside


def test_the_sdist_holds_what_the_readme_names(built: Path) -> None:
    named = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / "README.md").read_text())
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert named
    for path in named:
        assert any(name == path or name.startswith(path) for name in inside), path


def test_the_page_of_the_index_has_no_link_into_the_checkout(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith("METADATA"))
        page = email.message_from_bytes(wheel.read(name)).get_payload()
    assert "compressctl init model.onnx" in page
    assert not re.findall(r"\]\((?!https?:|#)[^)]*\)|<img|\]\[", page)
