"""The rules of the house that code can check: who imports whom, and what stays out of start-up."""

import ast
import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import compressctl

PACKAGE = Path(compressctl.__file__).parent
ORDER = [
    "core", "store", "recipe", "numerics", "packed", "graph", "sources", "tasks", "training", "layers", "techniques", "backends", "measure", "pipeline",
    "report", "publish", "api", "diagnosis", "search", "zoo", "cli",
]  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def _imported_folders(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    parts = [name.split(".") for name in names if name.startswith("compressctl.")]
    return {part[1] for part in parts if part[1] in ORDER}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_folder_imports_only_from_folders_before_it(file: Path) -> None:
    folder = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if folder not in ORDER:
        return
    allowed = set(ORDER[: ORDER.index(folder) + 1])
    if folder == "backends":
        allowed.discard("techniques")
    assert _imported_folders(file) <= allowed


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_string_names_code_of_a_later_folder(file: Path) -> None:
    """Registries import what a string names; those of core are where contracts meet their implementations."""
    folder = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if folder not in ORDER or folder in ("core", "cli"):
        return
    texts = [node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)]
    named = {
        found[1]
        for text in texts
        if isinstance(text, str)
        for found in re.finditer(r"compressctl\.(\w+)[.\w]*:\w", text)
    }
    assert named & set(ORDER) <= set(ORDER[: ORDER.index(folder) + 1])


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_constants_are_read_and_made_by_one_module(file: Path) -> None:
    """onnx's own functions do not see numbers that stand in files, and put all of them into the message."""
    exempt = {"graph/tensors.py", "graph/fold_shapes.py", "sources/onnx_test_data.py"}  # small ones, and no graph's
    if str(file.relative_to(PACKAGE)) not in exempt:
        assert not re.search(r"numpy_helper\.|onnx\.save|onnx\.load\((?!.*load_external_data=False)", file.read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_files_of_others_are_opened_by_one_module(file: Path) -> None:
    """A pipe makes a reader wait forever, a device feeds it forever: core/regular_files.py refuses both before they are opened."""
    own = {
        "core/regular_files.py",
        "core/machine.py", "measure/environment.py", "measure/energy.py", "measure/peak.py",  # what Linux tells
        "report/as_html.py", "backends/tensorrt/build.py",  # the package's own
        "measure/size.py", "measure/packed_size.py", "training/checkpoint.py", "techniques/factorize/_rank_checkpoint.py",  # written by this run
    }  # fmt: skip
    if str(file.relative_to(PACKAGE)) not in own:
        reading = r"\.read_(text|bytes)\(|\.open\(\"rb\"|\.open\((newline|encoding)=|(np\.load|Image\.open)\((path|data|source)"
        assert not re.findall(reading, file.read_text())


def test_every_folder_of_the_package_has_its_place_in_the_order() -> None:
    folders = {file.relative_to(PACKAGE).parts[0] for file in FILES if file.parent != PACKAGE}
    assert folders <= set(ORDER)


def test_durations_come_from_a_clock_that_never_goes_back() -> None:
    """Moments and the ages of files alone are told by the clock on the wall."""
    asking = {
        str(file.relative_to(PACKAGE)) for file in FILES if re.search(r"\btime\.time\(|datetime\.now", file.read_text())
    }
    assert asking == {"core/cache.py", "core/events.py", "pipeline/run.py", "store/objects.py", "zoo/process.py"}


def test_the_versions_that_the_makefile_installs_go_together() -> None:
    """pip refuses constraints that contradict what one of the packages asks for, but only where it has something left to install."""
    lines = [line.split("#")[0].strip() for line in (PACKAGE.parent / "constraints.txt").read_text().splitlines()]
    pinned = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines if line)}
    asked = [
        (package, Requirement(text))
        for package in pinned
        for text in (importlib.metadata.requires(package) if _is_installed(package) else None) or []
    ]
    against = [
        f"{package} asks for {needed}, pinned is {pinned[canonicalize_name(needed.name)]}"
        for package, needed in asked
        if canonicalize_name(needed.name) in pinned
        and (needed.marker is None or needed.marker.evaluate({"extra": ""}))
        and not needed.specifier.contains(pinned[canonicalize_name(needed.name)], prereleases=True)
    ]
    assert not against


def _is_installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False
