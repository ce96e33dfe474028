"""Recipes and --set that ask for too much, or for nothing that there is."""

from pathlib import Path

import pytest
from hostile._in_process import ends, refuses

HEAD = "recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\ndata: {source: digits}\n"


def chain(count: int, times: int, first: str = "x") -> str:
    """vars that use the one before so many times each."""
    lines = "".join(f'  v{n}: "{f"${{v{n - 1}}}" * times}"\n' for n in range(1, count))
    return f'vars:\n  v0: "{first}"\n{lines}'


TEXTS: dict[str, tuple[str | bytes, str]] = {
    "variables multiply": (HEAD + chain(10, 10) + "name: ${v9}\n", "more than 1024 KiB"),
    "empty variables multiply": (HEAD + chain(10, 10, "") + "name: ${v9}\n", "more than 1024 KiB"),
    "a chain of variables": (HEAD + chain(3000, 1) + "name: ${v2999}\n", "more than 20 deep"),
    "a variable of itself": (HEAD + 'vars: {a: "${b}", b: "${a}"}\nname: ${a}\n', "refers to itself"),
    "a variable of itself in a list": (HEAD + 'vars: {a: ["${a}", "${a}"]}\nstages: "${a}"\n', "refers to itself"),
    "a variable that is not there, often": (HEAD + "name: '" + "${x}" * 50_000 + "'\n", "more problems"),
    "vars is a list": (HEAD + "vars: [a, b]\n", "vars is a mapping"),
    "a mapping inside text": (HEAD + "vars: {a: {b: c}}\nname: x${a}\n", "not a single value"),
    "an environment that is not there": (HEAD + "name: ${env:NO_SUCH_THING_ANYWHERE}\n", "is not set"),
    "an alias bomb": (HEAD + "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n", "anchors (`&name`) are not supported"),
    "a merge key": (HEAD + "target:\n  <<: {threads: 1}\n", "merge keys"),
    "a tag that makes an object": (HEAD + "name: !!python/object/apply:os.system [id]\n", "tags are not supported"),
    "brackets": (HEAD + "name: " + "[" * 100_000, "nested more than 50 deep"),
    "braces": (HEAD + "name: " + "{a: " * 10_000, "nested more than 50 deep"),
    "dashes": (HEAD + "name: " + "\n" + "- " * 10_000, "nested more than 50 deep"),
    "many unknown keys": (HEAD + "".join(f"key{n}: 1\n" for n in range(5000)), "... and 4,9"),
    "many values": (HEAD + f"x: [{'1,' * 60_000}]\n", "at most 50,000 keys and values"),
    "one key many times": (HEAD + "a: 1\n" * 5000, "this key is here twice"),
    "a key of a megabyte, nearly": (HEAD + '"' + "k" * 900_000 + '": 1\n', "key"),
    "a value of a megabyte, nearly": (HEAD + "task: " + "k" * 900_000 + "\n", "unknown task"),
    "more than a megabyte": (HEAD + "#" * (1 << 20), "holds more than"),
    "many stages": (HEAD + "stages:\n" + "- {use: finetune}\n" * 1000, "1,000 entries, 256 are allowed"),
    "many stages of nothing": (HEAD + f"stages: [{'1,' * 5000}]\n", "5,000 entries, 256 are allowed"),
    "many exports": (HEAD + f"export: [{'onnxruntime,' * 3000}]\n", "3,000 entries, 256 are allowed"),
    "many wrong overrides": (
        HEAD + "stages:\n- use: quantize.static\n  overrides:\n" + "  - {match: a, weights: x}\n" * 900,
        "... and 8",
    ),
    "a seed of a thousand digits": (HEAD + f"seed: {'9' * 1000}\n", "a number of 1000 characters"),
    "a seed beyond 64 bits": (HEAD + "seed: 9223372036854775808\n", "too large"),
    "epochs without end": (HEAD + "stages: [{use: finetune, epochs: 1000000000000000000}]\n", "is more than 100000"),
    "a learning rate that overflows": (HEAD + "stages: [{use: finetune, learning_rate: 1e308}]\n", "too large"),
    "a learning rate beyond float32": (HEAD + "stages: [{use: finetune, learning_rate: 1e29}]\n", "is more than 1e+09"),
    "not a number": (HEAD + "stages: [{use: finetune, learning_rate: .nan}]\n", "numbers must be finite"),
    "infinity in words": (HEAD + "budget: {speedup: .inf}\n", "numbers must be finite"),
    "an exponent of many digits": (HEAD + f"budget: {{speedup: 1e{'9' * 50}}}\n", "too large"),
    "a size that overflows": (HEAD + 'budget: {size: "1e999MB"}\n', "not a size"),
    "a size that is no number": (HEAD + 'budget: {size: "nan GB"}\n', "not a size"),
    "a size of more than there is": (HEAD + 'budget: {size: "99999999999GB"}\n', "is more than"),
    "a negative size": (HEAD + "budget: {size: -5}\n", "is not above 0"),
    "bits of weights": (HEAD + "stages: [{use: quantize.weights, bits: 1000000}]\n", "bits"),
    "a rank of everything": (HEAD + "stages: [{use: factorize.svd, rank: 99999999999}]\n", "rank"),
    "threads": (HEAD + "target: {threads: 1000000}\n", "is more than 4096"),
    "a batch that no memory holds": (HEAD + "target: {batch_size: 99999999999}\n", "is more than"),
    "a shape that no memory holds": (HEAD + "target: {shapes: {H: 99999999999}}\n", "is more than"),
    "an image of a terapixel": (
        HEAD.replace("{source: digits}", "{source: image_folder, path: x, resize: 1000000}"),
        "resize",
    ),
    "samples without end": (
        HEAD.replace("{source: digits}", "{source: random, inputs: {x: {shape: [1]}}, samples: 99999999999}"),
        "samples",
    ),
    "half of a surrogate pair": (HEAD + 'name: "\\ud800"\n', "surrogate"),
    "not UTF-8": (HEAD.encode() + b"name: \xff\xfe\n", "not UTF-8"),
    "a null byte": (HEAD.encode() + b"name: a\0b\n", "control character"),
    "UTF-16": (HEAD.encode("utf-16"), "UTF-8"),
    "escapes for a terminal": (HEAD + 'name: "\\e[2J\\e]0;pwned\\a"\n', "letters, digits"),
    "a name that is a path": (HEAD + "name: ../../etc/cron.d/x\n", "since it becomes a folder"),
    "a path with a null byte": (
        HEAD.replace("digits}", 'npz, path: "a\\0b"}') + "stages: [{use: nothing}]\n",
        "unknown technique",
    ),
    "it extends itself": (HEAD + "extends: r.yaml\n", "goes in a circle"),
    "it extends a name of 5,000 letters": (HEAD + f"extends: {'x' * 5000}.yaml\n", "extends"),
    "it extends a folder": (HEAD + "extends: .\n", "directory"),
    "it extends a mapping": (HEAD + "extends: {a: b}\n", "extends names files"),
    "it extends no recipe of the package": (HEAD + "extends: builtin:../../etc/passwd\n", "comes with compressctl"),
    "it extends 100 files": (HEAD + f"extends: [{'leaf.yaml,' * 100}]\n", "more than 64 files"),
}


