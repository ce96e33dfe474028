"""What a recipe took from the environment stays a reference in every file and message, and nobody learns where a user lives."""

import base64
import json
import platform
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hostile._case import Case
from hostile._models import network, written

from compressctl.core.errors import RecipeError, StageError, UsageError
from compressctl.core.events import Event, Events
from compressctl.core.failures import failed_stage
from compressctl.core.secrets import SHORTEST, for_others, forget_secrets, keep_secret, without_secrets
from compressctl.measure.environment import environment
from compressctl.pipeline.event_listeners import EventFile
from compressctl.pipeline.lock import write_lock
from compressctl.pipeline.plan import Plan, make_plan
from compressctl.recipe.loader import load
from compressctl.recipe.lock import load_lock

SECRET = "s3cr3t/t0ken~x"
HEAD = "recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\ndata: {source: digits}\n"


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TOKEN", SECRET)
    yield SECRET
    forget_secrets()


@pytest.mark.parametrize(
    ("written_as", "kept"),
    [
        ('"${env:TOKEN}"', "${env:TOKEN}"),
        ('"*${env:TOKEN}*"', "*${env:TOKEN}*"),
        ('"${inner}"', "${env:TOKEN}"),
        ('"a.${inner}.b"', "a.${env:TOKEN}.b"),
        ('"${twice}"', "${env:TOKEN}${env:TOKEN}"),
        ('"$${env:TOKEN}"', "$${env:TOKEN}"),
        ('"$${x}${env:TOKEN}"', "$${x}${env:TOKEN}"),
        ('"${ env:TOKEN }"', "${env:TOKEN}"),
    ],
    ids=["whole", "part", "by a variable", "in a variable", "twice", "no variable", "beside none", "spaces"],
)
def test_a_recipe_keeps_the_reference_and_loads_to_the_same(
    written_as: str, kept: str, tmp_path: Path, secret: str
) -> None:
    variables = 'vars: {inner: "${env:TOKEN}", twice: "${inner}${env:TOKEN}"}\n'
    stage = f"stages: [{{use: quantize.static, overrides: [{{match: {written_as}, weights: float}}]}}]\n"
    recipe = load_text(tmp_path, HEAD + variables + stage)
    (override,) = recipe.resolved["stages"][0]["overrides"]
    assert override["match"] == kept
    assert secret not in json.dumps(recipe.resolved)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(recipe.resolved))
    assert load(tmp_path / "again.yaml").stages == recipe.stages


def load_text(tmp_path: Path, text: str):  # type: ignore[no-untyped-def]
    (tmp_path / "recipe.yaml").write_text(text)
    return load(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("recipe: compressctl/v1\nmodel: {source: onnx, path: '${env:SHORT}.onnx'}\ntask: custom\n", ("model", "path")),
        (HEAD + "export: ['${env:BACKEND}']\n", ("export", 0, "backend")),
        (HEAD + "task: '${env:TASK}'\n", ("task",)),
        (HEAD + "budget: {size: '${env:SIZE}'}\n", ("budget", "size")),
        (HEAD + "name: '${env:SHORT}'\n", ("name",)),
    ],
    ids=["short", "named alone", "everybody's word", "read as a number", "name"],
)
def test_a_value_that_is_no_secret_stays_a_reference_in_the_recipe_too(
    text: str, place: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SHORT": "ab", "BACKEND": "onnxruntime", "TASK": "classification", "SIZE": "5MB"}.items():
        monkeypatch.setenv(name, value)
    value = load_text(tmp_path, text).resolved
    for step in place:
        value = value[step]
    assert str(value).startswith("${env:")
    assert without_secrets("classification on onnxruntime, ab") == "classification on onnxruntime, ab"


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "task: '${env:TOKEN}'\n",
        HEAD + "seed: '${env:TOKEN}'\n",
        HEAD + "target: {backend: '${env:TOKEN}'}\n",
        HEAD + "stages: [{use: '${env:TOKEN}'}]\n",
        HEAD + "stages: [{use: quantize.static, ranges: 'x${env:TOKEN}'}]\n",
        HEAD + "budget: {size: '${env:TOKEN}'}\n",
        HEAD + "name: 'a ${env:TOKEN}'\n",
        HEAD.replace("digits-resnet", "'${env:TOKEN}'"),
        HEAD.replace("builtin", "'${env:TOKEN}'"),
        HEAD + "metric: '${env:TOKEN}'\n",
    ],
    ids=["task", "seed", "backend", "technique", "choice", "size", "name", "network", "source", "metric"],
)
def test_what_is_wrong_with_a_recipe_is_said_without_the_value(text: str, tmp_path: Path, secret: str) -> None:
    with pytest.raises(RecipeError) as raised:
        load_text(tmp_path, text)
    assert secret not in str(raised.value)
    assert secret[:8] not in str(raised.value)
    assert "${env:TOKEN}" in str(raised.value)


