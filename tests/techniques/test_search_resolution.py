"""Networks that look at an image as a whole may see it smaller: what is counted is what runs, and the file takes images as large as before."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.digit_runs import context
from torch import Tensor, nn

from compressctl.core.data import Batch, Split, SplitName
from compressctl.core.errors import NothingToCompressError
from compressctl.core.model import Signature, TensorSpec, TorchModel
from compressctl.graph.lower import lower, parity
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.layers.live_values import live_values
from compressctl.sources.modules.smaller_images import SmallerImages, resized
from compressctl.sources.networks import digits_resnet
from compressctl.sources.structure import read_network, write_network
from compressctl.sources.structure.files import STRUCTURE, WEIGHTS
from compressctl.techniques.prune._costs import cost, layers
from compressctl.techniques.search import architecture
from compressctl.techniques.search._predicted import predicted
from compressctl.techniques.search._shared_weights import SharedWeights
from compressctl.techniques.search._space import Space
from compressctl.techniques.search.params import Architecture, ArchitectureParams, SpaceParams


def signature(*shape: int | str, out: tuple[int | str, ...] = ("batch", 10)) -> Signature:
    return Signature((TensorSpec("image", "float32", ("batch", *shape)),), (TensorSpec("output", "float32", out),))


def resnet() -> TorchModel:
    torch.manual_seed(0)
    return TorchModel(digits_resnet().eval(), signature(1, 40, 24))


def space_of(model: TorchModel, folder: Path, least: float = 0.5) -> Space:
    return Space(model, SpaceParams(min_resolution=least), context(folder), is_sorted=True)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Space:
    return space_of(resnet(), tmp_path_factory.mktemp("space"))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_costs_and_weights_are_those_of_the_cut_network(space: Space, seed: int) -> None:
    one = space.random(np.random.default_rng(seed))
    inputs = example_inputs(space.model.signature, 3)
    cut = space.cut(one).body.eval()
    measured = layers(cut, inputs)
    assert space.macs(one) == cost("macs", measured, (), {})
    assert space.parameters(one) == cost("parameters", measured, (), {})
    alive = live_values(cut, inputs).peak() / 3
    assert alive <= space.values(one) * (1 + 1e-6) <= 1.05 * alive
    with torch.no_grad():
        shared = SharedWeights(space.model.body, space.cut_of, space.prefix)(space.model.body, one, inputs)
        assert isinstance(shared, Tensor)
        assert torch.allclose(shared, cut(*inputs), atol=1e-5)
    assert space.named(Architecture.model_validate(space.spelled(one))) == one


def test_sizes_are_whole_steps_and_none_below_the_least(tmp_path: Path) -> None:
    assert space_of(resnet(), tmp_path, 0.75).by_kind()["resolution"] == {"image": [80, 90, 100]}
    model = resnet()
    small = space_of(model, tmp_path, 0.5).cut(
        space_of(model, tmp_path, 0.5).whole.with_width("resolution of image", 50)
    )
    assert isinstance(small.body, SmallerImages)
    assert small.body.size == (20, 12)
    assert small.signature == model.signature


def test_the_file_of_a_network_with_smaller_images_computes_what_it_does_and_takes_whole_ones(
    space: Space, tmp_path: Path
) -> None:
    small = space.cut(space.whole.with_width("resolution of image", 60))
    lowered = lower(small)
    images = np.random.default_rng(0).normal(size=(4, 1, 40, 24)).astype(np.float32)
    assert max(parity(small, lowered, {"image": images}).values()) < 1e-4
    write_network(small.body, resnet().body, tmp_path)
    again = read_network(resnet().body, tmp_path / WEIGHTS, tmp_path / STRUCTURE)
    with torch.no_grad():
        given = torch.from_numpy(images)
        assert torch.equal(again(given), small.body(given))


def test_what_smaller_images_save_multiplies_with_what_channels_save(space: Space, tmp_path: Path) -> None:
    def clock(models: Any) -> tuple[float, ...]:
        return tuple(cost("macs", layers(each.body.eval(), example_inputs(each.signature)), (), {}) for each in models)

    latency = predicted(space, "latency", clock, context(tmp_path))
    for seed in range(12):
        one = replace(space.random(np.random.default_rng(seed)), gone=())
        narrow = one.with_width("resolution of image", 100)
        share = space.macs(one) / space.macs(narrow)
        assert latency(one) / latency(narrow) == pytest.approx(share, rel=0.05)


class Images:
    """Noise, in every split."""

    classes = None

    def split(self, name: SplitName) -> Split:
        return self

    def __len__(self) -> int:
        return 64

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        images = np.random.default_rng(0).normal(size=(64, 1, 32, 32)).astype(np.float32)
        for start in range(0, 64, size):
            part = images[start : start + size]
            yield Batch({"image": part}, None, np.arange(start, start + len(part)))


def test_a_search_finds_them_where_they_lose_least(tmp_path: Path) -> None:
    """A network that looks at nothing but the image's mean loses nothing by it."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Conv2d(1, 16, 1, bias=False), nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(self.layer(x).mean((2, 3)))
            return found

    torch.manual_seed(0)
    model = TorchModel(Mean().eval(), signature(1, 32, 32))
    params = ArchitectureParams.model_validate(
        {"at_most": {"macs": 0.45}, "min_resolution": 0.5, "criterion": "outputs", "round_to": 4}
    )
    result = architecture.apply(model, params, context(tmp_path, Images()))
    assert result.facts["architecture"]["resolution"]["image"] <= 60
    assert result.facts["architecture"]["channels"] == {}
    assert result.facts["macs"]["after"] <= 0.45 * result.facts["macs"]["before"]
    assert result.pinned is not None
    told = ArchitectureParams.model_validate({key: value for key, value in result.pinned.items() if key != "use"})
    again = architecture.apply(model, told, context(tmp_path, Images()))
    assert isinstance(again.model, TorchModel)
    assert isinstance(again.model.body, SmallerImages)
    assert isinstance(result.model, TorchModel)
    assert again.model.body.size == result.model.body.size  # type: ignore[union-attr]


