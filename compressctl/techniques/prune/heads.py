"""prune.heads: whole attention heads go, and with them their rows of the query, key and value and columns of the output."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.model import TorchModel
from compressctl.core.technique import RunContext, StageResult
from compressctl.layers.channels.dependency_groups import Coupling, Group, Member, example_inputs
from compressctl.layers.channels.surgery import cut, removal
from compressctl.layers.channels.verify_group import fault_of
from compressctl.sources.modules.split_attention import split
from compressctl.techniques.prune import _costs as costs
from compressctl.techniques.prune._allocate import Choice, Kept, allocate
from compressctl.techniques.prune._criteria import Scores
from compressctl.techniques.prune.params import HeadsParams
from compressctl.training.data import tensor_batches
from compressctl.training.objective import task_objective

_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "nhead")
_SHARED = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")
"""Attributes that count heads of keys and values, where several heads of queries share one."""

_SIZE = ("head_dim", "head_size", "attention_head_size")
FUSED = ("qkv", "to_qkv", "in_proj", "qkv_proj", "Wqkv", "query_key_value", "c_attn")
APART = (
    ("q", "query", "q_proj", "to_q", "q_lin", "query_proj"),
    ("k", "key", "k_proj", "to_k", "k_lin", "key_proj"),
    ("v", "value", "v_proj", "to_v", "v_lin", "value_proj"),
)


@dataclass(frozen=True)
class Attention:
    """owner: the module whose heads these are. count: its attribute with their number, None where it computes that from widths and the head's size.
    group: heads as units of a group, with grouped queries (Ainslie et al. 2023) those of keys, each with the `shared` heads of queries that read it.
    """

    owner: str
    count: str | None
    group: Group
    shared: int = 1


def apply(model: TorchModel, params: HeadsParams, run: RunContext) -> StageResult:
    """Keep the share of heads that matter most. Raises NothingToCompressError when no attention is understood, UsageError without
    samples for taylor."""
    network = split(model.body)
    inputs = example_inputs(model.signature)
    attentions, fixed = find_attention(network, inputs)
    for name, reason in fixed.items():
        run.events.emit("note", message=f"heads stay: {name}: {reason}")
    if not attentions:
        raise NothingToCompressError(
            "no attention of a kind that is supported" if fixed else "the network has no attention that is recognised",
            hint=_in_short(fixed)
            or "attention is recognised by Linear layers called query, key and value (or qkv), by its class, or as torch's own",
        )
    found = _scores(replace(model, body=network), attentions, params, run)
    kept = _kept(attentions, found, params)
    smaller = remove_heads(network, attentions, found, kept)
    # Attention in one piece was taken apart to be cut; where nothing was cut it stays as it came.
    sparse = tuple(name for name in model.sparse if name in dict(smaller.named_parameters()))
    facts: dict[str, Any] = {
        "heads": {a.owner: [a.shared * a.group.units, a.shared * kept[a.group.name]] for a in attentions},
        "scores": {a.owner: [round(float(value), 6) for value in found[a.group.name]] for a in attentions},
        "not_pruned": fixed,
        **costs.change(network, smaller, inputs),
    }
    return StageResult(replace(model, body=smaller, sparse=sparse), facts)


def _in_short(fixed: Mapping[str, str]) -> str:
    """Each reason once, with the first modules that it holds for."""
    parts = []
    for reason in dict.fromkeys(fixed.values()):
        names = [name for name, why in fixed.items() if why == reason]
        parts.append(f"{', '.join(names[:2])}{f' and {len(names) - 2} more' if len(names) > 2 else ''}: {reason}")
    return "; ".join(parts)


def find_attention(network: nn.Module, inputs: Sequence[Tensor]) -> tuple[list[Attention], dict[str, str]]:
    """Attention modules whose heads can go, each proven by a cut, and the others with the reason.

    Understood: one Linear for query, key and value together or one for each, an attribute with the number of heads or their size,
    a head size that is stored or follows from the weights (not from the input's width), and one Linear that reads all heads.
    Where several heads of queries share one of keys and values, they go together.
    """
    good: list[Attention] = []
    fixed: dict[str, str] = {}
    for name, module in network.named_modules():
        count = next((key for key in _HEADS if isinstance(getattr(module, key, None), int)), None)
        projections = _projections(module)
        is_sized = count is not None or _size(module) is not None
        if not is_sized or projections is None:
            reason = _not_understood(module, projections)
            if reason is not None:
                fixed[name or "the network itself"] = reason
            continue
        found = _proven(network, _attentions(network, name, count, projections), inputs)
        if isinstance(found, str):
            fixed[name] = found
        else:
            good.append(found)
    return good, fixed


def _proven(network: nn.Module, candidates: Sequence[Attention] | str, inputs: Sequence[Tensor]) -> Attention | str:
    """The first of several ways to read a module whose cut does what it says, else what is wrong with the first one's."""
    if isinstance(candidates, str):
        return candidates
    faults = []
    for one in candidates:
        fault = fault_of(network, Coupling((one.group,)), inputs, partial(set_counts, [one]))
        if fault is None:
            return one
        faults.append(fault)
    return f"a cut changed something else ({faults[0]})"


def heads_in(module: nn.Module) -> int | None:
    """How many heads the first attention in a module has, None where nothing in it says so."""
    counts = (getattr(part, key, None) for part in module.modules() for key in _HEADS)
    return next((count for count in counts if isinstance(count, int)), None)


def remove_heads(network: nn.Module, attentions: Sequence[Attention], found: Scores, kept: Kept) -> nn.Module:
    """A copy with the weakest heads cut out and the number of heads set."""
    groups = [attention.group for attention in attentions]
    units = {
        group.name: np.argsort(found[group.name], kind="stable")[: group.units - kept[group.name]] for group in groups
    }
    smaller = cut(network, removal(groups, units))
    set_counts(attentions, smaller, kept)
    return smaller


def _projections(module: nn.Module) -> list[str] | None:
    """Names of the module's own Linears for query, key and value: one, or three."""
    own = {name for name, child in module.named_children() if isinstance(child, nn.Linear)}
    fused = [name for name in FUSED if name in own]
    if fused:
        return fused[:1]
    apart = [next((name for name in names if name in own), None) for names in APART]
    return [name for name in apart if name] if all(apart) else None


def _not_understood(module: nn.Module, projections: Sequence[str] | None) -> str | None:
    """What keeps a module that is attention from being pruned; None for a module that is none."""
    children = dict(module.named_children())
    if projections is not None:
        return f"how many heads it has is not known: it has none of the attributes {', '.join((*_HEADS, *_SIZE))}"
    names = {*FUSED, *(name for names in APART for name in names)}
    others = {name: type(child).__name__ for name, child in children.items() if name in names}
    kinds = sorted({kind for name, kind in others.items() if not isinstance(children[name], nn.Linear)})
    is_called_attention = "attention" in type(module).__name__.lower()
    if kinds and (is_called_attention or len(others) > 1):
        return f"its projections ({', '.join(others)}) are {' and '.join(kinds)}, and only torch's Linear is understood"
    if isinstance(module, nn.MultiheadAttention):
        return "it has keys and values of another width than its queries, or rows that are added to them"
    holds_attention = any("attention" in type(child).__name__.lower() for child in list(module.modules())[1:])
    if is_called_attention and not holds_attention and any(True for _ in module.parameters()):
        return f"it has no Linear layers called {'/'.join(APART[0])} and so on, nor one called {'/'.join(FUSED)}"
    return None


def _size(module: nn.Module) -> int | None:
    """Channels of one head, where the module says so."""
    return next((getattr(module, key) for key in _SIZE if isinstance(getattr(module, key, None), int)), None)


def _attentions(
    network: nn.Module, owner: str, count: str | None, projections: Sequence[str]
) -> Sequence[Attention] | str:
    """The ways to read the module, or why there is none."""
    module = network.get_submodule(owner)
    prefix = f"{owner}." if owner else ""
    linears = [_linear(network, prefix + name) for name in projections]
    if len(linears) == 1 and linears[0].out_features % 3:
        return (
            f"its {linears[0].out_features} channels of query, key and value in one layer are not of three equal parts"
        )
    inner = linears[0].out_features // (3 if len(linears) == 1 else 1)
    heads = getattr(module, count) if count is not None else inner // (_size(module) or inner)
    if heads < 2 or inner % heads:
        return f"{inner} channels do not form {heads} heads"
    size = inner // heads
    widths = {linear.out_features for linear in linears[1:]} or {inner}
    of_keys = max(widths) // size
    if len(widths) > 1 or max(widths) % size or of_keys == 0 or heads % of_keys:
        return f"{inner} channels of queries do not share {' and '.join(map(str, sorted(widths)))} of keys and values evenly"
    if of_keys < 2:
        return f"its {heads} heads of queries share one of keys and values, which cannot go"
    output = _output(network, owner, projections, inner)
    if output is None:
        return "no single Linear reads all of its heads"
    shared = heads // of_keys
    of_queries, of_key = np.repeat(np.arange(of_keys), size * shared), np.repeat(np.arange(of_keys), size)
    if len(linears) == 1:
        # Query, key and value of all heads in turn, or of each head after the other's.
        ways = [[np.tile(of_queries, 3)], [np.repeat(np.arange(heads), 3 * size)]]
    else:
        ways = [[of_queries, of_key, of_key]]
    reader = _member(output, "in", of_queries)
    said = f"attention {heads}x{size}" + (f", keys {of_keys}x{size}" if shared > 1 else "")
    found = []
    for units in ways:
        writers = [_member(prefix + name, "out", of) for name, of in zip(projections, units, strict=True)]
        group = Group(prefix + projections[0], of_keys, of_keys, (*writers, reader), (owner,), said)
        found.append(Attention(owner, count, group, shared))
    return found


def _member(name: str, side: Literal["in", "out"], units: np.ndarray) -> Member:
    """All channels of a layer's side; units: the head of each."""
    return Member(name, side, np.arange(len(units)), units)


def _linear(network: nn.Module, name: str) -> nn.Linear:
    module = network.get_submodule(name)
    assert isinstance(module, nn.Linear)
    return module


def _output(network: nn.Module, owner: str, projections: Sequence[str], inner: int) -> str | None:
    """The Linear that reads all heads: in the module itself, or in the one that holds it."""
    for scope in (owner, owner.rpartition(".")[0]):
        prefix = f"{scope}." if scope else ""
        taken = {f"{owner}.{name}" if owner else name for name in projections}
        readers: list[str] = [
            prefix + name
            for name, child in network.get_submodule(scope).named_modules()
            if isinstance(child, nn.Linear) and child.in_features == inner and prefix + name not in taken
        ]
        named = [name for name in readers if any(word in name.lower() for word in ("out", "proj", "dense"))] or readers
        if len(named) == 1:
            return named[0]
        if len(named) > 1:
            # A block that holds its perceptron too: the reader that gives back the block's width and comes first.
            return named[0]
        if not scope:
            break
    return None


def set_counts(attentions: Sequence[Attention], network: nn.Module, kept: Kept) -> None:
    """Set the numbers of heads, and every whole number beside them that is the width of all heads together."""
    for attention in attentions:
        module = network.get_submodule(attention.owner)
        before, after = attention.group.units, kept[attention.group.name]
        inner = len(attention.group.members[-1].channels)
        if attention.count is not None:
            setattr(module, attention.count, after * attention.shared)
        for name in _SHARED:
            if getattr(module, name, None) == before:
                setattr(module, name, after)
        for name in ("all_head_size", "inner_dim", "inner_size", "split_size", "embed_dim"):
            if getattr(module, name, None) == inner:
                setattr(module, name, inner // before * after)


def _kept(attentions: Sequence[Attention], found: Scores, params: HeadsParams) -> Kept:
    choices = []
    for attention in attentions:
        values = found[attention.group.name]
        comparable = values if params.criterion == "taylor" else values / max(float(values.mean()), 1e-12)
        heads = attention.group.units
        fewest = max(1, params.min_heads)
        choices.append(Choice(attention.group, tuple(range(min(fewest, heads), heads + 1)), np.sort(comparable)))
    goal = params.keep * sum(attention.group.units for attention in attentions)
    return allocate(choices, params.scope, goal, lambda kept: sum(kept.values()), refine=False)


def _scores(model: TorchModel, attentions: Sequence[Attention], params: HeadsParams, run: RunContext) -> Scores:
    """(heads,) by group. taylor: the mean size of the loss's slope in a factor before each head's output.

    Source: Are Sixteen Heads Really Better than One?, Michel et al. 2019, equation 2. l2: `head_sizes`.
    """
    network: nn.Module = model.body
    if params.criterion == "random":
        generator = np.random.default_rng(run.seed)
        return {attention.group.name: generator.random(attention.group.units) for attention in attentions}
    if params.criterion == "l2":
        return {attention.group.name: head_sizes(network, attention) for attention in attentions}
    data = run.data.split("train") if run.data is not None else None
    if data is None or len(data) == 0:
        raise UsageError("criterion taylor looks at samples, and there are none", hint="add a data section, or use l2")
    objective = task_objective(run.learning)
    sums: dict[str, np.ndarray] = {a.group.name: np.zeros(a.group.units) for a in attentions}
    batches = tensor_batches(data, model.signature, 8, shuffle_seed=run.seed)
    for batch in itertools.islice(batches, max(1, params.samples // 8)):
        network.zero_grad(set_to_none=True)
        with torch.enable_grad():
            torch.autograd.backward(objective(network, batch))
        for attention in attentions:
            reader = attention.group.members[-1]
            weight = _linear(network, reader.name).weight
            assert weight.grad is not None
            slope = (weight.detach() * weight.grad).sum(0).double().numpy()
            sums[attention.group.name] += np.abs(np.bincount(reader.units, weights=slope[reader.channels]))
    network.zero_grad(set_to_none=True)
    return sums


def head_sizes(network: nn.Module, attention: Attention) -> np.ndarray:
    """(units,): the size of a head's value rows times that of its output columns, the largest that it can write."""
    reader, value = attention.group.members[-1], attention.group.members[-2]
    heads = attention.group.units
    weights: Mapping[str, Tensor] = dict(network.named_parameters())
    written = weights[f"{value.name}.weight"].detach().double()
    rows = torch.stack([_values(written, value.units == head, reader).norm() for head in range(heads)])
    columns = weights[f"{reader.name}.weight"].detach().double().T.reshape(heads, -1).norm(dim=1)
    return np.asarray((rows * columns).numpy())


def _values(written: Tensor, of_head: np.ndarray, reader: Member) -> Tensor:
    """A head's rows of values: the last third where query and key stand before them."""
    rows = written[torch.from_numpy(of_head)]
    fused = len(of_head) == 3 * len(reader.channels)
    return rows[2 * len(rows) // 3 :] if fused else rows
