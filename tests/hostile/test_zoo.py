"""Manifests, models and shards of zoos whose author means no good, and what `zoo init`, `plan` and `matrix` make of them."""

import os
from pathlib import Path

import onnx
import pytest
from hostile import _kernel
from hostile._case import Case, names
from hostile._in_process import ends, refuses
from hostile._models import network

from compressctl.core.secrets import forget_secrets
from compressctl.zoo import model_files

HEAD = "zoo: compressctl/v1\ndefaults: {recipe: r.yaml}\n"
ONE = "models: [{path: m.onnx}]\n"
RECIPE = "recipe: compressctl/v1\ntask: custom\nstages: [{use: quantize.weights, bits: 8}]\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model and a recipe that are whole."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(network().SerializeToString())
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def write(text: str | bytes, name: str = "zoo.yaml") -> None:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())


BYTES: dict[str, tuple[bytes, str]] = {
    "UTF-16": ((HEAD + ONE).encode("utf-16"), "not UTF-8 text"),
    "a NUL": (b"zoo: compressctl/v1\nname: a\0b\n", "a control character"),
    "an integer of 80 digits": (f"{HEAD}{ONE}budget: {{at_most_failed: {'9' * 80}}}".encode(), "a number of 80 characters"),
    "brackets": (b"zoo: " + b"[" * 10_000, "nested more than 50 deep"),
    "an alias bomb": (b"zoo: compressctl/v1\nmodels: [&a [x,x], &b [*a,*a], &c [*b,*b]]\n", "anchors (`&name`)"),
    "a merge key": (b"zoo: compressctl/v1\nmodels: [{<<: {path: m.onnx}}]\n", "merge keys (`<<`)"),
    "an object": (b"zoo: !!python/object/apply:os.system [id]\n", "tags are not supported"),
    "nothing": (b"", "the file is empty"),
    "a list": (b"- zoo: compressctl/v1\n", "is a mapping"),
    "two documents": ((HEAD + ONE).encode() + b"---\n" + ONE.encode(), "a second document"),
    "a key twice": ((HEAD + ONE + ONE).encode(), "this key is here twice"),
    "20,000 models": (HEAD.encode() + b"models:\n" + b"- {path: a.onnx}\n" * 20_000, "at most 50,000 keys and values"),
    "a megabyte": (HEAD.encode() + b"#" * (1 << 20), "more than 1,048,576 bytes"),
    "a version to come": (b"zoo: compressctl/v9\n" + ONE.encode(), "not a version of manifests"),
    "its own parent": (b"extends: zoo.yaml\n" + HEAD.encode(), "`extends` goes in a circle"),
    "a parent that is a device": (b"extends: /dev/zero\n" + HEAD.encode(), "/dev/zero is a device"),
    "variables in a circle": (HEAD.encode() + b"vars: {a: '${b}', b: '${a}'}\nname: ${a}\nmodels: []\n", "refers to itself"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "says"), BYTES.values(), ids=BYTES)
def test_a_manifest_that_is_none(content: bytes, says: str, folder: Path) -> None:
    write(content)
    refuses(folder, "zoo", "plan", "zoo.yaml", says=says)


def test_a_manifest_with_a_mark_of_its_order_of_bytes(folder: Path) -> None:
    write(b"\xef\xbb\xbf" + (HEAD + ONE).encode())
    assert "1 job, 0 done" in ends(folder, "zoo", "plan", "zoo.yaml").out


