"""Decoders with a cache give what they gave without, however a text is cut into calls."""

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from support.tiny_transformers import SIZES, network  # noqa: E402

from compressctl.backends.dialects.packed_qkv import pack_queries_keys_values  # noqa: E402
from compressctl.backends.dialects.rms_norm import write_rms_norms  # noqa: E402
from compressctl.backends.dialects.weight_only import import_microsoft  # noqa: E402
from compressctl.backends.onnxruntime.eight_bit_cache import store_in_8_bits  # noqa: E402
from compressctl.backends.onnxruntime.grouped_query import GroupedQuery  # noqa: E402
from compressctl.backends.openvino.scaled_dot_product import ScaledDotProduct  # noqa: E402
from compressctl.core.errors import StageError  # noqa: E402
from compressctl.core.model import TensorSpec, TorchModel  # noqa: E402
from compressctl.graph.cache_proof import prove  # noqa: E402
from compressctl.graph.cached_decoder import CachedDecoder, with_cache  # noqa: E402
from compressctl.graph.lower import lower  # noqa: E402
from compressctl.sources.huggingface import experts  # noqa: E402
from compressctl.sources.huggingface.network import as_linear  # noqa: E402
from compressctl.sources.huggingface.served import keeping, served  # noqa: E402
from compressctl.sources.torch_modules import signature_of  # noqa: E402

_TOKENS = 24


@cache
def _graph_of(name: str) -> onnx.ModelProto:
    return _graph(network(name))


