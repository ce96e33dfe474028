"""prune.heads: whole attention heads go, and with them their rows of the query, key and value and columns of the output."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

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
_FUSED = ("qkv", "to_qkv", "in_proj", "qkv_proj", "Wqkv", "query_key_value")
_APART = (
    ("q", "query", "q_proj", "to_q", "q_lin"),
    ("k", "key", "k_proj", "to_k", "k_lin"),
    ("v", "value", "v_proj", "to_v", "v_lin"),
)


@dataclass(frozen=True)
class Attention:
    """owner: the module that knows the number of heads. count: its attribute. group: heads as units of a group."""

    owner: str
    count: str
    group: Group


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
        "heads": {a.owner: [a.group.units, kept[a.group.name]] for a in attentions},
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

    Understood: one Linear for query, key and value together or one for each, an attribute with the number of heads, a head
    size that is stored or follows from the weights (not from the input's width), and one Linear that reads all heads.
    """
    good: list[Attention] = []
    fixed: dict[str, str] = {}
    for name, module in network.named_modules():
        count = next((key for key in _HEADS if isinstance(getattr(module, key, None), int)), None)
        projections = _projections(module)
        if count is None or projections is None:
            reason = _not_understood(module, projections)
            if reason is not None:
                fixed[name or "the network itself"] = reason
            continue
        found = _attention(network, name, count, projections)
        if isinstance(found, Attention):
            finish = partial(_set_counts, [found])
            fault = fault_of(network, Coupling((found.group,)), inputs, finish)
            found = found if fault is None else f"a cut changed something else ({fault})"
        if isinstance(found, str):
            fixed[name] = found
        else:
            good.append(found)
    return good, fixed


def remove_heads(network: nn.Module, attentions: Sequence[Attention], found: Scores, kept: Kept) -> nn.Module:
    """A copy with the weakest heads cut out and the number of heads set."""
    groups = [attention.group for attention in attentions]
    units = {
        group.name: np.argsort(found[group.name], kind="stable")[: group.units - kept[group.name]] for group in groups
    }
    smaller = cut(network, removal(groups, units))
    _set_counts(attentions, smaller, kept)
    return smaller


def _projections(module: nn.Module) -> list[str] | None:
    """Names of the module's own Linears for query, key and value: one, or three."""
    own = {name for name, child in module.named_children() if isinstance(child, nn.Linear)}
    fused = [name for name in _FUSED if name in own]
    if fused:
        return fused[:1]
    apart = [next((name for name in names if name in own), None) for names in _APART]
    return [name for name in apart if name] if all(apart) else None


def _not_understood(module: nn.Module, projections: Sequence[str] | None) -> str | None:
    """What keeps a module that is attention from being pruned; None for a module that is none."""
    children = dict(module.named_children())
    if projections is not None:
        widths = [int(getattr(children[name], "out_features")) for name in projections]  # noqa: B009
        if len(set(widths)) > 1:
            return _grouped(widths)
        return f"how many heads it has is not known: it has none of the attributes {', '.join(_HEADS)}"
    names = {*_FUSED, "c_attn", *(name for names in _APART for name in names)}
    others = {name: type(child).__name__ for name, child in children.items() if name in names}
    kinds = sorted({kind for name, kind in others.items() if not isinstance(children[name], nn.Linear)})
    is_called_attention = "attention" in type(module).__name__.lower()
    if kinds and (is_called_attention or len(others) > 1):
        return f"its projections ({', '.join(others)}) are {' and '.join(kinds)}, and only torch's Linear is understood"
    if isinstance(module, nn.MultiheadAttention):
        return "it has keys and values of another width than its queries, or rows that are added to them"
    holds_attention = any("attention" in type(child).__name__.lower() for child in list(module.modules())[1:])
    if is_called_attention and not holds_attention and any(True for _ in module.parameters()):
        return f"it has no Linear layers called {'/'.join(_APART[0])} and so on, nor one called {'/'.join(_FUSED)}"
    return None


def _grouped(widths: Sequence[int]) -> str:
    return f"grouped queries: {widths[0]} channels of queries share {min(widths)} of keys and values"


def _attention(network: nn.Module, owner: str, count: str, projections: Sequence[str]) -> Attention | str:
    module = network.get_submodule(owner)
    heads: int = getattr(module, count)
    prefix = f"{owner}." if owner else ""
    linears = [_linear(network, prefix + name) for name in projections]
    inner = linears[0].out_features // (3 if len(linears) == 1 else 1)
    if any(linear.out_features != linears[0].out_features for linear in linears):
        return _grouped([linear.out_features for linear in linears])
    if inner % heads or heads < 2:
        return f"{inner} channels do not form {heads} heads"
    output = _output(network, owner, projections, inner)
    if output is None:
        return "no single Linear reads all of its heads"
    size = inner // heads
    head_of = np.repeat(np.arange(heads), size)
    members = [Member(prefix + name, "out", *_rows(len(linears) == 1, head_of)) for name in projections]
    members.append(Member(output, "in", np.arange(inner), head_of))
    group = Group(prefix + projections[0], heads, heads, tuple(members), (owner,), f"attention {heads}x{size}")
    return Attention(owner, count, group)


def _linear(network: nn.Module, name: str) -> nn.Linear:
    module = network.get_submodule(name)
    assert isinstance(module, nn.Linear)
    return module


def _rows(is_fused: bool, head_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a projection and the head of each; fused ones stack query, key and value."""
    units = np.tile(head_of, 3) if is_fused else head_of
    return np.arange(len(units)), units


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


def _set_counts(attentions: Sequence[Attention], network: nn.Module, kept: Kept) -> None:
    """Set the number of heads, and every whole number beside it that is the width of all heads together."""
    for attention in attentions:
        module = network.get_submodule(attention.owner)
        before, after = attention.group.units, kept[attention.group.name]
        inner = len(attention.group.members[-1].channels)
        setattr(module, attention.count, after)
        for name in ("all_head_size", "inner_dim", "inner_size"):
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

    Source: Are Sixteen Heads Really Better than One?, Michel et al. 2019, equation 2. l2: size of a head's value rows times
    size of its output columns, the largest that it can write.
    """
    network: nn.Module = model.body
    if params.criterion == "random":
        generator = np.random.default_rng(run.seed)
        return {attention.group.name: generator.random(attention.group.units) for attention in attentions}
    if params.criterion == "l2":
        return {attention.group.name: _sizes(network, attention) for attention in attentions}
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


def _sizes(network: nn.Module, attention: Attention) -> np.ndarray:
    reader, value = attention.group.members[-1], attention.group.members[-2]
    heads, inner = attention.group.units, len(reader.channels)
    weights: Mapping[str, Tensor] = dict(network.named_parameters())
    rows = weights[f"{value.name}.weight"].detach().double()[-inner:].reshape(heads, -1).norm(dim=1)
    columns = weights[f"{reader.name}.weight"].detach().double().T.reshape(heads, -1).norm(dim=1)
    return np.asarray((rows * columns).numpy())
