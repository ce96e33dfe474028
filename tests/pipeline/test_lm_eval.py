"""Tasks of lm-eval on bundles: both are scored as lm-eval scores the network itself, and what cannot be asked is said before any work."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import compressctl.backends.openvino  # noqa: F401  before anything of OpenVINO's, which would report its use
from compressctl.cli.main import app

pytest.importorskip("lm_eval")
pytest.importorskip("onnxruntime_genai")
pytest.importorskip("openvino_genai")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from support.tiny_transformers import WORDS, language_model  # noqa: E402

from compressctl.core.errors import UsageError  # noqa: E402
from compressctl.measure.lm_eval_tasks import Questions, check_tasks  # noqa: E402

RECIPE = """
recipe: compressctl/v1
name: tiny
task: language-model
model: {source: huggingface, path: model}
target: {shapes: {sequence: 32}}
stages:
  - {use: quantize.weights, bits: 4, group_size: 16, if_slower: keep}
export:
  - {backend: onnxruntime, bundle: genai, lm_eval: {tasks: [pets, rolling, writing], limit: 12, num_fewshot: 1, include_path: tasks}}
  - {backend: openvino, bundle: genai, lm_eval: {tasks: [pets, writing], limit: 12, num_fewshot: 1, include_path: tasks}}
budget: {bundle: {task_drop: {pets: 1, pets/acc_norm: 1, rolling: 1000}}}
"""
_CHOICES = """
task: pets
dataset_path: json
dataset_kwargs: {data_files: {train: shots.jsonl, test: questions.jsonl}}
output_type: multiple_choice
fewshot_split: train
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
_ROLLING = """
task: rolling
dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{long}}"
metric_list:
  - {metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
num_fewshot: 0
"""
_WRITING = """
task: writing
dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{written}}"
generation_kwargs: {until: ["t"], max_gen_toks: 8, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
num_fewshot: 0
"""


def _folder(folder: Path) -> Path:
    model = language_model(folder / "model")
    random = np.random.default_rng(0)

    def words(count: int) -> str:
        return " ".join(random.choice(WORDS, count))

    questions: list[dict[str, Any]] = [
        {"question": words(5), "choices": [words(1), words(3)], "answer": n % 2, "long": words(60)} for n in range(20)
    ]
    written = [_greedy(model, one["question"]) for one in questions]
    made = [{**one, "written": text} for one, text in zip(questions, written, strict=True)]
    _write_tasks(folder / "tasks", made)
    return folder


