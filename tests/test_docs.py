"""The documentation's own claims: its recipes are valid, its commands exist, its links lead somewhere, its plugin runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.shell import Shell
from typer.main import get_command

from compressctl.cli.main import app
from compressctl.recipe.loader import load
from compressctl.recipe.schema import Recipe
from compressctl.recipe.set_of_files import files_of

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PLUGINS = ROOT / "docs" / "plugins.md"
_BLOCK = re.compile(
    r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


def _blocks(page: Path, *languages: str) -> list[re.Match[str]]:
    return [block for block in _BLOCK.finditer(page.read_text()) if block["language"] in languages]


def _recipes() -> list[tuple[str, str]]:
    pages = [page for page in PAGES if page != PLUGINS]
    found = [(page.name, block["text"]) for page in pages for block in _blocks(page, "yaml")]
    return [(name, text) for name, text in found if text.startswith("recipe: ")]


def _commands() -> list[tuple[str, str]]:
    lines = [
        (page.name, line)
        for page in PAGES
        for block in _blocks(page, "console", "sh")
        for line in block["text"].split("\n")
    ]
    found = [(name, line.removeprefix("$ ").partition(" #")[0].strip()) for name, line in lines]
    return [(name, line) for name, line in found if line.startswith("compressctl ")]


@pytest.mark.parametrize(("page", "text"), _recipes())
def test_recipes_in_the_documentation_are_valid(page: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    for name in files_of(path) or (None,):
        _loads_again_from_what_is_resolved(load(path, [] if name is None else [f"pipeline.role={name}"]), tmp_path)


def _loads_again_from_what_is_resolved(recipe: Recipe, folder: Path) -> None:
    """A lock says every default, and is what `reproduce` reads."""
    path = folder / "resolved.yaml"
    path.write_text(yaml.safe_dump(recipe.resolved, sort_keys=False))
    assert load(path).resolved == recipe.resolved


@pytest.mark.parametrize("shipped", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_of_benchmarks_load_again_from_what_is_resolved(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {
        name for path in shipped.parent.glob("*.yaml") for name in re.findall(r"\$\{env:(\w+)\}", path.read_text())
    }:
        monkeypatch.setenv(name, "nowhere")
    _loads_again_from_what_is_resolved(load(shipped), tmp_path)


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_of_published_models_are_valid_and_short(example: Path) -> None:
    for name in files_of(example) or (None,):
        load(example, [] if name is None else [f"pipeline.role={name}"])
    assert len(example.read_text().splitlines()) <= 20


@pytest.mark.parametrize(("page", "command"), _commands())
def test_commands_in_the_documentation_are_ones_that_the_command_line_takes(page: str, command: str) -> None:
    name, *arguments = shlex.split(command)
    named = get_command(app)
    while hasattr(named, "get_command"):
        name, *arguments = arguments
        named = named.get_command(None, name)
    with named.make_context(name, arguments) as context:
        assert not context.args


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    """Anchors, and what leaves docs/, are checked by `make docs`."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_tables_are_what_benchmarks_recorded_and_the_readme_has_no_other_figures() -> None:
    subprocess.run([sys.executable, ROOT / "benchmarks" / "write_tables.py", "--check"], check=True)
    measured = (ROOT / "README.md").read_text().partition("## Measured")[2].partition("\n## ")[0]
    recorded = "".join(page.read_text() for page in sorted((ROOT / "benchmarks" / "recorded").glob("*.md")))
    figures = re.findall(r"\d+\.\d+|\d+ of \d+", measured)
    assert len(figures) > 20
    assert [figure for figure in figures if figure not in recorded] == []


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of the page on plugins, as its reader writes it, and as pip builds and installs it."""
    folder = tmp_path_factory.mktemp("acme")
    for block in _blocks(PLUGINS, "toml", "python", "yaml"):
        if block["title"]:
            (folder / block["title"]).parent.mkdir(exist_ok=True)
            (folder / block["title"]).write_text(block["text"])
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", folder / "installed", folder], check=True, capture_output=True)
    return folder


def _environment(written: Path, cache: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(written / "installed"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": paths, "COMPRESSCTL_CACHE": str(cache)}


def test_the_technique_and_the_metric_of_the_page_on_plugins_run(written: Path, tmp_path: Path) -> None:
    shell = Shell(written, _environment(written, tmp_path / "cache"))
    explained = shell.run("explain", "acme.clip")
    assert "deviations: float, default 3.0" in explained.out, explained.err
    done = shell.run("apply", "clip.yaml", "--output", str(tmp_path / "out"))
    assert done.code == 0, done.err
    report = shell.report(str(tmp_path / "out"))
    assert report["metric"] == "acme.top3"
    clip = next(stage for stage in report["stages"] if stage["use"] == "acme.clip")
    assert sum(clip["facts"]["clipped"].values()) > 0


@pytest.mark.slow
def test_the_test_of_the_page_on_plugins_passes(written: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_clip.py"]
    done = subprocess.run(
        command, cwd=written, env=_environment(written, tmp_path / "cache"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
