"""A decoder that keeps what it knows of earlier tokens: a graph of whole texts, rewritten to take and give keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper

from compressctl.core.errors import StageError
from compressctl.graph.attention import Attention, Heads, find_attention
from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.index import GraphIndex, attribute, index
from compressctl.graph.mask_readers import read_ends
from compressctl.graph.open_axes import graph_inputs
from compressctl.graph.rotary import Rotary, unturned
from compressctl.graph.tensors import copy_of

TOKENS, MASK = "input_ids", "attention_mask"
PAST, PRESENT = "past_key_values.{}.{}", "present.{}.{}"
"""Names that both runtimes' tools use: layer, then key or value."""

BATCH, SEQUENCE, TOTAL, KEPT = "batch", "sequence", "total_sequence", "past_sequence"

_HIDDEN = -1e4
"""Added to a score, at most this hides it: exp of it is 0 in float32 beside anything that is seen."""


@dataclass(frozen=True)
class Cached:
    """One attention with a cache, to be written for a runtime.

    layer: its number. window: how many tokens it looks back, itself included, None for all. queries, keys, values: tensors
    (batch, tokens, heads times size), those of the new tokens alone. past_key, ..., present_value: (batch, key-value heads, tokens, size).
    output: the tensor to make, as queries. rotary: by what queries and keys are still to be turned, None where they are turned already.
    found: the graph as it was.
    """

    layer: int
    attention: Attention
    window: int | None
    queries: str
    keys: str
    values: str
    past_key: str
    past_value: str
    present_key: str
    present_value: str
    output: str
    rotary: Rotary | None
    found: GraphIndex


class Writer(Protocol):
    """A runtime's own operators for one attention."""

    def turns(self, attention: Attention, rotary: Rotary) -> bool:
        """Whether they turn queries and keys by their positions too."""
        ...

    def __call__(self, editor: GraphEditor, cached: Cached) -> Sequence[onnx.NodeProto]: ...


@dataclass(frozen=True)
class CachedDecoder:
    """proto: the graph. heads, kv_heads, head_size, windows: of each layer, in order."""

    proto: onnx.ModelProto
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    head_size: tuple[int, ...]
    windows: tuple[int | None, ...]


def with_cache(proto: onnx.ModelProto, write: Writer, longest: int) -> CachedDecoder:
    """The same decoder with keys and values of earlier tokens as inputs and outputs, called with the tokens after them.

    proto: of input_ids (batch, sequence), and perhaps attention_mask; it stays as it is. longest: tokens at which it is looked at how far
    back each layer sees. Raises StageError where an attention is not causal.
    """
    body = copy_of(proto)
    _check_inputs(body.graph)
    attentions = find_attention(body)
    if not attentions:
        raise _without_attention(body.graph)
    windows = _windows(body, attentions, longest)
    _add_mask_input(body.graph)
    editor = GraphEditor(body.graph)
    _sizes_from_tokens(editor)
    written: set[str] = set()
    for layer, (attention, window) in enumerate(zip(attentions, windows, strict=True)):
        written |= _rewrite(editor, layer, attention, window, write)
    editor.drop_unread()
    _count_on(editor, written)
    _name_axes(body.graph)
    return CachedDecoder(
        body,
        tuple(one.heads for one in attentions),
        tuple(one.kv_heads for one in attentions),
        tuple(one.head_size for one in attentions),
        tuple(windows),
    )


def _check_inputs(graph: onnx.GraphProto) -> None:
    names = {value.name for value in graph_inputs(graph)}
    if TOKENS not in names or names - {TOKENS, MASK}:
        raise StageError(
            f"the graph takes {', '.join(sorted(names))}; a decoder with a cache is made of one that takes {TOKENS}, and perhaps {MASK}"
        )


def _without_attention(graph: onnx.GraphProto) -> StageError:
    found = [node.name for node in graph.node if node.op_type == "Softmax"]
    if not found:
        return StageError("the graph has no attention that could keep keys and values: it is no decoder of tokens")
    return StageError(
        f"none of the graph's {len(found)} Softmax, as {found[0]}, stands between two products of (batch, heads, tokens, size): attention "
        "in another form cannot keep keys and values",
        hint="networks that put batch and heads into one axis, as BLOOM and XGLM do, get no bundle",
    )


