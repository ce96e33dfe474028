"""Experts: all of them together are the layer, a file looks up what a network masks, and groups are of one size."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.costs import total_macs
from support.digit_runs import context, digits_data
from torch import Tensor, nn

from compressctl.backends.dialects.experts import note
from compressctl.backends.onnx_file import save_onnx, to_onnx
from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.model import OnnxModel, Signature, TensorSpec, TorchModel
from compressctl.core.target import Target
from compressctl.core.technique import RunContext
from compressctl.graph.lower import lower, parity
from compressctl.graph.model_file import check_model
from compressctl.graph.quantized import already_quantized
from compressctl.graph.stored_weights import stored_weights
from compressctl.sources.modules.experts import ACTIVATIONS, Experts
from compressctl.sources.structure import describe, rebuild
from compressctl.techniques.dynamic import experts
from compressctl.techniques.dynamic._clusters import balanced_clusters
from compressctl.techniques.dynamic._feed_forward import feed_forward_layers
from compressctl.techniques.dynamic.experts import _built, _Layer
from compressctl.techniques.dynamic.params import ExpertsParams
from compressctl.techniques.quantize import dynamic, weights
from compressctl.techniques.quantize.params import DynamicParams, WeightsParams

IMAGE = Signature(
    (TensorSpec("input", "float32", ("batch", 1, 8, 8)),), (TensorSpec("output", "float32", ("batch", 10)),)
)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.drop, self.fc2 = nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc2(self.drop(self.act(self.fc1(x))))
        return found


class Odd(Mlp):
    """Looks like one, and adds its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(64, 16)
        self.mlp, self.odd = Mlp(), Odd()
        self.head = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1)).unsqueeze(1)
        x = self.odd(x + self.mlp(x)).squeeze(1)
        found: Tensor = self.head(x)
        return found


def made() -> TorchModel:
    torch.manual_seed(0)
    return TorchModel(Network().eval(), IMAGE)


def on_digits(folder: Path) -> RunContext:
    return replace(context(folder, digits_data()), task="classification")


def test_feed_forward_layers_are_proven() -> None:
    found = {one.name: one.activation for one in feed_forward_layers(made())}
    assert found == {"mlp": "gelu", "odd.fc1": "gelu", "head.0": "relu"}


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(sorted(ACTIVATIONS)), st.sampled_from([(12, 2), (12, 3), (12, 4)]), st.integers(0, 999))
def test_all_experts_together_are_the_layer(activation: str, sizes: tuple[int, int], seed: int) -> None:
    torch.manual_seed(seed)
    hidden, count = sizes
    layer = _Layer(nn.Linear(5, hidden), nn.Linear(hidden, 4), activation)
    rows = torch.randn(64, 5)
    built, _ = _built(layer, rows, ExpertsParams(experts=count, chosen=count - 1), 0)
    everything = Experts(5, 4, count, count, hidden // count, activation)
    everything.load_state_dict(built.state_dict())
    x = torch.randn(7, 5)
    with torch.no_grad():
        assert torch.allclose(everything(x), layer.down(layer.hidden(x)), atol=1e-5)
        best = built.router(x).topk(built.chosen).indices
        assert torch.allclose(built._looked_up(x, best), built._masked(x, best), atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(2, 30), st.integers(0, 999))
def test_groups_are_of_one_size(size: int, groups: int, samples: int, seed: int) -> None:
    activity = np.abs(np.random.default_rng(seed).standard_normal((samples, size * groups)))
    found = balanced_clusters(activity, groups, seed)
    assert np.bincount(found, minlength=groups).tolist() == [size] * groups


def test_units_that_are_active_together_are_together() -> None:
    rng = np.random.default_rng(0)
    which = rng.permutation(np.repeat(np.arange(4), 8))
    activity = np.abs(rng.standard_normal((200, 4)))[:, which] + 0.01 * rng.random((200, 32))
    found = balanced_clusters(activity, 4, 0)
    assert all(len(set(found[which == group])) == 1 for group in range(4))


def test_a_file_with_experts_computes_what_the_network_does(tmp_path: Path) -> None:
    run = on_digits(tmp_path)
    result = experts.apply(made(), ExpertsParams(experts=4, chosen=2), run)
    assert set(result.facts["layers"]) == {"mlp", "odd.fc1", "head.0"}
    proto = lower(result.model)
    assert {"TopK", "Gather"} <= {node.op_type for node in proto.body.graph.node}
    assert run.data is not None
    for size in (1, 32):
        inputs = next(iter(run.data.split("test").batches(size))).inputs
        assert parity(result.model, proto, inputs)["output"] < 1e-4
    again = rebuild(made().body, describe(result.model.body, made().body), result.model.body.state_dict())
    x = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), result.model.body.eval()(x))


