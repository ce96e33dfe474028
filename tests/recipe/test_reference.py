"""docs/recipe.md says what the code takes."""

from pathlib import Path

from compressctl.core.backend import backends
from compressctl.core.source import datasets, model_sources
from compressctl.core.technique import techniques
from compressctl.recipe.reference import render


def test_the_reference_in_the_documentation_is_what_the_code_takes() -> None:
    published = (Path(__file__).parents[2] / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert published == render(), "run: compressctl schema --markdown --output docs/recipe.md"


def test_every_name_has_an_entry_and_every_row_four_cells() -> None:
    text = render()
    for registry in (techniques, datasets, model_sources, backends):
        assert all(f"\n### {name}\n" in text for name in registry.names())
    rows = [line for line in text.splitlines() if line.startswith("| `") and "default" not in line.split("|")[1]]
    assert {line.replace("\\|", "").count("|") for line in rows} <= {3, 5}
