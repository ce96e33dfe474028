"""The blocks of a transformer: modules of one class in a row, each of which takes and gives tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressctl.core.errors import NothingToCompressError
from compressctl.core.model import Signature, TorchModel
from compressctl.graph.torch_outputs import named_outputs
from compressctl.layers.calls import calls_of
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.sources.modules.pass_through import PassThrough
from compressctl.techniques.prune.heads import APART, FUSED


@dataclass(frozen=True)
class Blocks:
    """names: in the order in which they run. queries, keys: by block, the modules that project them, empty where it has none of that kind. width: of a token. count: tokens of an example."""

    names: tuple[str, ...]
    queries: tuple[str, ...]
    keys: tuple[str, ...]
    width: int
    count: int


def transformer_blocks(model: TorchModel) -> Blocks:
    """Of several rows of blocks the longest. Raises NothingToCompressError where there is none."""
    network = model.body
    seen = _tokens_by_module(network, example_inputs(model.signature))
    rows = [
        _row(network, name, seen)
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
    ]
    names = max((row for row in rows if row), key=len, default=())
    if len(names) < _FEWEST:
        raise NothingToCompressError(
            "the network has no blocks of a transformer that are recognised",
            hint="blocks are modules of one class in an nn.ModuleList or nn.Sequential, which take and give tokens (samples, tokens, width); "
            "`source: python` and `source: huggingface` have them, a graph from a file has not",
        )
    queries, keys = [], []
    for name in names:
        inner = [
            (f"{name}.{path}", path.rpartition(".")[2])
            for path, module in network.get_submodule(name).named_modules()
            if isinstance(module, nn.Linear)
        ]
        fused = next((path for path, own in inner if own in FUSED), "")
        queries.append(fused or next((path for path, own in inner if own in APART[0]), ""))
        keys.append(fused or next((path for path, own in inner if own in APART[1]), ""))
    shape = seen[names[0]]
    return Blocks(names, tuple(queries), tuple(keys), shape[2], shape[1])


_FEWEST = 2


def _row(network: nn.Module, name: str, seen: dict[str, tuple[int, ...]]) -> tuple[str, ...]:
    """The children of one list, where they are blocks, without those in whose place an earlier stage put nothing."""
    every = network.get_submodule(name).named_children()
    children = [(child, module) for child, module in every if not isinstance(module, nn.Identity | PassThrough)]
    names = tuple(f"{name}.{child}" if name else child for child, _ in children)
    kinds = {type(module) for _, module in children}
    shapes = {seen.get(one) for one in names}
    is_large = all(len(list(module.children())) > 1 for _, module in children)
    return names if len(kinds) == 1 and len(shapes) == 1 and None not in shapes and is_large else ()


def _tokens_by_module(network: nn.Module, inputs: Sequence[Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of what a module gives, where it runs once and gives what it takes: (n, tokens, width)."""
    found: dict[str, tuple[int, ...]] = {}
    for name, calls in calls_of(network, inputs).items():
        args, kwargs, output = calls[0]
        given = args[0] if args else kwargs.get("hidden_states")
        made = output[0] if isinstance(output, tuple) and output else output
        is_tokens = isinstance(given, Tensor) and isinstance(made, Tensor) and made.ndim == 3
        if is_tokens and made.shape == given.shape and len(calls) == 1:
            found[name] = tuple(made.shape)
    return found


def mask_of_tokens(signature: Signature) -> int:
    """The place of a mask of tokens among the inputs, -1 without."""
    names = [spec.name for spec in signature.inputs]
    return next((names.index(name) for name in _MASKS if name in names), -1)


_MASKS = ("attention_mask", "input_mask", "mask")


def is_causal(model: TorchModel) -> bool:
    """Whether what the network gives for a token of text depends on earlier ones alone, as it does in language models."""
    network, inputs = model.body.eval(), list(example_inputs(model.signature))
    mask = mask_of_tokens(model.signature)
    texts = [place for place, one in enumerate(inputs) if one.ndim == 2 and not one.is_floating_point()]
    place = next((place for place in texts if place != mask), None)
    if place is None or inputs[place].shape[1] < _FEWEST:
        return False
    if mask >= 0:
        inputs[mask] = torch.ones_like(inputs[mask])
    changed = inputs[place].clone()
    changed[:, -1] = (changed[:, -1] == 0).to(changed.dtype)
    with torch.no_grad():
        before = named_outputs(network(*inputs))
        inputs[place] = changed
        after = named_outputs(network(*inputs))
    by_token = [name for name, value in before.items() if value.ndim > 2 and value.shape[1] == changed.shape[1]]
    return any(
        torch.allclose(after[name][:, :-1], before[name][:, :-1], rtol=1e-4, atol=1e-5)
        and not torch.allclose(after[name][:, -1], before[name][:, -1], rtol=1e-4, atol=1e-5)
        for name in by_token
    )


def is_read_off_first(model: TorchModel, blocks: Blocks) -> bool:
    """Whether the network's outputs depend on the first token behind the last block alone, as they do where that stands for a class."""
    network, inputs = model.body.eval(), example_inputs(model.signature)

    def others_gone(_: nn.Module, __: Any, output: Any) -> Any:
        tokens = output if isinstance(output, Tensor) else output[0]
        left = tokens.clone()
        left[:, 1:] = 0
        return left if isinstance(output, Tensor) else (left, *output[1:])

    with torch.no_grad():
        before = named_outputs(network(*inputs))
        with network.get_submodule(blocks.names[-1]).register_forward_hook(others_gone):
            after = named_outputs(network(*inputs))
    return all(torch.allclose(after[name], value, rtol=1e-4, atol=1e-5) for name, value in before.items())
