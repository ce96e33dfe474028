"""Names to objects, some of other packages."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compressctl.cli.main import app
from compressctl.core.errors import UsageError
from compressctl.core.technique import techniques


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A technique of an installed package that imports what is not there."""
    (tmp_path / "acme_broken.py").write_text("import acme_missing\n")
    info = tmp_path / "acme_broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[compressctl.techniques]\nacme.broken = acme_broken:SPEC\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(techniques.__dict__, "_plugins", raising=False)
    yield "the technique acme.broken of the package acme-broken cannot be imported (acme_broken:SPEC): ModuleNotFoundError"
    techniques.__dict__.pop("_plugins", None)


def test_a_plugin_that_cannot_be_imported_is_named_with_its_package(broken: str) -> None:
    with pytest.raises(UsageError) as raised:
        techniques.get("acme.broken")
    assert broken in str(raised.value)


@pytest.mark.parametrize("command", [["list"], ["list", "techniques"], ["schema"], ["schema", "--markdown"]])
def test_commands_that_name_everything_go_on_without_it(broken: str, command: list[str]) -> None:
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "quantize.static" in done.output
    assert broken in done.output