def _windows(body: onnx.ModelProto, attentions: Sequence[Attention], longest: int) -> list[int | None]:
    """How many tokens each attention looks back, read off its mask for one text."""
    masks = [one.mask for one in attentions if one.mask is not None]
    given = {
        value.name: (np.zeros if value.name == TOKENS else np.ones)((1, longest), np.int64)
        for value in graph_inputs(body.graph)
    }
    values = ActivationRecorder(body, list(dict.fromkeys(masks))).run(given) if masks else {}
    return [_window(one, None if one.mask is None else values[one.mask], longest) for one in attentions]


def _window(attention: Attention, mask: np.ndarray | None, longest: int) -> int | None:
    if mask is None or mask.shape[-2:] != (longest, longest) or mask.size != longest**2:
        raise StageError(f"attention {attention.name} sees tokens after its own: the network is no decoder")
    mask = mask.reshape(longest, longest)
    is_seen = mask > _HIDDEN
    back = np.arange(longest)[:, None] - np.arange(longest)[None, :]
    if is_seen[back < 0].any():
        raise StageError(f"attention {attention.name} sees tokens after its own: the network is no decoder")
    width = int(is_seen[-1].sum())
    if not np.array_equal(is_seen, (back >= 0) & (back < width)) or np.any(mask[is_seen] != 0):
        raise StageError(
            f"attention {attention.name} adds to its scores more than a causal mask: ALiBi, chunks or a prefix, which bundles do not hold"
        )
    return None if width == longest else width


def _add_mask_input(graph: onnx.GraphProto) -> None:
    if all(value.name != MASK for value in graph.input):
        graph.input.append(helper.make_tensor_value_info(MASK, TensorProto.INT64, [BATCH, SEQUENCE]))


def _sizes_from_tokens(editor: GraphEditor) -> None:
    """The mask becomes longer than the tokens: whoever asked for its shape meant theirs."""
    for node in editor.graph.node:
        if node.op_type == "Shape" and node.input[0] == MASK:
            node.input[0] = TOKENS


def _rewrite(editor: GraphEditor, layer: int, attention: Attention, window: int | None, write: Writer) -> set[str]:
    """The names of the nodes that the writer made."""
    graph = editor.graph
    names = [PAST.format(layer, kind) for kind in ("key", "value")] + [
        PRESENT.format(layer, kind) for kind in ("key", "value")
    ]
    for place, length, made in ((graph.input, KEPT, names[:2]), (graph.output, TOTAL, names[2:])):
        shape: list[str | int | None] = [BATCH, attention.kv_heads, length, attention.head_size]
        place.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in made)
    found = index(graph)
    plain = unturned(found, attention)
    rotary = None
    if plain is not None and write.turns(*plain):
        attention, rotary = plain
    nodes: list[onnx.NodeProto] = []
    merged = _merged_after(found, attention.output)
    output = merged.output[0] if merged is not None else editor.new_name(f"{attention.name}_output")
    sides = [
        _side_by_side(editor, found, heads, count, attention, nodes)
        for heads, count in (
            (attention.queries, attention.heads),
            (attention.keys, attention.kv_heads),
            (attention.values, attention.kv_heads),
        )
    ]
    queries, keys, values = sides
    past_key, past_value, present_key, present_value = names
    cached = Cached(
        layer,
        attention,
        window,
        queries=queries,
        keys=keys,
        values=values,
        past_key=past_key,
        past_value=past_value,
        present_key=present_key,
        present_value=present_value,
        output=output,
        rotary=rotary,
        found=found,
    )
    written = write(editor, cached)
    nodes.extend(written)
    if merged is None:
        split = editor.constant(np.array([0, 0, attention.heads, attention.head_size]), attention.name, "split")
        apart = editor.new_name(f"{attention.name}_apart")
        nodes.append(helper.make_node("Reshape", [output, split], [apart], f"{attention.name}_apart"))
        nodes.append(
            helper.make_node(
                "Transpose", [apart], [attention.output], f"{attention.name}_heads_first", perm=[0, 2, 1, 3]
            )
        )
    product = found.producers[attention.output]
    replaced = {product.name: nodes} if merged is None else {product.name: [], merged.name: nodes}

    def replacement(node: onnx.NodeProto) -> Replacement:
        return replaced.get(node.name)

    editor.replace_nodes(replacement)
    return {node.name for node in written}