@pytest.mark.parametrize("share", [50, 70, 90])
def test_smaller_images_become_smaller_still(space: Space, share: int, tmp_path: Path) -> None:
    """In one step, and by their share of the whole image."""
    found = space.cut(space.whole.with_width("resolution of image", share))
    nested = Space(found, SpaceParams(min_resolution=0.5, blocks=1), context(tmp_path), is_sorted=True, nested=True)
    inputs = example_inputs(space.model.signature)
    with torch.no_grad():
        assert torch.equal(nested.entire.body.eval()(*inputs), found.body.eval()(*inputs))
    fewer = [one for one in (50, 60, 70, 80) if one < share]
    assert nested.by_kind().get("resolution", {"image": [share]})["image"] == [*fewer, share]
    for one in (nested.whole, nested.random(np.random.default_rng(share))):
        cut = nested.cut(one).body.eval()
        assert nested.macs(one) == cost("macs", layers(cut, inputs), (), {})
        assert sum(isinstance(module, SmallerImages) for module in cut.modules()) == 1


def test_images_may_have_their_channels_last(tmp_path: Path) -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = digits_resnet()

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.network(x.permute(0, 3, 1, 2))
            return found

    torch.manual_seed(0)
    model = TorchModel(Turned().eval(), signature(40, 24, 1))
    space = space_of(model, tmp_path)
    small = space.cut(space.whole.with_width("resolution of image", 50))
    assert isinstance(small.body, SmallerImages)
    assert small.body.size == (20, 12)
    images = np.random.default_rng(0).normal(size=(4, 40, 24, 1)).astype(np.float32)
    assert max(parity(small, lower(small), {"image": images}).values()) < 1e-4
    own = resized(torch.from_numpy(images).permute(0, 3, 1, 2), (20, 12), channels_last=False)
    with torch.no_grad():
        assert torch.allclose(small.body(torch.from_numpy(images)), model.body(own.permute(0, 2, 3, 1)), atol=1e-5)


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x)
        return found


@pytest.mark.parametrize(
    ("network", "told", "says"),
    [
        (Dense, signature(1, 32, 32, out=("batch", 16, 32, 32)), "shapes follow the images'"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(1024, 16), nn.Linear(16, 10)), signature(1, 32, 32), "fails on them"),
        (lambda: nn.Sequential(nn.Linear(20, 16), nn.Linear(16, 10)), signature(20), "no input of images"),
        (lambda: SmallerImages.around(digits_resnet(), size=(8, 8)), signature(1, 32, 32), "smaller images already"),
    ],
)  # fmt: skip
def test_networks_that_have_no_use_for_smaller_images_say_so(
    network: Any, told: Signature, says: str, tmp_path: Path
) -> None:
    with pytest.raises(NothingToCompressError, match=says):
        space_of(TorchModel(network().eval(), told), tmp_path)
