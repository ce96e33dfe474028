"""Runs on a tiny graph that measure nothing, so that each takes a tenth of a second; and stages whose author means no good."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile._case import Case
from hostile._models import network


def recipe(case: Case, stages: str = "[{use: quantize.dynamic, id: q, if_slower: keep}]", extra: str = "") -> str:
    """A recipe for a graph of 36 numbers, without data."""
    (case.folder / "model.onnx").write_bytes(network().SerializeToString())
    text = f"recipe: compressctl/v1\nname: r\ntask: custom\nmodel: {{source: onnx, path: model.onnx}}\nstages: {stages}\n{extra}\n"
    (case.folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return "recipe.yaml"


def unmeasured() -> None:
    """In the process of the command: nothing is tried before the stages, and nothing built or measured after them."""
    from compressctl.pipeline.deliver import Delivery
    from compressctl.pipeline.executor import Executor

    Executor.preflight = lambda executor: None
    Delivery.all = lambda delivery, model: None


def stage(does: Callable[[Any], Any]) -> None:
    """In the process of the command: quantize.dynamic does this before it works, with the run's context."""
    from compressctl.techniques.quantize import dynamic

    unmeasured()
    usual = dynamic.apply

    def apply(model: Any, params: Any, run: Any) -> Any:
        does(run)
        return usual(model, params, run)

    dynamic.apply = apply


def run_folder(run: Any) -> Path:
    return Path(run.folder).parents[1]


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def fill_the_disk(folder: Path) -> None:
    """To the last byte."""
    with (folder / "ballast").open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                size = size if file.write(b"x" * size) == size else size // 2
            except OSError:
                size //= 2
        os.fsync(file.fileno())
