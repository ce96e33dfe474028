"""Networks whose structure changed, as weights and a description, and descriptions that want too much."""

import contextlib
import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from torch import Tensor, nn  # noqa: E402

from compressctl.core.errors import UsageError  # noqa: E402
from compressctl.sources.modules.pass_through import PassThrough  # noqa: E402
from compressctl.sources.networks import digits_depthwise, digits_resnet  # noqa: E402
from compressctl.sources.structure import (  # noqa: E402
    NotDescribableError,
    StructureError,
    describe,
    read_network,
    rebuild,
    write_network,
)
from compressctl.sources.structure.allowed import class_of, name_of  # noqa: E402

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(0))


class Config:
    def __init__(self) -> None:
        self.heads = 4


class Attention(nn.Module):
    """As transformers write it: widths as attributes, a configuration that all layers share, a buffer nobody stores."""

    def __init__(self, config: Config, width: int = 16) -> None:
        super().__init__()
        self.config, self.heads, self.head_size = config, config.heads, width // config.heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.register_buffer("scale", torch.tensor(self.head_size**-0.5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        def heads(layer: nn.Module) -> Tensor:
            return layer(x).unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)

        shares = (heads(self.query) @ heads(self.key).transpose(-1, -2) * self.scale).softmax(-1)
        return self.out((shares @ heads(self.value)).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention, self.norm = Attention(config), nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.down(self.up(x).relu())


class Language(nn.Module):
    def __init__(self, layers: int = 4) -> None:
        super().__init__()
        config = Config()
        self.embed = nn.Embedding(50, 16)
        self.layers = nn.ModuleList(Layer(config) for _ in range(layers))
        self.bias = nn.Parameter(torch.randn(50))
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x) + self.bias


def language(seed: int = 0) -> Language:
    torch.manual_seed(seed)
    return Language().eval()


