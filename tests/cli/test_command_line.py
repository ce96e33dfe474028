"""The command line itself: what it loads, what it says, how it exits."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import compressctl
from compressctl.cli.doctor import examine
from compressctl.cli.main import COMMANDS, app
from compressctl.core.machine import nvidia_gpu, this_machine
from compressctl.core.target import resolve_profile

QUICKSTART = "builtin:quickstart"
FRAMEWORKS = ["torch", "onnx", "onnxruntime", "onnxscript"]
HEAVY = ["torch", "onnx", "numpy", "onnxruntime", "sklearn", "scipy", "PIL", "jinja2", "onnxscript"]

_LOADED = """
import sys
from compressctl.cli.main import main
sys.argv = ["compressctl", *sys.argv[1:]]
try:
    main()
except SystemExit as leaving:
    assert leaving.code in (0, None), leaving.code
print("LOADED", *sys.modules)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["validate", QUICKSTART],
        ["plan", QUICKSTART],
        ["show", QUICKSTART],
        ["list"],
        ["schema"],
        ["schema", "--zoo"],
        ["schema", "--search"],
        ["auto", "--help"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", _LOADED, *arguments], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    assert "typer" in loaded
    # Fingerprints of data may need numpy; frameworks and runtimes are never needed to plan.
    assert not loaded & set(HEAVY if arguments[0] != "plan" else FRAMEWORKS)


def _command(*names: str) -> Any:
    found = get_command(app)
    for name in names:
        found = found.get_command(None, name)  # type: ignore[attr-defined]
    return found


LINES = [
    line
    for name in COMMANDS
    for line in ([[name, inner] for inner in getattr(_command(name), "commands", ())] or [[name]])
]
"""Commands of commands are lines of two names."""


@pytest.mark.parametrize("command", LINES, ids=" ".join)
def test_every_command_teaches_in_its_help(command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) > 5


@pytest.mark.parametrize("command", LINES, ids=" ".join)
def test_the_examples_of_every_help_are_lines_that_the_command_takes(command: list[str]) -> None:
    shown = CliRunner().invoke(app, [*command, "--help"]).stdout.partition("Examples:\n")[2]
    examples = [shlex.split(line)[1:] for line in shown.splitlines() if line.startswith("    compressctl ")]
    assert examples
    for example in examples:
        names, arguments = example[: len(command)], example[len(command) :]
        assert names == command
        with _command(*names).make_context(names[-1], arguments) as context:
            assert not context.args


def test_a_system_that_is_not_served_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Windows")
    done = CliRunner().invoke(app, ["list"])
    assert done.exit_code == 5
    assert "runs on Linux and macOS, this is Windows" in done.stderr
    with pytest.raises(compressctl.CompressctlError, match="WSL 2"):
        compressctl.apply("builtin:quickstart")


def test_the_version_is_the_packages() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout.strip() == f"compressctl {compressctl.__version__}"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["aply"], "did you mean apply"),
        (["apply"], "Missing argument"),
        (["apply", "none.yaml"], "does not exist"),
        (["apply", "builtin:nothing"], "builtin:quickstart does"),
        (["explain", "quantize.statik"], "did you mean quantize.static"),
        (["explain", "langauge-model"], "did you mean language-model"),
        (["list", "techniks"], "one of: techniques"),
        (["inspect", "none.onnx"], "none.onnx"),
        (["schema", "--output", "/nowhere/schema.json"], "cannot write"),
    ],
)
def test_wrong_usage_exits_2_with_a_hint(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert says in done.stderr


def test_a_missing_backend_exits_3_with_the_command_that_mends_it(tmp_path: Path) -> None:
    """The runtime is hidden from a fresh process, as if it were not installed."""
    hide = (
        "import importlib.metadata as m\n"
        "real = m.version\n"
        "def version(name):\n"
        "    if name.startswith('onnxruntime'): raise m.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "m.version = version\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", hide + _LOADED, "apply", QUICKSTART, "--output", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "AssertionError: 3" in done.stderr
    assert "run: pip install" in done.stderr
    assert not (tmp_path / "out").exists()


def test_doctor_says_what_the_processor_means_for_int8() -> None:
    found = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert found["machine"]["profile"] in ("x86-vnni", "x86-avx2", "x86-amx", "arm64")
    assert found["machine"]["INT8"]
    assert "devices: cpu" in found["backends"]["onnxruntime"][0]


@pytest.fixture
def told_by_nvidia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Put a script in the place of the driver's nvidia-smi that says what it is told to."""

    def tell(words: str) -> None:
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\necho '{words}'\n")
        script.chmod(0o755)
        nvidia_gpu.cache_clear()

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    yield tell
    nvidia_gpu.cache_clear()


@pytest.mark.parametrize("words", ["", "No devices were found"])
def test_doctor_says_what_each_backend_lacks_without_a_gpu(told_by_nvidia: Callable[[str], None], words: str) -> None:
    told_by_nvidia(words)
    found = examine()["backends"]
    assert "missing: CUDA: there is no NVIDIA GPU here, or no driver for it" in found["onnxruntime"]
    assert any("run build_engine.py where one is" in line for line in found["tensorrt"])
    assert any("INT4 with AWQ" in line for line in found["openvino"])


def test_doctor_has_the_exact_command_where_a_gpu_is_not_used(told_by_nvidia: Callable[[str], None]) -> None:
    told_by_nvidia("NVIDIA L4, 8.9")
    found = examine()
    assert found["machine"]["GPU"] == "NVIDIA L4, compute capability 8.9"
    lines = " ".join(found["backends"]["onnxruntime"])
    assert "pip install onnxruntime-gpu" in lines or "devices: cpu, cuda" in lines


@pytest.mark.parametrize(
    ("words", "profile"),
    [
        ("Tesla T4, 7.5", "nvidia-sm75"),
        ("NVIDIA A10, 8.6", "nvidia-sm80"),
        ("NVIDIA L4, 8.9", "nvidia-sm89"),
        ("NVIDIA H100 80GB HBM3, 9.0", "nvidia-sm90"),
        ("NVIDIA RTX PRO 6000, 12.0", "nvidia-sm90"),
    ],
)
def test_auto_reads_the_gpu_for_tensorrt_and_the_processor_for_others(
    told_by_nvidia: Callable[[str], None], words: str, profile: str
) -> None:
    told_by_nvidia(words)
    assert resolve_profile("auto", this_machine(), "tensorrt") == profile
    assert not resolve_profile("auto", this_machine()).startswith("nvidia")
    assert resolve_profile("arm64", this_machine(), "tensorrt") == "arm64"


@pytest.mark.parametrize("output_format", ["json", "sarif", "github"])
def test_problems_are_given_to_programs(tmp_path: Path, output_format: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("recipe: compressctl/v1\nmodel: {source: onnx, path: a.onnx}\nseed: x\n")
    done = CliRunner().invoke(app, ["validate", str(recipe), "--format", output_format])
    assert done.exit_code == 2
    if output_format == "github":
        assert done.stdout.startswith(f"::error file={recipe},line=3,col=7::seed")
        return
    found = json.loads(done.stdout)
    if output_format == "sarif":
        region = found["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["region"]
        assert region == {"startLine": 3, "startColumn": 7}
    else:
        assert (found[0]["line"], found[0]["column"], found[0]["path"]) == (3, 7, "seed")


def test_explain_shows_the_keys_of_nested_options_and_what_they_need() -> None:
    shown = CliRunner().invoke(app, ["explain", "openvino"]).stdout
    assert "weights: keys | none" in shown
    assert "mode: int8_sym | int8_asym | int4_sym | int4_asym | nf4 | mxfp4, default int4_sym" in shown
    assert "pip install 'compressctl[nncf]'" in shown
    assert "streams: int | none" in shown
    assert "profiles: dict[str, keys] | none" in CliRunner().invoke(app, ["explain", "tensorrt"]).stdout


def test_explain_shows_parameters_needs_and_papers() -> None:
    shown = CliRunner().invoke(app, ["explain", "quantize.static"]).stdout
    for part in ("ranges", "percentile", "calibration data", "takes onnx", "Jacob et al. 2018"):
        assert part in shown


def test_the_plan_shows_forms_and_names_an_impossible_order(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\ndata: {source: digits}\n"
        "stages:\n  - {use: quantize.static}\n  - {use: quantize.static}\n"
    )
    done = CliRunner().invoke(app, ["plan", str(recipe)])
    assert done.exit_code == 2
    assert "stages[1]" in done.stderr
    assert "already quantized" in done.stderr


def test_the_plan_needs_data_for_calibration(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\n"
        "stages:\n  - {use: quantize.static, gate: {accuracy_drop: 1}}\n"
    )
    done = CliRunner().invoke(app, ["plan", str(recipe)])
    assert done.exit_code == 2
    assert "needs calibration data" in done.stderr
    assert "a gate needs data: labelled data for accuracy_drop" in done.stderr


@pytest.mark.parametrize("name", ["language-model", "finetune"])
def test_what_labels_of_a_task_are_is_explained_with_it_and_with_what_trains_on_them(name: str) -> None:
    shown = CliRunner().invoke(app, ["explain", name]).stdout
    assert "the tokens themselves, (n, tokens)" in shown
    assert "shifted already are refused" in shown


def test_a_task_and_its_metric_are_explained() -> None:
    assert "metric: perplexity" in CliRunner().invoke(app, ["explain", "language-model"]).stdout
    assert "accuracy_drop bounds by how much it may rise" in CliRunner().invoke(app, ["explain", "perplexity"]).stdout


def test_everything_that_has_a_name_is_explained() -> None:
    from compressctl.cli.registries import REGISTRIES
    from compressctl.core.tasks import TASKS

    for name in {*TASKS, *(name for registry in REGISTRIES.values() for name in registry.names())}:
        found = CliRunner().invoke(app, ["explain", name])
        assert found.exit_code == 0, found.output
        assert name in found.stdout
