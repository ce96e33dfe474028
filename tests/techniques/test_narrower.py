"""What a network may be cut to: sizes that are promised are those of the network that is cut, and of the one that a recipe cuts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.digit_runs import context, digits_data
from torch import Tensor, nn

from compressctl.core.model import Signature, TensorSpec, TorchModel
from compressctl.core.registry import load
from compressctl.core.technique import techniques
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.search.trim import stages_of
from compressctl.search.width_program import Trimmed
from compressctl.search.width_tables import GroupTable, WidthOption, WidthTables
from compressctl.sources.networks import digits_depthwise, digits_resnet
from compressctl.techniques.prune.narrower import Narrower

IMAGE = Signature(
    (TensorSpec("input", "float32", ("batch", 1, 8, 8)),), (TensorSpec("output", "float32", ("batch", 10)),)
)


class Dense(nn.Module):
    """Each layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(16 * (n + 1), 16, 3, padding=1) for n in range(3))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = torch.cat([x, layer(torch.relu(x))], dim=1)
        found: Tensor = self.head(x.mean((2, 3)))
        return found


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": digits_resnet,
    "depthwise": digits_depthwise,
    "dense": Dense,
}


@pytest.fixture(scope="module", params=NETWORKS)
def found(request: pytest.FixtureRequest) -> tuple[TorchModel, Narrower]:
    torch.manual_seed(0)
    model = TorchModel(NETWORKS[request.param]().eval(), IMAGE)
    return model, Narrower(model, context(Path()))


def weights(network: nn.Module) -> dict[str, tuple[int, int]]:
    """By layer, elements of its weight, and its outputs."""
    return {
        name: (module.weight.numel(), module.weight.shape[0])
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1))
def test_sizes_are_those_of_the_network_that_is_cut(found: tuple[TorchModel, Narrower], seed: int) -> None:
    model, narrower = found
    rng = np.random.default_rng(seed)
    kept = {group.name: int(rng.choice([*group.widths, group.whole])) for group in narrower.groups}
    cut = narrower.cut(kept)
    promised = {
        name: narrower.size(name, {group: kept[group] for group in touching})[:2]
        for name, touching, _ in narrower.layers
    }
    assert promised == weights(cut.body)
    with torch.no_grad():
        assert cut.body.eval()(*example_inputs(model.signature)).shape == (2, 10)


def test_a_block_that_goes_takes_its_layers_along(found: tuple[TorchModel, Narrower]) -> None:
    model, narrower = found
    for block in narrower.blocks:
        cut = narrower.cut({}, [block])
        gone = set(weights(model.body)) - set(weights(cut.body))
        assert gone == {name for name, _, inside in narrower.layers if inside == block}
        inner = [group for group in narrower.groups if group.block == block]
        assert all(group.name.startswith(f"{block}.") for group in inner)


def test_a_recipe_cuts_the_same_network(found: tuple[TorchModel, Narrower]) -> None:
    model, narrower = found
    gone = list(narrower.blocks)[:1]
    kept = {group.name: group.widths[0] for group in narrower.groups if group.block is None or group.block not in gone}
    whole = tuple(
        GroupTable(
            name=group.name, layers=group.layers, kind="", options=(WidthOption(channels=group.whole, distance=0.0),)
        )
        for group in narrower.groups
    )
    tables = WidthTables(key="", distance="", samples=1, float_bytes=1, groups=whole, blocks=(), layers=(), seconds=1.0)
    run = replace(context(Path(), digits_data()), task="classification")
    made = model
    for stage in stages_of(Trimmed(kept, tuple(gone), (), 1.0, 0.0, 0.0, 0.0, 0.0), tables):
        spec = techniques.get(stage["use"])
        given = {key: value for key, value in stage.items() if key not in ("id", "use", "if_slower")}
        result = load(spec.implementation)(made, spec.params.model_validate(given), run).model
        assert isinstance(result, TorchModel)
        made = result
    assert weights(made.body) == weights(narrower.cut(kept, gone).body)
