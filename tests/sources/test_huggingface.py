import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from compressctl.core.errors import UsageError
from compressctl.sources.huggingface.folder import fingerprint
from compressctl.sources.huggingface.network import load
from compressctl.sources.params import HuggingFaceParams

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from support.tiny_transformers import as_sentence_encoder, network, saved  # noqa: E402

from compressctl.graph.lower import lower, parity  # noqa: E402
from compressctl.graph.torch_outputs import outputs_of  # noqa: E402


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """By name of a tiny network, its folder; made when asked for, and not to be changed."""
    made: dict[str, Path] = {}
    root = tmp_path_factory.mktemp("hub")

    def of(name: str) -> Path:
        if name not in made:
            made[name] = saved(name, root / name)
        return made[name]

    return of


def copied(folder: Path, into: Path) -> Path:
    shutil.copytree(folder, into)
    return into


def loaded(folder: Path, **fields):
    return load(HuggingFaceParams(path=folder.name, **fields), folder.parent, 0)


def inputs_for(model, length: int, samples: int = 3) -> dict[str, np.ndarray]:
    """Of a length, the first sample shorter by two."""
    random = np.random.default_rng(length)
    found = {}
    for spec in model.signature.inputs:
        shape = [samples, *(size if isinstance(size, int) else length for size in spec.shape[1:])]
        if spec.name == "attention_mask":
            found[spec.name] = np.ones(shape, np.int64)
            found[spec.name][0, length - 2 :] = 0
        elif spec.dtype == "int64":
            found[spec.name] = random.integers(0, 2 if spec.name == "token_type_ids" else 50, shape)
        else:
            found[spec.name] = random.normal(size=shape).astype(np.float32)
    return found


