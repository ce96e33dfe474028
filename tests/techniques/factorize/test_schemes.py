"""Every scheme on one layer: at full rank it is the layer, below it costs what it says and loses what it says."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.factorizing import random_images, run_torch
from torch import nn

from compressctl.layers.layer import Layer
from compressctl.layers.torch_network import outline_of
from compressctl.numerics.low_rank import whitening
from compressctl.techniques.factorize._pieces import measured
from compressctl.techniques.factorize._split import Option, Rank, Split, option
from compressctl.techniques.factorize._torch_network import _chain
from compressctl.techniques.factorize.cp import cp_split
from compressctl.techniques.factorize.svd import ChannelSplit, SpatialSplit
from compressctl.techniques.factorize.tucker import tucker_split


def cp_of_axes(layer: Layer, factor: np.ndarray | None) -> Split:
    return cp_split(layer, factor, split_kernel=True)


MAKERS: dict[str, Callable[[Layer, np.ndarray | None], Split]] = {
    "channel": ChannelSplit.of,
    "spatial": SpatialSplit.of,
    "tucker": tucker_split,
    "cp": cp_split,
    "cp of axes": cp_of_axes,
}
GEOMETRIES = {
    "plain": {},
    "stride": {"stride": (2, 1)},
    "padding": {"padding": (1, 2)},
    "dilation": {"dilation": (1, 2), "padding": 2},
    "same": {"padding": "same", "dilation": 2},
    "all of it": {"stride": 2, "padding": (2, 0), "dilation": (2, 1), "bias": False},
}


def _conv(geometry: str) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(6, 10, (3, 3), **GEOMETRIES[geometry]).double()  # type: ignore[arg-type]


def _images(samples: int = 3) -> np.ndarray:
    return random_images(samples, 6, 9, 11).astype(np.float64)


def _option(
    layer: nn.Module, images: np.ndarray, scheme: str, rank: Rank | None, factor: np.ndarray | None = None
) -> Option:
    split = MAKERS[scheme](_plain(layer, images), factor)
    return option(split, split.full_rank if rank is None else rank)


def _plain(layer: nn.Module, images: np.ndarray) -> Layer:
    bias = None if layer.bias is None else layer.bias.detach().numpy()
    weight = layer.weight.detach().numpy()
    return measured(Layer("conv.weight", "Conv2d", outline_of("conv", layer), weight, bias), images.shape[1:])


def _lost(layer: nn.Module, one: Option, images: np.ndarray) -> float:
    whole, pieces = run_torch(layer, images), run_torch(_chain(layer, one.pieces()), images)
    assert whole.shape == pieces.shape
    return float(np.linalg.norm(whole - pieces) / np.linalg.norm(whole))


@pytest.mark.parametrize("scheme", MAKERS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_full_rank_is_the_layer(scheme: str, geometry: str) -> None:
    layer = _conv(geometry)
    assert _lost(layer, _option(layer, _images(), scheme, None), _images()) < 1e-10


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("scheme", ["channel", "tucker", "cp", "cp of axes"])
def test_full_rank_is_the_layer_in_one_two_and_three_dimensions(scheme: str, axes: int) -> None:
    layer = [nn.Conv1d, nn.Conv2d, nn.Conv3d][axes - 1](4, 5, 3, stride=2, padding=1).double()
    images = random_images(2, 4, *(7, 6, 5)[:axes]).astype(np.float64)
    assert _lost(layer, _option(layer, images, scheme, None), images) < 1e-10


@pytest.mark.parametrize("scheme", ["channel"])
def test_a_linear_layer_at_full_rank_is_the_layer(scheme: str) -> None:
    layer, rows = nn.Linear(12, 7).double(), random_images(5, 3, 12).astype(np.float64)
    assert _lost(layer, _option(layer, rows, scheme, None), rows) < 1e-12


@pytest.mark.parametrize("scheme", MAKERS)
def test_macs_and_parameters_are_those_of_the_modules(scheme: str) -> None:
    layer = _conv("all of it")
    rank: Rank = (4, 3) if scheme == "tucker" else (4,)
    one = _option(layer, _images(1), scheme, rank)
    chain = _chain(layer, one.pieces())
    counted = 0

    def count(module: nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        nonlocal counted
        counted += made[0, 0].numel() * sum(parameter.numel() for parameter in module.parameters())

    for module in chain:
        module.register_forward_hook(count)
    run_torch(chain, _images(1))
    assert one.macs == counted
    assert one.parameters == sum(parameter.numel() for parameter in chain.parameters())


@pytest.mark.parametrize("scheme", MAKERS)
def test_the_error_falls_with_rank(scheme: str) -> None:
    layer = _conv("plain")
    ranks: list[Rank] = [(1, 1), (3, 2), (6, 5), (10, 6)] if scheme == "tucker" else [(1,), (4,), (10,), (18,)]
    errors = []
    for rank in ranks:
        split = MAKERS[scheme](_plain(layer, _images()), None)
        errors.append(split.error(tuple(min(pair) for pair in zip(rank, split.full_rank, strict=True))))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 1


@pytest.mark.parametrize(("scheme", "rank"), [("channel", (4,)), ("spatial", (6,)), ("tucker", (5, 3)), ("cp", (9,))])
def test_the_error_that_is_told_is_that_of_the_weight(scheme: str, rank: Rank) -> None:
    """The pieces' weight, read off by unit impulses."""
    layer = nn.Conv2d(6, 10, 3, padding=2, bias=False).double()
    one = _option(layer, _images(), scheme, rank)
    impulses = np.eye(6).reshape(6, 6, 1, 1)
    assert _lost(layer, one, impulses) > 0.05
    one.pieces()
    assert math.sqrt(one.error) == pytest.approx(_lost(layer, one, impulses), rel=1e-6)