VALUES: dict[str, tuple[str, str]] = {
    "an id that is a command of a terminal": ('models: [{path: m.onnx, id: "a\\e[31m"}]', "models[0].id"),
    "an id that turns text around": ('models: [{path: m.onnx, id: "a\\u202eb"}]', "models[0].id"),
    "an id that calls somebody": ('models: [{path: m.onnx, id: "@bob"}]', "models[0].id"),
    "an id that begins a command of a workflow": ('models: [{path: m.onnx, id: "a\\n::error::b"}]', "models[0].id"),
    "an id above its folder": ("models: [{path: m.onnx, id: ../a}]", "models[0].id"),
    "an id of two jobs": ("models: [{path: m.onnx, id: a@b}]", "models[0].id"),
    "ids equal up to case": ("models: [{path: m.onnx, id: Net}, {path: n.onnx, id: net}]", "the id net is taken"),
    "a recipe's id above its folder": (f"{ONE}recipes: [{{use: r.yaml, id: ../../r}}]", "recipes[0].id"),
    "a name above its folder": (f"{ONE}name: ../../elsewhere", "name"),
    "a budget of not a number": (f"{ONE}budget: {{at_most_failed: .nan}}", "numbers must be finite"),
    "a budget of infinity in words": (f"{ONE}budget: {{at_most_failed: inf}}", "not a share"),
    "a share of infinity": (f"{ONE}budget: {{at_most_missed: 1e999 %}}", "not a share"),
    "a share of 101 %": (f"{ONE}budget: {{at_most_missed: 101 %}}", "not a share"),
    "fewer than none": (f"{ONE}budget: {{at_most_failed: -1}}", "fewer than none"),
    "a size below nothing": (f"{ONE}budget: {{total_size: -1}}", "budget.total_size"),
    "no time": (f"{ONE}defaults: {{recipe: r.yaml, resources: {{time: 0}}}}", "twice"),
    "a thousand years": ("models: [{path: m.onnx, resources: {time: 9999999h}}]", "models[0].resources.time"),
    "a limit of 100,000 letters": (f"{ONE}recipes: [{{use: r.yaml, when: {{size: '{'>' * 100_000}'}}}}]", "not a limit"),
    "a limit in another script's digits": (f"{ONE}recipes: [{{use: r.yaml, when: {{size: '>५'}}}}]", "not a limit"),
    "a million retries": (f"{ONE}defaults: {{recipe: r.yaml, retries: 1000000}}", "twice"),
    "no model": ("models: []", "models"),
    "a model of two places": ("models: [{path: m.onnx, glob: '*'}]", "not path and glob"),
    "a pattern of nothing": ("models: [{glob: ''}]", "no file fits"),
    "a pattern with a NUL": ('models: [{glob: "m\\0*.onnx"}]', "no file fits"),
    "a pattern of pipes": ("models: [{glob: '*.pipe'}]", "no file fits"),
    "a pattern in a folder that there is not": ("models: [{glob: 'nowhere/**/*.onnx'}]", "no file fits"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "says"), VALUES.values(), ids=VALUES)
def test_values_that_hold_nothing(text: str, says: str, folder: Path) -> None:
    os.mkfifo(folder / "a.pipe")
    write(HEAD + text)
    refuses(folder, "zoo", "plan", "zoo.yaml", says=says)


def test_links_in_circles_are_no_maze(folder: Path) -> None:
    """Two links in a folder to the folder itself: 2 to the power of 40 paths."""
    for name in ("one", "other"):
        (folder / name).symlink_to(folder)
    (folder / "models").mkdir()
    (folder / "models" / "itself").symlink_to("itself")
    write(HEAD + "models: [{glob: '**/*.pb'}]")
    refuses(folder, "zoo", "plan", "zoo.yaml", says="no file fits **/*.pb")
    write(HEAD + "models: [{glob: '**/*.onnx'}]")
    assert "1 job, 0 done" in ends(folder, "zoo", "plan", "zoo.yaml").out


def test_a_pattern_of_a_hundred_wildcards_lists_a_folder_once(folder: Path) -> None:
    deep = folder
    for _ in range(60):
        deep = deep / "a"
    deep.mkdir(parents=True)
    write(HEAD + f"models: [{{glob: '{'**/*/' * 50}*.onnx'}}]")
    refuses(folder, "zoo", "plan", "zoo.yaml", says="no file fits")


def test_a_pattern_that_looks_through_a_whole_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "_MOST_ENTRIES", 1000)
    write(HEAD + "models: [{glob: '/**/*.onnx'}]")
    refuses(folder, "zoo", "plan", "zoo.yaml", says="/**/*.onnx looks through more than 1,000 files")


