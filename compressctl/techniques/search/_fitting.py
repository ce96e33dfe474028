"""Cheaper layers learn, one at a time, to give what a layer gives."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressctl.core.data import Split
from compressctl.core.model import TorchModel
from compressctl.techniques.search.params import Cheaper
from compressctl.training.data import tensor_batches

_BYTES = 64 * 1024**2
"""Of a layer's inputs and outputs that are held at once."""

_BATCH = 32
_RATE = 2e-3
_HELD_OUT = 0.25


def seen_by(model: TorchModel, name: str, split: Split, samples: int) -> tuple[Tensor, Tensor]:
    """What a layer is given and gives on samples of a split, as far as memory goes: (rows, ...), one call a sample at most, the same rows each time."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    size = 0

    def note(_: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        inputs.append(given[0].detach().clone())
        outputs.append(output.detach().clone())

    network = model.body.eval()
    with torch.no_grad(), network.get_submodule(name).register_forward_hook(note):
        for batch in tensor_batches(split, model.signature, _BATCH, shuffle_seed=0):
            network(*batch.inputs)
            size += sum(part.numel() * part.element_size() for part in (inputs[-1], outputs[-1]))
            if sum(map(len, inputs)) >= samples or size > _BYTES:
                break
    return torch.cat(inputs), torch.cat(outputs)


def fit(
    layers: Mapping[Cheaper, nn.Module], inputs: Tensor, outputs: Tensor, steps: int, seed: int
) -> dict[str, float]:
    """Trains each in place; by name, the squared distance on rows that were held out, against the outputs' variance. One that training made worse is as it was.

    Source: Bercovich et al. 2024, Puzzle, section 3.1: blocks learn alone from the whole network's inputs and outputs.
    """
    kept = max(1, int(len(inputs) * (1 - _HELD_OUT)))
    known, held = (inputs[:kept], outputs[:kept]), (inputs[kept:], outputs[kept:])
    held = held if len(held[0]) else known
    return {name: _fitted(layer, known, held, steps, seed) for name, layer in layers.items()}


def _fitted(
    layer: nn.Module, known: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], steps: int, seed: int
) -> float:
    spread = max(float(known[1].var(correction=0)), 1e-12)
    before, found = copy.deepcopy(layer.state_dict()), _distance(layer, held, spread)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(layer.parameters(), _RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    with torch.enable_grad():
        for _ in range(steps):
            rows = torch.randint(len(known[0]), (_BATCH,), generator=generator)
            loss = (layer(known[0][rows]) - known[1][rows]).square().mean() / spread
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    trained = _distance(layer, held, spread)
    if trained < found:
        return trained
    layer.load_state_dict(before)
    return found


def _distance(layer: nn.Module, rows: tuple[Tensor, Tensor], spread: float) -> float:
    with torch.no_grad():
        return float((layer(rows[0]) - rows[1]).square().mean()) / spread