def resnet(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return digits_resnet().eval()


def prune_channels(network: nn.Module) -> None:
    """What torch-pruning makes of a residual network: every layer narrower."""
    tp = pytest.importorskip("torch_pruning")
    pruner = tp.pruner.MetaPruner(
        network,
        IMAGES,
        importance=tp.importance.MagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=[network.classifier],
    )
    pruner.step()


def factorize(network: nn.Module) -> None:
    """A convolution as two, and a linear layer as two."""
    conv = network.block2.body[0].conv
    network.block2.body[0].conv = nn.Sequential(
        nn.Conv2d(32, 7, (3, 1), padding=(1, 0), bias=False), nn.Conv2d(7, 32, (1, 3), padding=(0, 1))
    )
    assert conv.kernel_size == (3, 3)
    network.classifier = nn.Sequential(nn.Linear(64, 5, bias=False), nn.Linear(5, 10))


def drop_block(network: nn.Module) -> None:
    network.block2 = nn.Identity()


def prune_heads(network: Language) -> None:
    for layer in network.layers[1:3]:
        attention = layer.attention
        attention.heads = 2
        for name in ("query", "key", "value"):
            old = getattr(attention, name)
            new = nn.Linear(16, 8)
            new.weight.data, new.bias.data = old.weight.data[:8].clone(), old.bias.data[:8].clone()
            setattr(attention, name, new)
        attention.out.weight = nn.Parameter(attention.out.weight.data[:, :8].clone())
        attention.out.in_features = 8
        attention.scale = attention.scale * 2


def drop_layer(network: Language) -> None:
    del network.layers[1]


def configure(network: Language) -> None:
    network.layers[0].attention.config.heads = 2


def untie(network: Language) -> None:
    network.head.weight = nn.Parameter(network.head.weight.detach() * 2)


def share_layer(network: Language) -> None:
    network.layers[3] = network.layers[0]


def without_bias(network: Language) -> None:
    network.layers[0].up.bias = None
    network.layers[2].norm = nn.Identity()
    network.bias = nn.Parameter(torch.zeros(()), requires_grad=False)


CHANGES: list[tuple[Callable[[], nn.Module], Callable[[Any], None], Tensor]] = [
    (resnet, prune_channels, IMAGES),
    (resnet, factorize, IMAGES),
    (resnet, drop_block, IMAGES),
    (language, prune_heads, TOKENS),
    (language, drop_layer, TOKENS),
    (language, configure, TOKENS),
    (language, untie, TOKENS),
    (language, share_layer, TOKENS),
    (language, without_bias, TOKENS),
]


def assert_same(one: nn.Module, other: nn.Module, inputs: Tensor) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    assert [type(module) for module in one.modules()] == [type(module) for module in other.modules()]
    assert {name: p.requires_grad for name, p in one.named_parameters()} == {
        name: p.requires_grad for name, p in other.named_parameters()
    }
    with torch.no_grad():
        assert torch.equal(one.eval()(inputs), other.eval()(inputs))


@pytest.mark.parametrize(("make", "change", "inputs"), CHANGES, ids=[change.__name__ for _, change, _ in CHANGES])
def test_a_changed_network_comes_back_from_its_files(
    tmp_path: Path, make: Callable[..., nn.Module], change: Callable[[Any], None], inputs: Tensor
) -> None:
    original = make()
    network = copy.deepcopy(original)
    change(network)
    write_network(network, original, tmp_path)
    back = read_network(make(1), tmp_path / "model.safetensors", tmp_path / "structure.json")
    assert_same(network, back, inputs)
    assert describe(back, make(2)) == describe(network, original)
    assert_trains(back, inputs)


def assert_trains(network: nn.Module, inputs: Tensor) -> None:
    network.train()(inputs).square().mean().backward()
    assert any(parameter.grad is not None for parameter in network.parameters())


def test_changes_add_up(tmp_path: Path) -> None:
    original = resnet()
    network = copy.deepcopy(original)
    prune_channels(network)
    conv = network.block1.body[1].conv
    network.block1.body[1].conv = nn.Sequential(
        nn.Conv2d(conv.in_channels, 3, 1, bias=False), nn.Conv2d(3, conv.out_channels, 3, padding=1)
    )
    write_network(network.eval(), original, tmp_path)
    assert_same(network, read_network(resnet(5), tmp_path / "model.safetensors", tmp_path / "structure.json"), IMAGES)


def test_equal_structures_have_nothing_to_describe() -> None:
    assert describe(resnet(1), resnet(2)) == {"version": 1}
    assert describe(language(1), language(2)) == {"version": 1}


def test_ties_hold_after_rebuilding() -> None:
    original = language()
    network = copy.deepcopy(original)
    drop_layer(network)
    back = rebuild(language(), describe(network, original))
    assert back.head.weight is back.embed.weight
    assert back.layers[0].attention.config is not original.layers[0].attention.config


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_any_mixture_of_edits_is_described(seed: int) -> None:
    rng = random.Random(seed)
    original = digits_depthwise().eval()
    network = copy.deepcopy(original)
    for path, module in list(network.named_modules()):
        parent = network.get_submodule(path.rpartition(".")[0]) if path else None
        name = path.rpartition(".")[2]
        if isinstance(module, nn.ReLU6) and rng.random() < 0.3:
            setattr(parent, name, rng.choice([nn.ReLU(), nn.Hardswish(), nn.LeakyReLU(0.2), nn.PReLU()]))
        elif isinstance(module, nn.Conv2d) and module.groups == 1 and rng.random() < 0.3:
            rank = rng.randint(1, 5)
            first = nn.Conv2d(module.in_channels, rank, module.kernel_size, module.stride, module.padding, bias=False)
            setattr(
                parent, name, nn.Sequential(first, nn.Conv2d(rank, module.out_channels, 1, bias=rng.random() < 0.5))
            )
        elif isinstance(module, nn.BatchNorm2d) and rng.random() < 0.2:
            setattr(parent, name, nn.BatchNorm2d(module.num_features, eps=rng.random(), momentum=None))
    text = json.dumps(describe(network, original))
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    assert_same(network, rebuild(digits_depthwise().eval(), json.loads(text), weights), IMAGES)


def describe_factorized() -> dict[str, Any]:
    original = resnet()
    network = copy.deepcopy(original)
    factorize(network)
    return describe(network, original)


def child(**fields: Any) -> dict[str, Any]:
    return {"version": 1, "changes": {"children": {"classifier": fields}}}


HOSTILE: dict[str, Any] = {
    "no object": [],
    "another version": {"version": 99},
    "an unknown part": {"version": 1, "run": "rm"},
    "an unknown class": child(**{"class": "os.system", "arguments": {}}),
    "a class that is a path": child(**{"class": "torch.nn:Module"}),
    "a torch class that is not listed": child(**{"class": "Transformer", "arguments": {}}),
    "an argument that is not taken": child(**{"class": "Linear", "arguments": {"__class__": 3}}),
    "a huge layer": child(**{"class": "Linear", "arguments": {"in_features": 10**18, "out_features": 10**18}}),
    "a layer that is too large": child(
        **{"class": "Linear", "arguments": {"in_features": 2**31, "out_features": 2**31}}
    ),
    "a wrong argument": child(**{"class": "Linear", "arguments": {"in_features": "many", "out_features": 1}}),
    "an argument that is no value": child(**{"class": "Linear", "arguments": {"in_features": {"eval": "1"}}}),
    "a huge tensor": child(tensors={"weight": {"kind": "parameter", "shape": [2**30, 2**30], "dtype": "float32"}}),
    "a negative tensor": child(tensors={"weight": {"kind": "parameter", "shape": [-1], "dtype": "float32"}}),
    "a tensor of objects": child(tensors={"weight": {"kind": "parameter", "shape": [1], "dtype": "object"}}),
    "a tensor with a dunder name": child(tensors={"__class__": {"kind": "buffer", "shape": [1], "dtype": "float32"}}),
    "a tensor in the place of a method": child(
        tensors={"forward": {"kind": "buffer", "shape": [1], "dtype": "float32"}}
    ),
    "a dunder attribute": child(attributes={"__class__": 3}),
    "a dunder path": child(attributes={"forward.__globals__": 3}),
    "an attribute in the place of a method": child(attributes={"forward": 3}),
    "torch's own attribute": child(attributes={"_parameters": {"dict": {}}}),
    "a path of three": child(attributes={"a.b.c": 3}),
    "a module that is not there": child(keep="../../etc/passwd"),
    "a dunder module": child(keep="block1.__class__"),
    "a module inside itself": child(same=""),
    "a module that comes later": child(same="nowhere"),
    "a child that nothing describes": {"version": 1, "changes": {"order": ["stem", "new"]}},
    "a child with a dunder name": {
        "version": 1,
        "changes": {"order": ["__class__"], "children": {"__class__": {"class": "Identity"}}},
    },
    "a child without a place": {"version": 1, "changes": {"children": {"extra": {"class": "Identity"}}}},
    "an unknown change": {"version": 1, "changes": {"exec": "print()"}},
    "ties of different shapes": {"version": 1, "tied": [["classifier.weight", "classifier.bias"]]},
    "ties of what is not there": {"version": 1, "tied": [["a", "b"]]},
    "frozen nothing": {"version": 1, "frozen": ["a"]},
    "values nested too deep": child(attributes={"a": json.loads("[" * 40 + "]" * 40)}),
}


@pytest.mark.parametrize("description", HOSTILE.values(), ids=HOSTILE)
def test_a_description_that_wants_too_much_is_refused(description: Any) -> None:
    original = resnet()
    before = copy.deepcopy(original.state_dict())
    with pytest.raises(StructureError) as refused:
        rebuild(original, description)
    assert len(str(refused.value)) < 600
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())


