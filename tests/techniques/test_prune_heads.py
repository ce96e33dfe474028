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
from compressctl.layers.channels.dependency_groups import example_inputs, find_coupling
from compressctl.layers.channels.verify_group import proven
from compressctl.sources.modules.split_attention import split
from compressctl.sources.structure import read_network, write_network
from compressctl.techniques.prune.heads import apply, find_attention, remove_heads
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


class Grouped(nn.Module):
    """Two heads of queries for each of keys and values, whose numbers follow from the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim, self.num_kv_heads = 4, 4
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(32, 32), nn.Linear(32, 16), nn.Linear(32, 16)
        self.o_proj = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q_proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        k, v = (
            layer(x).unflatten(-1, (self.num_kv_heads, self.head_dim)).transpose(1, 2).repeat_interleave(2, dim=1)
            for layer in (self.k_proj, self.v_proj)
        )
        mixed = torch.softmax(q @ k.transpose(-2, -1), -1) @ v
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


def test_heads_of_keys_go_with_all_the_queries_that_read_them() -> None:
    torch.manual_seed(0)
    network, x = nn.Sequential(Grouped()).eval(), torch.randn(2, 5, 32)
    (attention,), fixed = find_attention(network, (x,))
    assert (attention.group.units, attention.shared, fixed) == (4, 2, {})

    scores = {attention.group.name: np.array([1.0, 0.0, 2.0, 0.5])}
    smaller = remove_heads(network, [attention], scores, {attention.group.name: 2})
    block = smaller.get_submodule("0")
    assert (block.q_proj.out_features, block.k_proj.out_features, block.num_kv_heads) == (16, 8, 2)
    with torch.no_grad():
        for head in (1, 3):
            network[0].o_proj.weight[:, 8 * head : 8 * head + 8] = 0
        torch.testing.assert_close(smaller(x), network(x))


@pytest.mark.parametrize(("name", "heads"), [("gpt2", 4), ("neox", 4), ("llama", 2), ("phi3", None)])
def test_attention_of_transformers_is_understood_or_named(name: str, heads: int | None, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from support.tiny_transformers import saved

    from compressctl.sources.huggingface.network import load
    from compressctl.sources.params import HuggingFaceParams

    model = load(HuggingFaceParams(path=str(saved(name, tmp_path / "m"))), Path(), 0)
    good, fixed = find_attention(model.body, example_inputs(model.signature))
    assert [attention.group.units for attention in good] == ([heads] * 2 if heads else [])
    assert all("in one layer" in reason for reason in fixed.values())
    assert len(fixed) == (0 if heads else 2)


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
            SomeAttention(**_linears(q_proj=32, k_proj=24, v_proj=24)),
            "32 channels of queries do not share 24 of keys and values evenly",
        ),
        (SomeAttention(**_linears(q_proj=32, k_proj=16, v_proj=8)), "do not share 8 and 16"),
        (SomeAttention(**_linears(q_proj=32, k_proj=8, v_proj=8)), "4 heads of queries share one"),
        (SomeAttention(**_linears(qkv_proj=64)), "64 channels of query, key and value in one layer"),
        (HeadlessAttention(**_linears(q_proj=32, k_proj=16, v_proj=16)), "none of the attributes num_heads"),
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
