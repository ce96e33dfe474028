"""Training of low-rank adapters: which layers have them, what stays as it was, and that nothing of them is left."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
from pydantic import ValidationError  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from compressctl.core.data import Batch, Split  # noqa: E402
from compressctl.core.errors import UsageError  # noqa: E402
from compressctl.core.events import Event, Events  # noqa: E402
from compressctl.core.model import Form, Signature, StageRecord, TensorSpec, TorchModel  # noqa: E402
from compressctl.core.needs import declared_problems  # noqa: E402
from compressctl.core.patterns import UnmatchedPatternError  # noqa: E402
from compressctl.core.target import Target  # noqa: E402
from compressctl.core.technique import ModelFacts, RunContext  # noqa: E402
from compressctl.techniques.distill.params import LogitsParams  # noqa: E402
from compressctl.techniques.finetune.params import FinetuneParams  # noqa: E402
from compressctl.techniques.prune.params import UnstructuredParams  # noqa: E402
from compressctl.techniques.quantize.params import QatParams  # noqa: E402
from compressctl.training.hooks import Hook, StepInfo  # noqa: E402
from compressctl.training.lora.chosen_layers import choose  # noqa: E402
from compressctl.training.lora.train import train_adaptable  # noqa: E402
from compressctl.training.objective import task_objective  # noqa: E402
from compressctl.training.params import AdaptableParams, Lora  # noqa: E402

WIDTH, CLASSES = 12, 3
MEAN_SQUARES = task_objective("regression")
CROSS_ENTROPY = task_objective("classification")


class Reads(nn.Module):
    """Multiplies with a layer's weight, past the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.read = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.called(x))
        return self.head(functional.linear(hidden, self.read.weight) + self.read(hidden))


