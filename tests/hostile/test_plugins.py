"""Whatever of other packages runs is named: by doctor before anything runs, in the lock of what did."""

import json
from pathlib import Path

import pytest
import yaml
from support.shell import Shell

from compressctl.core.registry import Registry, plugins_of
from compressctl.core.technique import techniques

PACKAGE = "compressctl-example-plugin"


def test_doctor_names_every_plugin_with_its_package_and_version(shell: Shell) -> None:
    told = json.loads(shell.run("doctor", "--json").out)["plugins"]
    assert told["technique example.scale"] == f"{PACKAGE} 1.0 (example_plugin.specs:SCALE)"
    assert told["metric example.broken"].startswith(f"{PACKAGE} 1.0")


def test_the_lock_names_the_plugins_that_ran_and_no_other(shell: Shell) -> None:
    done = shell.run("apply", shell.recipe("r.yaml", "  - {use: example.fail}"), "--output", "out")
    assert done.code == 4
    lock = yaml.safe_load((shell.folder / "out" / "recipe.lock.yaml").read_text())
    assert lock["plugins"] == [{"kind": "technique", "name": "example.fail", "package": PACKAGE, "version": "1.0"}]


def _installed(folder: Path, entries: str, name: str = "other") -> None:
    """A package's metadata, as an installer leaves it."""
    info = folder / f"{name}-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(entries)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_plugin_of_a_built_in_name_runs_not_and_is_not_listed(site: Path) -> None:
    _installed(site, "[compressctl.techniques]\nquantize.static = evil:SPEC\n")
    registry = Registry("technique", techniques.group, techniques._builtin)
    assert "quantize.static" in registry
    assert [plugin.name for plugin in registry.plugins()] == []
    assert plugins_of("technique", techniques.group)[0].value == "evil:SPEC"


def test_looking_at_plugins_imports_none_of_them(site: Path) -> None:
    (site / "evil.py").write_text(f"open({str(site / 'ran')!r}, 'w')\n")
    _installed(site, "[compressctl.techniques]\nevil.one = evil:SPEC\n")
    found = Registry("technique", techniques.group, {}).plugins()
    assert [(plugin.name, plugin.package, plugin.version) for plugin in found] == [("evil.one", "other", "2.0")]
    assert not (site / "ran").exists()