def test_hidden_files_are_found_where_the_pattern_names_them(folder: Path) -> None:
    (folder / ".cache" / "a").mkdir(parents=True)
    (folder / ".cache" / "a" / "h.onnx").touch()
    (folder / "..onnx").touch()
    for pattern, found in (("**/*.onnx", ["m.onnx"]), (".cache/**/*.onnx", [".cache/a/h.onnx"]), ("**/h.onnx", [])):
        assert model_files.files_for(folder, pattern) == [folder / name for name in found]


def test_thousands_of_files_whose_names_begin_alike(folder: Path) -> None:
    """Ids are cut, and each needs a number of its own."""
    (folder / "many").mkdir()
    for number in range(3000):
        (folder / "many" / f"{'x' * 100}{number}.onnx").touch()
    write("zoo: compressctl/v1\nmodels: [{glob: 'many/*.onnx'}]")
    listed = ends(folder, "zoo", "plan", "zoo.yaml").out
    assert len({line.split()[0] for line in listed.splitlines()[:-1]}) == 3000


NOT_PLANNED: dict[str, tuple[str, str]] = {
    "a model with a NUL in its path": ('models: [{path: "a\\0b.onnx"}]', "cannot run"),
    "a model that leads to itself": ("models: [{path: itself.onnx}]", "cannot run"),
    "a model that is a pipe": ("models: [{path: pipe.onnx}]", "is a pipe, not a file"),
    "a model that never ends": ("models: [{path: zero.onnx}]", "is a device, not a file"),
    "a folder": ("models: [{path: .}]", "cannot run"),
    "a recipe that is a pipe": ("models: [{path: m.onnx, recipe: pipe.onnx}]", "is a pipe, not a file"),
    "a recipe that is a manifest": ("models: [{path: m.onnx, recipe: zoo.yaml}]", "cannot run"),
    "a recipe above those of the package": ("models: [{path: m.onnx, recipe: 'builtin:../../etc/passwd'}]", "no recipe"),
    "a recipe whose name is too long": (f"models: [{{path: m.onnx, recipe: {'r' * 3000}.yaml}}]", "cannot run"),
    "a value below a single value": ("models: [{path: m.onnx, set: {seed.a.b: 1}}]", "this is a whole number, not a mapping"),
    "a value for nothing": ("models: [{path: m.onnx, set: {'': 1}}]", "needs a path"),
    "a value with another command in it": ("models: [{path: m.onnx, set: {'seed=1 --output': /tmp}}]", "cannot run"),
    "a value of 100,000 letters": (f"models: [{{path: m.onnx, set: {{name: {'x' * 100_000}}}}}]", "more than 100,000 letters"),
    "a model of a source that there is not": ("models: [{model: {source: nowhere}}]", "unknown model source"),
    "a model of no source": ("models: [{model: {}}]", "`source` is missing"),
    "a budget that there is not": ("models: [{path: m.onnx, budget: {speed: 9}}]", "unknown key"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "says"), NOT_PLANNED.values(), ids=NOT_PLANNED)
def test_a_job_that_cannot_run_is_a_line(text: str, says: str, folder: Path) -> None:
    """Once more where a rule asks what is in the file."""
    os.mkfifo(folder / "pipe.onnx")
    (folder / "zero.onnx").symlink_to("/dev/zero")
    (folder / "itself.onnx").symlink_to("itself.onnx")
    write(HEAD + text)
    done = ends(folder, "zoo", "plan", "zoo.yaml")
    assert says in done.out
    assert "1 job, 0 done" in done.out


def huge(dims: list[int]) -> bytes:
    """A model whose weight says that it has these dimensions, and holds nothing."""
    model = network()
    model.graph.initializer.append(onnx.TensorProto(name="huge", data_type=onnx.TensorProto.FLOAT, dims=dims))
    return model.SerializeToString()


