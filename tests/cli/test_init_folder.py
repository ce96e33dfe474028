"""Starter recipes for folders of transformers: written from the config alone, they run on the samples that somebody has."""

import json

import numpy as np
import pytest
import yaml
from support.shell import Shell

pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.tiny_transformers import WORDS, as_sentence_encoder, language_model, saved

RNG = np.random.default_rng(0)


def _sentence() -> str:
    return " ".join(RNG.choice(WORDS, 6))


def _write_samples(shell: Shell) -> None:
    (shell.folder / "texts.txt").write_text(" ".join(RNG.choice(WORDS, 6000)))
    rows = [f"{_sentence()},LABEL_{number % 3}" for number in range(60)]
    (shell.folder / "texts.csv").write_text("\n".join(["text,label", *rows]))
    pairs = [f"{number % 5},{_sentence()},{_sentence()}" for number in range(60)]
    (shell.folder / "pairs.csv").write_text("\n".join(["score,first,second", *pairs]))
    from PIL import Image

    for label in ("LABEL_0", "LABEL_1", "LABEL_2"):
        (shell.folder / "images" / label).mkdir(parents=True)
        for number in range(12):
            pixels = RNG.integers(0, 256, (20, 20, 3), np.uint8)
            Image.fromarray(pixels).save(shell.folder / "images" / label / f"{number}.png")


@pytest.mark.parametrize(
    ("name", "data", "task", "stage"),
    [
        ("bert", "texts.csv", "classification", "quantize.dynamic"),
        ("bert-base", "texts.txt", "custom", "quantize.dynamic"),
        ("sentences", "pairs.csv", "embedding", "quantize.dynamic"),
        ("vit", "images", "classification", "quantize.dynamic"),
        ("resnet", "images", "classification", "quantize.static"),
        ("llama", "texts.txt", "language-model", "quantize.weights"),
    ],
)
def test_a_starter_recipe_of_a_folder_runs_on_samples(
    name: str, data: str, task: str, stage: str, shell: Shell
) -> None:
    _write_samples(shell)
    folder = shell.folder / "model"
    if name == "sentences":
        as_sentence_encoder(saved("bert-base", folder), {"pooling_mode_mean_tokens": True})
    else:
        (language_model if name == "llama" else saved)(*(() if name == "llama" else (name,)), folder)
    if data == "images":
        (folder / "preprocessor_config.json").write_text(
            json.dumps({"size": {"height": 16, "width": 16}, "do_resize": True})
        )
    made = shell.run("init", "model", "--data", data)
    assert made.code == 0, made.err
    recipe = yaml.safe_load((shell.folder / "model.yaml").read_text())
    assert (recipe["task"], [one["use"] for one in recipe["stages"]]) == (task, [stage])
    checked = shell.run("plan", "model.yaml", "--check")
    assert checked.code == 0, checked.out + checked.err


def test_without_samples_an_example_is_named_and_the_recipe_is_valid(shell: Shell) -> None:
    language_model(shell.folder / "model")
    made = shell.run("init", "model")
    assert "texts.txt is an example" in made.out
    (shell.folder / "texts.txt").write_text("the cat")
    assert shell.run("validate", "model.yaml").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["empty"], "holds no config.json"),
        (["model", "--data", "nowhere.txt"], "does not exist"),
        (["model", "--data", "empty"], "is not what a recipe is written for here"),
        (["model", "--shape", "sequence=3"], "--shape is for open axes"),
        (["damaged"], "is not JSON"),
        (["other"], "does not say for which task"),
    ],
)
def test_folders_that_cannot_be_started_are_refused_in_words(shell: Shell, arguments: list[str], words: str) -> None:
    language_model(shell.folder / "model")
    for name, text in {"empty": None, "damaged": "{", "other": json.dumps({"architectures": ["Thing"]})}.items():
        (shell.folder / name).mkdir()
        if text is not None:
            (shell.folder / name / "config.json").write_text(text)
    done = shell.run("init", *arguments)
    assert done.code == 2
    assert words in done.err
    assert not list(shell.folder.glob("*.yaml"))
