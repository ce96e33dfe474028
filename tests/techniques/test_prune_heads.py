"""prune.heads: heads that do nothing go without a trace, on torch's attention and on the common hand-written forms."""

import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from support.digit_runs import Heard, context, digits_data, digits_model
from torch import Tensor, nn

from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.model import Model, Signature, TensorSpec, TorchModel
from compressctl.graph.lower import lower
from compressctl.layers.channels.dependency_groups import find_coupling
from compressctl.layers.channels.verify_group import proven
from compressctl.sources.modules.split_attention import split
from compressctl.sources.structure import read_network, write_network
from compressctl.techniques.prune.heads import apply, find_attention
from compressctl.techniques.prune.params import HeadsParams

IMAGE = Signature(
    (TensorSpec("input", "float32", ("batch", 1, 8, 8)),), (TensorSpec("output", "float32", ("batch", 10)),)
)


class Apart(nn.Module):
    """One Linear each for query, key and value; the head size is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 4, 8
        self.query, self.key, self.value = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.out = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = torch.softmax(q @ k.transpose(-2, -1) * self.head_dim**-0.5, -1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class Fused(nn.Module):
    """One Linear for all three; the head size follows from the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.qkv, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = parts[0], parts[1], parts[2]
        mixed = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, -1) @ v
        return self.proj(mixed.transpose(1, 2).flatten(2))


class FromWidth(Fused):
    """Divides the input's width by the number of heads: fewer heads would be wider ones."""

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-1] // self.heads
        parts = self.qkv(x).reshape(-1, x.shape[1], 3, self.heads, size).permute(2, 0, 3, 1, 4)
        q, k, v = parts[0], parts[1], parts[2]
        mixed = torch.softmax(q @ k.transpose(-2, -1) * size**-0.5, -1) @ v
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Whole(nn.Module):
    """torch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        nn.init.normal_(self.attention.in_proj_bias, std=0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Encoder(nn.Module):
    """torch's encoder layer around torch's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Rows(nn.Module):
    """Eight tokens, one for each row of an image, and two rounds of attention."""

    def __init__(self, attention: type[nn.Module]) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 10)
        self.first, self.second = attention(), attention()

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.squeeze(1))
        x = x + self.first(x)
        return self.head((x + self.second(x)).mean(1))


def made(attention: type[nn.Module]) -> Model:
    torch.manual_seed(0)
    return TorchModel(Rows(attention).eval(), IMAGE)


@pytest.mark.parametrize("attention", [Apart, Fused, Whole, Encoder])
def test_a_head_that_writes_nothing_goes_without_a_trace(attention: type[nn.Module], tmp_path: Path) -> None:
    model = made(attention)
    network = split(model.body)
    attentions, _ = find_attention(network, (torch.randn(2, 1, 8, 8),))
    assert len(attentions) == 2
    dead = {found.owner: number for number, found in enumerate(attentions, 1)}
    with torch.no_grad():
        for found in attentions:
            reader = found.group.members[-1]
            network.get_submodule(reader.name).weight[:, reader.removed([dead[found.owner]])] = 0
    result = apply(TorchModel(network, IMAGE), HeadsParams(keep=0.75, criterion="l2"), context(tmp_path))
    assert all(heads == [4, 3] for heads in result.facts["heads"].values())
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(result.model.body(x), network(x), atol=1e-5)
    assert result.facts["parameters"]["after"] < result.facts["parameters"]["before"]
    assert result.facts["macs"]["after"] < result.facts["macs"]["before"]


