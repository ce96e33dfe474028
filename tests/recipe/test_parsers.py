"""libyaml's parser and PyYAML's own, which is there alone where PyYAML was built without libyaml: both read the same."""

from pathlib import Path

import pytest
import yaml

from compressctl.core.errors import RecipeError
from compressctl.recipe import strict_yaml
from compressctl.recipe.nodes import Node
from compressctl.recipe.strict_yaml import Source, parse

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
TEXTS = {
    **{path.name: path.read_text(encoding="utf-8") for path in RECIPES},
    "nothing": "",
    "wide characters": "größe: 𝔘x # 日本\n日本: [ä, 'ß', \"\\U0001F600\"]\n",
    "line ends of all kinds": "a: 1\r\nb: 2\rc: 3\x85d: 4\u2028e: 5\n",
    "blocks": "a: |\n  x\n   y\nb: >-\n  folded\n  text\nc:\n- 1\n-\n  - 2\n",
    "a key twice": "a: 1\nb: {c: 1, c: 2}\n",
    "anchors": "a: &x 1\nb: *x\nc: !!int 3\n",
    "a list that is not closed": "a: [1,\n",
    "indentation": "a:\n   b: 1\n  c: 2\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "brackets": "[" * 20_000,
}


def read(text: str) -> Node | str | None:
    try:
        return parse(Source("r.yaml", text))
    except RecipeError as error:
        return str(error)


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML was built without libyaml")
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_both_parsers_read_the_same(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = read(text)
    monkeypatch.setattr(strict_yaml, "_FastLoader", yaml.SafeLoader)
    assert read(text) == fast


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML was built without libyaml")
def test_a_recipe_that_is_right_is_read_by_libyaml_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml, "SafeLoader", None)
    assert parse(Source("r.yaml", "a: 1")) is not None
