"""A network of transformers from its folder: made without code of the folder's, its inputs and open axes read from it."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressctl.core.errors import MissingDependencyError, UsageError
from compressctl.core.failures import refused_in
from compressctl.core.model import TensorSpec, TorchModel
from compressctl.core.process_state import process_state_kept
from compressctl.core.quiet import quiet
from compressctl.sources.huggingface import experts
from compressctl.sources.huggingface.folder import CONFIG, find, read_object
from compressctl.sources.huggingface.mapped import in_float32
from compressctl.sources.huggingface.sentence import has_modules, pooled
from compressctl.sources.huggingface.served import Finish, keeping, served
from compressctl.sources.params import HuggingFaceParams
from compressctl.sources.torch_modules import require_torch, signature_of, with_weights

if TYPE_CHECKING:
    from torch import nn

INSTALL = "pip install 'compressctl[transformers]'"

_SENTENCE = "sentence-similarity"
_CLASSES = {
    "feature-extraction": "AutoModel",
    _SENTENCE: "AutoModel",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "fill-mask": "AutoModelForMaskedLM",
    "text-generation": "AutoModelForCausalLM",
    "image-classification": "AutoModelForImageClassification",
}
_OUTPUTS = {
    "feature-extraction": ("last_hidden_state",),
    "question-answering": ("start_logits", "end_logits"),
}
_LOGITS = ("logits",)
_HEADS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForImageClassification": "image-classification",
    "Model": "feature-extraction",
}
"""Ends of the names of classes."""

_TEXT = ("input_ids", "attention_mask", "token_type_ids")
_PIXELS = "pixel_values"
_LONGEST = 400
"""Characters of a message of transformers, whose first line often ends before it says anything."""

_LENGTH = "sequence"


def load(params: HuggingFaceParams, base: Path, seed: int) -> TorchModel:
    """The network in float32 and eval mode, with attention in plain operations, which every exporter and every technique here sees.

    Raises UsageError for a folder that is damaged, keeps no safetensors, needs code of its own, or was not trained for the task.
    """
    require_torch(f"the model {params.path}")
    if importlib.util.find_spec("transformers") is None:
        raise MissingDependencyError(f"the model {params.path}", "transformers", INSTALL)
    folder = find(params, base)
    task = params.task or saved_for(folder)
    outputs = params.outputs or _OUTPUTS.get(task, _LOGITS)
    network = _made(folder, task, outputs, seed)
    inputs = _inputs(network, folder, params)
    finish = _finish(network, folder, task, outputs)
    network = served(network, [spec.name for spec in inputs], finish)
    if params.weights is not None:
        network = with_weights(network, params.weights, params.structure, base)
    network.eval()
    try:
        with quiet(prints=True):
            return TorchModel(network, signature_of(network, inputs))
    except UsageError as error:
        if not isinstance(error.__cause__, UsageError):
            error.hint = "check model.inputs, and model.image_size for images: that of the network's config fits"
        raise


def saved_for(folder: Path) -> str:
    """The task that the folder itself names."""
    if has_modules(folder):
        return _SENTENCE
    config = read_object(folder / CONFIG)
    if config.get("is_encoder_decoder"):
        raise UsageError(
            f"{folder}: an encoder and a decoder in one network are not read from folders",
            hint="write a function that makes one of the two, and `source: python`",
        )
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    for end, task in _HEADS.items():
        if architecture.endswith(end):
            return task
    raise UsageError(
        f"{folder / CONFIG} does not say for which task the network was saved ({architecture or 'no architectures'})",
        hint=f"give model.task, one of {', '.join(_CLASSES)}",
    )


def _made(folder: Path, task: str, outputs: Sequence[str], seed: int) -> nn.Module:
    import torch
    import transformers

    loader = getattr(transformers, _CLASSES[task])
    asked: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager", "use_safetensors": True}
    asked["experts_implementation"] = experts.IMPLEMENTATION
    experts.register()
    asked |= {"local_files_only": True, "trust_remote_code": False, "output_loading_info": True}
    asked["ignore_mismatched_sizes"] = True  # they are refused by name below, which transformers prints elsewhere
    with torch.random.fork_rng(devices=[]), process_state_kept(), quiet(prints=True):
        torch.manual_seed(seed)
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            if "pooler_output" not in outputs and _may_lack_pooler(loader, config):
                asked["add_pooling_layer"] = False
            network, report = loader.from_pretrained(in_float32(folder), config=config, **asked)
        except Exception as error:  # of any kind, by what stands in the folder
            said = f"transformers cannot load {folder} for {task}"
            words, hint = _damaged(folder) or (_words(error), _hint(folder, error))
            raise refused_in(said, error) or UsageError(f"{said}: {words}", hint=hint) from error
    _check_whole(report, folder, task)
    network.config.use_cache = False
    made: nn.Module = network
    as_linear(made)
    return made


def as_linear(network: nn.Module) -> None:
    """GPT-2's Conv1D is a linear layer whose weights lie on their side: as torch's own, every technique knows it."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    for name, module in list(network.named_modules()):
        if isinstance(module, Conv1D):
            linear = nn.Linear(*module.weight.shape)
            linear.weight = nn.Parameter(module.weight.detach().T.contiguous())
            linear.bias = module.bias
            network.set_submodule(name, linear)