def test_sharing_that_multiplies_is_refused() -> None:
    """Each level holds the one before twice: 2^40 places, from a file of a few kilobytes."""
    children: dict[str, Any] = {"0": {"class": "Identity"}}
    for level in range(1, 40):
        inside = {"0": {"same": f"classifier.{level - 1}"}, "1": {"same": f"classifier.{level - 1}"}}
        children[str(level)] = {"class": "Sequential", "order": ["0", "1"], "children": inside}
    description = child(**{"class": "Sequential", "order": list(children), "children": children})
    with pytest.raises(StructureError, match="too many modules"):
        rebuild(resnet(), description)


@settings(max_examples=150)
@given(st.data())
def test_a_description_with_anything_in_any_place_is_rebuilt_or_refused(data: st.DataObject) -> None:
    described = copy.deepcopy(FACTORIZED)
    places = list(_places(described))
    holder, key = data.draw(st.sampled_from(places))
    anything = st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.text(max_size=5), st.floats(),
        st.sampled_from([[], {}, [[]], {"class": "Linear"}, {"same": "stem"}, {"tuple": [1]}, "__init__", "forward"]),
    )  # fmt: skip
    holder[key] = data.draw(anything)
    with contextlib.suppress(StructureError):
        rebuild(ORIGINAL, described)


