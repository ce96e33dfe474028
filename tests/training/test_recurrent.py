"""finetune and quantize.qat on networks with recurrent layers: their weights learn, and stay float in the file of quantize.qat."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
from support.lessons import context  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from compressctl.core.model import Signature, TensorSpec, TorchModel  # noqa: E402
from compressctl.core.target import Target  # noqa: E402
from compressctl.pipeline.workspace import open_backend  # noqa: E402
from compressctl.techniques.finetune.finetune import apply as finetune  # noqa: E402
from compressctl.techniques.finetune.params import FinetuneParams  # noqa: E402
from compressctl.techniques.quantize.params import QatParams  # noqa: E402
from compressctl.techniques.quantize.qat import apply as qat  # noqa: E402

TARGET = Target("onnxruntime", profile="x86-vnni")
TRAINING = {"epochs": 2, "batch_size": 128, "learning_rate": 0.01, "optimizer": "adam"}


class Rows(nn.Module):
    """Reads a digit row by row."""

    def __init__(self, cell: nn.RNNBase) -> None:
        super().__init__()
        self.before, self.cell = nn.Linear(8, 12), cell
        self.head = nn.Linear(cell.hidden_size * (2 if cell.bidirectional else 1), 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.before(x[:, 0]).relu())[0][:, -1])


def model(cell: str) -> TorchModel:
    torch.manual_seed(0)
    made = (
        nn.LSTM(12, 16, batch_first=True) if cell == "LSTM" else nn.GRU(12, 8, 2, batch_first=True, bidirectional=True)
    )
    signature = Signature(
        (TensorSpec("input", "float32", ("batch", 1, 8, 8)),), (TensorSpec("output", "float32", ("batch", 10)),)
    )
    return TorchModel(Rows(made).eval(), signature)


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_recurrent_layers_learn_in_finetune_and_beside_rounded_layers(cell: str, tmp_path: Path) -> None:
    start = model(cell)
    run, _ = context(tmp_path, start, target=TARGET)
    tuned = finetune(start, FinetuneParams.model_validate(TRAINING), run)
    before, after = (dict(part.body.named_parameters())["cell.weight_hh_l0"] for part in (start, tuned.model))
    assert not torch.equal(before, after)
    assert tuned.facts["loss"][-1] < tuned.facts["loss"][0]
    assert isinstance(tuned.model, TorchModel)

    run, warnings = context(tmp_path, tuned.model, target=TARGET)
    found = qat(tuned.model, QatParams.model_validate({**TRAINING, "epochs": 1}), run)
    assert found.facts["trained_layers"] == {"int8": 2}
    assert found.facts["not_as_trained"] == {}
    file = open_backend("onnxruntime").build(found.model, TARGET, tmp_path)
    nodes = {node.op: node.precision for node in open_backend("onnxruntime").explain(file, TARGET)}
    assert nodes[cell] == "float32"
    assert any(precision == "int8" for precision in nodes.values())
    session = open_backend("onnxruntime").open(file, TARGET)
    assert np.isfinite(session.run({"input": np.ones((2, 1, 8, 8), np.float32)})["output"]).all()
    assert any(
        cell in warning and "quantize.qat treats convolutions and matrix products" in warning for warning in warnings
    )
