from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from compressctl.core.errors import StageError, UsageError  # noqa: E402
from compressctl.core.model import Model, Signature, TensorSpec, TorchModel  # noqa: E402
from compressctl.graph.lower import lower, parity  # noqa: E402


def model(module: nn.Module, *shape: int, outputs: tuple[str, ...] = ("output",)) -> Model:
    return TorchModel(
        module.eval(),
        Signature(
            (TensorSpec("input", "float32", ("batch", *shape)),),
            tuple(TensorSpec(name, "float32", ("batch",)) for name in outputs),
        ),
    )


def unsettle_norms(module: nn.Module) -> nn.Module:
    """Statistics as after training, so that a BatchNorm that is lost or folded wrongly shows."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
            part.running_mean.copy_(torch.rand(part.num_features, generator=generator) - 0.5)
            part.running_var.copy_(torch.rand(part.num_features, generator=generator) + 0.5)
    return module


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.layer1 = nn.Sequential(Block(8), Block(8))
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.layer1(self.stem(x)).mean((2, 3)))


class SharedConvolution(nn.Module):
    """One convolution under two BatchNorms: its weight cannot be folded in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn2(self.conv(torch.relu(self.bn1(self.conv(x)))))


class Transposed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False), nn.BatchNorm2d(6, affine=False))


class Heads(nn.Module):
    def forward(self, x):
        return {"scores": x.sum(1), "nothing": None, "again": 2 * x}


def batch(*shape: int) -> dict[str, np.ndarray]:
    return {"input": np.random.default_rng(0).normal(size=shape).astype(np.float32)}


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_the_graph_computes_the_same_for_any_batch(samples):
    before = model(unsettle_norms(Net()), 3, 12, 12)
    assert parity(before, lower(before), batch(samples, 3, 12, 12))["output"] < 1e-5


@pytest.mark.parametrize(
    ("module", "channels"),
    [(Net(), 3), (SharedConvolution(), 4), (Transposed(), 4)],
    ids=["net", "shared", "transposed"],
)
def test_no_batch_normalization_is_left_behind_a_convolution(module, channels):
    before = model(unsettle_norms(module), channels, 12, 12)
    after = lower(before)
    assert "BatchNormalization" not in [node.op_type for node in after.body.graph.node]
    assert parity(before, after, batch(3, channels, 12, 12))["output"] < 1e-5


def test_parity_sees_a_difference():
    before = model(Net(), 3, 12, 12)
    after = lower(before)
    bias = next(tensor for tensor in after.body.graph.initializer if tensor.name == "fc.bias")
    changed = onnx.numpy_helper.to_array(bias) + np.array([0, 0, 0.25, 0, 0], np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(changed, "fc.bias"))
    assert parity(before, after, batch(2, 3, 12, 12))["output"] == pytest.approx(0.25, abs=1e-5)


def test_nodes_and_constants_are_called_after_modules_and_parameters():
    graph = lower(model(unsettle_norms(Net()), 3, 12, 12)).body.graph
    assert [node.name for node in graph.node if node.op_type in ("Conv", "Gemm")] == [
        "stem",
        "layer1.0.conv1",
        "layer1.0.conv2",
        "layer1.1.conv1",
        "layer1.1.conv2",
        "fc",
    ]
    assert [node.name for node in graph.node if node.op_type == "Relu"] == [
        "layer1.0/Relu",
        "layer1.0/Relu_1",
        "layer1.1/Relu",
        "layer1.1/Relu_1",
    ]
    names = {tensor.name for tensor in graph.initializer}
    assert {"stem.weight", "stem.bias", "layer1.1.conv1.weight", "layer1.1.conv1.bias", "fc.weight"} <= names


def test_a_linear_layer_on_sequences_keeps_its_weights_name():
    graph = lower(model(nn.Sequential(nn.Linear(8, 4)), 5, 8)).body.graph
    assert {tensor.name for tensor in graph.initializer} == {"0.weight", "0.bias"}


def test_lowering_twice_gives_the_same_bytes():
    before = model(Net(), 3, 12, 12)
    assert lower(before).body.SerializeToString(deterministic=True) == lower(before).body.SerializeToString(
        deterministic=True
    )


def test_versions_are_written_and_the_batch_axis_is_free():
    after = lower(model(Net(), 3, 12, 12), opset=19).body
    assert after.ir_version == 10
    assert [(entry.domain, entry.version) for entry in after.opset_import] == [("", 19)]
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in (*after.graph.input, *after.graph.output)] == [
        "batch",
        "batch",
    ]
    onnx.checker.check_model(after, full_check=True)


def test_the_file_tells_nothing_of_the_machine_that_made_it():
    assert str(Path(__file__).parent).encode() not in lower(model(Net(), 3, 12, 12)).body.SerializeToString()


def test_nothing_is_printed(capfd):
    lower(model(Net(), 3, 12, 12))
    assert capfd.readouterr() == ("", "")


def test_outputs_have_the_signatures_names():
    before = model(Heads(), 4, outputs=("scores", "again"))
    after = lower(before)
    assert [value.name for value in after.body.graph.output] == ["scores", "again"]
    assert parity(before, after, batch(3, 4)) == {"scores": pytest.approx(0, abs=1e-6), "again": 0}


def test_a_network_left_in_training_mode_is_exported_for_inference_and_stays_as_it_was():
    network = unsettle_norms(Net())
    expected = model(network, 3, 12, 12)
    given = batch(3, 3, 12, 12)
    wanted = network(torch.tensor(given["input"])).detach().numpy()
    network.train()
    after = lower(expected)
    assert network.training
    session = onnx.reference.ReferenceEvaluator(after.body)
    np.testing.assert_allclose(session.run(None, given)[0], wanted, atol=1e-4)


class DependsOnValues(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class NoCounterpart(nn.Module):
    def forward(self, x):
        return torch.linalg.svdvals(x)


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.view(2, -1)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (DependsOnValues(), r"depends on the values of a tensor\n.*test_lower\.py:\d+: .*x\.sum\(\) > 0"),
        (NoCounterpart(), r"ONNX has no counterpart for torch's aten\._linalg_svd"),
        (FixedBatch(), "a batch size that is written into its code"),
    ],
)
def test_what_cannot_be_exported_is_named(module, message):
    with pytest.raises(StageError, match=message):
        lower(model(module, 4, 4))


def test_samples_that_the_network_does_not_take_are_told_with_their_shape_and_range():
    signature = Signature(
        (TensorSpec("ids", "int64", ("batch", 3)),), (TensorSpec("output", "float32", ("batch", 3, 4)),)
    )
    model = TorchModel(torch.nn.Embedding(5, 4).eval(), signature)
    with pytest.raises(UsageError, match=r"ids \[1, 3\] of 0 to 7: .*out of range") as error:
        parity(model, lower(model), {"ids": np.array([[0, 2, 7]])})
    assert "vocabulary" in str(error.value.hint)
