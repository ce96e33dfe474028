"""Training of a network whose weights share values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from compressctl.core.errors import StageError
from compressctl.core.model import TorchModel
from compressctl.core.technique import RunContext
from compressctl.numerics.codebook import shared
from compressctl.numerics.levels import rounded
from compressctl.numerics.scaled_codebook import scaled
from compressctl.techniques.share._codebook_hooks import CodebookTraining, Layout, MovingMembership
from compressctl.techniques.share._codebooks import as_rows
from compressctl.techniques.share._shared import ENTRY_BITS, Shared, short
from compressctl.techniques.share.params import KmeansParams
from compressctl.training.loop import train
from compressctl.training.supervision.objective import objective_of


def finetune(
    model: TorchModel, found: Mapping[str, Shared], params: KmeansParams, run: RunContext
) -> tuple[dict[str, Shared], dict[str, Any]]:
    """Train model.body in place and return what its weights share then, and the training's facts."""
    assert params.finetune is not None
    network: nn.Module = model.body
    layouts = {name: _layout(network, name, each) for name, each in found.items()}
    objective, hooks = objective_of(model, params.finetune, run)
    hook: CodebookTraining
    match params.finetune.assignment:
        case "fixed":
            hook = CodebookTraining(layouts, summed=params.finetune.gradient == "sum")
        case "straight-through":
            hook = MovingMembership(layouts)
        case "soft":
            from compressctl.techniques.share._soft import Softened, SoftMembership

            hook = SoftMembership(layouts)
            objective = Softened(objective, hook, params.finetune.softness)
    trained = train(model, objective, params.finetune, run, [hook, *hooks])
    fixed = params.finetune.assignment == "fixed"
    return _settle(trained.network, found, params, fixed=fixed), dict(trained.facts)


def _layout(network: nn.Module, name: str, found: Shared) -> Layout:
    parameter = dict(network.named_parameters())[name]
    books, size = found.codebook.shape
    book = np.repeat(np.arange(books), found.codes.size // books).reshape(found.codes.shape)
    index = (book * size + found.codes.astype(np.int64)).reshape(tuple(parameter.shape))
    held = np.zeros((books, size), bool)
    held[:, 0] = found.has_zero
    scale = None
    if found.scale is not None:
        scale = torch.from_numpy(found.scale.reshape(-1, *[1] * (parameter.ndim - 1)).copy())
    return Layout(torch.from_numpy(index), scale, torch.from_numpy(held.reshape(-1)), size)


def _settle(
    network: nn.Module, before: Mapping[str, Shared], params: KmeansParams, *, fixed: bool
) -> dict[str, Shared]:
    """What the kept weights share. Entries are rounded where they have few bits or stand behind scales, and written into the network.

    fixed: whether indices are those of before. Else they are read from the weights: the epoch that is kept may not be the last.
    """
    found: dict[str, Shared] = {}
    parameters = dict(network.named_parameters())
    for name, old in before.items():
        parameter = parameters[name]
        rows = as_rows(parameter.detach().numpy())
        found[name] = _same_indices(rows, old) if fixed else _read_back(rows, old)
        if params.codebook_bits == 32 and old.scale is None:
            continue
        books = np.stack([_rounded(book, params.codebook_bits) for book in found[name].codebook])
        books = books if old.scale is None else short(books, ENTRY_BITS)
        found[name] = replace(found[name], codebook=books.astype(np.float32))
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(found[name].values()).reshape(parameter.shape))
    return found


def _same_indices(rows: np.ndarray, old: Shared) -> Shared:
    books, entries = old.codebook.shape
    place = (np.arange(books)[:, None] * entries + old.codes.reshape(books, -1)).reshape(-1)
    scale = np.ones(rows.shape) if old.scale is None else np.broadcast_to(old.scale.astype(np.float64), rows.shape)
    total = np.bincount(place, (rows * scale).reshape(-1), books * entries)
    weight = np.bincount(place, (scale**2).reshape(-1), books * entries)
    table = np.where(weight > 0, total / np.where(weight > 0, weight, 1), 0).reshape(books, entries)
    return replace(old, codebook=table.astype(np.float32))


def _read_back(rows: np.ndarray, old: Shared) -> Shared:
    coded = shared(rows, len(old.codebook)) if old.scale is None else scaled(rows)
    if coded is None:
        raise StageError("the trained weights share no values any more", hint="use assignment: fixed")
    if coded.scale is None or old.scale is None:
        return Shared(coded.indices, coded.codebook.astype(np.float32), None, old.has_zero)
    # Only the products are known: entries for the scales of before are their least-squares means.
    return _same_indices(rows, replace(old, codes=coded.indices, codebook=coded.codebook))


def _rounded(book: np.ndarray, bits: int) -> np.ndarray:
    if bits == 32:
        return book
    grid = rounded(book, bits)
    return np.asarray(grid[np.abs(book[:, None] - grid[None]).argmin(axis=1)])
