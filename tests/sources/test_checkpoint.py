import os
import pickle
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

from compressctl.core.errors import UsageError  # noqa: E402
from compressctl.sources.checkpoint import load_weights  # noqa: E402


class Touch:
    """A pickle of this creates a file when it is loaded by an unpickler that runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.fixture
def trained() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return network().state_dict()


@pytest.mark.parametrize("pack", [lambda trap: trap, lambda trap: {"state_dict": {"weight": trap}}])
@pytest.mark.parametrize("write", ["torch", "pickle"])
def test_a_checkpoint_that_holds_code_is_refused_and_never_run(tmp_path, pack, write):
    proof, path = tmp_path / "executed", tmp_path / "weights.pt"
    if write == "torch":
        torch.save(pack(Touch(proof)), path)
    else:
        path.write_bytes(pickle.dumps(pack(Touch(proof))))
    with pytest.raises(UsageError, match=r"weights\.pt"):
        load_weights(network(), path)
    assert not proof.exists()


def test_the_trap_of_these_tests_does_spring_for_a_careless_loader(tmp_path):
    proof = tmp_path / "executed"
    pickle.loads(pickle.dumps(Touch(proof)))
    assert proof.exists()


def test_a_whole_pickled_network_is_refused(tmp_path):
    torch.save(network(), tmp_path / "model.pth")
    with pytest.raises(UsageError, match="holds more than tensors"):
        load_weights(network(), tmp_path / "model.pth")


def test_safetensors_are_loaded(tmp_path, trained):
    save_file(trained, tmp_path / "weights.safetensors")
    module = network()
    load_weights(module, tmp_path / "weights.safetensors")
    assert torch.equal(module[0].weight, trained["0.weight"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {name: value for name, value in state.items() if "num_batches" not in name},
    ],
    ids=["plain", "with training state", "from DataParallel", "without BatchNorm's counter"],
)
def test_checkpoints_of_tensors_are_loaded(tmp_path, trained, wrap):
    torch.save(wrap(trained), tmp_path / "weights.pt")
    module = network()
    load_weights(module, tmp_path / "weights.pt")
    assert torch.equal(module[0].weight, trained["0.weight"])


def test_what_does_not_fit_is_listed_whole(tmp_path, trained):
    state = {**trained, "0.weight": torch.zeros(5, 3), "extra": torch.zeros(1)}
    del state["1.bias"]
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(UsageError) as error:
        load_weights(network(), tmp_path / "weights.safetensors")
    text = str(error.value)
    assert "missing: 1.bias" in text
    assert "unexpected: extra" in text
    assert "of another shape: 0.weight [5, 3] (the network's is [4, 3])" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("weights.safetensors", b"not one", "is not a safetensors file"),
        ("weights.pt", b"not one", "weights.pt"),
        ("weights.h5", b"", "weights are read from"),
    ],
)
def test_a_file_of_another_kind_is_an_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        load_weights(network(), tmp_path / name)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        load_weights(network(), tmp_path / "weights.pt")