ORIGINAL, FACTORIZED = resnet(), describe_factorized()


def _places(value: Any) -> Any:
    for key, part in list(value.items()) if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(part, dict | list):
            yield from _places(part)


def test_weights_must_be_those_of_the_described_network() -> None:
    original, network = resnet(), resnet()
    factorize(network)
    described, weights = describe(network, original), dict(network.state_dict())
    with pytest.raises(StructureError, match=r"the weights lack classifier\.0\.weight"):
        rebuild(original, described, {name: value for name, value in weights.items() if name != "classifier.0.weight"})
    with pytest.raises(StructureError, match=r"hold 'extra'"):
        rebuild(original, described, {**weights, "extra": torch.zeros(1)})
    with pytest.raises(StructureError, match=r"classifier\.0\.weight as \[2\] float32"):
        rebuild(original, described, {**weights, "classifier.0.weight": torch.zeros(2)})


def test_a_file_that_is_no_description_is_one_message(tmp_path: Path) -> None:
    original = resnet()
    write_network(original, original, tmp_path)
    (tmp_path / "structure.json").write_text("{" * 5)
    with pytest.raises(UsageError, match="not a description"):
        read_network(original, tmp_path / "model.safetensors", tmp_path / "structure.json")
    (tmp_path / "structure.json").write_text('{"version": 1}')
    (tmp_path / "model.safetensors").write_bytes(b"pickle")
    with pytest.raises(UsageError, match="not a safetensors file"):
        read_network(original, tmp_path / "model.safetensors", tmp_path / "structure.json")


class Foreign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def hooked(network: nn.Module) -> None:
    network.stem.register_forward_hook(lambda *_: None)


def foreign(network: nn.Module) -> None:
    network.block2 = Foreign()


def patched(network: nn.Module) -> None:
    network.stem.forward = lambda x: x


def parametrized(network: nn.Module) -> None:
    nn.utils.parametrizations.weight_norm(network.stem.conv)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (hooked, "stem has a hook"),
        (foreign, "block2 is a Foreign, which is neither"),
        (patched, "stem.forward holds a function"),
        (parametrized, r"stem\.conv is a ParametrizedConv2d"),
    ],
)
def test_what_cannot_be_described_is_named(change: Callable[[nn.Module], None], message: str) -> None:
    network = resnet()
    change(network)
    with pytest.raises(NotDescribableError, match=message):
        describe(network, resnet())


def test_files_written_before_a_class_got_its_name_are_read() -> None:
    assert class_of("Skip") is class_of("PassThrough") is PassThrough
    assert name_of(PassThrough()) == "PassThrough"
