"""distill.logits and distill.features as stages: what a student learns, what is said about it, what the plan allows."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from support.lessons import SMALL, context, digits_data, digits_teacher, lowered_teacher  # noqa: E402
from support.recipes import recipe_of  # noqa: E402
from support.shell import Shell  # noqa: E402
from torch import nn  # noqa: E402

from compressctl.core.data import Batch  # noqa: E402
from compressctl.core.errors import RecipeError, UsageError  # noqa: E402
from compressctl.core.model import Form, StageRecord, TorchModel  # noqa: E402
from compressctl.core.tasks import Learning  # noqa: E402
from compressctl.pipeline.plan import make_plan  # noqa: E402
from compressctl.recipe.loader import load  # noqa: E402
from compressctl.techniques.distill.features import apply as features  # noqa: E402
from compressctl.techniques.distill.logits import apply as logits  # noqa: E402
from compressctl.techniques.distill.params import FeaturesParams, LogitsParams, Student  # noqa: E402
from compressctl.training.supervision.params import Network  # noqa: E402

SMALL_ONE = Student(factory="small.py:small")
BRISK = {"epochs": 2, "batch_size": 64, "learning_rate": 0.1}


def test_a_student_learns_from_an_onnx_teacher_and_random_inputs_alone(tmp_path: Path) -> None:
    """No data at all in the stage: its agreement with the teacher on real digits is counted here."""
    teacher = lowered_teacher()
    run, _ = context(tmp_path, teacher, data=None, metric=None)
    params = LogitsParams(
        student=Student(factory="small.py:flat"),
        data_free="random",
        data_free_samples=1536,
        data_free_mean=0.3,
        data_free_std=0.4,
        **{**BRISK, "epochs": 3},
    )
    done = logits(teacher, params, run)
    images = next(digits_data().split("test").batches(359)).inputs["input"]
    session = onnxruntime.InferenceSession(teacher.body.SerializeToString(), providers=["CPUExecutionProvider"])
    decided = session.run(None, {"input": images})[0].argmax(1)
    with torch.no_grad():
        agrees = (done.model.body(torch.as_tensor(images)).argmax(1).numpy() == decided).mean()
    assert agrees > 0.35, "chance is 0.1"
    assert done.model.form is Form.TORCH
    assert done.facts["scored_on"] == "made inputs"
    assert done.facts["after"]["agreement"] > done.facts["before"]["agreement"] + 20
    assert done.facts["data_free"]["statistics"] == "mean 0.3, deviation 0.4"


def test_a_teacher_helps_a_shrunk_student_back(tmp_path: Path) -> None:
    model = digits_teacher()
    run, warnings = context(tmp_path, model)
    done = logits(model, LogitsParams(student=Student(width_multiplier=0.5), **{**BRISK, "epochs": 3}), run)
    assert done.facts["before"]["score"] < 50
    assert done.facts["after"]["score"] > 90
    assert done.facts["teacher_score"] > 97
    assert done.facts["loss_between_outputs"] == "kl"
    parts = done.facts["loss_parts"]
    assert len(parts["teacher"]) == 3
    assert np.allclose(np.add(parts["teacher"], parts["labels"]), done.facts["loss"], rtol=1e-4)
    assert warnings == []
    assert not done.model.body.training
    assert model.body.stem.conv.out_channels == 32  # what came in is as it was


@pytest.mark.parametrize("method", ["hints", "attention", "relational", "contrastive"])
def test_features_are_learned_and_adapters_thrown_away(tmp_path: Path, method: str) -> None:
    model = digits_teacher()
    run, _ = context(tmp_path, model)
    params = FeaturesParams(
        method=method, student=SMALL_ONE, layers=[{"teacher": "block3", "student": "5"}], **{**BRISK, "epochs": 3}
    )
    done = features(model, params, run)
    parts = done.facts["loss_parts"]
    assert parts[method][-1] < 0.8 * parts[method][0]
    assert done.facts["after"]["score"] > done.facts["before"]["score"] + 15
    assert done.facts["layers"] == [{"teacher": "block3", "student": "5"}]
    assert len(list(done.model.body.parameters())) == 8
    assert all(not module._forward_hooks for module in done.model.body.modules())


def test_hints_train_their_adapter(tmp_path: Path) -> None:
    """A student that cannot move (learning nothing else) still gets nearer: through the 1x1 convolution alone."""
    model = digits_teacher()
    run, _ = context(tmp_path, model)
    (tmp_path / "frozen.py").write_text(
        SMALL + "\ndef frozen():\n    network = small()\n    network[:6].requires_grad_(False)\n    return network\n"
    )
    params = FeaturesParams(
        method="hints",
        student=Student(factory="frozen.py:frozen"),
        layers=[{"teacher": "block3", "student": "5"}],
        label_weight=0,
        **BRISK,
    )
    parts = features(model, params, run).facts["loss_parts"]["hints"]
    assert parts[-1] < 0.9 * parts[0]


def test_the_same_seed_gives_the_same_student(tmp_path: Path) -> None:
    model = digits_teacher()
    run, _ = context(tmp_path, model)
    params = FeaturesParams(method="contrastive", student=SMALL_ONE, **{**BRISK, "epochs": 1})
    first, second = (features(model, params, run).model.body.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_the_teacher_says_is_not_asked_twice_but_anew_for_changed_images(tmp_path: Path) -> None:
    assert not LogitsParams().inputs_vary
    assert LogitsParams(mixup=0.2).inputs_vary
    assert LogitsParams(augment={"horizontal_flip": True}).inputs_vary


def test_zeros_of_an_earlier_stage_stay(tmp_path: Path) -> None:
    model = digits_teacher()
    name = "block2.body.0.conv.weight"
    weight = dict(model.body.named_parameters())[name]
    with torch.no_grad():
        weight[weight.abs() < weight.abs().median()] = 0
    run, _ = context(tmp_path, digits_teacher())
    done = features(replace(model, sparse=(name,)), FeaturesParams(**{**BRISK, "epochs": 1}), run)
    after = dict(done.model.body.named_parameters())[name]
    assert torch.equal(after == 0, weight == 0)
    assert not torch.equal(after, weight)


def test_regression_learns_by_squares_and_embeddings_by_angle(tmp_path: Path) -> None:
    model = digits_teacher()
    params = LogitsParams(student=SMALL_ONE, label_weight=0, epochs=1)
    for task, loss in (("regression", "mse"), ("embedding", "cosine")):
        run, _ = context(tmp_path, model, task=task, metric=None)
        assert logits(model, params, run).facts["loss_between_outputs"] == loss


def test_dkd_is_for_classes(tmp_path: Path) -> None:
    run, _ = context(tmp_path, digits_teacher(), task="embedding", metric=None)
    with pytest.raises(UsageError, match="one right class"):
        logits(digits_teacher(), LogitsParams(loss="dkd", student=SMALL_ONE), run)


def test_a_hot_teacher_for_a_student_of_few_bits_is_warned_of(tmp_path: Path) -> None:
    model = digits_teacher()
    coarse = replace(model, history=(StageRecord("low", "quantize.train", {"weights": {"bits": 3}}, 0.0),))
    run, warnings = context(tmp_path, model)
    logits(coarse, LogitsParams(temperature=4, epochs=0), run)
    assert any("temperature 4" in text and "stage low left 3 bits" in text for text in warnings)
    run, warnings = context(tmp_path, model)
    logits(coarse, LogitsParams(temperature=2, epochs=0), run)
    assert warnings == []


def test_a_teacher_that_is_worse_than_its_student_is_warned_of(tmp_path: Path) -> None:
    model = digits_teacher()
    run, warnings = context(tmp_path, model)
    logits(model, LogitsParams(teacher=Network(factory="small.py:small"), epochs=0), run)
    assert any("the teacher scores 10.00%" in text for text in warnings)


@pytest.mark.parametrize(("wrong", "is_warned"), [(1, False), (30, True)])
def test_a_teacher_that_is_worse_by_chance_is_not(wrong: int, is_warned: bool) -> None:
    from compressctl.core.events import Events
    from compressctl.core.source import metrics
    from compressctl.core.target import Target
    from compressctl.core.technique import RunContext
    from compressctl.techniques.distill._preflight_warnings import warn_of_poor_teacher
    from compressctl.techniques.distill._scoring import Answers

    labels, heard = np.arange(180) % 10, []
    right = np.eye(10)[labels]
    said = right.copy()
    said[:wrong] = np.roll(said[:wrong], 1, axis=1)
    events = Events(lambda event: heard.append(event.kind))
    run = RunContext(0, events, Path(), Target("onnxruntime"), metric=metrics.get("accuracy"))
    warn_of_poor_teacher(Answers(said, labels, ("y",)), Answers(right, labels, ("y",)), run)
    assert heard == ["warning"] * is_warned


def test_a_student_that_is_its_own_teacher_is_warned_of(tmp_path: Path) -> None:
    run, warnings = context(tmp_path, digits_teacher())
    logits(digits_teacher(), LogitsParams(epochs=0), run)
    assert any("the student is the teacher itself" in text for text in warnings)


def test_features_alone_leave_the_last_layers_untaught(tmp_path: Path) -> None:
    run, warnings = context(tmp_path, digits_teacher())
    features(digits_teacher(), FeaturesParams(student=SMALL_ONE, label_weight=0, epochs=0), run)
    assert any("set logits_weight" in text for text in warnings)


class Tokens(nn.Module):
    """A language model: each token's next one, by what stands there. tokens: (n, length) int64, mask: (n, length)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, width), nn.Linear(width, 20)

    def forward(self, tokens: "torch.Tensor", attention_mask: "torch.Tensor") -> "torch.Tensor":
        return self.head(self.embed(tokens)) * (1 + 0 * attention_mask[..., None])


