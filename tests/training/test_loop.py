"""Training as techniques use it, on the built-in network and real digits."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
from torch import nn  # noqa: E402

from compressctl.core.errors import StageError, UsageError  # noqa: E402
from compressctl.core.events import Event, Events  # noqa: E402
from compressctl.core.model import Model  # noqa: E402
from compressctl.core.source import SplitSizes, metrics  # noqa: E402
from compressctl.core.target import Target  # noqa: E402
from compressctl.core.technique import RunContext  # noqa: E402
from compressctl.recipe.schema import DataSection  # noqa: E402
from compressctl.sources.builtin import load, untrained  # noqa: E402
from compressctl.sources.load import load_dataset  # noqa: E402
from compressctl.sources.params import BuiltinParams, DigitsParams  # noqa: E402
from compressctl.training.data import TensorBatch, tensor_batches  # noqa: E402
from compressctl.training.hooks import Hook, StepInfo  # noqa: E402
from compressctl.training.loop import train  # noqa: E402
from compressctl.training.objective import first_output, task_objective  # noqa: E402
from compressctl.training.params import Augmentation, TrainingParams  # noqa: E402
from compressctl.training.state import snapshot  # noqa: E402

CROSS_ENTROPY = task_objective("classification")


@pytest.fixture(scope="module")
def trained_model() -> Model:
    return load(BuiltinParams(name="digits-resnet"), Path(), 0)


@pytest.fixture(scope="module")
def run() -> RunContext:
    sizes = SplitSizes(calibration=100, validation=150, test=1000)
    data = load_dataset(DataSection("digits", DigitsParams(), sizes), Path(), 0)
    return RunContext(7, Events(), Path(), Target("onnxruntime"), data=data, metric=metrics.get("accuracy"))


@pytest.fixture
def fresh(trained_model: Model) -> Callable[[], Model]:
    def make() -> Model:
        torch.manual_seed(1)
        return replace(trained_model, body=untrained("digits-resnet"))

    return make


def validation_accuracy(network: nn.Module, model: Model, run: RunContext) -> float:
    (batch,) = tensor_batches(run.data.split("validation"), model.signature, 10_000)
    with torch.no_grad():
        return float((first_output(network.eval(), batch).argmax(1) == batch.labels).float().mean() * 100)


def same(first: nn.Module, second: nn.Module) -> bool:
    mine, other = snapshot(first), snapshot(second)
    return all(torch.equal(mine[name], other[name]) for name in mine)


EVERYTHING: dict[str, Any] = {
    "augment": Augmentation(crop_padding=1, horizontal_flip=True, cutout=2),
    "mixup": 0.2,
    "ema_decay": 0.9,
    "label_smoothing": 0.1,
    "clip_norm": 1.0,
    "recalibrate_bn": True,
}


@pytest.mark.parametrize("more", [{}, EVERYTHING, {"precision": "bfloat16", "optimizer": "adamw"}])
def test_one_seed_gives_the_same_weights_twice_and_another_gives_others(
    fresh: Callable[[], Model], run: RunContext, more: dict[str, Any]
) -> None:
    params = TrainingParams(epochs=2, batch_size=64, **more)
    one, two = (train(fresh(), CROSS_ENTROPY, params, run).network for _ in range(2))
    other = train(fresh(), CROSS_ENTROPY, params, replace(run, seed=8)).network
    assert same(one, two)
    assert not same(one, other)


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.05), ("adam", 0.003), ("adamw", 0.003), ("rmsprop", 0.0003)])
def test_every_optimizer_learns(fresh: Callable[[], Model], run: RunContext, optimizer: str, rate: float) -> None:
    params = TrainingParams(epochs=4, batch_size=32, optimizer=optimizer, learning_rate=rate)
    trained = train(fresh(), CROSS_ENTROPY, params, run)
    assert trained.facts["loss"][-1] < trained.facts["loss"][0] / 2
    assert trained.facts["validation"] > 60


def test_the_best_epoch_is_kept_and_the_score_is_that_of_the_weights(
    fresh: Callable[[], Model], run: RunContext
) -> None:
    class Spoil(Hook):
        """Ruins the last epoch."""

        def after_epoch(self, network: nn.Module, moment: StepInfo) -> None:
            if moment.epoch == 3:
                with torch.no_grad():
                    network.classifier.weight.zero_()

    params = TrainingParams(epochs=4, batch_size=32, learning_rate=0.05)
    best = train(fresh(), CROSS_ENTROPY, params, run, [Spoil()])
    by_epoch = best.facts["validation_by_epoch"]
    assert by_epoch[-1] < 20 < max(by_epoch)
    assert best.facts["kept_epoch"] == 1 + max(range(4), key=lambda epoch: (by_epoch[epoch], epoch))
    assert best.facts["validation"] == max(by_epoch)
    assert validation_accuracy(best.network, fresh(), run) == pytest.approx(max(by_epoch))
    last = train(fresh(), CROSS_ENTROPY, params.model_copy(update={"checkpoint": "last"}), run, [Spoil()])
    assert last.facts["validation"] == by_epoch[-1]
    assert last.facts["kept_epoch"] == 4


def test_the_start_is_kept_when_training_only_harms(trained_model: Model, run: RunContext) -> None:
    model = replace(trained_model, body=copy.deepcopy(trained_model.body))
    harmful = TrainingParams(epochs=1, optimizer="rmsprop", learning_rate=5.0)
    trained = train(model, CROSS_ENTROPY, harmful, run)
    assert trained.facts["kept_epoch"] == 0
    assert same(trained.network, trained_model.body)


def test_an_epoch_in_which_a_hook_is_not_done_is_not_kept(fresh: Callable[[], Model], run: RunContext) -> None:
    class Late(Hook):
        def is_done(self, moment: StepInfo) -> bool:
            return moment.epoch == 2

    facts = train(fresh(), CROSS_ENTROPY, TrainingParams(epochs=3), run, [Late()]).facts
    assert facts["kept_epoch"] == 3


def test_training_stops_when_nothing_improves(fresh: Callable[[], Model], run: RunContext) -> None:
    params = TrainingParams(epochs=50, batch_size=256, learning_rate=1e-12, patience=2)
    facts = train(fresh(), CROSS_ENTROPY, params, run).facts
    assert facts["epochs"] < 10
    assert "no better score for 2 epochs" in facts["stopped"]


def test_zeros_stay_zero_in_the_weights_and_in_their_average(fresh: Callable[[], Model], run: RunContext) -> None:
    model = fresh()
    name = "block1.body.0.conv.weight"
    weight = model.body.get_parameter(name)
    with torch.no_grad():
        weight.mul_(torch.rand_like(weight) > 0.5)
    mask = weight.detach() != 0
    params = TrainingParams(epochs=1, ema_decay=0.9, checkpoint="last")
    trained = train(replace(model, sparse=(name,)), CROSS_ENTROPY, params, run).network.get_parameter(name)
    assert bool((trained[~mask] == 0).all())
    assert not bool((trained[mask] == 0).any())


def test_an_average_is_the_exponential_mean_of_the_weights(fresh: Callable[[], Model], run: RunContext) -> None:
    class Watch(Hook):
        def __init__(self) -> None:
            self.seen: list[torch.Tensor] = []

        def after_step(self, network: nn.Module, moment: StepInfo) -> None:
            self.seen.append(network.classifier.weight.detach().double().clone())

    watch, start = Watch(), fresh().body.classifier.weight.detach().double()
    params = TrainingParams(epochs=2, batch_size=64, ema_decay=0.8, checkpoint="last")
    trained = train(fresh(), CROSS_ENTROPY, params, run, [watch]).network
    expected = start
    for step, weight in enumerate(watch.seen):
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    assert torch.allclose(trained.classifier.weight.double(), expected, atol=1e-5)


def test_an_objectives_own_weights_are_trained_and_a_teachers_are_not(
    fresh: Callable[[], Model], trained_model: Model, run: RunContext
) -> None:
    class Hint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = copy.deepcopy(trained_model.body).requires_grad_(False)
            self.projection = nn.Linear(10, 10)

        def forward(self, network: nn.Module, batch: TensorBatch) -> torch.Tensor:
            wanted = first_output(self.teacher, batch)
            return (self.projection(first_output(network, batch)) - wanted).square().mean()

    hint = Hint()
    before = hint.projection.weight.detach().clone()
    train(fresh(), hint, TrainingParams(epochs=1), run)
    assert not torch.equal(hint.projection.weight, before)
    assert same(hint.teacher, trained_model.body)


def test_a_trained_network_is_plain_again(fresh: Callable[[], Model], run: RunContext) -> None:
    network = train(fresh(), CROSS_ENTROPY, TrainingParams(epochs=1, precision="bfloat16"), run).network
    assert not network.training
    assert all("forward" not in vars(module) for module in network.modules())
    assert all(parameter.is_contiguous() and parameter.dtype == torch.float32 for parameter in network.parameters())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_progress_says_loss_and_what_is_left(fresh: Callable[[], Model], run: RunContext) -> None:
    events: list[Event] = []
    train(fresh(), CROSS_ENTROPY, TrainingParams(epochs=2), replace(run, events=Events(events.append)))
    said = [event.fields["what"] for event in events if event.kind == "step.progress"]
    assert said[0].startswith("epoch 1/2, loss ")
    assert said[0].endswith(" left")
    assert "accuracy" in said[-1]


def test_a_loss_that_explodes_is_one_message(fresh: Callable[[], Model], run: RunContext) -> None:
    with pytest.raises(StageError, match=r"the loss became .* in epoch"):
        train(fresh(), CROSS_ENTROPY, TrainingParams(epochs=3, learning_rate=1e9), run)


def test_no_samples_to_train_on_is_said(fresh: Callable[[], Model], run: RunContext) -> None:
    with pytest.raises(UsageError, match="the train split is empty"):
        train(fresh(), CROSS_ENTROPY, TrainingParams(), replace(run, data=None))


def test_without_a_metric_the_validation_loss_chooses(fresh: Callable[[], Model], run: RunContext) -> None:
    facts = train(fresh(), CROSS_ENTROPY, TrainingParams(epochs=2, learning_rate=0.05), replace(run, metric=None)).facts
    assert facts["validation_metric"] == "loss"
    assert facts["validation"] == min([facts["validation_before"], *facts["validation_by_epoch"]])
