"""16-bit weights converted in files: the same network as transformers converts in memory, whatever lies in the folder."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from support.tiny_transformers import network  # noqa: E402

from compressctl.sources.huggingface.mapped import in_float32  # noqa: E402


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2", "bert", "vit"])
@pytest.mark.parametrize("shard", ["50KB", "1GB"])
def test_a_folder_in_float32_holds_the_same_network(tmp_path: Path, name: str, dtype: str, shard: str) -> None:
    stored = network(name).to(getattr(torch, dtype))
    stored.save_pretrained(tmp_path, max_shard_size=shard)
    made = in_float32(tmp_path, least=1)
    assert made != tmp_path
    kind = type(stored)
    expected, found = (kind.from_pretrained(folder, dtype=torch.float32) for folder in (tmp_path, made))
    assert expected.state_dict().keys() == found.state_dict().keys()
    for key, value in expected.state_dict().items():
        assert torch.equal(value, found.state_dict()[key]), key


def test_small_networks_and_those_in_float32_stay_where_they_are(tmp_path: Path) -> None:
    network("llama").save_pretrained(tmp_path)
    assert in_float32(tmp_path, least=1) == tmp_path
    network("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    assert in_float32(tmp_path) == tmp_path


@pytest.mark.parametrize(
    "index", ["{}", '{"weight_map": {"a": "../elsewhere.safetensors"}}', '{"weight_map": {"a": 3}}']
)
def test_what_save_pretrained_does_not_write_is_left_to_transformers(tmp_path: Path, index: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert in_float32(tmp_path, least=1) == tmp_path


def test_a_damaged_file_is_left_to_transformers(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x05\x00\x00\x00\x00\x00\x00\x00[1,2]")
    assert in_float32(tmp_path, least=1) == tmp_path