def _write_tasks(folder: Path, questions: Sequence[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    lines = [json.dumps(one) for one in questions]
    (folder / "questions.jsonl").write_text("\n".join(lines))
    (folder / "shots.jsonl").write_text("\n".join(lines[15:]))
    for name, text in (("pets", _CHOICES), ("rolling", _ROLLING), ("writing", _WRITING)):
        (folder / f"{name}.yaml").write_text(text)


def _greedy(model: Path, question: str) -> str:
    """What transformers writes, up to the first t, to the end or for eight tokens."""
    network = transformers.AutoModelForCausalLM.from_pretrained(model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    given = tokenizer(question, return_tensors="pt").input_ids
    made = network.generate(given, max_new_tokens=8, do_sample=False, pad_token_id=2)[0, given.shape[1] :]
    text: str = tokenizer.decode(made, skip_special_tokens=True)
    return text.split("t")[0]


def _apply(folder: Path, recipe: str) -> tuple[int, str]:
    (folder / "r.yaml").write_text(recipe)
    arguments = ["apply", str(folder / "r.yaml"), "--output", str(folder / "run"), "--no-cache"]
    done = CliRunner().invoke(app, [*arguments, "--measure", "untimed"])
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = _folder(tmp_path_factory.mktemp("tasks"))
    code, said = _apply(folder, RECIPE)
    assert code == 0, said
    return folder


@pytest.fixture(scope="module")
def independent(run: Path) -> dict[str, Any]:
    """lm-eval's own scores of the network, by its own code for transformers."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run / "tasks")
        manager = TaskManager(include_path=str(run / "tasks"), include_defaults=False)
        model = HFLM(pretrained=str(run / "model"), device="cpu", max_length=64, dtype="float32", batch_size=1)
        tasks = ["pets", "rolling"]
        found = simple_evaluate(model, tasks=tasks, task_manager=manager, limit=12, num_fewshot=1, bootstrap_iters=0)
    results: dict[str, Any] = found["results"]
    return results


def _scores(run: Path, backend: str) -> dict[tuple[str, str], Any]:
    report = json.loads((run / "run/report.json").read_text())
    part = next(one for one in report["backends"] if one["backend"] == backend)
    return {(one["task"], one["metric"]): one for one in part["bundle"]["tasks"]}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
def test_choices_are_scored_as_lm_eval_scores_the_network(
    run: Path, independent: dict[str, Any], backend: str, metric: str
) -> None:
    found = _scores(run, backend)["pets", metric]
    assert found["baseline"] == pytest.approx(independent["pets"][f"{metric},none"])
    assert (found["samples"], found["shots"]) == (12, 1)


@pytest.mark.slow
def test_whole_texts_are_scored_in_windows_as_lm_eval_scores_them(run: Path, independent: dict[str, Any]) -> None:
    found = _scores(run, "onnxruntime")["rolling", "byte_perplexity"]
    assert found["baseline"] == pytest.approx(independent["rolling"]["byte_perplexity,none"], rel=1e-4)
    assert found["compressed"] != found["baseline"]
    assert not found["higher_is_better"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_float_bundle_answers_as_transformers_writes(run: Path, backend: str) -> None:
    assert _scores(run, backend)["writing", "exact_match"]["baseline"] == 1.0


@pytest.mark.slow
def test_the_report_shows_tasks_and_holds_them_against_the_budget(run: Path) -> None:
    report = json.loads((run / "run/report.json").read_text())
    assert {check["name"]: check["holds"] for check in report["budget"]} == {
        "bundle.task_drop of pets": True,
        "bundle.task_drop of pets/acc_norm": True,
        "bundle.task_drop of rolling": True,
    }
    assert re.fullmatch(r"lm-eval [\d.]+", report["backends"][0]["bundle"]["evaluator"])
    page = (run / "run/report.html").read_text()
    assert "pets: acc (12 samples, 1 shots)" in page


def test_a_folder_of_tasks_that_is_not_there_is_said_before_any_work(tmp_path: Path) -> None:
    language_model(tmp_path / "model")
    code, output = _apply(tmp_path, RECIPE)
    assert code == 2
    assert "the folder of lm-eval's tasks" in output
    assert not (tmp_path / "run" / "artifacts").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("questions.jsonl", "none.jsonl", "lm-eval cannot load the task writing"),
        ("dataset_path: json\ndataset_kwargs: {data_files: {test: questions.jsonl}}", "dataset_path: nobody/nothing", "are not on this machine"),
        ("do_sample: false", "do_sample: true, temperature: 0.7", "it draws answers at random"),
    ],
)  # fmt: skip
def test_tasks_that_cannot_be_loaded_are_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    _write_tasks(tmp_path, [{"question": "the cat", "written": " sat"}])
    task = tmp_path / "writing.yaml"
    task.write_text(task.read_text().replace(old, new))
    with pytest.raises(UsageError, match=said):
        check_tasks([Questions(("writing",), folder=tmp_path)])


@pytest.mark.slow
def test_a_task_that_lm_eval_does_not_have_is_named_with_those_like_it(tmp_path: Path) -> None:
    _write_tasks(tmp_path, [])
    with pytest.raises(UsageError, match="lm-eval has no task writting") as caught:
        check_tasks([Questions(("writting",), folder=tmp_path)])
    assert "writing" in str(caught.value.hint)