class Tied(nn.Module):
    """A language model whose head is its table of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner = nn.Embedding(20, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(functional.gelu(self.inner(self.table(tokens))))


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(WIDTH, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, CLASSES)
    )


def model_of(make: Callable[[], nn.Module], **more: Any) -> TorchModel:
    torch.manual_seed(0)
    is_of_tokens = make is Tied
    given = TensorSpec("x", "int64" if is_of_tokens else "float32", ("batch", WIDTH))
    made = TensorSpec("y", "float32", ("batch", WIDTH, 20) if is_of_tokens else ("batch", CLASSES))
    return TorchModel(make().eval(), Signature((given,), (made,)), **more)


@dataclass(frozen=True)
class Samples:
    """Vectors whose class a plane tells; tokens, where they are whole numbers."""

    is_of_tokens: bool = False
    classes: tuple[str, ...] | None = None

    def split(self, name: str) -> Split:
        return self

    def __len__(self) -> int:
        return 256

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((len(self), WIDTH)).astype(np.float32)
        labels: np.ndarray = (x @ rng.standard_normal((WIDTH, CLASSES))).argmax(1)
        if self.is_of_tokens:
            x = rng.integers(0, 20, x.shape)
            labels = x
        order = np.arange(len(self)) if shuffle_seed is None else np.random.default_rng(shuffle_seed).permutation(256)
        for start in range(0, len(self), size):
            part = order[start : start + size]
            yield Batch({"x": x[part]}, labels[part], part)


def run_of(*, heard: list[Event] | None = None, **more: Any) -> RunContext:
    data = more.pop("data", Samples())
    return RunContext(
        7, Events(*([heard.append] if heard is not None else [])), Path(), Target("onnxruntime"), data=data, **more
    )


def chosen(model: TorchModel, **lora: Any) -> tuple[list[str], Mapping[str, str]]:
    (batch,) = list(Samples(model.signature.inputs[0].dtype == "int64").batches(256))[:1]
    found = choose(model, Lora(**{"rank": 4, **lora}), (torch.as_tensor(batch.inputs["x"][:2]),))
    return list(found.layers), found.left_out


def test_by_default_every_layer_but_the_head() -> None:
    names, left_out = chosen(model_of(mlp))
    assert names == ["0", "3"]
    assert list(left_out) == ["5"]
    assert "output of the network" in left_out["5"]


def test_a_pattern_takes_the_head_too() -> None:
    torch.manual_seed(0)
    found = choose(model_of(mlp), Lora(rank=2, match=("5", "3")), (torch.randn(2, WIDTH),))
    assert list(found.layers) == ["3", "5"]
    assert not found.left_out


def test_patterns_mean_types_too() -> None:
    assert chosen(model_of(lambda: nn.Sequential(mlp(), nn.Softmax(1))), match="Linear", rank=2)[0] == [
        "0.0",
        "0.3",
        "0.5",
    ]


@pytest.mark.parametrize(
    ("make", "path", "why"),
    [
        (Tied, "head", "tied to another layer's"),
        (Tied, "table", "a table of embeddings"),
        (lambda: nn.Sequential(mlp(), nn.Bilinear(1, 1, 1)), "1", "Bilinear is not torch's own Linear"),
        (
            lambda: nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, 16)), *mlp()[1:]),
            "0.parametrizations.weight",
            "its weight is computed",
        ),
        (lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(WIDTH, 16)), *mlp()[1:]), "0", "its weight is computed"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_layer_that_cannot_have_one_is_left_out_with_the_reason(
    make: Callable[[], nn.Module], path: str, why: str
) -> None:
    model = model_of(make)
    if path == "1":
        model.body.forward = model.body[0].forward  # type: ignore[method-assign]
    names, left_out = chosen(model)
    assert path not in names
    assert why in left_out[path]


def test_a_low_rank_is_left_out_by_default_and_refused_where_it_was_meant() -> None:
    model = model_of(lambda: nn.Sequential(nn.Linear(WIDTH, 2), nn.Linear(2, 16), nn.Linear(16, 16), *mlp()[1:]))
    names, left_out = chosen(model)
    assert names == ["2", "5"]
    assert left_out["0"] == "its weight has rank 2 at most"
    with pytest.raises(UsageError, match=r"4 is more than the rank .* 0 \(2\), 1 \(2\)") as caught:
        chosen(model, match="[012]")
    assert caught.value.hint is not None
    assert "choose 2 or less" in caught.value.hint


def test_a_pattern_that_matches_no_layer_is_an_error() -> None:
    with pytest.raises(UnmatchedPatternError, match=r"lora\.match: 'attention"):
        chosen(model_of(mlp), match=["3", "attention*"])


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (StageRecord("share", "share.kmeans", {}, 0.0, {"layers": {"0.weight": {}}}), ["3"]),
        (StageRecord("binary", "quantize.binary", {}, 0.0), []),
        (StageRecord("pruned", "prune.channels", {}, 0.0, {"layers": {"0": {}}}), ["0", "3"]),
    ],
)
def test_weights_of_few_values_are_not_made_many(record: StageRecord, expected: list[str]) -> None:
    names, left_out = chosen(model_of(mlp, history=(record,)))
    assert names == expected
    assert all("few values" in left_out[path] for path in {"0", "3"} - set(names))


# Training

PARAMS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 32,
    "optimizer": "adamw",
    "learning_rate": 0.02,
    "checkpoint": "last",
}


def tuned(model: TorchModel, run: RunContext, hooks: list[Hook], lora: dict[str, Any], **more: Any) -> dict[str, Any]:
    params = AdaptableParams(**{**PARAMS, **more}, lora=Lora(**{"rank": 4, **lora}))
    return dict(train_adaptable(model, CROSS_ENTROPY, params, run, hooks).facts)


class Watch(Hook):
    """Remembers what the network's own parameters are after the last step, which of them have gradients, and its outputs."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.own, self.with_gradients = x, dict[str, Tensor](), set[str]()
        self.outputs = torch.zeros(0)

    def before_step(self, network: nn.Module, moment: StepInfo) -> None:
        self.with_gradients |= {name for name, found in network.named_parameters() if found.grad is not None}

    def after_epoch(self, network: nn.Module, moment: StepInfo) -> None:
        own = {name: found for name, found in network.named_parameters() if ".lora_" not in name}
        self.own = {name: found.detach().clone() for name, found in own.items()}
        network.eval()
        with torch.no_grad():
            self.outputs = network(self.x)