def _side_by_side(
    editor: GraphEditor, found: GraphIndex, heads: Heads, count: int, attention: Attention, nodes: list[onnx.NodeProto]
) -> str:
    """(batch, tokens, heads times size)."""
    tensor = heads.tensor
    if heads.tokens_first:
        split = found.producers.get(tensor)
        if split is not None and split.op_type == "Reshape":
            return str(split.input[0])
    else:
        turned = editor.new_name(f"{tensor}_tokens_first")
        nodes.append(helper.make_node("Transpose", [tensor], [turned], turned, perm=[0, 2, 1, 3]))
        tensor = turned
    made = editor.new_name(f"{heads.tensor}_side_by_side")
    shape = editor.constant(np.array([0, 0, count * attention.head_size]), f"{attention.name}_width_{count}")
    nodes.append(helper.make_node("Reshape", [tensor, shape], [made], made))
    return made


def _merged_after(found: GraphIndex, tensor: str) -> onnx.NodeProto | None:
    """The Reshape to (batch, tokens, heads times size) that alone follows an attention's output, if one does."""
    turned = found.only_consumer(tensor)
    if turned is None or turned.op_type != "Transpose" or attribute(turned, "perm") != [0, 2, 1, 3]:
        return None
    merged = found.only_consumer(turned.output[0])
    return merged if merged is not None and merged.op_type == "Reshape" else None


def _count_on(editor: GraphEditor, written: set[str]) -> None:
    """Positions go on where the earlier tokens ended: every Range over the tokens, of which only those for positions are left beside
    what was written for attention, and every count of the mask."""
    past, nodes = _past_length(editor)
    rest = list(editor.graph.node)
    del editor.graph.node[:]
    editor.graph.node.extend([*nodes, *rest])
    read_ends(editor, MASK, past, written)
    for node in editor.graph.node:
        if node.op_type != "Range" or node.name in written:
            continue
        start, step = editor.array(node.input[0]), editor.array(node.input[2])
        if start is None or step is None or start.item() != 0 or step.item() != 1:
            raise StageError(f"{node.name} counts tokens in steps of its own, which a cache would change")

    def shifted(node: onnx.NodeProto) -> Replacement:
        if node.op_type != "Range" or node.name in written:
            return None
        end = editor.name(node.name, "end")
        moved = helper.make_node("Range", [past, end, node.input[2]], node.output, node.name)
        return [helper.make_node("Add", [node.input[1], past], [end], end), moved]

    editor.replace_nodes(shifted)
    editor.drop_unread()


def _past_length(editor: GraphEditor) -> tuple[str, list[onnx.NodeProto]]:
    """How many tokens came earlier: an int64 scalar, and the nodes that make it."""
    nodes, sizes = [], []
    one = editor.constant(np.array(1, np.int64), "second_axis")
    for name in (MASK, TOKENS):
        shape, size = editor.name(name, "shape"), editor.name(name, "length")
        nodes.append(helper.make_node("Shape", [name], [shape], shape))
        nodes.append(helper.make_node("Gather", [shape, one], [size], size))
        sizes.append(size)
    past = editor.name("past_length")
    nodes.append(helper.make_node("Sub", sizes, [past], past))
    return past, nodes


def _name_axes(graph: onnx.GraphProto) -> None:
    """The mask covers earlier tokens too."""
    for value in graph.input:
        if value.name == MASK:
            value.type.tensor_type.shape.dim[1].dim_param = TOTAL
    del graph.value_info[:]
