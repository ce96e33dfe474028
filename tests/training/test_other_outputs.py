"""Networks with several outputs: each is trained, or named as untrained."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
from torch import nn  # noqa: E402

from compressctl.core.errors import UsageError  # noqa: E402
from compressctl.core.events import Event, Events  # noqa: E402
from compressctl.core.model import Model, TensorSpec, TorchModel  # noqa: E402
from compressctl.core.registry import load  # noqa: E402
from compressctl.core.source import metrics  # noqa: E402
from compressctl.core.target import Target  # noqa: E402
from compressctl.core.technique import RunContext, TechniqueSpec  # noqa: E402
from compressctl.graph.lower import lower  # noqa: E402
from compressctl.graph.torch_outputs import named_outputs  # noqa: E402
from compressctl.sources.dataset import SplitDataset  # noqa: E402
from compressctl.sources.splits import Splits  # noqa: E402
from compressctl.sources.torch_modules import signature_of  # noqa: E402
from compressctl.techniques.distill.params import FEATURES, LOGITS  # noqa: E402
from compressctl.techniques.factorize.params import SVD  # noqa: E402
from compressctl.techniques.finetune.params import FINETUNE  # noqa: E402
from compressctl.techniques.prune.params import CHANNELS, UNSTRUCTURED  # noqa: E402
from compressctl.techniques.quantize.params import BINARY, QAT  # noqa: E402
from compressctl.techniques.share.params import KMEANS  # noqa: E402
from compressctl.training.loop import train  # noqa: E402
from compressctl.training.objective import task_objective  # noqa: E402
from compressctl.training.params import TrainingParams  # noqa: E402

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(240, 12)).astype(np.float32)
LABELS = (INPUTS[:, :3].argmax(axis=1)).astype(np.int64)
BRISK = {"epochs": 6, "batch_size": 40, "learning_rate": 0.05, "checkpoint": "last"}


class Heads(nn.Module):
    """Class scores, what else is asked for, and the winning class."""

    def __init__(self, *, decides: bool = False) -> None:
        super().__init__()
        self.trunk, self.mixed = nn.Linear(12, 24), nn.Linear(24, 24)
        self.scores, self.boxes = nn.Linear(24, 3), nn.Linear(24, 4)
        self.decides = decides

    def forward(self, x: Any) -> Any:
        hidden = torch.relu(self.mixed(torch.relu(self.trunk(x))))
        scores = self.scores(hidden)
        found = {"scores": scores, "boxes": self.boxes(hidden)}
        return {**found, "decision": scores.argmax(dim=1)} if self.decides else found


def heads(**kinds: Any) -> Model:
    torch.manual_seed(0)
    network = Heads(**kinds).eval()
    return TorchModel(network, signature_of(network, [TensorSpec("input", "float32", ("batch", 12))]))


def read(positions: np.ndarray) -> Any:
    return {"input": INPUTS[positions]}, LABELS[positions]


def run_of(folder: Path, original: Model | None) -> tuple[RunContext, list[Event]]:
    order = np.arange(240)
    splits = Splits(order[:160], order[160:200], order[:60], order[200:])
    data = SplitDataset(classes=("a", "b", "c"), splits=splits, read=read)
    heard: list[Event] = []
    run = RunContext(
        0,
        Events(heard.append),
        folder,
        Target("onnxruntime"),
        data=data,
        metric=metrics.get("accuracy"),
        original=None if original is None else lambda: replace(original, body=copy.deepcopy(original.body)),
    )
    return run, heard


def moved(before: Model, after: nn.Module, name: str = "boxes") -> float:
    """Root mean square of the change over the standard deviation, on the samples that training validates with."""
    given = torch.as_tensor(INPUTS[160:200])
    with torch.no_grad():
        deviation = (
            named_outputs(before.body(torch.as_tensor(INPUTS[:160])))[name].var(dim=0, correction=0).mean() ** 0.5
        )
        change = named_outputs(after(given))[name] - named_outputs(before.body(given))[name]
    return float((change**2).mean() ** 0.5 / deviation)


def trained(run: RunContext, **more: Any) -> Any:
    return train(heads(), task_objective("classification"), TrainingParams(**{**BRISK, **more}), run)


def warnings_of(heard: list[Event]) -> list[str]:
    return [event.fields["message"] for event in heard if event.kind == "warning"]


def test_a_second_output_is_held_to_the_original_while_the_first_learns(tmp_path: Path) -> None:
    run, heard = run_of(tmp_path, heads())
    alone = trained(run, other_outputs_weight=0)
    held = trained(run)
    assert moved(heads(), alone.network) > 2 * moved(heads(), held.network)
    assert held.facts["validation"] >= alone.facts["validation"] - 5
    entry = held.facts["other_outputs"]["boxes"]
    assert (entry["held_to"], entry["weight"]) == ("the original", 0.1)
    assert any("boxes: held to the original" in event.fields.get("message", "") for event in heard)


def test_how_far_an_output_moved_is_measured_on_held_out_samples(tmp_path: Path) -> None:
    run, _ = run_of(tmp_path, heads())
    found = trained(run, other_outputs_weight=0)
    with torch.no_grad():
        assert found.facts["other_outputs"]["boxes"]["moved"] == pytest.approx(moved(heads(), found.network), rel=1e-3)


def test_outputs_that_nothing_trains_are_named_with_the_reason_and_what_became_of_them(tmp_path: Path) -> None:
    run, heard = run_of(tmp_path, heads())
    facts = trained(run, other_outputs_weight=0).facts["other_outputs"]
    assert facts["boxes"]["untrained"] == "other_outputs_weight is 0"
    before, after = warnings_of(heard)
    assert before == "boxes is not trained, and training the first output may change it: other_outputs_weight is 0"
    assert after.startswith("training moved boxes by ")


def test_without_an_original_the_output_is_named(tmp_path: Path) -> None:
    run, heard = run_of(tmp_path, None)
    facts = trained(run).facts["other_outputs"]
    assert facts == {"boxes": {"untrained": "this run has no original model to hold it to"}}
    assert "boxes is not trained" in warnings_of(heard)[0]


def test_whole_numbers_cannot_be_held(tmp_path: Path) -> None:
    run, heard = run_of(tmp_path, heads(decides=True))
    params = TrainingParams(**BRISK)
    facts = train(heads(decides=True), task_objective("classification"), params, run).facts["other_outputs"]
    assert "no gradient" in facts["decision"]["untrained"]
    assert "held_to" in facts["boxes"]
    assert any(message.startswith("decision is not trained") for message in warnings_of(heard))


def test_an_original_of_other_shapes_holds_nothing(tmp_path: Path) -> None:
    original = heads()
    original.body.boxes = nn.Linear(24, 5)
    other = TorchModel(original.body, signature_of(original.body, original.signature.inputs))
    run, _ = run_of(tmp_path, other)
    assert trained(run).facts["other_outputs"]["boxes"]["untrained"].startswith("the original has no output")


def test_an_original_graph_holds_a_torch_network_as_its_network_does(tmp_path: Path) -> None:
    first, second = (trained(run_of(tmp_path, original)[0]) for original in (heads(), lower(heads())))
    given = torch.as_tensor(INPUTS[:20])
    assert torch.allclose(first.network(given)["boxes"], second.network(given)["boxes"], atol=1e-3)


def test_one_seed_still_gives_the_same_weights_twice(tmp_path: Path) -> None:
    one, two = (trained(run_of(tmp_path, heads())[0]).network for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_an_output_that_hardly_varies_does_not_make_the_loss_infinite(tmp_path: Path) -> None:
    model = heads()
    with torch.no_grad():
        model.body.boxes.weight.mul_(1e-4)
    run, _ = run_of(tmp_path, model)
    start = replace(model, body=copy.deepcopy(model.body))
    params = TrainingParams(**{**BRISK, "learning_rate": 0.2})
    assert np.isfinite(train(start, task_objective("classification"), params, run).facts["loss"]).all()


STAGES: list[tuple[TechniqueSpec, dict[str, Any]]] = [
    (FINETUNE, BRISK),
    (LOGITS, {**BRISK, "teacher": "original"}),
    (
        FEATURES,
        {**BRISK, "method": "hints", "teacher": "original", "layers": [{"teacher": "mixed", "student": "mixed"}]},
    ),
    (UNSTRUCTURED, {"sparsity": 0.5, "finetune": BRISK}),
    (CHANNELS, {"keep": 0.7, "round_to": 1, "finetune": BRISK}),
    (CHANNELS, {"keep": 0.7, "round_to": 1, "regularization": BRISK}),
    (SVD, {"rank": {"energy": 0.9}, "skip_slower": False, "finetune": BRISK}),
    (KMEANS, {"clusters": 8, "finetune": BRISK}),
    (KMEANS, {"clusters": 8, "finetune": {**BRISK, "assignment": "soft"}}),
    (QAT, BRISK),
    (BINARY, BRISK),
]


@pytest.mark.parametrize(("spec", "params"), STAGES, ids=[f"{n}-{spec.name}" for n, (spec, _) in enumerate(STAGES)])
def test_every_stage_that_trains_says_what_each_output_learns_from(
    spec: TechniqueSpec, params: dict[str, Any], tmp_path: Path
) -> None:
    run, _ = run_of(tmp_path, heads())
    result = load(spec.implementation)(heads(), spec.params(**params), run)
    assert '"boxes": {"held_to": "' in json.dumps(result.facts, default=str)


def test_the_teacher_of_a_distillation_holds_the_other_outputs_too(tmp_path: Path) -> None:
    run, _ = run_of(tmp_path, heads())
    facts = load(LOGITS.implementation)(heads(), LOGITS.params(**BRISK, teacher="original"), run).facts
    assert facts["other_outputs"]["boxes"]["held_to"] == "the teacher"


def test_labels_per_place_are_refused_before_training(tmp_path: Path) -> None:
    network = nn.Conv2d(1, 3, 1).eval()
    model = TorchModel(network, signature_of(network, [TensorSpec("input", "float32", ("batch", 1, 4, 4))]))
    images = np.zeros((240, 1, 4, 4), np.float32)
    run, heard = run_of(tmp_path, model)
    data = SplitDataset(
        classes=None,
        splits=run.data.splits,
        read=lambda positions: ({"input": images[positions]}, np.zeros((len(positions), 4, 4), np.int64)),
    )
    with pytest.raises(UsageError, match=r"labels are \(n, 4, 4\) int64 and the outputs \(n, 3, 4, 4\)"):
        train(model, task_objective("classification"), TrainingParams(epochs=1), replace(run, data=data))
    assert not [event for event in heard if event.kind == "step.progress"]
