"""Networks of timm by name. Where timm or its torchvision is missing, what is told about it is tested; networks where both are there."""

import importlib.util
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402

from compressctl.core.errors import MissingDependencyError, UsageError  # noqa: E402
from compressctl.graph.lower import lower, parity  # noqa: E402
from compressctl.sources.params import TimmParams  # noqa: E402
from compressctl.sources.timm_network.config import fingerprint, image_size, pretrained  # noqa: E402
from compressctl.sources.timm_network.network import install_torchvision, load  # noqa: E402

HAS_TIMM, HAS_TORCHVISION = (importlib.util.find_spec(name) is not None for name in ("timm", "torchvision"))
NAMED = {"name": "resnet18", "weights": "resnet18.safetensors"}


@pytest.mark.skipif(HAS_TIMM, reason="timm is installed")
def test_without_timm_the_error_says_how_to_install_it(tmp_path):
    (tmp_path / "timm").mkdir()  # a folder of that name is no package
    with pytest.raises(MissingDependencyError, match="needs timm") as refused:
        load(TimmParams(**NAMED), tmp_path, 0)
    assert "compressctl[timm]" in refused.value.install


@pytest.mark.skipif(not HAS_TIMM or HAS_TORCHVISION, reason="needs timm without torchvision")
def test_without_torchvision_the_error_says_which_build_to_install(tmp_path):
    with pytest.raises(MissingDependencyError, match="needs torchvision") as refused:
        load(TimmParams(**NAMED), tmp_path, 0)
    assert refused.value.install == install_torchvision()


@pytest.mark.parametrize(
    ("version", "command"),
    [
        ("2.13.0+cpu", "pip install 'torchvision==0.28.*' --index-url https://download.pytorch.org/whl/cpu"),
        ("2.9.1+cu128", "pip install 'torchvision==0.24.*' --index-url https://download.pytorch.org/whl/cu128"),
        ("2.13.0", "pip install 'torchvision==0.28.*'"),
    ],
)
def test_torchvision_is_the_one_of_the_torch_that_is_installed(monkeypatch, version, command):
    monkeypatch.setattr(torch, "__version__", version)
    assert install_torchvision() == command


@pytest.mark.skipif(not (HAS_TIMM and HAS_TORCHVISION), reason="needs timm and torchvision")
def test_a_network_by_name_has_the_weights_of_the_file(tmp_path):
    import timm

    own = timm.create_model("resnet18", num_classes=7).eval()
    save_file(own.state_dict(), tmp_path / "resnet18.safetensors")
    model = load(TimmParams(**NAMED, args={"num_classes": 7}, image_size=64), tmp_path, 0)
    images = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        assert torch.equal(model.body(torch.tensor(images)), own(torch.tensor(images)))
    assert parity(model, lower(model), {"input": images})["output"] < 1e-4


def test_the_size_of_images_is_the_recipes_else_the_configs(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"input_size": [3, 96, 128]}}))
    said = pretrained(TimmParams(**NAMED), tmp_path)
    assert image_size(TimmParams(**NAMED), said, "config.json") == (96, 128)
    assert image_size(TimmParams(**NAMED, image_size=64), said, "config.json") == (64, 64)
    with pytest.raises(UsageError, match=r"input_size 'large' is not \[channels, height, width\]"):
        image_size(TimmParams(**NAMED), {"input_size": "large"}, "config.json")


def test_the_fingerprint_follows_the_weights_and_the_config(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        fingerprint(TimmParams(**NAMED), tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "resnet18.safetensors")
    first = fingerprint(TimmParams(**NAMED), tmp_path)
    (tmp_path / "config.json").write_text("{}")
    second = fingerprint(TimmParams(**NAMED), tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "resnet18.safetensors")
    assert len({first, second, fingerprint(TimmParams(**NAMED), tmp_path)}) == 3


def test_what_is_said_elsewhere_is_no_argument():
    with pytest.raises(ValueError, match="pretrained is said by name and weights"):
        TimmParams(**NAMED, args={"pretrained": True})
