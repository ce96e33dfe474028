"""What a recipe does not say about images comes from the model's folder, and the recipe shows what came from where."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compressctl.cli.main import app
from compressctl.core.errors import RecipeError
from compressctl.recipe.as_yaml import as_yaml
from compressctl.recipe.image_steps import image_steps_in_words
from compressctl.recipe.loader import load

SAID = {
    "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}, "resample": 3,
    "image_mean": [0.5, 0.25, 0.125], "image_std": [0.5, 0.5, 0.5], "do_rescale": True, "rescale_factor": 0.5,
}  # fmt: skip
TAKEN = {
    "resize": 36, "center_crop": (32, 32), "interpolation": "bicubic", "scale": 0.5, "mean": (0.5, 0.25, 0.125), "std": (0.5, 0.5, 0.5),
}  # fmt: skip


def written(folder: Path, data: str = "", model: str = "", source: str = "image_folder", said: Any = SAID) -> Path:
    (folder / "net").mkdir(exist_ok=True)
    (folder / "net" / "preprocessor_config.json").write_text(said if isinstance(said, str) else json.dumps(said))
    path = folder / "r.yaml"
    path.write_text(
        f"recipe: compressctl/v1\nmodel: {{source: huggingface, path: net{model}}}\ndata: {{source: {source}, path: d{data}}}\n"
    )
    return path


def steps(recipe: Any) -> dict[str, Any]:
    return {key: getattr(recipe.data.params, key) for key in TAKEN}


def test_what_the_recipe_does_not_say_is_the_models(tmp_path):
    recipe = load(written(tmp_path))
    assert steps(recipe) == TAKEN
    assert recipe.image_steps.file == "net/preprocessor_config.json"
    assert set(recipe.image_steps.values) == set(TAKEN)


KEPT = {
    "a mean": (", mean: [0.1, 0.1, 0.1]", {"scale": 1 / 255, "mean": (0.1, 0.1, 0.1), "std": None}),
    "no mean": (", mean: null", {"scale": 1 / 255, "mean": None, "std": None}),
    "a size": (", resize: [8, 8]", {"resize": (8, 8), "center_crop": None}),
    "a crop": (", center_crop: 8", {"resize": None, "center_crop": 8}),
    "an interpolation": (", interpolation: nearest", {"interpolation": "nearest"}),
}


@pytest.mark.parametrize(("data", "kept"), KEPT.values(), ids=KEPT)
def test_what_the_recipe_says_stays_with_all_that_it_goes_with(tmp_path, data, kept):
    assert steps(load(written(tmp_path, data))) == {**TAKEN, **kept}


def test_what_is_set_on_the_command_line_stays(tmp_path):
    assert load(written(tmp_path), sets=["data.interpolation=lanczos"]).data.params.interpolation == "lanczos"


def test_the_resolved_recipe_says_it_itself(tmp_path):
    recipe = load(written(tmp_path))
    (tmp_path / "lock.yaml").write_text(as_yaml(recipe.resolved))
    again = load(tmp_path / "lock.yaml")
    assert (again.resolved, again.data, again.image_steps) == (recipe.resolved, recipe.data, None)


@pytest.mark.parametrize(
    ("source", "data", "is_taken"),
    [
        ("hf_dataset", ", image: picture", True),
        ("hf_dataset", ", inputs: [x]", False),
        ("text_images", ", height: 8", False),
        ("npz", "", False),
        ("csv", ", label: y", False),
    ],
)
def test_only_data_that_prepare_images_take_it(tmp_path, source, data, is_taken):
    recipe = load(written(tmp_path, data, source=source))
    assert ("resize" in recipe.resolved["data"]) == is_taken


def test_a_model_of_another_source_says_nothing(tmp_path):
    path = written(tmp_path)
    path.write_text(path.read_text().replace("huggingface, path: net", "onnx, path: net/model.onnx"))
    assert load(path).image_steps is None


def test_timms_config_is_read_beside_the_weights(tmp_path):
    path = written(tmp_path)
    said = {"input_size": [3, 90, 90], "crop_pct": 0.9, "interpolation": "bilinear", "mean": [0.5], "std": [0.25]}
    (tmp_path / "net" / "config.json").write_text(json.dumps({"pretrained_cfg": said}))
    model = "timm, name: resnet18, weights: net/model.safetensors"
    path.write_text(path.read_text().replace("huggingface, path: net", model))
    taken = {"resize": 100, "center_crop": (90, 90), "interpolation": "bilinear", "scale": 1 / 255, "mean": (0.5,), "std": (0.25,)}  # fmt: skip
    assert steps(load(path)) == taken


def test_what_is_not_done_is_named_unless_the_recipe_says_it(tmp_path):
    said = {**SAID, "do_pad": True, "resample": 5}
    named = load(written(tmp_path, said=said)).image_steps
    assert list(image_steps_in_words(named))[1].endswith("asks for what is not done to images here: do_pad, resample 5")
    settled = load(written(tmp_path, ", resize: [8, 8], interpolation: nearest", said=said)).image_steps
    assert settled.undone == {}


@pytest.mark.parametrize(
    ("said", "message"),
    [("{", "is not JSON"), ({**SAID, "image_std": [0.0]}, "is not above 0"), ({**SAID, "image_mean": ["a"]}, "number")],
)
def test_a_file_that_is_wrong_is_a_problem_of_the_recipe(tmp_path, said, message):
    with pytest.raises(RecipeError, match=message) as refused:
        load(written(tmp_path, said=said))
    assert "preprocessor_config.json" in str(refused.value)
    assert refused.value.exit_code == 2


def test_commands_show_what_came_from_where(tmp_path, capsys):
    path = written(tmp_path)
    app(["validate", str(path)], standalone_mode=False)
    assert "images are prepared as net/preprocessor_config.json says: resize 36" in capsys.readouterr().out
    app(["show", str(path), "--origin"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert "  resize: 36  # net/preprocessor_config.json" in lines
    assert "  color: rgb  # default" not in lines


def test_nothing_heavy_is_imported(tmp_path):
    written(tmp_path)
    code = (
        "import sys; from compressctl.recipe.loader import load; from pathlib import Path; r = load(Path('r.yaml'));"
        "print(r.data.params.resize, {'torch', 'transformers', 'timm', 'numpy', 'datasets'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "36 set()", done.stderr