def test_files_that_say_what_they_do_not_hold(folder: Path) -> None:
    """Rules ask them all: more numbers than floats reach, fewer than none, a pipe, a device, a link to itself, no text."""
    (folder / "far.onnx").write_bytes(huge([1 << 62] * 20))
    (folder / "below.onnx").write_bytes(huge([-1, 3]))
    (folder / "cut.onnx").write_bytes(network().SerializeToString()[:-9])
    (folder / "text.onnx").write_text("\x1b[31m::error::")
    os.mkfifo(folder / "pipe.onnx")
    (folder / "zero.onnx").symlink_to("/dev/zero")
    (folder / "itself.onnx").symlink_to("itself.onnx")
    models = ", ".join(
        f"{{path: {name}.onnx}}" for name in ("far", "below", "cut", "text", "pipe", "zero", "itself", "m")
    )
    write(
        "zoo: compressctl/v1\nrecipes: [{use: r.yaml, when: {parameters: '>1', size: '<1G', inputs: 1}}]\n"
        f'models: [{models}, {{path: "a\\0b.onnx"}}]\n'
    )
    lines = ends(folder, "zoo", "plan", "zoo.yaml").out.splitlines()
    fitting = [line.split()[0] for line in lines if "recipes[0]" in line]
    assert fitting == ["m"]
    assert len(lines) == 10


def test_rules_of_one_name_that_fit_one_model(folder: Path) -> None:
    """Their results would be one file."""
    (folder / "other").mkdir()
    write(f"zoo: compressctl/v1\n{ONE}match: all\nrecipes: [{{use: r.yaml}}, {{use: other/R.yaml}}]")
    refuses(folder, "zoo", "plan", "zoo.yaml", says="two rules that fit m have one name")


SECRETS = {
    "an id": ("models: [{path: m.onnx, id: '${env:TOKEN}'}]", "holds what the environment gave"),
    "a part of a recipe's id": (f"{ONE}match: all\nrecipes: [{{use: r.yaml, id: 'x-${{env:TOKEN}}'}}]", "holds what the env"),
    "a name": (f"{ONE}name: '${{env:TOKEN}}'", "would be told to others"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "says"), SECRETS.values(), ids=SECRETS)
def test_names_of_files_that_tell_a_secret(text: str, says: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "tok-12345")
    write(HEAD + text)
    try:
        done = refuses(folder, "zoo", "plan", "zoo.yaml", says=says)
    finally:
        forget_secrets()
    assert "tok-12345" not in done.out + done.err


def test_an_id_that_is_made_of_a_file_tells_no_secret(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUSTOMER", "acme-corp")
    write(HEAD + "models: [{path: 'net-${env:CUSTOMER}.onnx'}, {path: m.onnx, recipe: '${env:CUSTOMER}.yaml'}]")
    try:
        done = ends(folder, "zoo", "plan", "zoo.yaml")
    finally:
        forget_secrets()
    assert "acme" not in done.out
    assert done.out.startswith("net--env-CUSTOMER ")


def test_a_manifest_on_standard_input(case: Case) -> None:
    case.refuses("zoo", "plan", "/dev/stdin", code=2, says="/dev/stdin is", seconds=20)


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "nothing"])
def test_what_is_no_manifest(kind: str, folder: Path) -> None:
    says = {"a pipe": "is a pipe, not a file", "a folder": "this is a directory", "nothing": "does not exist"}[kind]
    if kind != "nothing":
        (os.mkfifo if kind == "a pipe" else os.mkdir)(folder / "zoo.yaml")
    refuses(folder, "zoo", "status", "zoo.yaml", says=says)


OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "a shard of none": (("plan", "--shard", "0/0"), "--shard 0/0"),
    "a shard beyond them": (("plan", "--shard", "3/2"), "--shard 3/2"),
    "a shard below them": (("apply", "--shard", "-1/2"), "--shard -1/2"),
    "a shard in another script's digits": (("plan", "--shard", "１/２"), "--shard"),
    "a shard of 100,000 digits": (("apply", "--shard", f"1/{'9' * 100_000}"), "--shard"),
    "a limit of none": (("plan", "--limit", "0"), "--limit"),
    "no workers": (("apply", "--jobs", "0"), "--jobs"),
    "a million workers": (("apply", "--jobs", "1000000"), "--jobs"),
    "shards of no job": (("matrix", "--each", "0"), "--each"),
    "a value of no path": (("matrix", "--set", "models"), "write path=value"),
    "a value of 60 steps": (("plan", "--set", f"{'a.' * 60}a=1"), "a path of 61 steps"),
    "an output that is a file": (("apply", "--output", "r.yaml"), "r.yaml"),
    "an output that is a device": (("apply", "--output", "/dev/null"), "/dev/null"),
    "an output below a file": (("apply", "--output", "r.yaml/out"), "a part of that path is a file"),
    "an output of too long a name": (("apply", "--output", "o" * 300), "choose a shorter name"),
    "an output with a NUL": (("apply", "--output", "o\0"), "null"),
    "an output that holds something else": (("apply", "--output", "."), "is not empty and holds no zoo"),
}