@pytest.mark.parametrize("attention", [Fused, Whole])
def test_the_result_trains_and_lowers(attention: type[nn.Module], tmp_path: Path) -> None:
    result = apply(made(attention), HeadsParams(keep=0.5), context(tmp_path, digits_data()))
    network = result.model.body.train()
    network(torch.randn(2, 1, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    network.eval()
    lowered = lower(result.model)
    session = onnxruntime.InferenceSession(lowered.body.SerializeToString(), providers=["CPUExecutionProvider"])
    x = torch.randn(4, 1, 8, 8)
    expected = network(x).detach().numpy()
    write_network(network, made(attention).body, tmp_path)
    again = read_network(made(attention).body, tmp_path / "model.safetensors", tmp_path / "structure.json")
    assert np.array_equal(again.eval()(x).detach().numpy(), expected)
    assert np.allclose(session.run(None, {"input": x.numpy()})[0], expected, atol=1e-4)


@pytest.mark.parametrize("batch_first", [True, False])
def test_split_attention_computes_what_torch_computes(batch_first: bool) -> None:
    torch.manual_seed(0)
    whole = nn.MultiheadAttention(32, 4, batch_first=batch_first).eval()
    nn.init.normal_(whole.in_proj_bias)
    nn.init.normal_(whole.out_proj.bias)
    holder = nn.ModuleList([whole])
    (apart,) = split(holder)
    shape = (3, 5, 32) if batch_first else (5, 3, 32)
    q, k, v = torch.randn(shape), torch.randn(shape), torch.randn(shape)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    for options in (
        {},
        {"key_padding_mask": padding},
        {"attn_mask": causal},
        {"attn_mask": causal, "key_padding_mask": padding},
    ):
        assert torch.allclose(apart(q, k, v, **options)[0], whole(q, k, v, **options)[0], atol=1e-5)


def test_taylor_ranks_heads_by_the_slope_of_the_loss_in_a_gate(tmp_path: Path) -> None:
    model = made(Apart)
    found = apply(model, HeadsParams(keep=0.5, samples=32), context(tmp_path, digits_data())).facts["scores"]["first"]
    from compressctl.training.data import tensor_batches

    network, gates = model.body, torch.ones(4, requires_grad=True)
    hook = network.first.out.register_forward_pre_hook(lambda _, args: args[0] * gates.repeat_interleave(8))
    expected = np.zeros(4)
    batches = tensor_batches(digits_data().split("train"), IMAGE, 8, shuffle_seed=0)
    for batch, _ in zip(batches, range(4), strict=False):
        loss = nn.functional.cross_entropy(network(*batch.inputs), batch.labels)
        expected += torch.autograd.grad(loss, gates)[0].abs().numpy()
    hook.remove()
    assert found == pytest.approx(expected, rel=1e-3)


def test_channels_inside_heads_are_left_to_this_technique_however_small_the_weights() -> None:
    """Half of the channels would form half of the heads, with channels of several heads mixed in each."""
    model = made(Apart)
    with torch.no_grad():
        for parameter in model.body.parameters():
            parameter.mul_(0.02)
    inputs = (torch.randn(2, 1, 8, 8),)
    coupling = proven(find_coupling(model.body, inputs), model.body, inputs)
    assert {"first.query", "first.value", "second.key"} <= set(coupling.fixed)
    assert "embed" in {layer for group in coupling.groups for layer in group.layers}


def test_what_is_not_understood_stays_and_is_told(tmp_path: Path) -> None:
    heard = Heard()
    with pytest.raises(NothingToCompressError, match="no attention of a kind that is supported"):
        apply(made(FromWidth), HeadsParams(), context(tmp_path, digits_data(), heard))
    assert any("heads stay: first" in note for note in heard.notes)


def test_taylor_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no"):
        apply(made(Apart), HeadsParams(), context(tmp_path))


class Named(nn.Module):
    """Attention by its name alone; `parts` are its layers."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class SomeAttention(Named):
    num_heads = 4


class HeadlessAttention(Named):
    pass


class Swapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(32, 96))


def _linears(**widths: int) -> dict[str, nn.Module]:
    return {name: nn.Linear(32, width) for name, width in widths.items()}


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (
            SomeAttention(**_linears(q_proj=32, k_proj=16, v_proj=16)),
            "grouped queries: 32 channels of queries share 16",
        ),
        (HeadlessAttention(**_linears(q_proj=32, k_proj=16, v_proj=16)), "grouped queries"),
        (HeadlessAttention(**_linears(q_proj=32, k_proj=32, v_proj=32)), "none of the attributes num_heads"),
        (SomeAttention(c_attn=Swapped()), r"projections \(c_attn\) are Swapped, and only torch's Linear"),
        (SomeAttention(**_linears(left=32, right=32)), "no Linear layers called q/query"),
        (nn.MultiheadAttention(32, 4, kdim=16, vdim=16), "keys and values of another width"),
    ],
)
def test_attention_that_is_not_supported_is_named_for_what_it_is(module: nn.Module, reason: str) -> None:
    good, fixed = find_attention(nn.Sequential(module).eval(), (torch.randn(2, 4, 32),))
    assert not good
    assert re.search(reason, fixed["0"])


def test_a_network_without_attention_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(NothingToCompressError, match="no attention that is recognised"):
        apply(digits_model("digits-resnet"), HeadsParams(), context(tmp_path, digits_data()))