def test_language_models_are_compared_per_token_where_the_mask_allows() -> None:
    from compressctl.core.model import Signature, TensorSpec
    from compressctl.training.data import TensorBatch
    from compressctl.training.supervision.teacher_loss import comparison

    torch.manual_seed(0)
    tokens, mask = torch.randint(0, 20, (4, 6)), torch.tensor([[1, 1, 1, 1, 0, 0]] * 4)
    student, teacher = Tokens(4)(tokens, mask).detach(), Tokens(16)(tokens, mask).detach()
    spec = [TensorSpec(name, "int64", ("batch", 6)) for name in ("tokens", "attention_mask")]
    compare = comparison(
        LogitsParams(temperature=1).teacher_loss, Learning("language-model"), Signature(tuple(spec), ())
    )
    batch = TensorBatch((tokens, mask), None)
    hidden = teacher.clone()
    hidden[:, 4:] += 100 * torch.randn(4, 2, 20)
    assert compare(student, teacher, batch) == pytest.approx(float(compare(student, hidden, batch)))
    assert not torch.isclose(compare(student, teacher, batch), compare(student, teacher.roll(1, 1), batch))


class _Texts:
    """Two calls of padded tokens, of lengths of their own."""

    labelled = False

    def __len__(self) -> int:
        return 4

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        for length in (6, 9):
            tokens = np.arange(2 * length).reshape(2, length) % 20
            mask = np.ones((2, length), np.int64)
            mask[0, 2:] = 0
            yield Batch({"tokens": tokens.astype(np.int64), "attention_mask": mask}, None, np.arange(2))