def test_the_router_keeps_more_than_chance(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = _Layer(nn.Linear(16, 64), nn.Linear(64, 8), "relu")
    rows = torch.randn(2048, 16)
    built, facts = _built(layer, rows, ExpertsParams(experts=8, chosen=4), 0)
    errors = []
    with torch.no_grad():
        whole = layer.down(layer.hidden(rows))
        for best in (built.router(rows).topk(4).indices, torch.rand(len(rows), 8).topk(4).indices):
            errors.append(float(((built._masked(rows, best) - whole) ** 2).mean()))
    assert errors[0] < 0.8 * errors[1]
    assert 0 < facts["of_what_the_best_choice_keeps"] <= 1


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        (ExpertsParams(experts=5, chosen=2), UsageError, "groups of one size"),
        (ExpertsParams(match="tail*"), UsageError, "tail"),
    ],
)
def test_what_cannot_be_divided_is_named(params: ExpertsParams, error: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        experts.apply(made(), params, on_digits(tmp_path))


def test_a_network_without_feed_forward_layers_is_refused(tmp_path: Path) -> None:
    plain = TorchModel(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), IMAGE)
    with pytest.raises(NothingToCompressError):
        experts.apply(plain, ExpertsParams(), on_digits(tmp_path))


def test_as_many_chosen_as_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="chosen"):
        ExpertsParams(experts=4, chosen=4)


def test_training_teaches_the_router() -> None:
    torch.manual_seed(0)
    layer = Experts(6, 6, 4, 2, 3)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    layer.train()(torch.randn(32, 6)).square().mean().backward()
    assert layer.router.weight.grad is not None
    assert bool(layer.router.weight.grad.abs().sum() > 0)
    x = torch.randn(9, 6)
    with torch.no_grad():
        trained = layer(x)
        assert torch.allclose(layer.eval()(x), trained, atol=1e-5)


class Apart(nn.Module):
    """As BERT: the activation is a module between two layers of different modules. leaks: what stands between is read again."""

    def __init__(self, *, leaks: bool) -> None:
        super().__init__()
        self.leaks = leaks
        self.up, self.act = nn.Sequential(nn.Linear(64, 40)), nn.GELU(approximate="tanh")
        self.out = nn.ModuleDict({"dense": nn.Linear(40, 64), "drop": nn.Dropout(0.1)})
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        hidden = self.act(self.up(x))
        x = x + self.out["drop"](self.out["dense"](hidden)) + (hidden.mean() if self.leaks else 0)
        found: Tensor = self.head(x)
        return found


@pytest.mark.parametrize("leaks", [False, True])
def test_layers_in_different_modules_are_found_where_nothing_reads_what_stands_between(leaks: bool) -> None:
    torch.manual_seed(0)
    found = feed_forward_layers(TorchModel(Apart(leaks=leaks).eval(), IMAGE))
    expected = [("up.0", "gelu_tanh", ("act", "out.dense"))]
    assert [(one.name, one.activation, one.others) for one in found] == ([] if leaks else expected)


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("outputs", [12, 16, 10, 3])
def test_onnx_runtime_computes_experts_with_its_own_operator(activation: str, outputs: int) -> None:
    torch.manual_seed(0)
    layer = Experts(12, outputs, 6, 2, 4, activation)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    network = nn.Sequential(nn.Linear(64, 12), layer)
    signature = replace(IMAGE, inputs=(TensorSpec("input", "float32", ("batch", 64)),))
    signature = replace(signature, outputs=(TensorSpec("output", "float32", ("batch", outputs)),))
    lowered = lower(TorchModel(network.eval(), signature))
    x = np.random.default_rng(0).standard_normal((9, 64)).astype(np.float32)
    with torch.no_grad():
        wanted = network(torch.from_numpy(x)).numpy()
    for release, has_operator in ((None, True), ((1, 22), False)):
        proto = to_onnx(lowered, Target("onnxruntime", oldest_onnxruntime=release))
        check_model(proto)
        operators = [node.op_type for node in proto.graph.node]
        # It knows layers as wide behind as before alone, and as gelu the approximation by tanh.
        assert ("MoE" in operators) == (has_operator and outputs != 3 and activation != "silu")
        assert ("Gather" in operators) == ("MoE" not in operators)
        assert ("tanh" in " ".join(note(proto))) == ("MoE" in operators and activation.startswith("gelu"))
        (found,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"input": x})
        np.testing.assert_allclose(found, wanted, atol=5e-3 if activation == "gelu" else 1e-5)


