"""From token vectors to a sentence's, in the graph: what a sentence-transformers folder says in modules.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressctl.core.errors import UsageError
from compressctl.sources.huggingface.folder import MODULES, read_json, read_object

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressctl.sources.huggingface.served import Finish

OUTPUT = "sentence_embedding"
_MASK = "attention_mask"
_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""In the order in which several are put side by side."""

_ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")

Step = Callable[["nn.Module", "Tensor"], "Tensor"]
"""Of the network, and vectors (n, width)."""


def has_modules(folder: Path) -> bool:
    return (folder / MODULES).is_file()


def pooled(network: nn.Module, folder: Path) -> Finish:
    """What makes the vector of the network's last hidden state; layers of its own become the network's.

    Raises UsageError for modules other than Transformer, Pooling, Dense and Normalize, and for a folder without them.
    """
    first, *rest = entries(folder)
    if first[0] != "Transformer":
        raise UsageError(f"{folder / MODULES}: the first module is a {first[0]}, not a Transformer")
    if not rest or rest[0][0] != "Pooling":
        raise UsageError(f"{folder / MODULES}: no Pooling stands behind the Transformer")
    modes = _modes(rest[0][1])
    steps = [_step(kind, path, network) for kind, path in rest[1:]]

    def finish(network: nn.Module, given: Mapping[str, Tensor], output: Any) -> Mapping[str, Tensor]:
        import torch

        hidden = output["last_hidden_state"]
        vector = torch.cat([_POOLED[mode](hidden, given[_MASK]) for mode in modes], dim=1)
        for step in steps:
            vector = step(network, vector)
        return {OUTPUT: vector}

    return finish


def entries(folder: Path) -> list[tuple[str, Path]]:
    """By module, in their order: the last part of its class's name, and its folder."""
    found = read_json(folder / MODULES)
    try:
        entries = [(str(entry["type"]).rpartition(".")[2], str(entry["path"])) for entry in found]
    except (TypeError, KeyError) as error:
        raise UsageError(f"{folder / MODULES} is no list of modules with a type and a path") from error
    if not entries or any(Path(path).is_absolute() or ".." in Path(path).parts for _, path in entries):
        raise UsageError(f"{folder / MODULES} names no modules, or some that lie outside of the folder")
    return [(kind, folder / path) for kind, path in entries]


def _modes(folder: Path) -> Sequence[str]:
    config = read_object(folder / "config.json")
    named = config.get("pooling_mode")
    if named is None:
        modes = [mode for key, mode in _MODES.items() if config.get(key)]
    else:
        modes = [named] if isinstance(named, str) else list(named)
    unknown = [mode for mode in modes if mode not in _POOLED]
    if unknown or not modes:
        raise UsageError(
            f"{folder / 'config.json'}: {', '.join(map(repr, unknown)) or 'no way'} to pool tokens is known",
            hint=f"known are {', '.join(_POOLED)}",
        )
    return modes


def _step(kind: str, folder: Path, network: nn.Module) -> Step:
    if kind == "Normalize":
        return lambda network, vector: _normalized(vector)
    if kind == "Dense":
        return _dense(folder, network)
    raise UsageError(
        f"{folder}: a {kind} behind the pooling is not known here",
        hint="known are Dense and Normalize; write a function that makes the network, and `source: python`",
    )


def _dense(folder: Path, network: nn.Module) -> Step:
    """A linear layer, which the network gets as `dense` (`dense_2` for a second one), and its activation."""
    from torch import nn

    from compressctl.sources.checkpoint import load_weights

    config = read_object(folder / "config.json")
    name = str(config.get("activation_function", "Identity")).rpartition(".")[2]
    sizes = config.get("in_features"), config.get("out_features")
    if name not in _ACTIVATIONS or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise UsageError(
            f"{folder / 'config.json'}: a Dense of {sizes[0]} to {sizes[1]} features with the activation {name} is not known",
            hint=f"activations are {', '.join(_ACTIVATIONS)}",
        )
    layer = nn.ModuleDict({"linear": nn.Linear(*sizes, bias=config.get("bias", True))})  # type: ignore[arg-type]
    load_weights(layer, folder / "model.safetensors")
    others = sum(child.startswith("dense") for child, _ in network.named_children())
    place = "dense" if not others else f"dense_{others + 1}"
    network.add_module(place, layer["linear"])
    activation = getattr(nn, name)()
    return lambda network, vector: activation(network.get_submodule(place)(vector))


def _normalized(vector: Tensor) -> Tensor:
    from torch.nn.functional import normalize

    return normalize(vector, dim=1)


def _weights(mask: Tensor, hidden: Tensor) -> Tensor:
    """(n, tokens, 1), as the hidden state's floats."""
    return mask.unsqueeze(-1).to(hidden.dtype)


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = _weights(mask, hidden)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def _mean_by_root(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = _weights(mask, hidden)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9).sqrt()


def _weighted_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Later tokens count more (SGPT, Muennighoff 2022, section 3)."""
    import torch

    places = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)
    weights = _weights(mask * places, hidden)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def _largest(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(mask.unsqueeze(-1) == 0, -1e9).amax(1)


def _first(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[:, 0]


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    """The last token that is no padding, on whichever side that stands."""
    import torch

    places = torch.arange(hidden.shape[1], device=hidden.device)
    last = (mask * places).argmax(1)
    return hidden.gather(1, last.view(-1, 1, 1).expand(-1, 1, hidden.shape[2])).squeeze(1)


_POOLED: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _first,
    "max": _largest,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