TEXT = ("input_ids", "attention_mask", "token_type_ids")
NETWORKS = {
    "bert": (TEXT, {"logits": ("batch", 3)}),
    "bert-tokens": (TEXT, {"logits": ("batch", "sequence", 3)}),
    "bert-qa": (TEXT, {"start_logits": ("batch", "sequence"), "end_logits": ("batch", "sequence")}),
    "bert-base": (TEXT, {"last_hidden_state": ("batch", "sequence", 32)}),
    "roberta": (TEXT[:2], {"logits": ("batch", 2)}),
    "gpt2": (TEXT[:2], {"logits": ("batch", "sequence", 60)}),
    "llama-tied": (TEXT[:2], {"logits": ("batch", "sequence", 60)}),
    "vit": (("pixel_values",), {"logits": ("batch", 3)}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_becomes_a_network_that_computes_what_transformers_computes(folders, name):
    inputs, outputs = NETWORKS[name]
    model = loaded(folders(name))

    assert tuple(spec.name for spec in model.signature.inputs) == inputs
    assert {spec.name: spec.shape for spec in model.signature.outputs} == outputs
    given = inputs_for(model, 9)
    own = network(name)
    with torch.no_grad():
        expected = own(**{key: torch.from_numpy(array) for key, array in given.items()})
    for key, found in outputs_of(model, given).items():
        torch.testing.assert_close(found, expected[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["bert-tokens", "gpt2", "llama-tied", "vit"])
def test_the_exported_graph_takes_texts_of_every_length(folders, name):
    model = loaded(folders(name))
    graph = lower(model)

    for spec, value in zip(model.signature.inputs, graph.body.graph.input, strict=True):
        assert tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim) == spec.shape
    for length in (3, 17, 40):
        assert max(parity(model, graph, inputs_for(model, length)).values()) < 1e-5


def test_layers_keep_the_names_that_transformers_gives_them(folders):
    assert set(loaded(folders("bert")).body.state_dict()) == set(network("bert").state_dict())
    linear = loaded(folders("gpt2")).body.get_submodule("transformer.h.0.attn.c_attn")
    assert type(linear) is torch.nn.Linear
    assert linear.weight.shape == (96, 32)


POOLINGS = {
    "mean": {"pooling_mode_mean_tokens": True},
    "cls": {"pooling_mode_cls_token": True},
    "max": {"pooling_mode_max_tokens": True},
    "root": {"pooling_mode_mean_sqrt_len_tokens": True},
    "weighted": {"pooling_mode_weightedmean_tokens": True},
    "last": {"pooling_mode_lasttoken": True},
    "two": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
    "named": {"pooling_mode": "mean"},
}


def pooled_by_hand(pooling: str, hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Text by text, over the tokens that are no padding."""
    rows = []
    for vectors, is_real in zip(hidden, mask == 1, strict=True):
        own = vectors[is_real]
        places = np.arange(1, len(own) + 1)[:, None]
        rows.append(
            {
                "mean": own.mean(0),
                "named": own.mean(0),
                "cls": own[0],
                "max": own.max(0),
                "root": own.sum(0) / np.sqrt(len(own)),
                "weighted": (own * places).sum(0) / places.sum(),
                "last": own[-1],
                "two": np.concatenate([own[0], own.mean(0)]),
            }[pooling]
        )
    return np.stack(rows)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_sentence_encoders_pool_in_the_graph_over_tokens_that_are_no_padding(folders, tmp_path, pooling):
    folder = as_sentence_encoder(copied(folders("bert-base"), tmp_path / "s"), POOLINGS[pooling], normalize=False)
    model = loaded(folder)
    given = inputs_for(model, 8)

    found = outputs_of(model, given)["sentence_embedding"].numpy()
    hidden = outputs_of(loaded(folders("bert-base")), given)["last_hidden_state"].numpy()
    np.testing.assert_allclose(found, pooled_by_hand(pooling, hidden, given["attention_mask"]), rtol=1e-4, atol=1e-5)


def test_dense_layers_behind_the_pooling_are_part_of_the_network(folders, tmp_path):
    folder = as_sentence_encoder(copied(folders("bert-base"), tmp_path / "s"), POOLINGS["mean"], dense=True)
    model = loaded(folder)

    assert isinstance(model.body.dense, torch.nn.Linear)
    vectors = outputs_of(model, inputs_for(model, 8))["sentence_embedding"]
    assert vectors.shape == (3, 8)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert parity(model, lower(model), inputs_for(model, 5))["sentence_embedding"] < 1e-5


def edit(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= values
    (folder / "config.json").write_text(json.dumps(config))


def to_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")


def to_pipe(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


BROKEN = {
    "a pipe": (to_pipe, {}, "is a pipe|not a file"),
    "no config": (lambda f: (f / "config.json").unlink(), {}, "config .* does not exist"),
    "config of nothing": (lambda f: (f / "config.json").write_text("[]"), {}, "no object"),
    "config cut off": (lambda f: (f / "config.json").write_text("{"), {}, "not JSON"),
    "unknown architecture": (lambda f: edit(f, model_type="martian"), {}, "cannot load"),
    "code of its own": (
        lambda f: edit(f, model_type="martian", auto_map={"AutoConfig": "c.C", "AutoModel": "m.M"}), {}, "never run here",
    ),
    "a pickle": (to_pickle, {}, "no safetensors"),
    "weights cut off": (lambda f: (f / "model.safetensors").write_bytes(b"\x01"), {}, "cannot load.*model.safetensors is damaged"),
    "the end of the weights cut off": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-8]), {}, "model.safetensors is damaged or cut short",
    ),
    "another network's widths": (
        lambda f: edit(f, intermediate_size=48), {}, r"intermediate.dense.bias is \[\d+\] in the file and \[48\] by the config and \d+ more",
    ),
    "another network's layers": (lambda f: edit(f, num_hidden_layers=3), {}, "no weights for .*layer.2.* and 13 more, which its config.json asks for"),
    "an activation that is none": (lambda f: edit(f, hidden_act="martian"), {}, "does not know 'martian'"),
    "a number that is none": (lambda f: edit(f, num_hidden_layers="three"), {}, "num_hidden_layers.*three"),
    "not trained for it": (lambda f: None, {"task": "question-answering"}, "no weights for qa_outputs"),
    "no saved task": (lambda f: edit(f, architectures=None), {}, "model.task"),
    "a name that it does not take": (lambda f: None, {"inputs": ("words",)}, "takes no words"),
    "an output that it does not give": (lambda f: None, {"outputs": ("words",)}, "gives no words"),
    "no pooling": (lambda f: None, {"task": "sentence-similarity"}, "modules.json"),
    "a commit of a folder": (lambda f: None, {"revision": "a" * 40}, "leave model.revision out"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_what_is_wrong_with_a_folder_is_said_with_its_mend(folders, tmp_path, fault):
    damage, fields, message = BROKEN[fault]
    folder = copied(folders("bert"), tmp_path / "f")
    damage(folder)
    with pytest.raises(UsageError, match=message) as error:
        loaded(folder, **fields)
    assert error.value.hint or "JSON" in message or "object" in message


def test_encoders_with_decoders_and_unknown_sizes_of_images_are_refused(folders):
    with pytest.raises(UsageError, match="encoder and a decoder"):
        loaded(folders("t5"))
    with pytest.raises(UsageError, match="image_size"):
        loaded(folders("resnet"))
    assert loaded(folders("resnet"), image_size=32).signature.inputs[0].shape == ("batch", 3, 32, 32)


MODULES = {
    "another module": ([{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "1_Pooling"}, {"type": "a.CNN", "path": "2"}], "CNN"),
    "no pooling": ([{"type": "a.Transformer", "path": ""}], "no Pooling"),
    "outside": ([{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "../x"}], "outside"),
    "no list": ({"a": 1}, "no list"),
    "empty": ([], "no modules"),
}  # fmt: skip


@pytest.mark.parametrize("fault", MODULES)
def test_modules_that_are_not_understood_are_named(folders, tmp_path, fault):
    content, message = MODULES[fault]
    folder = as_sentence_encoder(copied(folders("bert-base"), tmp_path / "s"), POOLINGS["mean"])
    (folder / "modules.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        loaded(folder)


def test_a_pooling_that_is_not_known_is_named(folders, tmp_path):
    folder = as_sentence_encoder(copied(folders("bert-base"), tmp_path / "s"), {"pooling_mode": "attention"})
    with pytest.raises(UsageError, match="'attention' to pool"):
        loaded(folder)


def test_images_of_another_size_are_told_by_the_right_key(folders):
    with pytest.raises(UsageError, match="does not run") as error:
        loaded(folders("vit"), image_size=30)
    assert "model.image_size" in str(error.value.hint)


def test_networks_whose_weights_were_renamed_are_described_as_others_are(folders):
    from compressctl.sources.structure import describe

    assert describe(loaded(folders("deit")).body, loaded(folders("deit")).body) == {"version": 1}


def test_an_id_of_the_hub_needs_its_commit():
    with pytest.raises(UsageError, match="commit is missing"):
        load(HuggingFaceParams(path="org/name"), Path(), 0)
    with pytest.raises(UsageError, match="commit is missing"):
        fingerprint(HuggingFaceParams(path="org/name"), Path())


def test_the_fingerprint_follows_what_decides_the_network_and_not_where_it_lies(folders, tmp_path):
    first, second = (copied(folders("bert"), tmp_path / name) for name in ("a", "b"))

    def of(folder: Path, **fields) -> str:
        return fingerprint(HuggingFaceParams(path=str(folder), **fields), Path())

    assert of(first) == of(second)
    (second / "README.md").write_text("words")
    assert of(first) == of(second)
    edit(second, layer_norm_eps=1e-3)
    assert of(first) != of(second)
    assert of(first) != of(first, task="feature-extraction")
    pinned = {fingerprint(HuggingFaceParams(path="org/name", revision=c * 40), Path()) for c in "ab"}
    assert len(pinned) == 2