def _graph(made: Any, output: str = "logits") -> onnx.ModelProto:
    made.config.use_cache = False
    made.set_attn_implementation("eager")
    experts.register()
    made.config._experts_implementation = experts.IMPLEMENTATION
    as_linear(made)
    inputs = [TensorSpec(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask")]
    made = served(made.eval(), [spec.name for spec in inputs], keeping([output]))
    return lower(TorchModel(made, signature_of(made, inputs))).body


def _for_onnxruntime(graph: onnx.ModelProto, longest: int = 40) -> CachedDecoder:
    found = with_cache(graph, GroupedQuery(64), longest)
    pack_queries_keys_values(found.proto)
    write_rms_norms(found.proto)
    import_microsoft(found.proto)
    onnx.checker.check_model(found.proto)
    return found


def _run(proto: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, inputs)
    return outputs


def _in_pieces(
    decoder: CachedDecoder, tokens: np.ndarray, pieces: tuple[int, ...], real: np.ndarray | None = None
) -> np.ndarray:
    """Logits of all tokens, each piece by a call of its own. real: the mask of all tokens, by default ones."""
    real = np.ones_like(tokens) if real is None else real
    session = onnxruntime.InferenceSession(decoder.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    types = {value.name: np.int8 if "int8" in value.type else np.float32 for value in session.get_inputs()}
    kept = {
        f"past_key_values.{layer}.{kind}": np.zeros(
            (len(tokens), heads, 0, size), types[f"past_key_values.{layer}.{kind}"]
        )
        for layer, (heads, size) in enumerate(zip(decoder.kv_heads, decoder.head_size, strict=True))
        for kind in ("key", "value")
    }
    logits, at = [], 0
    for count in pieces:
        mask = real[:, : at + count]
        outputs = session.run(None, {"input_ids": tokens[:, at : at + count], "attention_mask": mask, **kept})
        by_name = dict(zip((output.name for output in session.get_outputs()), outputs, strict=True))
        logits.append(by_name["logits"])
        kept = {name: by_name[name.replace("past_key_values", "present")] for name in kept}
        at += count
    return np.concatenate(logits, 1)


def _whole(graph: onnx.ModelProto, tokens: np.ndarray) -> np.ndarray:
    return _run(graph, {"input_ids": tokens, "attention_mask": np.ones_like(tokens)})[0]


def _text(rows: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, SIZES["vocab_size"], (rows, _TOKENS))


def _llama(**sizes: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**SIZES, "num_key_value_heads": 2, "head_dim": 16, **sizes})
    return transformers.LlamaForCausalLM(config)


@pytest.mark.parametrize("name", ["llama", "gpt2", "neox"])
def test_a_cache_in_8_bits_is_scaled_by_texts(name: str) -> None:
    """Each channel's largest value on them has the code 127; what is kept is int8, and logits move by its rounding."""
    graph, tokens = _graph_of(name), _text()
    decoder, plain = _for_onnxruntime(graph), _for_onnxruntime(graph)
    store_in_8_bits(decoder, [tokens[0], tokens[0, :5]])
    onnx.checker.check_model(decoder.proto)
    empty = {
        f"past_key_values.{layer}.{kind}": np.zeros((1, heads, 0, size), np.float32)
        for layer, (heads, size) in enumerate(zip(plain.kv_heads, plain.head_size, strict=True))
        for kind in ("key", "value")
    }
    given = {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
    floats = _run(plain.proto, {**given, **empty})[1:]
    codes = _run(decoder.proto, {**given, **{key: value.astype(np.int8) for key, value in empty.items()}})[1:]
    for wanted, stored in zip(floats, codes, strict=True):
        scale = np.abs(wanted).max(axis=2, keepdims=True) / 127
        assert stored.dtype == np.int8
        assert np.abs(stored).max(axis=2).min() >= 126
        np.testing.assert_allclose(
            stored * scale, wanted, atol=3 * scale.max()
        )  # later layers see what the first one rounded
    first = np.abs(floats[0]).max(axis=2, keepdims=True) / 127
    assert np.abs(codes[0] * first - floats[0]).max() <= 0.51 * first.max()
    wanted = _whole(graph, tokens)
    for pieces in ((24,), (7, 1, 1, 15), (1,) * 24):
        apart = _in_pieces(decoder, tokens, pieces) - wanted
        assert 0 < np.sqrt(np.mean(apart**2) / np.mean(wanted**2)) < 0.02


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2", "neox", "phi3", "opt", "mixtral"])
@pytest.mark.parametrize("pieces", [(24,), (7, 1, 1, 15), (1,) * 24])
def test_a_text_in_pieces_has_the_logits_of_the_whole(name: str, pieces: tuple[int, ...]) -> None:
    graph = _graph_of(name)
    tokens = _text()
    wanted = _whole(graph, tokens)
    for decoder in (_for_onnxruntime(graph), with_cache(graph, ScaledDotProduct(), 40)):
        np.testing.assert_allclose(_in_pieces(decoder, tokens, pieces), wanted, atol=2e-5)


@settings(max_examples=4, deadline=None)
@given(
    kv_heads=some.sampled_from([1, 2, 4]),
    shared=some.sampled_from([1, 2]),
    size=some.sampled_from([8, 16, 24]),
    layers=some.integers(1, 3),
    bias=some.booleans(),
)
def test_any_heads_and_layers_are_seen(kv_heads: int, shared: int, size: int, layers: int, bias: bool) -> None:
    sizes = {**SIZES, "hidden_size": 40, "num_hidden_layers": layers, "num_attention_heads": kv_heads * shared}
    config = transformers.LlamaConfig(**sizes, num_key_value_heads=kv_heads, head_dim=size, attention_bias=bias)
    made = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if name.endswith("bias"):
                value.normal_()
    graph, tokens = _graph(made), _text()
    decoder = _for_onnxruntime(graph)
    assert (decoder.heads[0], decoder.kv_heads[0], decoder.head_size[0]) == (kv_heads * shared, kv_heads, size)
    np.testing.assert_allclose(_in_pieces(decoder, tokens, (9, 1, 14)), _whole(graph, tokens), atol=2e-5)


def test_part_of_a_head_may_be_turned() -> None:
    config = transformers.GPTNeoXConfig(**{**SIZES, "hidden_size": 128}, rotary_pct=0.5)
    graph, tokens = _graph(transformers.GPTNeoXForCausalLM(config)), _text()
    decoder = _for_onnxruntime(graph)
    assert not any(node.op_type == "Neg" for node in decoder.proto.graph.node)
    np.testing.assert_allclose(_in_pieces(decoder, tokens, (10, 1, 13)), _whole(graph, tokens), atol=2e-5)


def test_heads_that_the_operator_does_not_take_are_refused() -> None:
    with pytest.raises(StageError, match="heads of 12 values"):
        with_cache(_graph(_llama(head_dim=12)), GroupedQuery(64), 40)


def test_several_texts_at_once_are_continued_a_token_at_a_time() -> None:
    graph, tokens = _graph_of("llama"), _text(rows=3)
    decoder = _for_onnxruntime(graph)
    np.testing.assert_allclose(_in_pieces(decoder, tokens, (20, 1, 1, 1, 1)), _whole(graph, tokens), atol=2e-5)


def test_layers_that_see_the_nearest_tokens_alone_keep_doing_so() -> None:
    config = transformers.MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=6)
    graph, tokens = _graph(transformers.MistralForCausalLM(config)), _text()
    for decoder in (_for_onnxruntime(graph), with_cache(graph, ScaledDotProduct(), 40)):
        assert decoder.windows == (6, 6)
        np.testing.assert_allclose(_in_pieces(decoder, tokens, (10, 1, 1, 12)), _whole(graph, tokens), atol=2e-5)


def test_queries_keys_and_values_become_one_product_and_turning_is_the_runtimes() -> None:
    nodes = _for_onnxruntime(_graph(_llama())).proto.graph.node
    kinds = [node.op_type for node in nodes]
    assert kinds.count("MatMul") == 2 * 5 + 1  # qkv, o, gate, up, down, and the head
    assert kinds.count("SkipSimplifiedLayerNormalization") == 4
    attention = next(node for node in nodes if node.op_type == "GroupQueryAttention")
    assert {entry.name: entry.i for entry in attention.attribute}["do_rotary"] == 1
    assert list(attention.input[1:3]) == ["", ""]


def test_tables_for_long_texts_are_not_in_the_file() -> None:
    graph = _graph(_llama())
    short, long = (with_cache(graph, GroupedQuery(positions), 40).proto.ByteSize() for positions in (64, 100_000))
    assert abs(short - long) < 100


def test_a_network_that_sees_later_tokens_is_no_decoder() -> None:
    made = transformers.BertForMaskedLM(transformers.BertConfig(**SIZES))
    with pytest.raises(StageError, match="sees tokens after its own"):
        with_cache(_graph(made), GroupedQuery(64), 40)


def test_positions_that_are_added_to_scores_are_refused() -> None:
    config = transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=60)
    with pytest.raises(StageError, match="attention"):
        with_cache(_graph(transformers.BloomForCausalLM(config)), GroupedQuery(64), 40)


def test_attention_with_batch_and_heads_in_one_axis_is_said_to_have_another_form() -> None:
    config = transformers.XGLMConfig(d_model=32, num_layers=1, attention_heads=4, ffn_dim=64, vocab_size=60)
    with pytest.raises(StageError, match="none of the graph's 1 Softmax"):
        with_cache(_graph(transformers.XGLMForCausalLM(config)), GroupedQuery(64), 40)


def test_positions_that_are_counted_from_the_mask_do_not_count_what_it_hides() -> None:
    """Two texts of one batch, the first with three tokens of padding before it."""
    graph, tokens = _graph_of("opt"), _text(rows=2)
    mask = np.ones_like(tokens)
    mask[0, :3] = 0
    wanted = _run(graph, {"input_ids": tokens, "attention_mask": mask})[0]
    found = _in_pieces(with_cache(graph, ScaledDotProduct(), 40), tokens, (20, 1, 3), mask)
    np.testing.assert_allclose(found[0, 3:], wanted[0, 3:], atol=2e-5)
    np.testing.assert_allclose(found[1], wanted[1], atol=2e-5)


def test_other_inputs_are_refused() -> None:
    value = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["image"], ["y"])], "g", [value], [])
    with pytest.raises(StageError, match="takes image; a decoder"):
        with_cache(onnx.helper.make_model(graph), GroupedQuery(64), 40)


@pytest.mark.parametrize("wrong", ["window", "turning", "scale"])
def test_a_decoder_that_is_another_network_is_not_handed_over(wrong: str) -> None:
    graph = _graph(_llama(initializer_range=0.3))
    decoder = _for_onnxruntime(graph)
    prove(graph, decoder, SIZES["vocab_size"], 64, is_float=True)
    for node in decoder.proto.graph.node:
        if node.op_type == "GroupQueryAttention":
            kept = [entry for entry in node.attribute if entry.name != {"scale": "scale"}.get(wrong)]
            del node.attribute[:]
            node.attribute.extend(kept)
            if wrong == "window":
                node.attribute.append(onnx.helper.make_attribute("local_window_size", 5))
            if wrong == "scale":
                node.attribute.append(onnx.helper.make_attribute("scale", 1.0))
            if wrong == "turning":
                next(entry for entry in node.attribute if entry.name == "do_rotary").i = 0
                del node.input[7:]
    with pytest.raises(StageError, match="is not the network any more"):
        prove(graph, decoder, SIZES["vocab_size"], 64, is_float=True)
