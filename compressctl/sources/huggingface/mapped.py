"""Large weights of 16 bits as float32 in files of their own, which are mapped: memory holds what is being read, not the network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from compressctl.core.regular_files import check_regular, open_regular
from compressctl.graph.tensors import scratch_folder
from compressctl.sources.huggingface.folder import read_object

if TYPE_CHECKING:
    from torch import Tensor

LARGE = 1 << 30
"""Bytes of 16-bit weights from which on they are converted in files. float32 ones are mapped by safetensors, and smaller ones cost little."""

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = 256 << 20
_LONGEST_HEADER = 100_000_000
"""Bytes, as safetensors has it."""
_HALF = ("BF16", "F16")


def in_float32(folder: Path, least: int = LARGE) -> Path:
    """The folder itself, or one with the same network whose 16-bit weights are float32, for as long as this process lives.

    transformers maps weights that have the type that is asked for, and converts others in memory, all of them at once. least: bytes of
    16-bit weights below which the folder stays as it is; so does one whose files are not as `save_pretrained` writes them, about which
    transformers has its own words. Numbers are the same: each float16 and each bfloat16 is a float32.
    """
    files = _files(folder)
    if sum(map(_half_bytes, files)) < least:
        return folder
    made = scratch_folder("float32")
    for path in folder.iterdir():
        if path.name not in (_WHOLE, _INDEX) and path not in files:
            (made / path.name).symlink_to(path.absolute(), target_is_directory=path.is_dir())
    _write(made, files)
    return made


def _files(folder: Path) -> list[Path]:
    """The weights that transformers reads: one file, or those that the index names. Empty for what is neither."""
    if (folder / _WHOLE).is_file():
        return [folder / _WHOLE]
    named: Any = read_object(folder / _INDEX).get("weight_map")
    names = set(named.values()) if isinstance(named, dict) else set()
    if not all(isinstance(name, str) and PurePath(name).name == name and (folder / name).is_file() for name in names):
        return []
    return [folder / name for name in sorted(names)]


def _half_bytes(path: Path) -> int:
    """What a file's 16-bit weights take, by its header; 0 for what is no safetensors."""
    size = check_regular(path).st_size
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length < min(size, _LONGEST_HEADER) else b""
    try:
        entries = json.loads(header).items()
        return sum(_bytes(entry) for name, entry in entries if name != "__metadata__" and entry["dtype"] in _HALF)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return 0


def _bytes(entry: dict[str, Any]) -> int:
    begin, end = entry["data_offsets"]
    return int(end) - int(begin)


def _write(folder: Path, files: list[Path]) -> None:
    """Shard by shard, and the index of them."""
    from safetensors.torch import save_file

    places: dict[str, str] = {}
    for number, shard in enumerate(_shards(files)):
        name = f"float32-{number:05d}.safetensors"
        save_file(shard, folder / name, {"format": "pt"})
        places |= dict.fromkeys(shard, name)
    (folder / _INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _shards(files: list[Path]) -> Iterator[dict[str, Tensor]]:
    import torch
    from safetensors import safe_open

    shard: dict[str, Tensor] = {}
    for path in files:
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  it is no mapping
                tensor = opened.get_tensor(name)
                is_half = tensor.dtype in (torch.float16, torch.bfloat16)
                shard[name] = tensor.to(torch.float32) if is_half else tensor
                if sum(tensor.nbytes for tensor in shard.values()) >= _SHARD:
                    yield shard
                    shard = {}
    if shard:
        yield shard