@pytest.mark.parametrize(("arguments", "says"), OPTIONS.values(), ids=OPTIONS)
def test_options_that_ask_for_nothing(arguments: tuple[str, ...], says: str, folder: Path) -> None:
    write(HEAD + ONE)
    command, *options = arguments
    refuses(folder, "zoo", command, "zoo.yaml", *options, says=says)


def test_patterns_of_jobs_that_are_no_patterns(folder: Path) -> None:
    write(HEAD + ONE)
    for pattern in ("[" * 900, "*a" * 400, "m[!", ""):
        refuses(folder, "zoo", "plan", "zoo.yaml", "--only", pattern, says="no job fits")
    refuses(folder, "zoo", "plan", "zoo.yaml", "--only", "*a" * 50_000, says="a pattern of 100,000 letters")


def test_a_plan_that_nobody_reads(case: Case) -> None:
    (case.folder / "zoo.yaml").write_text(HEAD + ONE)
    (case.folder / "r.yaml").write_text(RECIPE)
    case.refuses("zoo", "plan", "zoo.yaml", code=5, says="No space left", first=_full_output)


def _full_output() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


# zoo init.


def test_a_manifest_for_what_is_no_folder_of_models(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "empty" / "folder.onnx").mkdir()
    os.mkfifo(folder / "empty" / "pipe.onnx")
    refuses(folder, "zoo", "init", "empty", says="holds no .onnx file")
    refuses(folder, "zoo", "init", "m.onnx", says="m.onnx is no folder")
    refuses(folder, "zoo", "init", "nowhere", says="nowhere is no folder")
    refuses(folder, "zoo", "init", "/dev/null", says="/dev/null is no folder")


def test_a_manifest_for_links_in_circles(folder: Path) -> None:
    models = folder / "models"
    models.mkdir()
    (models / "a\x1b[31m\n::error::.onnx").write_bytes(network().SerializeToString())
    for name in ("one", "other"):
        (models / name).symlink_to(models)
    ends(folder, "zoo", "init", "models")
    done = ends(folder, "zoo", "plan", "models/zoo.yaml")
    assert "a-31m-error  " in done.out
    assert "1 job, 0 done" in done.out


def test_a_manifest_for_a_whole_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "_MOST_ENTRIES", 1000)
    refuses(folder, "zoo", "init", "/", says="looks through more than 1,000 files")


def test_a_first_manifest_over_a_link(folder: Path) -> None:
    """The link is replaced, when that is asked for, and not what it leads to."""
    (folder / "models").mkdir()
    (folder / "models" / "a.onnx").touch()
    (folder / "mine").write_text("mine")
    (folder / "models" / "zoo.yaml").symlink_to(folder / "mine")
    refuses(folder, "zoo", "init", "models", says="models/zoo.yaml exists")
    ends(folder, "zoo", "init", "models", "--force")
    assert (folder / "mine").read_text() == "mine"


def test_a_first_manifest_into_a_folder_that_may_only_be_read(case: Case) -> None:
    (case.folder / "models").mkdir()
    (case.folder / "models" / "a.onnx").touch()
    (case.folder / "models").chmod(0o555)
    case.refuses("zoo", "init", "models", code=5, says="Permission denied: models/zoo.yaml")
    assert names(case.folder / "models") == {"a.onnx"}


def test_a_first_manifest_that_a_disk_has_no_room_for(case: Case) -> None:
    (case.folder / "models").mkdir()
    (case.folder / "models" / "a.onnx").touch()
    case.refuses("zoo", "init", "models", code=5, says="File too large", first=_little_room)
    assert names(case.folder / "models") == {"a.onnx"}


def _little_room() -> None:
    _kernel.room_for(300)