def test_a_long_value_is_not_cut_into_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "k3y" * 100)
    with pytest.raises(RecipeError) as raised:
        load_text(tmp_path, HEAD + "task: '${env:TOKEN}'\n")
    assert "k3yk3y" not in str(raised.value)


@pytest.mark.parametrize("value", ['quo"ted\\back', "newline\nin it", "sp ace/slash", "ümläut-wört", "$1 \\g<0> (.*)"])
def test_a_value_is_hidden_however_it_is_written(value: str) -> None:
    keep_secret(value, "${env:X}")
    encoded = base64.b64encode(value.encode()).decode()
    for text in (value, repr(value), ascii(value), repr(value.encode()), json.dumps(value), encoded, f"see {value}!"):
        assert value not in without_secrets(text)
        assert "${env:X}" in without_secrets(text)


def test_the_longest_of_two_values_is_found_first() -> None:
    keep_secret("abcdef", "${env:A}")
    keep_secret("abcdef-and-more", "${env:B}")
    assert without_secrets("abcdef-and-more abcdef") == "${env:B} ${env:A}"


def test_a_value_too_short_to_be_told_from_words_is_left_in_messages() -> None:
    keep_secret("x" * (SHORTEST - 1), "${env:X}")
    assert without_secrets("x" * (SHORTEST - 1)) == "x" * (SHORTEST - 1)


def test_errors_of_libraries_are_told_without_the_value(tmp_path: Path, secret: str) -> None:
    keep_secret(secret, "${env:TOKEN}")
    error = failed_stage("stage a", ValueError(f"no such thing: {secret}"), tmp_path)
    assert secret not in str(error)
    assert secret not in (tmp_path / "error.log").read_text()
    assert secret not in str(UsageError("a", hint=secret))
    assert secret not in "".join(traceback.format_exception_only(StageError(secret)))


def test_events_are_told_without_the_value(tmp_path: Path, secret: str) -> None:
    keep_secret(secret, "${env:TOKEN}")
    told: list[Event] = []
    file = EventFile(tmp_path / "events.jsonl")
    Events(told.append, file).emit("note", message=f"a {secret}", facts={secret: [secret, Path(secret)]})
    Events(file, step=secret).emit("step.started", use=secret)
    file.close()
    assert secret not in repr(told)
    assert secret not in (tmp_path / "events.jsonl").read_text()


