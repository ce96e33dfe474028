from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from compressctl.core.data import Batch  # noqa: E402
from compressctl.core.model import Signature, TensorSpec  # noqa: E402
from compressctl.training.batchnorm_recalibration import recalibrate_bn  # noqa: E402

SIGNATURE = Signature((TensorSpec("x", "float32", ("batch", 3, 4, 4)),), ())
SAMPLES = np.random.default_rng(0).normal(2, 5, (256, 3, 4, 4)).astype(np.float32)


class Split:
    def __len__(self) -> int:
        return len(SAMPLES)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        for start in range(0, len(SAMPLES), size):
            indices = np.arange(start, min(start + size, len(SAMPLES)))
            yield Batch({"x": SAMPLES[indices]}, None, indices)


def test_statistics_become_those_of_the_samples() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.5)).eval()
    weights = {name: value.clone() for name, value in network.state_dict().items() if "running" not in name}
    assert recalibrate_bn(network, Split(), SIGNATURE, batch_size=64) == 1
    with torch.no_grad():
        batches = [network[0](torch.as_tensor(part)).transpose(0, 1).flatten(1) for part in np.split(SAMPLES, 4)]
    mean = torch.stack([batch.mean(1) for batch in batches]).mean(0)
    variance = torch.stack([batch.var(1) for batch in batches]).mean(0)
    assert torch.allclose(network[1].running_mean, mean, rtol=1e-4)
    assert torch.allclose(network[1].running_var, variance, rtol=1e-4)
    assert network[1].momentum == 0.1
    assert not any(module.training for module in network.modules())
    for name, value in weights.items():
        assert name.endswith("num_batches_tracked") or torch.equal(network.state_dict()[name], value)


def test_a_network_without_norms_is_not_run() -> None:
    class Fails(nn.Module):
        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            raise AssertionError

    assert recalibrate_bn(Fails(), Split(), SIGNATURE) == 0
