from io import StringIO

import pytest
from rich.console import Console

from compressctl.cli.columns import print_columns

ROWS = [("first.layer.of.a.deep.network", "Conv", "1,234"), ("b", "MatMul", "5")]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_long_names_are_folded_on_narrow_terminals_alone(is_terminal: bool) -> None:
    printed = StringIO()
    console = Console(file=printed, width=40, force_terminal=is_terminal, color_system=None)
    print_columns(console, ("layer", "op", "size"), ROWS, ("total", "", "1,239"), left=2)
    lines = printed.getvalue().splitlines()
    if is_terminal:
        assert lines[1:4] == ["first.layer.of.a.deep.net  Conv    1,234", "work", "b" + 26 * " " + "MatMul      5"]
    else:
        assert lines[1:3] == [f"{ROWS[0][0]}  Conv    1,234", "b" + 30 * " " + "MatMul      5"]
    assert lines[-1].split() == ["total", "1,239"]


def test_control_characters_of_names_are_printed_as_what_they_are() -> None:
    printed = StringIO()
    print_columns(Console(file=printed), ("layer",), [("a\x07b",)], ("total",), left=1)
    assert "a\\u0007b" in printed.getvalue()
