"""The examples for CI systems in docs/ci: each of their own steps is run here, as the runner's shell would."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
_ELSEWHERE = ("pip install", "gh pr comment", "test ! -f run/report.md")
"""Steps that need the network or the CI system itself."""


def _github() -> list[str]:
    steps: list[dict[str, Any]] = yaml.safe_load((ROOT / "docs/ci/github-actions.yml").read_text())["jobs"]["compress"][
        "steps"
    ]
    return [step["run"] for step in steps if "run" in step]


def _gitlab() -> list[str]:
    job = yaml.safe_load((ROOT / "docs/ci/gitlab-ci.yml").read_text())["compress"]
    return [*job["script"], *job["after_script"]]


@pytest.mark.slow
@pytest.mark.parametrize("steps", [_github(), _gitlab()], ids=["github", "gitlab"])
def test_the_steps_run_and_leave_what_later_steps_read(steps: list[str], cache: Path, tmp_path: Path) -> None:
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "COMPRESSCTL_CACHE": str(cache),
    }
    ran = 0
    for step in steps:
        if step.startswith(_ELSEWHERE):
            continue
        # A shared machine's speed is not what this is about: the example measures in full, the test briefly, and keeps int8.
        command = step.replace("--measure final", "--measure quick --set stages.int8.if_slower=keep")
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        ran += 1
    assert ran == 2
    for name in ("report.md", "report.sarif", "report.junit.xml"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    assert (tmp_path / "summary.md").read_text().startswith("## quickstart")


def test_every_command_that_is_left_out_above_is_there() -> None:
    for steps in (_github(), _gitlab()):
        assert sum(step.startswith(_ELSEWHERE) for step in steps) == 2