def test_adapters_alone_are_trained_and_the_loss_falls() -> None:
    model, heard = model_of(mlp), list[Event]()
    before = {name: found.detach().clone() for name, found in model.body.named_parameters()}
    shapes = {name: found.shape for name, found in model.body.state_dict().items()}
    kinds = [type(module) for module in model.body.modules()]
    watch = Watch(torch.randn(5, WIDTH))
    facts = tuned(model, run_of(heard=heard), [watch], {})
    assert facts["loss"][-1] < 0.8 * facts["loss"][0]
    assert all(torch.equal(found, before[name]) for name, found in watch.own.items())
    assert watch.with_gradients == {f"{layer}.lora_{which}" for layer in "03" for which in "ab"}
    assert {name: found.shape for name, found in model.body.state_dict().items()} == shapes
    assert [type(module) for module in model.body.modules()] == kinds
    assert [name for name, found in model.body.named_parameters() if not torch.equal(found, before[name])] == [
        "0.weight",
        "3.weight",
    ]
    with torch.no_grad():
        assert torch.allclose(model.body(watch.x), watch.outputs, atol=1e-5)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.body.parameters())
    trained = 4 * (WIDTH + 16) + 4 * (16 + 16)
    assert facts["lora"] | {"left_out": {}} == {
        "rank": 4,
        "alpha": 16.0,
        "trained_parameters": trained,
        "parameters": sum(found.numel() for found in before.values()),
        "layers": ["0", "3"],
        "left_out": {},
    }
    assert f"{trained} parameters are trained" in next(
        event.fields["message"] for event in heard if event.kind == "note"
    )


def test_what_was_frozen_before_is_frozen_after() -> None:
    model = model_of(mlp)
    model.body[0].requires_grad_(False)
    before = model.body[0].weight.clone()
    tuned(model, run_of(), [], {})
    assert [name for name, found in model.body.named_parameters() if not found.requires_grad] == ["0.weight", "0.bias"]
    assert not torch.equal(model.body[0].weight, before)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("pattern", ["single", "2:4"])
def test_zeros_that_pruning_made_stay(pattern: str, dropout: float) -> None:
    model = model_of(mlp, sparse=("0.weight",))
    with torch.no_grad():
        weight = model.body[0].weight
        if pattern == "2:4":
            weight.view(16, -1, 4)[..., :2] = 0
        else:
            weight[torch.rand_like(weight) < 0.7] = 0
    zero, whole = weight.detach() == 0, weight.detach().clone()
    facts = tuned(model, run_of(), [], {"dropout": dropout})
    assert torch.equal(model.body[0].weight == 0, zero)
    assert not torch.equal(model.body[0].weight, whole)
    assert facts["loss"][-1] < facts["loss"][0]


def test_tied_weights_stay_tied() -> None:
    model = model_of(Tied)
    table = model.body.table.weight.detach().clone()
    params = AdaptableParams(**PARAMS, lora=Lora(rank=4))
    run = run_of(data=Samples(is_of_tokens=True), task="language-model")
    train_adaptable(model, task_objective("language-model"), params, run)
    assert model.body.head.weight is model.body.table.weight
    assert torch.equal(model.body.table.weight, table)


def test_a_layer_whose_weight_is_read_past_it_is_left_out() -> None:
    facts = tuned(model_of(Reads), run_of(), [], {})
    assert facts["lora"]["layers"] == ["called"]
    assert facts["lora"]["left_out"]["read"] == "the code around it reads its weight"


