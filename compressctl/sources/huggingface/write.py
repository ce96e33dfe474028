"""A changed network as a folder that transformers opens again, where its config can say what changed: fewer layers, heads, channels."""

from __future__ import annotations

import copy
import inspect
import itertools
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressctl.core.errors import UsageError, in_short
from compressctl.core.model import TorchModel
from compressctl.core.quiet import quiet
from compressctl.core.source import CannotBeWrittenError
from compressctl.graph.torch_outputs import traced_shapes
from compressctl.sources.huggingface.folder import CONFIG, MODULES, find, read_object
from compressctl.sources.huggingface.sentence import entries
from compressctl.sources.modules.pass_through import PassThrough
from compressctl.sources.params import HuggingFaceParams

_BESIDE = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "chat_template*", "preprocessor_config.json",
    "processor_config.json", "generation_config.json", "sentence_bert_config.json", "config_sentence_transformers.json", MODULES,
)  # fmt: skip
_CLOSE = 1e-4
"""Largest difference between the network and the one that transformers makes of the folder."""

_Make = Callable[[Any], Any]
"""The network of a config, untrained."""


def write(model: TorchModel, params: HuggingFaceParams, base: Path, folder: Path) -> None:
    """config.json, model.safetensors and the files beside them of the recipe's model, into a folder that is made anew.

    It is opened as any other and compared with the network. Raises CannotBeWrittenError, and leaves nothing behind.
    """
    shutil.rmtree(folder, ignore_errors=True)  # an earlier run's
    network, source = model.body, find(params, base)
    if not hasattr(network, "config"):
        raise CannotBeWrittenError(
            f"the network stands in a {type(network).__name__}, of which its config can say nothing"
        )
    own: Any = type(network).__mro__[1]  # the class without `served`'s call
    tensors = _renumbered(network)
    extra = {name: tensors.pop(name) for name in list(tensors) if _is_extra(name)}
    takes_pooler = "add_pooling_layer" in inspect.signature(own.__init__).parameters
    options = {"add_pooling_layer": any(name.startswith("pooler.") for name in tensors)} if takes_pooler else {}

    def make(config: Any) -> Any:
        return own._from_config(config, attn_implementation="eager", **options)

    made = _filled(make, _fitting(make, _without_blocks(network), tensors), tensors)
    try:
        folder.mkdir(parents=True)
        made.config.use_cache = read_object(source / CONFIG).get("use_cache", True)
        with quiet(prints=True):
            made.save_pretrained(folder)
        _copy_beside(source, folder, extra)
        _check_same(model, params, source, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _is_extra(name: str) -> bool:
    """Whether it belongs to a layer behind the pooling."""
    return re.match(r"dense(_\d+)?\.", name) is not None


def _renumbered(network: nn.Module) -> dict[str, Tensor]:
    """The state with blocks that are gone left out, and those behind them moved up."""
    found: dict[str, Tensor] = dict(network.state_dict())
    for path, stays in _lists(network):
        place = {old: new for new, old in enumerate(itertools.compress(range(len(stays)), stays))}
        pattern = re.compile(rf"{re.escape(path)}\.(\d+)\.")

        def moved(
            name: str, pattern: re.Pattern[str] = pattern, place: Mapping[int, int] = place, path: str = path
        ) -> str:
            hit = pattern.match(name)
            return name if hit is None else f"{path}.{place[int(hit[1])]}.{name[hit.end() :]}"

        found = {moved(name): tensor for name, tensor in found.items()}
    return found


def _lists(network: nn.Module) -> Iterator[tuple[str, list[bool]]]:
    """Lists of blocks of which some are gone, and whether each of them stays."""
    for path, module in network.named_modules():
        if isinstance(module, nn.ModuleList) and any(_is_gone(block) for block in module):
            yield path, [not _is_gone(block) for block in module]


def _is_gone(block: nn.Module) -> bool:
    return isinstance(block, PassThrough | nn.Identity)


def _without_blocks(network: nn.Module) -> Any:
    """The config with as many layers as the network has left, and lists of what each layer is without the others.

    Raises CannotBeWrittenError where lists of blocks of different lengths lost some.
    """
    config = copy.deepcopy(network.config)
    lists = list(_lists(network))
    if not lists:
        return config
    stays = lists[0][1]
    if len(lists) > 1 or not any(stays):
        places = ", ".join(path for path, _ in lists)
        raise CannotBeWrittenError(f"blocks are gone from {places}, and a config has one number of layers, from 1")
    names = [name for name, value in _numbers(config).items() if value == len(stays) and "layer" in name]
    if not names:
        raise CannotBeWrittenError(f"the config has no number of layers, of which there were {len(stays)}")
    for name in names:
        setattr(config, name, sum(stays))
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == len(stays):
            setattr(config, name, list(itertools.compress(value, stays)))
    return config


def _numbers(config: Any) -> dict[str, int]:
    """Those that may change: fewer heads look like smaller ones, which nothing here makes."""
    return {
        name: value
        for name, value in config.to_dict().items()
        if type(value) is int and value > 1 and "head_dim" not in name
    }


def _fitting(make: _Make, config: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The config whose numbers give tensors of these shapes: one number after another, each time the one that leaves fewest that differ."""
    differing = _differing(make, config, tensors)
    while differing:
        best, fewest = None, len(differing)
        for name, value in _proposals(config, differing):
            tried = copy.deepcopy(config)
            setattr(tried, name, value)
            try:
                left = len(_differing(make, tried, tensors))
            except Exception:  # widths that do not go together
                continue
            if left < fewest:
                best, fewest = tried, left
        if best is None:
            name, (old, new) = next(iter(differing.items()))
            raise CannotBeWrittenError(f"its config cannot say that {name} is {list(new)} instead of {list(old)}")
        config, differing = best, _differing(make, best, tensors)
    return config


_FOLLOWING = ("inner", "intermediate", "ffn", "mlp")
"""In names of numbers that are computed of others where a config leaves them out."""

_Differing = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


def _differing(make: _Make, config: Any, tensors: Mapping[str, Tensor]) -> _Differing:
    """By tensor, the shape that the config gives and the one that there is. Raises CannotBeWrittenError where names differ."""
    with torch.device("meta"), quiet(prints=True):
        expected = {name: tuple(tensor.shape) for name, tensor in _as_here(make(config)).state_dict().items()}
    there = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    odd = sorted(expected.keys() ^ there.keys())
    if odd:
        raise CannotBeWrittenError(
            f"{odd[0]} {'is missing' if odd[0] in expected else 'is none of the layers that its class has'}"
        )
    return {name: (shape, there[name]) for name, shape in expected.items() if shape != there[name]}


def _as_here(network: nn.Module) -> nn.Module:
    from compressctl.sources.huggingface.network import as_linear

    as_linear(network)
    return network


def _proposals(config: Any, differing: _Differing) -> Iterator[tuple[str, int]]:
    """Numbers of the config that stand for a width which changed, or for a part of it, with what they would be."""
    changes = {
        (before, after)
        for old, new in differing.values()
        for before, after in zip(old, new, strict=False)
        if before != after and after > 0
    }
    seen = set()
    for name, value in _numbers(config).items():
        for before, after in sorted(changes):
            scaled, rest = divmod(value * after, before)
            is_part = before % value == 0 and rest == 0 and scaled > 0
            if is_part and (name, scaled) not in seen:
                seen.add((name, scaled))
                yield name, scaled
    for name, value in config.to_dict().items():
        if value is None and any(word in name for word in _FOLLOWING):
            yield from ((name, after) for after in sorted({after for _, after in changes}))


def _filled(make: _Make, config: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The class's own network with these weights, as transformers stores them."""
    with quiet(prints=True):
        made = make(config).eval()
    turned = {name: tensor.T if _lies_on_its_side(made, name) else tensor for name, tensor in tensors.items()}
    made.load_state_dict({name: tensor.contiguous() for name, tensor in turned.items()})
    return made


def _lies_on_its_side(network: nn.Module, name: str) -> bool:
    from transformers.pytorch_utils import Conv1D

    path, _, kind = name.rpartition(".")
    return kind == "weight" and isinstance(network.get_submodule(path), Conv1D)


def _check_same(model: TorchModel, params: HuggingFaceParams, source: Path, folder: Path) -> None:
    """Raises CannotBeWrittenError where the folder does not open, or its network computes something else."""
    from compressctl.sources.huggingface.network import load, saved_for

    again = {"path": str(folder), "revision": None, "weights": None, "structure": None}
    if params.task is None:
        again["task"] = saved_for(source)
    try:
        other = load(params.model_copy(update=again), Path(), 0)
    except UsageError as error:
        raise CannotBeWrittenError(f"the folder does not open again: {in_short(error)}") from error
    generator = torch.Generator().manual_seed(0)
    arrays: list[Tensor] = []
    for spec, shape in zip(model.signature.inputs, traced_shapes(model.signature.inputs), strict=True):
        kind = getattr(torch, spec.dtype)
        is_float = kind.is_floating_point
        arrays.append(torch.randn(shape, generator=generator) if is_float else torch.ones(shape, dtype=kind))
    with torch.no_grad():
        found, expected = other.body(*arrays), model.body(*arrays)
    for name, value in expected.items():
        if found[name].shape != value.shape or not torch.allclose(found[name], value, rtol=_CLOSE, atol=_CLOSE):
            raise CannotBeWrittenError(f"transformers would compute another {name} of this config")


def _copy_beside(source: Path, folder: Path, extra: Mapping[str, Tensor]) -> None:
    """Tokenizer, preprocessing and pooling; extra: weights of layers behind the pooling, by name."""
    for pattern in _BESIDE:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
    for path in source.glob("[0-9]*_*"):
        if path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("*.bin"))
    dense = sorted({name.partition(".")[0] for name in extra}, key=lambda name: (len(name), name))
    places = [place for kind, place in entries(folder) if kind == "Dense"] if dense else []
    for name, place in zip(dense, places, strict=True):
        from safetensors.torch import save_file

        own = {
            f"linear.{key.partition('.')[2]}": tensor.contiguous()
            for key, tensor in extra.items()
            if key.startswith(f"{name}.")
        }
        save_file(own, place / "model.safetensors")
