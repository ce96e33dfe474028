"""Layers with low-rank adapters compute with the sum, and hold it when they are merged."""

import copy
import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from compressctl.training.lora.low_rank import LowRank, attach, detach, full_rank, merge, merged_weight  # noqa: E402
from compressctl.training.params import Lora  # noqa: E402

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@st.composite
def layers(draw: st.DrawFn) -> nn.Module:
    """Linear layers and convolutions of any geometry, some of whose weights are zero."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    has_bias = draw(st.booleans())
    axes = draw(st.integers(0, 3))
    if axes == 0:
        layer: Any = nn.Linear(draw(st.integers(1, 9)), draw(st.integers(1, 9)), bias=has_bias)
    else:
        groups = draw(st.integers(1, 3))
        layer = CONVOLUTIONS[axes](
            groups * draw(st.integers(1, 4)),
            groups * draw(st.integers(1, 4)),
            draw(st.integers(1, 3)),
            draw(st.integers(1, 2)),
            draw(st.integers(0, 2)),
            draw(st.integers(1, 2)),
            groups,
            bias=has_bias,
            padding_mode=draw(st.sampled_from(["zeros", "circular", "replicate"])),
        )
    with torch.no_grad():
        layer.weight[torch.rand_like(layer.weight) < draw(st.sampled_from([0.0, 0.5]))] = 0
    return layer.eval().requires_grad_(False)


def inputs_of(layer: Any) -> Tensor:
    if isinstance(layer, nn.Linear):
        return torch.randn(4, 2, layer.in_features)
    return torch.randn(2, layer.in_channels, *[7] * (layer.weight.ndim - 2))


def adapted(layer: Any, rank: int, *, is_masked: bool, alpha: float = 3.0) -> LowRank:
    """With a product that is not zero."""
    made = attach(layer, Lora(rank=rank, alpha=alpha), torch.Generator().manual_seed(0), is_masked=is_masked)
    with torch.no_grad():
        made.lora_b.normal_()
    return made


def in_numpy(layer: LowRank, alpha: float) -> np.ndarray:
    """The weight with its products, group by group, in float64."""
    weight, a, b = (value.detach().double().numpy() for value in (layer.weight, layer.lora_a, layer.lora_b))
    groups = getattr(layer, "groups", 1)
    rank, rows = b.shape[1], len(weight) // groups
    found = weight.copy()
    for group in range(groups):
        own = slice(group * rows, (group + 1) * rows)
        product = b[own] @ a[group * rank : (group + 1) * rank].reshape(rank, -1)
        found[own] += alpha / rank * product.reshape(found[own].shape)
    return np.where(weight == 0, 0, found) if layer.is_masked else found


@settings(deadline=None, max_examples=40)
@given(layers(), st.integers(1, 4), st.booleans())
def test_an_adapter_changes_nothing_before_it_is_trained(layer: Any, rank: int, is_masked: bool) -> None:
    x = inputs_of(layer)
    expected = layer(x)
    attach(layer, Lora(rank=rank), torch.Generator().manual_seed(0), is_masked=is_masked)
    assert torch.equal(layer(x), expected)


@settings(deadline=None, max_examples=60)
@given(layers(), st.integers(1, 4), st.booleans())
def test_a_layer_computes_with_the_sum_and_so_does_the_merged_one(layer: Any, rank: int, is_masked: bool) -> None:
    x, plain, names = inputs_of(layer), type(layer), list(layer.state_dict())
    made = adapted(layer, rank, is_masked=is_masked)
    expected = in_numpy(made, 3.0)
    given_before = layer(x).detach()
    merge([made])
    assert type(layer) is plain
    assert list(layer.state_dict()) == names
    assert np.allclose(layer.weight.numpy(), expected, rtol=1e-6, atol=1e-7)
    size = float(given_before.abs().max()) + 1e-3
    assert float((layer(x) - given_before).abs().max()) <= 1e-5 * size


@settings(deadline=None, max_examples=40)
@given(layers(), st.integers(1, 4))
def test_zeros_of_a_masked_layer_stay_zero(layer: Any, rank: int) -> None:
    zero = layer.weight == 0
    merge([adapted(layer, rank, is_masked=True)])
    assert torch.equal(layer.weight == 0, zero)


@settings(deadline=None, max_examples=40)
@given(layers())
def test_a_product_of_the_full_rank_reaches_every_weight(layer: Any) -> None:
    """Of each group: the product of least squares is exact."""
    rank, groups = full_rank(layer), getattr(layer, "groups", 1)
    wanted = torch.randn_like(layer.weight)
    made = attach(layer, Lora(rank=rank, alpha=rank), torch.Generator().manual_seed(0), is_masked=False)
    change = (wanted - layer.weight).double().reshape(groups, len(wanted) // groups, -1)
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    with torch.no_grad():
        made.lora_b.copy_((u * s[:, None, :]).reshape(len(wanted), rank))
        made.lora_a.copy_(v.reshape(made.lora_a.shape))
    assert torch.allclose(merged_weight(made), wanted, atol=1e-5)


@pytest.mark.parametrize("is_masked", [False, True])
def test_dropout_is_of_the_products_input_alone(is_masked: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(200, 50).requires_grad_(False)
    x = torch.randn(1, 200)
    plain = layer(x)
    lora = Lora(rank=4, dropout=0.5)
    made = attach(layer, lora, torch.Generator().manual_seed(0), is_masked=is_masked)
    assert torch.equal(layer.train()(x), plain)
    with torch.no_grad():
        made.lora_b.normal_()
    whole = (layer.eval()(x) - plain).detach()
    torch.manual_seed(1)
    mean = torch.stack([layer.train()(x) - plain for _ in range(500)]).mean(0).detach()
    assert not torch.equal(layer(x), layer(x))
    assert float((mean - whole).norm() / whole.norm()) < 0.2


def test_detached_is_what_it_was() -> None:
    layer = nn.Conv2d(4, 6, 3)
    before = copy.deepcopy(layer.state_dict())
    detach(adapted(layer, 2, is_masked=False))
    assert type(layer) is nn.Conv2d
    assert not layer._forward_pre_hooks
    assert layer.__dict__.keys() == nn.Conv2d(4, 6, 3).__dict__.keys()
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_a_is_drawn_like_kaimings_and_b_is_zero() -> None:
    layer = nn.Conv2d(16, 8, 3)
    made = attach(layer, Lora(rank=8), torch.Generator().manual_seed(0), is_masked=False)
    bound = 1 / math.sqrt(16 * 9)
    assert 0.95 * bound < float(made.lora_a.detach().abs().max()) <= bound
    assert float(made.lora_b.detach().abs().max()) == 0


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("layer", [nn.Linear(6, 8), nn.Conv2d(4, 8, 3, groups=2)], ids=["linear", "conv"])
def test_products_learn_in_16_bits(layer: Any, is_masked: bool) -> None:
    layer = copy.deepcopy(layer).requires_grad_(False)
    made = adapted(layer, 2, is_masked=is_masked)
    x = inputs_of(layer)
    wanted = layer(x).square().sum()
    wanted.backward()
    expected = [made.lora_a.grad, made.lora_b.grad]
    made.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x).float().square().sum()
    found.backward()
    for mine, other in zip([made.lora_a.grad, made.lora_b.grad], expected, strict=True):
        assert float((mine - other).norm() / other.norm()) < 0.05
    assert layer.weight.grad is None