@pytest.mark.parametrize(("text", "says"), TEXTS.values(), ids=TEXTS)
def test_a_recipe(text: str | bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "leaf.yaml").write_text("seed: 1\n")
    refuses(tmp_path, "validate", "r.yaml", says=says)


SETS: dict[str, tuple[str, str]] = {
    "five thousand steps": ("a" + ".b" * 5000 + "=1", "5001 steps, 50 are allowed"),
    "five thousand positions": ("stages" + "[0]" * 5000 + "=1", "steps, 50 are allowed"),
    "a position of a hundred digits": (f"stages[{'9' * 100}]=1", "there is no item"),
    "below a single value": ("seed.a.b=1", "not a mapping"),
    "below text of a list": ("stages.nothing.x=1", "there is no stage"),
    "no path": ("=1", "needs a path"),
    "no value": ("a" * 100_000, "write path=value"),
    "brackets": ("name=" + "[" * 10_000, "nested more than 50 deep"),
    "an anchor": ("name=&a [*a]", "not supported"),
    "a number that is too long": (f"seed={'9' * 5000}", "characters"),
    "two documents": ("name=a\n---\nb", "second document"),
    "a variable that is not there": ("name=${nowhere}", "is not in vars"),
    "a path that is all dots": ("....=1", "needs a path"),
    "deep in deep": ("a" + ".b" * 45 + "=" + "[" * 40 + "]" * 40, "nested more than 50 deep"),
    "a value of 100,000 letters": ("task=" + "x" * 100_000, "unknown task"),
    "many stages": ("stages=[" + "1," * 5000 + "]", "256 are allowed"),
}


@pytest.mark.parametrize(("setting", "says"), SETS.values(), ids=SETS)
def test_a_setting(setting: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(HEAD)
    refuses(tmp_path, "validate", "r.yaml", "--set", setting, says=says)


def test_files_that_extend_two_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        (tmp_path / f"{number}.yaml").write_text(f"extends: [{number + 1}.yaml, {number + 1}.yaml]\n")
    (tmp_path / "12.yaml").write_text("seed: 1\n")
    refuses(tmp_path, "validate", "0.yaml", says="more than 64 files")


@pytest.mark.parametrize(
    "content", ["tok-12345-of-mine", "tok-12345: {", "[tok-12345", "a\ttok-12345: b: c", "!tok-12345 x", "12345: x"]
)
def test_what_extends_names_is_told_to_nobody(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be any file: a key, a token."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text("extends: token\n" + HEAD)
    (tmp_path / "token").write_text(content)
    assert "12345" not in refuses(tmp_path, "validate", "r.yaml", says="token:1:").err


@pytest.mark.parametrize("form", ["json", "sarif", "github"])
def test_findings_for_machines_are_counted_too(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(HEAD + "".join(f"key{n}: 1\n" for n in range(5000)))
    from typer.testing import CliRunner

    from compressctl.cli.main import app

    done = CliRunner().invoke(app, ["validate", "r.yaml", "--format", form])
    assert done.exit_code == 2
    assert "... and 4,900 more problems" in done.stdout
    assert len(done.stdout) < 100_000


LOCKS: dict[str, bytes] = {
    "no text": b"\xff\xfe\0\0",
    "brackets": b"[" * 10_000,
    "an impossible date": b"a: 2001-99-99\n",
    "an alias bomb": b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
    "an object": b"!!python/object/apply:os.system [id]\n",
    "a number of ten thousand digits": b"base: " + b"9" * 10_000,
}


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_a_lock_file(lock: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hostile._reports import named

    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.jsonl").touch()
    (tmp_path / "run" / "report.json").write_text(named("x").model_dump_json())
    (tmp_path / "run" / "recipe.lock.yaml").write_bytes(lock)
    refuses(tmp_path, "reproduce", "run", says="is not a lock file")


def test_what_is_within_the_bounds_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(HEAD + chain(18, 1) + "name: ${v17}\n")
    assert "valid" in ends(tmp_path, "validate", "r.yaml").out