def test_agreement_is_that_of_tokens_that_are_no_padding() -> None:
    from compressctl.core.model import Signature, TensorSpec
    from compressctl.techniques.distill._scoring import agreement, answers

    spec = [TensorSpec(name, "int64", ("batch", "length")) for name in ("tokens", "attention_mask")]
    signature = Signature(tuple(spec), (TensorSpec("logits", "float32", ("batch", "length", 20)),))

    def said(inputs: "tuple[torch.Tensor, ...]", *, on_padding: int = 0, on_one: int = 0) -> "torch.Tensor":
        tokens, mask = inputs
        chosen = tokens + on_padding * (1 - mask)
        chosen[1, 0] += on_one
        return torch.nn.functional.one_hot(chosen % 20, 20).float()

    first, padded, other = (
        answers(partial(said, **change), _Texts(), signature) for change in ({}, {"on_padding": 1}, {"on_one": 1})
    )
    assert first is not None
    assert padded is not None
    assert other is not None
    assert agreement(first, padded, -1) == 100
    assert agreement(first, other, -1) == pytest.approx(100 * (1 - 2 / (2 * 2 + 6 + 9)))


RECIPE = """recipe: compressctl/v1
model: {{source: {model}}}
{data}
stages:
  - {{id: learn, use: {use}, {params}}}
"""
BUILTIN, DIGITS = "builtin, name: digits-resnet", "data: {source: digits, calibration: 100}"


def recipe(folder: Path, params: str, *, use: str = "distill.logits", model: str = BUILTIN, data: str = DIGITS) -> Path:
    (folder / "small.py").write_text(SMALL)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(model=model, data=data, use=use, params=params))
    return path


def test_the_key_follows_the_teachers_and_the_students_files(tmp_path: Path) -> None:
    proto = lowered_teacher().body
    onnx.save(proto, tmp_path / "teacher.onnx")
    path = recipe(tmp_path, "teacher: teacher.onnx, student: {factory: 'small.py:small'}")

    def key() -> str | None:
        return next(step.key for step in make_plan(load(path), None).steps if step.id == "learn")

    first = key()
    assert key() == first
    proto.doc_string = "another file"
    onnx.save(proto, tmp_path / "teacher.onnx")
    second = key()
    assert second != first
    (tmp_path / "small.py").write_text(SMALL + "\n# another student\n")
    assert key() not in (first, second)


