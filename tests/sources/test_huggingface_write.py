import copy
import json
from pathlib import Path

import pytest

from compressctl.core.source import CannotBeWrittenError
from compressctl.sources.huggingface.network import load
from compressctl.sources.huggingface.write import write
from compressctl.sources.modules.pass_through import PassThrough
from compressctl.sources.params import HuggingFaceParams

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dataclasses import replace  # noqa: E402

from support.tiny_transformers import as_sentence_encoder, saved  # noqa: E402

from compressctl.layers.channels.dependency_groups import example_inputs  # noqa: E402
from compressctl.techniques.prune.heads import find_attention, remove_heads  # noqa: E402


@pytest.fixture
def model(tmp_path, request):
    """The network of a folder, its params, and where to write."""
    folder = saved(request.param, tmp_path / "model")
    params = HuggingFaceParams(path=str(folder))
    return load(params, Path(), 0), params, tmp_path / "written"


def outputs(network, inputs) -> dict:
    with torch.no_grad():
        return dict(network(*inputs))


def check_opens(model, folder: Path, auto: str) -> None:
    """transformers alone opens the folder and computes the same."""
    own = getattr(transformers, auto).from_pretrained(folder).eval()
    names = [spec.name for spec in model.signature.inputs]
    # Where a token may look at nothing, ways to compute attention differ.
    inputs = [
        torch.ones_like(array) if name == "attention_mask" else array
        for name, array in zip(names, example_inputs(model.signature), strict=True)
    ]
    with torch.no_grad():
        found = own(**dict(zip(names, inputs, strict=True)))
    for name, expected in outputs(model.body, inputs).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5)
    assert (folder / "tokenizer.json").is_file()


def without(model, *blocks: str):
    body = copy.deepcopy(model.body)
    for name in blocks:
        body.set_submodule(name, PassThrough())
    return replace(model, body=body)


BLOCKS = [
    ("bert", "bert.encoder.layer.0", "AutoModelForSequenceClassification", "num_hidden_layers"),
    ("gpt2", "transformer.h.0", "AutoModelForCausalLM", "n_layer"),
    ("llama", "model.layers.1", "AutoModelForCausalLM", "num_hidden_layers"),
    ("vit", "vit.layers.0", "AutoModelForImageClassification", "num_hidden_layers"),
]


@pytest.mark.parametrize(("model", "block", "auto", "number"), BLOCKS, indirect=["model"])
def test_a_network_with_fewer_blocks_is_opened_by_transformers(model, block, auto, number):
    network, params, folder = model
    fewer = without(network, block)
    write(fewer, params, Path(), folder)
    assert json.loads((folder / "config.json").read_text())[number] == 1
    check_opens(fewer, folder, auto)


@pytest.mark.parametrize("model", ["llama", "llama-tied"], indirect=True)
def test_fewer_heads_of_grouped_queries_are_said_by_the_config(model):
    network, params, folder = model
    attentions, fixed = find_attention(network.body, example_inputs(network.signature))
    assert not fixed
    assert {attention.shared for attention in attentions} == {2}
    scores = {attention.group.name: torch.arange(2).numpy() for attention in attentions}
    fewer = replace(network, body=remove_heads(network.body, attentions, scores, {a.group.name: 1 for a in attentions}))

    write(fewer, params, Path(), folder)
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (2, 1, 8)
    check_opens(fewer, folder, "AutoModelForCausalLM")


def narrower(model, sizes: dict[str, int], first: str, second: str):
    """Inner channels of perceptrons that are left."""
    body = copy.deepcopy(model.body)
    for block, size in sizes.items():
        for name, dim in ((first, 0), (second, 1)):
            layer = body.get_submodule(f"{block}.{name}")
            layer.weight = torch.nn.Parameter(layer.weight.detach().narrow(dim, 0, size).clone())
            if dim == 0:
                layer.bias = torch.nn.Parameter(layer.bias.detach()[:size].clone())
            layer.out_features, layer.in_features = layer.weight.shape
    return replace(model, body=body)


@pytest.mark.parametrize("model", ["gpt2"], indirect=True)
def test_widths_that_a_config_leaves_out_are_written_into_it(model):
    network, params, folder = model
    fewer = narrower(network, {f"transformer.h.{n}": 48 for n in (0, 1)}, "mlp.c_fc", "mlp.c_proj")
    write(fewer, params, Path(), folder)
    assert json.loads((folder / "config.json").read_text())["n_inner"] == 48
    check_opens(fewer, folder, "AutoModelForCausalLM")


@pytest.mark.parametrize("model", ["bert"], indirect=True)
def test_what_a_config_cannot_say_is_said_and_leaves_nothing(model):
    network, params, folder = model
    first, second = "intermediate.dense", "output.dense"
    uneven = narrower(network, {"bert.encoder.layer.0": 48, "bert.encoder.layer.1": 40}, first, second)
    with pytest.raises(
        CannotBeWrittenError, match=r"cannot say that bert\.encoder\.layer\.[01]\.intermediate.* is \[4"
    ):
        write(uneven, params, Path(), folder)
    assert not folder.exists()
    write(narrower(network, {f"bert.encoder.layer.{n}": 48 for n in (0, 1)}, first, second), params, Path(), folder)
    assert json.loads((folder / "config.json").read_text())["intermediate_size"] == 48

    split = copy.deepcopy(network.body)
    split.set_submodule("classifier", torch.nn.Sequential(torch.nn.Linear(32, 4), torch.nn.Linear(4, 3)))
    with pytest.raises(CannotBeWrittenError, match="classifier"):
        write(replace(network, body=split), params, Path(), folder)


def test_a_sentence_encoder_keeps_its_pooling_and_its_dense_layer(tmp_path):
    folder = as_sentence_encoder(saved("bert-base", tmp_path / "s"), {"pooling_mode_mean_tokens": True}, dense=True)
    params = HuggingFaceParams(path=str(folder))
    model = without(load(params, Path(), 0), "encoder.layer.1")
    with torch.no_grad():
        model.body.dense.weight.mul_(2)
    write(model, params, Path(), tmp_path / "written")

    again = load(HuggingFaceParams(path=str(tmp_path / "written")), Path(), 0)
    inputs = example_inputs(model.signature)
    torch.testing.assert_close(outputs(again.body, inputs), outputs(model.body, inputs))
