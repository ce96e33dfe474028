"""Bad recipes: each gives exit code 2 and a readable message at the right place, never a traceback."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compressctl.cli.main import app

HEAD = "recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\n"
DATA = "data: {source: digits}\n"
STAGE = "stages:\n  - {use: quantize.static}\n"

# text, where (line:column), what the message says
BAD: dict[str, tuple[str | bytes, str, str]] = {
    "empty": ("", "1:1", "empty"),
    "only a comment": ("# nothing here\n", "1:1", "empty"),
    "a list": ("- recipe\n", "1:1", "a recipe is a mapping"),
    "a word": ("recipe\n", "1:1", "a recipe is a mapping"),
    "no version": ("model: {source: builtin, name: digits-resnet}\n", "", "`recipe` is missing"),
    "newer version": (HEAD.replace("v1", "v2"), "1:9", "newer compressctl"),
    "garbled version": (HEAD.replace("compressctl/v1", "one"), "1:9", "not a recipe version"),
    "version is a number": (HEAD.replace("compressctl/v1", "1"), "1:9", "not a recipe version"),
    "no model": ("recipe: compressctl/v1\n", "", "`model` is missing"),
    "model is text": ("recipe: compressctl/v1\nmodel: resnet.onnx\n", "2:8", "model is a mapping"),
    "model without source": ("recipe: compressctl/v1\nmodel: {path: a.onnx}\n", "2:8", "`source` is missing"),
    "unknown source": ("recipe: compressctl/v1\nmodel: {source: buildin}\n", "2:17", "did you mean builtin"),
    "source is a list": ("recipe: compressctl/v1\nmodel: {source: [onnx]}\n", "2:17", "source is a name"),
    "unknown model key": (HEAD.replace("name:", "nmae:"), "2:26", "did you mean name"),
    "states of a network in torch": (
        "recipe: compressctl/v1\nmodel: {source: python, factory: 'n.py:f', input_shape: [8], states: {s: t}}\n", "2:62",
        "python has none, onnx has it; stages that train or cut a network know no sequence of steps",
    ),
    "a key of other data": (HEAD + "data: {source: digits, sample_rate: 8000}\n", "3:24", "digits has none, wav_folder has it"),
    "unknown builtin": (HEAD.replace("digits-resnet", "digits-resent"), "2:32", "did you mean digits-resnet"),
    "unknown top key": (HEAD + "stagse: []\n", "3:1", "did you mean stages"),
    "unknown data key": (HEAD + "data: {source: digits, calibratoin: 3}\n", "3:24", "did you mean calibration"),
    "unknown target key": (HEAD + "target: {thread: 1}\n", "3:10", "did you mean threads"),
    "unknown budget key": (HEAD + "budget: {sped: 2}\n", "3:10", "did you mean speedup"),
    "unknown stage key": (HEAD + DATA + "stages:\n  - {use: quantize.static, rangs: mse}\n", "5:28", "did you mean ranges"),
    "unknown gate key": (
        HEAD + DATA + "stages:\n  - use: quantize.static\n    gate: {accuracy_dorp: 1}\n", "6:12", "did you mean accuracy_drop",
    ),
    "unknown override key": (
        HEAD + DATA + 'stages:\n  - {use: quantize.static, overrides: [{match: "a", wieghts: float}]}\n', "5:53", "did you mean weights",
    ),
    "stages that cannot follow each other": (
        HEAD + DATA + "stages:\n  - {use: quantize.static}\n  - {use: finetune}\n", "6:11", "put it before the stages",
    ),
    "a stage that needs data": (HEAD + STAGE, "4:5", "add a `data` section"),
    "a method that needs data": (
        HEAD + "stages:\n  - {use: quantize.weights, method: gptq}\n", "4:37", "needs calibration data for `method: gptq`",
    ),
    "a method of an override that needs data": (
        HEAD + 'stages:\n  - {use: quantize.weights, overrides: [{match: "*", method: awq}]}\n', "4:40", "for `overrides`",
    ),
    "a method that needs a calibration split": (
        HEAD + "data: {source: digits, calibration: 0}\nstages:\n  - {use: quantize.weights, method: awq}\n",
        "5:37", "set data.calibration to 100 or more, or leave `method` out",
    ),
    "outliers that nothing shows": (
        HEAD + "stages:\n  - {use: quantize.dynamic, smoothquant_alpha: 0.5}\n", "4:48", "needs calibration data for `smoothquant_alpha: 0.5`",
    ),
    "a default that needs data": (HEAD + "stages:\n  - {use: prune.heads}\n", "4:5", "prune.heads needs labels, training data"),
    "a criterion that needs data": (
        HEAD + "stages:\n  - {use: prune.channels, criterion: taylor}\n", "4:38", "training data for `criterion: taylor`",
    ),
    "training that needs data": (
        HEAD + "stages:\n  - {use: share.kmeans, finetune: {epochs: 1}}\n", "4:35", "labels, training data for `finetune`",
    ),
    "a rank that needs a validation split": (
        HEAD + "data: {source: digits, validation: 0}\nstages:\n  - {use: factorize.svd, rank: {validation_drop: 1}}\n",
        "5:32", "needs validation data for `rank`",
    ),
    "a rank that needs a metric": (
        HEAD + DATA + "task: custom\nstages:\n  - {use: factorize.svd, rank: {validation_drop: 1}}\n",
        "6:32", "needs a metric for `rank`",
    ),
    "a gate that bisects without calibration samples": (
        HEAD + "data: {source: digits, calibration: 0}\nstages:\n  - {use: quantize.weights, gate: {accuracy_drop: 1}}\n",
        "5:35", "ranks layers on the calibration split, which is empty",
    ),
    "a technique's own objection": (
        HEAD + DATA + 'stages:\n  - {use: prune.unstructured, pattern: "2:4", sparsity: 0.7}\n', "5:57", "not 0.7",
    ),
    "unknown technique": (HEAD + "stages:\n  - {use: quantise.static}\n", "4:11", "did you mean quantize.static"),
    "stages is a mapping": (HEAD + "stages: {use: quantize.static}\n", "3:9", "stages is a list"),
    "a stage is text": (HEAD + "stages: [quantize.static]\n", "3:10", "a stage is a mapping"),
    "a stage without use": (HEAD + "stages: [{id: a}]\n", "3:10", "`use` is missing"),
    "use is a number": (HEAD + "stages: [{use: 8}]\n", "3:16", "`use` names a technique"),
    "same id twice": (
        HEAD + DATA + "stages:\n  - {use: quantize.static, id: a}\n  - {use: quantize.static, id: a}\n", "6:32", "the id a is taken",
    ),
    "id is a number": (HEAD + DATA + "stages:\n  - {use: quantize.static, id: 4}\n", "5:32", "an id has letters"),
    "bad choice": (HEAD + DATA + "stages:\n  - {use: quantize.static, ranges: minmx}\n", "5:36", "did you mean minmax"),
    "percentile too large": (HEAD + DATA + "stages:\n  - {use: quantize.static, percentile: 101}\n", "5:40", "more than 100"),
    "bool is text in YAML 1.2": (HEAD + DATA + "stages:\n  - {use: quantize.static, per_channel: no}\n", "5:41", "true or false"),
    "2:4 is text, not 124": (HEAD + "target: {threads: 2:4}\n", "3:19", 'the text "2:4"'),
    "1e-5 is a number": (HEAD + "name: 1e-5\n", "3:7", "not 1e-05"),
    "1_000 is text": (HEAD + "seed: 1_000\n", "3:7", 'the text "1_000"'),
    "negative threads": (HEAD + "target: {threads: -1}\n", "3:19", "less than 0"),
    "zero batch": (HEAD + "target: {batch_size: 0}\n", "3:22", "less than 1"),
    "unknown backend": (HEAD + "target: {backend: onnxrt}\n", "3:19", "did you mean onnxruntime"),
    "unknown export": (HEAD + "export: [onnxruntim]\n", "3:10", "did you mean onnxruntime"),
    "export is text": (HEAD + "export: onnxruntime\n", "3:9", "export is a list"),
    "unknown task": (HEAD + "task: clasification\n", "3:7", "did you mean classification"),
    "metric of another task": (HEAD + "metric: rmse\n", "3:9", "does not fit the task"),
    "size without sense": (HEAD + "budget: {size: five}\n", "3:16", "5MB"),
    "packed size without packing": (HEAD + "budget: {packed_size: 5KB}\n", "3:23", "add `pack: true`"),
    "pack is text": (HEAD + "pack: small\n", "3:7", "true or false"),
    "negative drop": (HEAD + "budget: {accuracy_drop: -1}\n", "3:25", "less than 0"),
    "a gate that nothing can measure": (
        HEAD + DATA + "task: custom\nstages:\n  - {use: quantize.static, gate: {accuracy_drop: 1}}\n", "6:50", "has no metric whose drop",
    ),
    "a budget that nothing can measure": (HEAD + DATA + "task: custom\nbudget: {accuracy_drop: 1}\n", "5:25", "has no metric whose drop"),
    "a drop without data": (HEAD + "budget: {accuracy_drop: 1}\n", "3:25", "nothing is scored without data"),
    "a drop without test samples": (
        HEAD + "data: {source: digits, test: 0}\nbudget: {accuracy_drop: 1}\n", "4:25", "the test split, which is scored, is empty",
    ),
    "the worst class of a language model": (
        HEAD + DATA + "task: language-model\nbudget: {worst_class_drop: 1}\n", "5:28", "perplexity has no classes",
    ),
    "training on a loss that the task has not": (
        HEAD + DATA + "task: custom\nstages:\n  - {use: finetune}\n", "6:11", "the task custom has none",
    ),
    "a loss between pairs for another task": (HEAD + DATA + "loss: cosent\n", "4:7", "compares the vectors of pairs, and the task is classification"),
    "a loss that nobody knows": (HEAD + DATA + "task: embedding\nloss: cosinus\n", "5:7", "losses between pairs have names: cosent, cosine"),
    "a loss between pairs for a head of another task": (
        HEAD + DATA + "heads:\n  age: {task: regression, loss: cosine}\n", "5:33", "the task is regression",
    ),
    "a range of scores from high to low": (
        HEAD + "data: {source: sentence_pairs, path: a, columns: {first: 0, second: 1, label: 2}, tokenizer: t, score_range: [5, 0]}\n",
        "3:7", "the lower score and then the higher one",
    ),
    "recovery on a loss that the task has not": (
        HEAD + DATA + "task: custom\nstages:\n  - {use: prune.channels, finetune: {epochs: 1}}\n", "6:11", "the task custom has none",
    ),
    "a slope of a loss that the task has not": (
        HEAD + "task: custom\n" + DATA + "stages:\n  - {use: prune.channels, criterion: taylor}\n", "6:11", "the task custom has none",
    ),
    "not finite": (HEAD + "budget: {speedup: .inf}\n", "3:19", "finite"),
    "duplicate key": (HEAD + "seed: 1\nseed: 2\n", "4:1", "twice"),
    "duplicate nested key": (HEAD + "target: {batch_size: 1, batch_size: 2}\n", "3:25", "twice"),
    "a tag": (HEAD + "name: !!python/object/apply:os.system [id]\n", "3:7", "tags are not supported"),
    "an anchor": (HEAD + "name: &a b\n", "3:7", "anchors"),
    "alias bomb": ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "1:4", "anchors"),
    "merge key": (HEAD + "target:\n  <<: {batch_size: 1}\n", "4:3", "merge keys"),
    "two documents": (HEAD + "---\n" + HEAD, "3:1", "second document"),
    "a tab": (HEAD + "target:\n\tbatch_size: 1\n", "4:1", "tab"),
    "not closed": (HEAD + "export: [onnxruntime\n", "", "not closed"),
    "a number as key": (HEAD + "1: 2\n", "3:1", "keys are text"),
    "too deep": (HEAD + "name: " + "[" * 200 + "]" * 200 + "\n", "", "nested more than"),
    "unknown variable": (HEAD + 'name: "${nmae}"\n', "3:7", "is not in vars"),
    "variable of itself": (HEAD + 'vars: {a: "${a}"}\nname: "${a}"\n', "", "refers to itself"),
    "unset environment": (HEAD + 'name: "${env:COMPRESSCTL_SURELY_NOT_SET}"\n', "3:7", "is not set"),
    "vars is a list": (HEAD + "vars: [a]\n", "3:7", "vars is a mapping"),
    "not UTF-8": (HEAD.encode() + b"name: caf\xe9\n", "3:10", "not UTF-8"),
    "a control character": (HEAD + "name: a\x07b\n", "3:8", "control character"),
    "UTF-16": (HEAD.encode("utf-16"), "1:1", "not UTF-8"),
    "missing parent": (HEAD + "extends: nowhere.yaml\n", "3:10", "does not exist"),
    "extends is a number": (HEAD + "extends: 3\n", "3:10", "extends names files"),
    "name is a path": (HEAD + "name: ../../etc\n", "3:7", "becomes a folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_recipe_is_one_readable_message(name: str, tmp_path: Path) -> None:
    text, where, says = BAD[name]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(text if isinstance(text, bytes) else text.encode())
    done = CliRunner().invoke(app, ["validate", str(recipe)])
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    assert says in done.stderr
    place = f"{recipe}:{where}" if where else str(recipe)
    assert re.search(rf"^{re.escape(place)}\b", done.stderr, re.MULTILINE), done.stderr
    assert "Traceback" not in done.output
    assert all(len(line) < 400 for line in done.stderr.splitlines())


def test_every_problem_is_named_at_once_in_the_files_order(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        HEAD + "data: {source: digits, validation: x}\nstages:\n  - {use: quantize.static, ranges: q}\nseed: y\n"
    )
    done = CliRunner().invoke(app, ["validate", str(recipe)])
    lines = [int(found) for found in re.findall(r"recipe\.yaml:(\d+):", done.stderr)]
    assert lines == [3, 5, 6]


def test_a_directory_and_a_missing_file_say_so(tmp_path: Path) -> None:
    for path, says in ((tmp_path, "directory"), (tmp_path / "none.yaml", "does not exist")):
        done = CliRunner().invoke(app, ["validate", str(path)])
        assert done.exit_code == 2
        assert says in done.stderr


def test_a_circle_of_parents_names_the_chain(tmp_path: Path) -> None:
    for name, parent in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {parent}.yaml\n")
    done = CliRunner().invoke(app, ["validate", str(tmp_path / "a.yaml")])
    assert done.exit_code == 2
    assert "a.yaml -> b.yaml -> c.yaml -> a.yaml" in done.stderr


def test_the_caret_stands_under_the_value(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(HEAD + "seed: many\n")
    shown = CliRunner().invoke(app, ["validate", str(recipe)]).stderr.splitlines()
    assert shown[1].index("many") == shown[2].index("^")