def test_torchs_own_encoder_does_not_compute_past_its_adapters() -> None:
    """In eval mode without gradients it multiplies with its layers' weights itself."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.TransformerEncoderLayer(4, 2, 16, batch_first=True)
            self.head = nn.Linear(WIDTH, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(x.reshape(len(x), 3, 4)).flatten(1))

    model, watch = model_of(Encoder), Watch(torch.randn(5, WIDTH))
    facts = tuned(model, run_of(), [watch], {"rank": 2})
    assert facts["lora"]["layers"] == ["inner.linear1", "inner.linear2"]
    with torch.no_grad():
        assert torch.allclose(model.body(watch.x), watch.outputs, atol=1e-5)


def test_one_layer_may_be_the_whole_network() -> None:
    model = model_of(lambda: nn.Linear(WIDTH, CLASSES))
    with pytest.raises(
        UsageError, match=r"no layer can have an adapter of rank 2 \(the network: its result is an output"
    ):
        tuned(model, run_of(), [], {"rank": 2})
    facts = tuned(model, run_of(), [], {"rank": 2, "match": "Linear"})
    assert facts["loss"][-1] < facts["loss"][0]
    assert type(model.body) is nn.Linear


def test_an_average_of_adapters_is_merged() -> None:
    model = model_of(mlp)
    facts = tuned(model, run_of(), [], {}, ema_decay=0.9, checkpoint="best")
    assert facts["validation_by_epoch"][-1] < facts["validation_before"]
    assert "0.lora_a" not in model.body.state_dict()


class KilledError(Exception):
    pass


class KillIn(Hook):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def after_step(self, network: nn.Module, moment: StepInfo) -> None:
        if moment.epoch == self.epoch:
            raise KilledError


def test_a_killed_training_of_adapters_resumes_to_the_same_bits(tmp_path: Path) -> None:
    lora = {"dropout": 0.2}
    unbroken, resumed = model_of(mlp), model_of(mlp)
    tuned(unbroken, run_of(), [], lora)
    with pytest.raises(KilledError):
        tuned(model_of(mlp), run_of(checkpoint=tmp_path / "kept"), [KillIn(2)], lora)
    facts = tuned(resumed, run_of(checkpoint=tmp_path / "kept"), [], lora)
    assert facts["resumed_at_step"] == 16
    mine, other = unbroken.body.state_dict(), resumed.body.state_dict()
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_a_training_of_other_adapters_does_not_go_on_with_these(tmp_path: Path) -> None:
    tuned(model_of(mlp), run_of(checkpoint=tmp_path / "kept"), [], {})
    facts = tuned(model_of(mlp), run_of(checkpoint=tmp_path / "kept"), [], {"rank": 2})
    assert "resumed_at_step" not in facts


# Recipes

TORCH = ModelFacts(Form.TORCH, Target("onnxruntime"), original_form=Form.TORCH)


@pytest.mark.parametrize(
    ("params", "path", "words"),
    [
        (FinetuneParams(epochs=0, lora=Lora()), "lora", "0 epochs"),
        (UnstructuredParams(finetune={"epochs": 0, "lora": {}}), "finetune.lora", "0 epochs"),
        (UnstructuredParams(schedule="gradual", finetune={"lora": {}}), "finetune.lora", "gradual pruning moves"),
        (LogitsParams(student={"width_multiplier": 0.5, "init": "random"}, lora={}), "lora", "these are random"),
    ],
)
def test_what_trains_nothing_or_cannot_is_refused_before_it_runs(params: Any, path: str, words: str) -> None:
    assert [problem.path for problem in declared_problems(params, TORCH) if words in problem.message] == [path]


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"match": []}, {"match": ""}, {"dropout": 1.0}, {"r": 8}])
def test_wrong_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Lora(**wrong)


def test_trainings_that_compute_with_other_weights_take_no_adapters() -> None:
    with pytest.raises(ValidationError, match="lora"):
        QatParams(lora={})
