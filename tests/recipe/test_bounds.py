"""What a recipe may ask for before anything is read: sizes, depths and numbers have bounds, and so has what is said of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compressctl.core.errors import LONGEST_MESSAGE, Problem, RecipeError
from compressctl.recipe.json_schema import schema
from compressctl.recipe.loader import load
from compressctl.recipe.scalars import MAX_FLOAT, MAX_INTEGER

HEAD = "recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\ndata: {source: digits}\n"


def refused(folder: Path, text: str, *sets: str) -> RecipeError:
    (folder / "r.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load(folder / "r.yaml", sets)
    assert len(str(caught.value).encode()) < 2000
    return caught.value


def test_variables_that_multiply_are_refused_while_they_grow(tmp_path: Path) -> None:
    lines = [f'  v{n}: "{f"${{v{n - 1}}}" * 10}"' for n in range(1, 10)]
    assert "more than 1024 KiB" in str(
        refused(tmp_path, HEAD + "vars:\n  v0: x\n" + "\n".join(lines) + "\nname: ${v9}\n")
    )


def test_variables_that_multiply_nothing_are_refused_too(tmp_path: Path) -> None:
    lines = [f'  v{n}: "{f"${{v{n - 1}}}" * 10}"' for n in range(1, 10)]
    assert "more than 1024 KiB" in str(
        refused(tmp_path, HEAD + 'vars:\n  v0: ""\n' + "\n".join(lines) + "\nname: ${v9}\n")
    )


def test_lists_in_variables_multiply_as_well(tmp_path: Path) -> None:
    lines = [
        f"  v{n}: [{', '.join([f'${{v{n - 1}}}'] * 10)}]".replace("${", '"${').replace("}", '}"') for n in range(1, 9)
    ]
    assert "more than 1024 KiB" in str(
        refused(tmp_path, HEAD + "vars:\n  v0: x\n" + "\n".join(lines) + '\nstages: "${v8}"\n')
    )


def test_a_chain_of_variables_has_an_end(tmp_path: Path) -> None:
    lines = "\n".join(f'  v{n}: "${{v{n - 1}}}"' for n in range(1, 3000))
    assert "more than 20 deep" in str(refused(tmp_path, f"{HEAD}vars:\n  v0: x\n{lines}\nname: ${{v2999}}\n"))


def test_what_no_part_uses_is_not_expanded(tmp_path: Path) -> None:
    lines = "\n".join(f'  v{n}: "${{v{n - 1}}}${{v{n - 1}}}"' for n in range(1, 100))
    (tmp_path / "r.yaml").write_text(f"{HEAD}vars:\n  v0: x\n{lines}\nname: ${{v3}}\n")
    assert load(tmp_path / "r.yaml").name == "x" * 8


def test_depth_counts_through_variables(tmp_path: Path) -> None:
    deep = "[" * 40 + '"${inner}"' + "]" * 40
    inner = "[" * 40 + "x" + "]" * 40
    assert "nested more than 50 deep" in str(refused(tmp_path, f"{HEAD}vars: {{inner: {inner}}}\nname: {deep}\n"))


def test_files_that_extend_two_each_are_counted(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number}.yaml").write_text(f"extends: [{number + 1}.yaml, {number + 1}.yaml]\n")
    (tmp_path / "12.yaml").write_text("seed: 1\n")
    assert "more than 64 files" in str(refused(tmp_path, HEAD + "extends: 0.yaml\n"))


def test_all_files_together_have_a_size(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.yaml").write_text("name: x\n#" + "x" * 400_000)
    assert "more than 1024 KiB" in str(refused(tmp_path, HEAD + "extends: [0.yaml, 1.yaml, 2.yaml, 3.yaml]\n"))


@pytest.mark.parametrize("path", ["a" + ".b" * 5000, "stages" + "[0]" * 5000, "a[" + "0][" * 3000 + "0]"])
def test_a_path_of_thousands_of_steps(path: str, tmp_path: Path) -> None:
    assert "steps, 50 are allowed" in str(refused(tmp_path, HEAD, f"{path}=1"))


@pytest.mark.parametrize(
    "part", ["stages:\n" + "- {use: finetune}\n" * 300, "export: [" + "onnxruntime," * 300 + "]\n"]
)
def test_lists_whose_entries_are_compared_have_a_length(part: str, tmp_path: Path) -> None:
    assert "300 entries, 256 are allowed" in str(refused(tmp_path, HEAD + part))


def test_values_are_counted(tmp_path: Path) -> None:
    assert "at most 50,000 keys and values" in str(refused(tmp_path, f"{HEAD}x: [{'1,' * 60_000}]\n"))


def test_many_problems_are_counted_and_not_listed(tmp_path: Path) -> None:
    error = refused(tmp_path, HEAD + "".join(f"key{number}: 1\n" for number in range(20_000)))
    assert len(error.problems) == 101
    assert error.problems[-1] == Problem("... and 19,900 more problems, which are not shown")
    assert "... and 19,9" in str(error)


def test_one_long_problem_is_shortened() -> None:
    error = RecipeError([Problem("x" * 100_000, "y" * 5000), Problem("z" * 500)])
    assert len(str(error).encode()) <= LONGEST_MESSAGE + 80
    assert str(error).startswith("y" * 100)
    assert str(error).endswith("... and 1 more problem, which is not shown")


@pytest.mark.parametrize("value", ["1e308", "-1e31", str(MAX_INTEGER + 1), f"-{MAX_INTEGER + 2}", "0x" + "f" * 17])
def test_numbers_that_arithmetic_cannot_take(value: str, tmp_path: Path) -> None:
    assert "too large" in str(refused(tmp_path, f"{HEAD}seed: {value}\n"))


def test_numbers_at_the_bounds_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"{HEAD}seed: {MAX_INTEGER}\nbudget: {{speedup: 1000000000}}\n")
    assert load(tmp_path / "r.yaml").seed == MAX_INTEGER
    assert float("inf") > MAX_FLOAT**2


@pytest.mark.parametrize("size", ["1e999MB", "nan MB", "inf GB", "9" * 60 + "GB"])
def test_sizes_that_are_none(size: str, tmp_path: Path) -> None:
    assert "budget.size" in str(refused(tmp_path, f'{HEAD}budget: {{size: "{size}"}}\n'))


def test_what_has_a_least_value_has_a_most() -> None:
    open_ended = [place for place, node in numbers(schema()) if bounds(node, "min") and not bounds(node, "max")]
    assert not open_ended


def bounds(node: dict[str, Any], which: str) -> bool:
    return any(key in node for key in (f"{which}imum", f"exclusive{which.title()}imum"))


def numbers(node: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every number that the schema of recipes describes."""
    if isinstance(node, dict):
        if node.get("type") in ("integer", "number"):
            yield place, node
        for key, below in node.items():
            yield from numbers(below, f"{place}/{key}")
    elif isinstance(node, list):
        for index, below in enumerate(node):
            yield from numbers(below, f"{place}[{index}]")


def test_the_schema_names_the_bounds() -> None:
    assert json.dumps(schema()).count('"maximum"') > 100