@pytest.mark.parametrize(
    ("features", "outputs", "size", "operator"),
    [(64, 64, 32, "QMoE"), (64, 48, 16, "QMoE"), (48, 64, 32, "QMoE"), (64, 16, 32, "Gather"), (40, 40, 24, "Gather")],
)
@pytest.mark.parametrize("bits", [8, 4])
def test_experts_in_few_bits_are_packed_and_every_form_computes_the_same(
    features: int, outputs: int, size: int, operator: str, bits: Any, tmp_path: Path
) -> None:
    """A layer that grows too much, or whose rows no block fills, is looked up; weights in 8 bits meet inputs in 8 bits."""
    torch.manual_seed(0)
    layer = Experts(features, outputs, 6, 2, size, "relu")
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    network = nn.Sequential(nn.Linear(64, features), layer)
    signature = Signature(
        (TensorSpec("input", "float32", ("batch", 64)),), (TensorSpec("output", "float32", ("batch", outputs)),)
    )
    lowered = lower(TorchModel(network.eval(), signature))
    run = replace(context(tmp_path), target=Target("onnxruntime"))
    if bits == 8:
        result = dynamic.apply(lowered, DynamicParams(), run)
    else:
        result = weights.apply(lowered, WeightsParams(bits=4, group_size=32, symmetric=True), run)
    quantized = result.model
    assert isinstance(quantized, OnnxModel)
    x = np.random.default_rng(0).standard_normal((9, 64)).astype(np.float32)
    (float_,) = onnxruntime.InferenceSession(to_onnx(lowered, Target("onnxruntime")).SerializeToString()).run(
        None, {"input": x}
    )
    outputs_by_form, sizes = {}, {}
    for form, target in {
        "newest": Target("onnxruntime"),
        "looked up": Target("onnxruntime", oldest_onnxruntime=(1, 23)),
        "standard": Target("onnxruntime", oldest_onnxruntime=(1, 20)),
    }.items():
        proto = to_onnx(quantized, target)
        check_model(proto)
        operators = {node.op_type for node in proto.graph.node}
        assert ("QMoE" in operators) == (form == "newest" and operator == "QMoE")
        assert "MoE" not in operators
        if "QMoE" in operators:
            macs = total_macs(to_onnx(lowered, target), {"batch": 3})
            assert total_macs(proto, {"batch": 3}) == macs is not None
            assert {(part.dtype, part.how) for part in already_quantized(proto)} >= {(f"{bits} bits", "of QMoE")}
            save_onnx(proto, tmp_path)
            stored = {part.dtype: part.elements for part in stored_weights(tmp_path / "model.onnx")}
            filled = 6 * size * 2 * max(features, outputs)
            assert filled <= stored[f"uint{bits} (packed)"] <= filled + 64 * features + 6 * features
        (outputs_by_form[form],) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"input": x})
        sizes[form] = proto.ByteSize()
    scale = np.linalg.norm(outputs_by_form["standard"])
    for form, found in outputs_by_form.items():
        assert np.linalg.norm(found - outputs_by_form["standard"]) <= (0.02 if bits == 8 else 1e-4) * scale, form
    assert np.linalg.norm(outputs_by_form["newest"] - float_) <= (0.03 if bits == 8 else 0.5) * scale
    wide = to_onnx(lowered, Target("onnxruntime", oldest_onnxruntime=(1, 20))).ByteSize()
    assert sizes["newest"] < wide * (0.5 if bits == 8 else 0.4)