def test_a_lock_keeps_references_and_is_run_again(tmp_path: Path, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = "stages: [{use: quantize.static, overrides: [{match: '${env:TOKEN}', weights: float}]}]\n"
    recipe = load_text(tmp_path, HEAD + stage)
    plan: Plan = make_plan(recipe, None)
    write_lock(tmp_path / "recipe.lock.yaml", recipe, plan, {"cpu": secret})
    assert secret not in (tmp_path / "recipe.lock.yaml").read_text()
    assert load_lock(tmp_path / "recipe.lock.yaml")[0].stages == recipe.stages
    monkeypatch.delenv("TOKEN")
    with pytest.raises(RecipeError, match="the environment variable TOKEN is not set"):
        load_lock(tmp_path / "recipe.lock.yaml")


def test_a_lock_below_the_home_folder_is_run_from_another_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for home in (first, second):
        home.mkdir()
    monkeypatch.setenv("HOME", str(first))
    (first / "recipe.yaml").write_text(HEAD)
    recipe = load(first / "recipe.yaml")
    write_lock(tmp_path / "recipe.lock.yaml", recipe, make_plan(recipe, None), {})
    assert str(first) not in (tmp_path / "recipe.lock.yaml").read_text()
    monkeypatch.setenv("HOME", str(second))
    assert load_lock(tmp_path / "recipe.lock.yaml")[0].base == second


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/anna/m.onnx", "~/m.onnx"),
        ("see /home/anna: no", "see ~: no"),
        ("'/home/anna'", "'~'"),
        ("/home/annabel/m.onnx", "/home/annabel/m.onnx"),
        ("/mnt/home/anna/m.onnx", "/mnt/home/anna/m.onnx"),
        ("file:///home/anna/x", "file:///home/anna/x"),
        ("/home/anna.old/x", "/home/anna.old/x"),
        ("a:/home/anna/b:/home/anna/c", "a:~/b:~/c"),
    ],
)
def test_the_home_folder_is_shortened(text: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    assert for_others(text) == told


@pytest.mark.parametrize("home", ["/", "", "relative"])
def test_a_home_that_is_none_shortens_nothing(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    assert for_others("/a/b relative/c") == "/a/b relative/c"


def _tells(case: Case, secrets: dict[str, str], *texts: str) -> list[str]:
    """Files beside the recipe and its model, and texts, in which a value stands."""
    files = [path for path in (case.folder / "out").rglob("*") if path.is_file()]
    found = [path.name for path in files if any(value.encode() in path.read_bytes() for value in secrets.values())]
    return found + [text for text in texts if any(value in text for value in secrets.values())]


@pytest.mark.slow
def test_a_whole_run_leaves_no_value_anywhere(case: Case) -> None:
    """Every file of a run and everything that it prints: lock, events, five reports, the model's files."""
    secrets = {"DIR": "customer-x-models", "NAME": "unreleased-net"}
    written(case, network())
    (case.folder / secrets["DIR"]).mkdir()
    (case.folder / "model.onnx").rename(case.folder / secrets["DIR"] / "unreleased-net.onnx")
    (case.folder / "recipe.yaml").write_text(
        "recipe: compressctl/v1\nname: r\ntask: custom\nmodel: {source: onnx, path: '${env:DIR}/${env:NAME}.onnx'}\n"
        "stages: [{use: quantize.dynamic}]\n"
    )
    quick = ["--output", "out", "--measure", "quick", "--log-format", "json"]
    done = case.ends("apply", "recipe.yaml", *quick, code=0, leaves=["out"], seconds=300, **secrets)
    assert _tells(case, secrets, done.out, done.err) == []
    lock = yaml.safe_load((case.folder / "out" / "recipe.lock.yaml").read_text())
    assert lock["recipe"]["model"]["path"] == "${env:DIR}/${env:NAME}.onnx"


def test_a_run_that_fails_leaves_no_value_anywhere(case: Case) -> None:
    secrets = {"TOKEN": SECRET, "LAYER": "layer-of-customer-x", "QUOTED": 'a"b\\c d-e'}
    written(case, network())
    (case.folder / "recipe.yaml").write_text(
        "recipe: compressctl/v1\nname: r\ntask: custom\nmodel: {source: onnx, path: model.onnx}\n"
        "stages:\n  - use: quantize.dynamic\n    overrides:\n"
        "      - {match: '${env:TOKEN}', weights: float}\n      - {match: '${env:LAYER}*', weights: float}\n"
        "      - {match: '${env:QUOTED}', weights: float}\n"
    )
    done = case.refuses(
        "apply", "recipe.yaml", "--output", "out", code=2, says="${env:TOKEN}", leaves=["out"], **secrets
    )
    assert _tells(case, secrets, done.out, done.err) == []
    lock = yaml.safe_load((case.folder / "out" / "recipe.lock.yaml").read_text())
    matches = [entry["match"] for entry in lock["recipe"]["stages"][0]["overrides"]]
    assert matches == ["${env:TOKEN}", "${env:LAYER}*", "${env:QUOTED}"]


@pytest.mark.parametrize(
    "command",
    [
        ["plan", "r.yaml"],
        ["show", "r.yaml"],
        ["show", "r.yaml", "--origin"],
        ["inspect", "r.yaml"],
        ["apply", "r.yaml", "--output", "out"],
    ],
)
def test_a_path_from_the_environment_is_not_told(command: list[str], case: Case) -> None:
    (case.folder / "r.yaml").write_text(
        "recipe: compressctl/v1\ntask: custom\nmodel: {source: onnx, path: '${env:MODELS}/m.onnx'}\n"
    )
    code = 0 if command[0] == "show" else 2
    done = case.ends(*command, code=code, leaves=["out"], MODELS="/mnt/customer-x/models")
    assert "customer-x" not in done.out + done.err
    assert "${env:MODELS}" in done.out + done.err


def test_errors_call_the_home_folder_home(case: Case) -> None:
    done = case.refuses("inspect", str(case.home / "m.onnx"), code=2, says="~/m.onnx does not exist")
    assert str(case.home) not in done.err


def test_a_report_tells_of_the_machine_what_the_page_on_it_says() -> None:
    """docs/security.md lists it: whoever adds a key here adds it there."""
    packages = {
        "compressctl",
        "numpy",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "openvino",
        "torch",
        "scikit-learn",
        "pydantic",
    }
    machine = {
        "cpu",
        "instruction_sets",
        "logical_cpus",
        "governor",
        "load_average",
        "system",
        "architecture",
        "python",
    }
    found = environment()
    assert found.keys() <= packages | machine
    assert platform.node() not in [str(value) for value in found.values()]