def _may_lack_pooler(loader: Any, config: Any) -> bool:
    """Whether the class makes its pooler on request, as BERT's does: what no output needs is neither loaded nor trained."""
    known = loader._model_mapping.get(type(config), None)
    return known is not None and "add_pooling_layer" in inspect.signature(known.__init__).parameters


def _check_whole(report: Any, folder: Path, task: str) -> None:
    """Raises UsageError for weights that the config asks for in another shape, or that the folder does not hold."""
    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        name, held, wanted = mismatched[0]
        raise UsageError(
            f"{folder}: {CONFIG} describes another network than its weights are of: {name} is {list(held)} in the file and {list(wanted)} by the "
            f"config{_and_more(mismatched, 1)}",
            hint=f"mend {CONFIG} (sizes, heads, vocab_size), or save config and weights together again",
        )
    missing = sorted(report["missing_keys"])
    if not missing:
        return
    names = f"{', '.join(missing[:3])}{_and_more(missing, 3)}"
    if task == _saved_for_or_none(folder):
        raise UsageError(
            f"{folder} has no weights for {names}, which its {CONFIG} asks for",
            hint=f"a file of it may be missing, or {CONFIG} (num_hidden_layers, architectures) be another network's",
        )
    raise UsageError(
        f"{folder} has no weights for {names}: it was not trained for {task}",
        hint="leave model.task out, or train the network for that task first",
    )


def _saved_for_or_none(folder: Path) -> str | None:
    try:
        return saved_for(folder)
    except UsageError:
        return None


def _and_more(found: Sequence[object], named: int) -> str:
    return f" and {len(found) - named} more" if len(found) > named else ""


def _damaged(folder: Path) -> tuple[str, str] | None:
    """What is wrong with the first file of weights that safetensors cannot open, and what to do; None where all open."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "np"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{path.name} is damaged or cut short ({_words(error)})", "copy or download that file again"
    return None


def _words(error: Exception) -> str:
    words = " ".join(str(error).split())[:_LONGEST]
    return f"it does not know {words}" if isinstance(error, KeyError) else words or type(error).__name__


def _hint(folder: Path, error: Exception) -> str:
    if "auto_map" in read_object(folder / CONFIG):
        return "it needs code that comes with it, which is never run here; write a function that makes the network, and `source: python`"
    if not any(folder.glob("*.safetensors")):
        return "it holds no safetensors; load it where you trust it and call save_pretrained, which writes them"
    if isinstance(error, KeyError):
        return f"look for it in {CONFIG}: this version of transformers has nothing of that name"
    return "check that the folder is complete and that this version of transformers knows the architecture"


def _inputs(network: nn.Module, folder: Path, params: HuggingFaceParams) -> tuple[TensorSpec, ...]:
    taken = inspect.signature(network.forward).parameters
    if _PIXELS in taken and "input_ids" not in taken:
        return (TensorSpec(_PIXELS, "float32", ("batch", *_pixels(network, folder, params))),)
    if "input_ids" not in taken or network.config.is_encoder_decoder:  # type: ignore[union-attr]
        raise UsageError(
            f"{folder}: a {type(network).__name__} takes {', '.join(list(taken)[:3])}, ...; networks of tokens or of images are read from folders",
            hint="write a function that makes the network, and `source: python`",
        )
    names = params.inputs or _given_by_tokenizer(network, folder)
    unknown = [name for name in names if name not in taken]
    if unknown:
        raise UsageError(
            f"{folder}: a {type(network).__name__} takes no {', '.join(unknown)}",
            hint=f"model.inputs may name {', '.join(name for name in _TEXT if name in taken)}",
        )
    return tuple(TensorSpec(name, "int64", ("batch", _LENGTH)) for name in names)


def _given_by_tokenizer(network: nn.Module, folder: Path) -> list[str]:
    """Token types only where the network tells several apart."""
    taken = inspect.signature(network.forward).parameters
    named = read_object(folder / "tokenizer_config.json").get("model_input_names")
    has_types = (getattr(network.config, "type_vocab_size", 0) or 0) > 1
    names = named if isinstance(named, list) else _TEXT if has_types else _TEXT[:2]
    return [name for name in _TEXT if name in names and name in taken]


def _pixels(network: nn.Module, folder: Path, params: HuggingFaceParams) -> tuple[int, int, int]:
    """Channels, height and width."""
    size = params.image_size if params.image_size is not None else getattr(network.config, "image_size", None)
    size = size if size is not None else _prepared_size(folder)
    if size is None:
        raise UsageError(
            f"{params.path}: the config does not say how large images are", hint="give model.image_size, as in 224"
        )
    height, width = (size, size) if isinstance(size, int) else size
    return int(getattr(network.config, "num_channels", 3)), int(height), int(width)


def _prepared_size(folder: Path) -> Any:
    """To which the folder's preprocessing brings images."""
    said = read_object(folder / "preprocessor_config.json")
    size = said.get("crop_size") if said.get("do_center_crop", True) and said.get("crop_size") else said.get("size")
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or [size.get("height"), size.get("width")]
    sides = size if isinstance(size, list) else [size]
    return size if all(isinstance(side, int) and side > 0 for side in sides) and len(sides) <= 2 else None


def _finish(network: nn.Module, folder: Path, task: str, outputs: Sequence[str]) -> Finish:
    if task == _SENTENCE:
        if not has_modules(folder):
            raise UsageError(
                f"{folder} has no modules.json, which says how tokens become one vector",
                hint="save it with sentence-transformers, or ask for `task: feature-extraction`",
            )
        return pooled(network, folder)
    return keeping(outputs)