def test_a_teacher_that_is_not_there_is_an_error_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nobody\.onnx does not exist"):
        make_plan(load(recipe(tmp_path, "teacher: nobody.onnx")), None)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("student: {width_multiplier: 0.5, factory: 'small.py:small'}", "give one of them"),
        ("student: {width_multiplier: 1.5}", "1.5 is not below 1"),
        ("student: {}", "give one of them"),
        ("data_free: random, label_weight: 1", "leave label_weight out"),
        ("loss: kd", "not one of kl, dkd, mse, cosine"),
        ("student: {factor: 'a.py:b'}", "did you mean factory"),
        (
            "teacher: {factory: 'a.py:b', arg: {}}",
            r"^[^\n]*teacher.arg: unknown key\n[^\n]*\n[^\n]*\n   did you mean args\?$",
        ),
        ("teacher: 5", "this is 5, not text"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_in_words(tmp_path: Path, params: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(recipe(tmp_path, params))


def test_only_data_free_distillation_does_without_data(tmp_path: Path) -> None:
    student = "student: {factory: 'small.py:small'}"
    with pytest.raises(RecipeError, match="needs training data"):
        make_plan(load(recipe(tmp_path, student, data="")), None)
    with pytest.raises(RecipeError, match="needs labels, training data"):
        make_plan(load(recipe(tmp_path, f"{student}, label_weight: 0.5", data="")), None)
    plan = make_plan(load(recipe(tmp_path, f"{student}, data_free: random", data="")), None)
    assert [step.id for step in plan.steps][:2] == ["load", "learn"]


def test_an_onnx_model_can_teach_a_student_by_factory_and_nothing_else(tmp_path: Path) -> None:
    onnx.save(lowered_teacher().body, tmp_path / "model.onnx")
    model = "onnx, path: model.onnx"
    student = "student: {factory: 'small.py:small'}"
    assert make_plan(load(recipe(tmp_path, student, model=model)), None).steps[1].gives is Form.TORCH
    for params, use, message in (
        ("epochs: 1", "distill.logits", "the model is an ONNX graph here"),
        (f"{student}, data_free: generated", "distill.logits", "which an ONNX teacher has none of"),
        ("student: {width_multiplier: 0.5}", "distill.logits", "only a torch teacher can be shrunk"),
        (student, "distill.features", "gives outputs and no features"),
    ):
        with pytest.raises(RecipeError, match=message):
            make_plan(load(recipe(tmp_path, params, use=use, model=model)), None)


def test_a_student_by_factory_is_kept_and_made_again_from_its_own_code(tmp_path: Path) -> None:
    """Its parameters may have the very names and shapes of the recipe's model, and it may compute something else."""
    from compressctl.core.model import Factory
    from compressctl.pipeline.serialization import read_model, write_model

    code = "from torch import nn\ndef net(act):\n    return nn.Sequential(nn.Linear(4, 8), getattr(nn, act)(), nn.Linear(8, 2))\n"
    (tmp_path / "nets.py").write_text(code)
    relu, tanh = (nn.Sequential(nn.Linear(4, 8), act, nn.Linear(8, 2)) for act in (nn.ReLU(), nn.Tanh()))
    source = TorchModel(relu, digits_teacher().signature)
    student = replace(source, body=tanh, factory=Factory("nets.py:net", {"act": "Tanh"}))
    (tmp_path / "kept").mkdir()
    write_model(student, tmp_path / "kept", source, tmp_path)
    stage = '{use: distill.logits, student: {factory: "nets.py:net", args: {act: Tanh}}}'
    found = read_model(tmp_path / "kept", lambda: source, recipe_of(tmp_path, stage))
    inputs = torch.randn(5, 4)
    assert torch.equal(found.body(inputs), tanh(inputs))
    assert found.factory == student.factory


@pytest.mark.slow
def test_the_exported_student_scores_what_the_report_says(shell: Shell) -> None:
    onnx.save(lowered_teacher().body, shell.folder / "model.onnx")
    path = recipe(
        shell.folder,
        "student: {factory: 'small.py:small'}, epochs: 4, learning_rate: 0.1, batch_size: 64",
        model="onnx, path: model.onnx",
    )
    done = shell.run("apply", path.name, "--output", "out")
    assert done.code == 0, done.err
    report = shell.report("out")
    compressed = report["backends"][0]["compressed"]
    session = onnxruntime.InferenceSession(
        shell.folder / "out" / compressed["path"], providers=["CPUExecutionProvider"]
    )
    batch = next(digits_data().split("test").batches(359))
    outputs = session.run(None, {session.get_inputs()[0].name: batch.inputs["input"]})[0]
    assert compressed["score"]["value"] == pytest.approx((outputs.argmax(1) == batch.labels).mean() * 100)
    assert compressed["score"]["value"] > 50
    assert compressed["parameters"] < 6000
    facts = next(stage for stage in report["stages"] if stage["id"] == "learn")["facts"]
    assert facts["teacher_score"] > facts["before"]["score"]
    again = shell.run("apply", path.name, "--output", "again")
    assert again.code == 0
    learned = [
        event for event in shell.events("again") if event["kind"] == "step.finished" and event["step"] == "learn"
    ]
    assert learned[0]["cached"] is True
