"""compressctl pick: another network of the same supernet, which is trained once."""

import json

import pytest
from support.shell import Shell

RECIPE = """
recipe: compressctl/v1
name: searched
model: {source: builtin, name: digits-resnet}
data: {source: digits, calibration: 200}
target: {backend: onnxruntime, threads: 1}
stages:
  - {id: supernet, use: search.supernet, epochs: 1, learning_rate: 0.01}
  - {id: half, use: search.architecture, at_most: {macs: 0.5}, evaluations: 3, population: 2}
export: [onnxruntime]
"""

PLAIN = """
recipe: compressctl/v1
name: plain
model: {source: builtin, name: digits-resnet}
stages: []
export: [onnxruntime]
"""


def test_a_search_that_is_off_is_none(shell: Shell) -> None:
    (shell.folder / "off.yaml").write_text(
        RECIPE.replace("population: 2}", "population: 2, enabled: false}").replace(
            "epochs: 1", "epochs: 1, enabled: false"
        )
    )
    assert shell.run("apply", "off.yaml", "--output", "off", "--measure", "untimed").code == 0
    for nested in ([], ["--nested"]):
        done = shell.run("pick", "off", "--macs", "0.3", *nested)
        assert (done.code, "has no stage search.architecture" in done.err) == (2, True), done.err


def test_another_budget_takes_the_supernet_from_the_cache(shell: Shell) -> None:
    (shell.folder / "searched.yaml").write_text(RECIPE)
    done = shell.run("apply", "searched.yaml", "--output", "half", "--measure", "untimed")
    assert done.code == 0, done.err
    done = shell.run(
        "pick", "half", "--macs", "0.25", "--parameters", "0.5", "--output", "quarter", "--measure", "untimed"
    )
    assert done.code == 0, done.err
    before, after = (
        json.loads((shell.folder / name / "report.json").read_text())["stages"] for name in ("half", "quarter")
    )
    assert [stage["cached"] for stage in before] == [False] * 3
    assert [(stage["id"], stage["cached"]) for stage in after][:2] == [("supernet", True), ("half", False)]
    facts = after[1]["facts"]
    assert facts["goal"] == {"macs": 0.25, "parameters": 0.5}
    assert facts["macs"]["after"] <= 0.25 * facts["macs"]["before"]


def test_a_nested_network_begins_as_the_one_that_was_found(shell: Shell) -> None:
    (shell.folder / "searched.yaml").write_text(RECIPE)
    assert shell.run("apply", "searched.yaml", "--output", "half", "--measure", "untimed").code == 0
    done = shell.run("pick", "half", "--macs", "0.3", "--nested", "--output", "third", "--measure", "untimed")
    assert done.code == 0, done.err
    done = shell.run("pick", "third", "--macs", "0.2", "--nested", "--output", "fifth", "--measure", "untimed")
    assert done.code == 0, done.err
    stages = json.loads((shell.folder / "fifth" / "report.json").read_text())["stages"]
    assert [(stage["id"], stage["cached"]) for stage in stages][:4] == [
        ("supernet", True), ("half", True), ("half-2", True), ("half-3", False),
    ]  # fmt: skip
    macs = [stage["facts"]["macs"] for stage in stages[1:4]]
    assert [macs[1]["before"], macs[2]["before"]] == [macs[0]["after"], macs[1]["after"]]
    assert macs[1]["after"] <= 0.3 * macs[0]["before"]
    assert macs[2]["after"] <= 0.2 * macs[0]["before"]
    # Of a chain, shares are of the whole network too, and no later search makes its network smaller still.
    for arguments, ids, share in (
        (["fifth", "--stage", "half-2", "--macs", "0.25"], ["supernet", "half", "half-2"], 0.25),
        (["fifth", "--stage", "half", "--macs", "0.45"], ["supernet", "half"], 0.45),
        (["fifth", "--stage", "half", "--nested", "--macs", "0.35", "--parameters", "1"], ["supernet", "half", "half-4"], 0.35),
    ):  # fmt: skip
        name = f"picked-{share}"
        done = shell.run("pick", *arguments, "--output", name, "--measure", "untimed")
        assert done.code == 0, done.err
        stages = json.loads((shell.folder / name / "report.json").read_text())["stages"][:-1]
        assert [stage["id"] for stage in stages] == ids
        assert stages[-1]["facts"]["macs"]["after"] <= share * macs[0]["before"]
        assert stages[-1]["facts"]["macs"]["after"] > 0.8 * share * macs[0]["before"]
    for arguments, words in (
        (["--macs", "0.6"], "keeps that already"),
        (["--latency", "0.2"], "not known which share of latency"),
        (["--latency", "openvino=0.2"], "not known which share of latency.openvino"),
    ):
        done = shell.run("pick", "half", *arguments, "--nested")
        assert (done.code, words in done.err) == (2, True), done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plain", "--macs", "0.5"], "its recipe has no stage search.architecture"),
        (["plain"], "say what the network may take"),
        (["plain", "--macs", "-0.3"], "--macs -0.3 is no share"),
        (["plain", "--parameters", "nan"], "--parameters nan is no share"),
        (["plain", "--latency", "0ms"], "--latency 0ms is no limit"),
        (["plain", "--latency", "1.5"], "--latency 1.5 is no limit"),
        (["plain", "--latency", "fast"], "neither a share nor milliseconds"),
        (["plain", "--latency", "openvino=fast"], "neither a share nor milliseconds"),
        (["plain", "--latency", "0.5", "--latency", "openvino=0.5"], "with and without a runtime"),
        (["nowhere", "--macs", "0.5"], "cannot be read"),
        (["nowhere", "--macs", "0.5", "--nested"], "nowhere"),
        (["plain", "--macs", "0.5", "--nested"], "its recipe has no stage search.architecture"),
    ],
)
def test_what_cannot_be_picked_is_said(shell: Shell, arguments: list[str], words: str) -> None:
    (shell.folder / "plain.yaml").write_text(PLAIN)
    assert shell.run("apply", "plain.yaml", "--output", "plain", "--measure", "untimed").code == 0
    done = shell.run("pick", *arguments)
    assert (done.code, words in done.err) == (2, True), done.err
