"""What training that pulls channels to zero hands to the cut that follows."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch_pruning")
pytest.importorskip("accelerate")

from compressctl.core.events import Events  # noqa: E402
from compressctl.core.source import SplitSizes, metrics  # noqa: E402
from compressctl.core.target import Target  # noqa: E402
from compressctl.core.technique import RunContext  # noqa: E402
from compressctl.recipe.schema import DataSection  # noqa: E402
from compressctl.sources.builtin import load  # noqa: E402
from compressctl.sources.load import load_dataset  # noqa: E402
from compressctl.sources.params import BuiltinParams, DigitsParams  # noqa: E402
from compressctl.techniques.prune._sparse_learning import GroupNorm  # noqa: E402
from compressctl.techniques.prune.channels import apply, find_plan  # noqa: E402
from compressctl.techniques.prune.params import ChannelsParams  # noqa: E402

PARAMS = ChannelsParams(keep=0.9, regularization={"epochs": 2, "strength": 0.05, "learning_rate": 0.02})


@pytest.fixture(scope="module")
def run() -> RunContext:
    data = load_dataset(DataSection("digits", DigitsParams(), SplitSizes(test=1000)), Path(), 0)
    return RunContext(7, Events(), Path(), Target("onnxruntime"), data=data, metric=metrics.get("accuracy"))


def test_the_last_epoch_is_handed_on_however_well_the_start_scores(run: RunContext) -> None:
    model = load(BuiltinParams(name="digits-resnet"), Path(), 0)
    learned = apply(model, PARAMS, run).facts["sparse_learning"]
    assert learned["validation_before"] > learned["validation_by_epoch"][-1]
    assert learned["kept_epoch"] == 2


def test_pulls_come_back_from_a_checkpoint(run: RunContext) -> None:
    model = load(BuiltinParams(name="digits-resnet"), Path(), 0)
    groups = find_plan(model, PARAMS, run).groups
    hook, other = (GroupNorm(model.body, groups, 0.1) for _ in range(2))
    state = {name: pull * 2 for name, pull in hook.state().items()}
    assert len(state) > 10
    other.restore(state)
    assert list(other.state()) == list(state)
    assert all(torch.equal(other.state()[name], pull) for name, pull in state.items())