def test_whitened_the_error_that_is_told_is_that_of_the_outputs() -> None:
    """For the scheme that sees whole patches it is exact: the squares of the outputs that calibration gave."""
    layer = nn.Conv2d(6, 10, 3, stride=2, padding=1, bias=False).double()
    images = np.cumsum(_images(40), axis=3)  # neighbours alike, as in pictures
    patches = (
        torch.nn.functional.unfold(torch.from_numpy(images), 3, padding=1, stride=2).transpose(1, 2).reshape(-1, 54)
    )
    one = _option(layer, images, "channel", (4,), whitening((patches.T @ patches).numpy(), damping=1e-13))
    assert math.sqrt(one.error) == pytest.approx(_lost(layer, one, images), rel=1e-4)


@pytest.mark.parametrize(("scheme", "rank"), [("tucker", (5, 3)), ("cp", (9,)), ("spatial", (5,))])
def test_whitening_lowers_the_error_of_outputs(scheme: str, rank: Rank) -> None:
    layer = nn.Conv2d(6, 10, 3, padding=1, bias=False).double()
    images = _images(40) * np.array([5, 3, 1, 0.3, 0.1, 0.1]).reshape(6, 1, 1)
    rows = images.transpose(0, 2, 3, 1).reshape(-1, 6)
    if scheme == "spatial":
        unfolded = torch.nn.functional.unfold(torch.from_numpy(images), (3, 1), padding=(1, 0))
        rows = unfolded.transpose(1, 2).reshape(-1, 18).numpy()
    white = _option(layer, images, scheme, rank)
    aware = _option(layer, images, scheme, rank, whitening(rows.T @ rows))
    assert _lost(layer, aware, images) < 0.9 * _lost(layer, white, images)


def test_a_side_that_keeps_all_its_channels_needs_no_layer() -> None:
    layer = _conv("stride")
    names = [piece.outline.name for piece in _option(layer, _images(), "tucker", (4, 6)).pieces()]
    assert names == ["conv.core", "conv.expand"]
    names = [piece.outline.name for piece in _option(layer, _images(), "tucker", (10, 3)).pieces()]
    assert names == ["conv.reduce", "conv.core"]
