"""The recipe reference, docs/recipe.md: every key of every section, written from the models that check recipes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compressctl.core.backend import backends
from compressctl.core.registry import Registry
from compressctl.core.source import SplitSizes, datasets, decoders, metrics, model_sources
from compressctl.core.tasks import TASKS
from compressctl.core.technique import techniques
from compressctl.recipe.describe import models_in, shown_default, type_name
from compressctl.recipe.schema import IF_SLOWER, BudgetSection, GateSection, SearchSection, TargetSection

_HEAD = """# Recipe reference

Every key of a recipe, written by `compressctl schema --markdown` from what checks recipes. `compressctl explain NAME` prints one entry,
`compressctl schema` the JSON schema for editors. Keys that an earlier version called otherwise go on working, with a warning;
`compressctl migrate RECIPE...` writes the new ones.

| key | what it is |
|---|---|
| `recipe` | `compressctl/v1`, required |
| `name` | what its runs are called; default: the file's name |
| `seed` | of everything random; default 0 |
| `extends`, `vars` | recipes to start from; values that `${name}` stands for, `${env:NAME}` for an environment variable |
| `task` | what the outputs mean, see [tasks](#tasks); default classification |
| `heads` | several outputs by name, each with `task`, `output`, `metric`, `decode`, `loss` and `weight`, see [tasks](tasks.md) |
| `metric` | what scores, by name or as `file.py:name`; default: the task's |
| `loss` | what training lowers instead of the task's own loss: `file.py:name`, a function of outputs and labels as tensors; `cosent` or `cosine` between pairs, see [transformers](transformers.md#training-on-pairs) |
| `decode` | what reads results off outputs: a decoder's name, `file.py:name`, or `{use: ..., ...}`; default: the task's, see [tasks](tasks.md) |
| `model`, `data` | a `source` and its keys, see [model sources](#model-sources) and [datasets](#datasets) |
| `pipeline` | a `function` that calls the model (as its `role`) and other files (`models`, each with a `source`), and gives the results; or `stages` for each of several files, by name of `models`; see [tasks](tasks.md#files-that-work-together) |
| `target` | see [target](#target) |
| `stages` | a list; each has `use` (see [techniques](#techniques)), `id`, `enabled`, `gate`, `if_slower`, and the technique's keys |
| `search` | instead of `stages`, `export` and `budget`: what is asked of the file, see [search](#search) |
| `export` | a list of backends, or of `{backend: ..., option: ...}`, see [backends](#backends) |
| `pack` | whether ONNX files are packed for transport too; default false |
| `unmatched` | what becomes of a pattern in `overrides`, and in other lists of a stage, that fits nothing in the model: `error`, or `note`, which leaves it out with a warning, for a recipe of many models; default error, in a [zoo](zoo.md) note |
| `budget` | decides the exit code, see [budget](#budget) |
"""


def render() -> str:
    """Markdown."""
    parts = [_HEAD]
    for title, params in (
        ("target", TargetSection),
        ("gate", GateSection),
        ("budget", BudgetSection),
        ("search", SearchSection),
    ):
        parts += [f"## {title}\n", *_table(params)]
    parts += ["## if_slower\n", f"{IF_SLOWER}.\n"]
    parts += ["## Tasks\n", "| task | labels |", "|---|---|"]
    parts += [f"| `{name}` | {_cell(spec.labels)} |" for name, spec in TASKS.items()]
    parts += ["\n## Metrics\n", "| metric | what it is |", "|---|---|"]
    parts += [f"| `{name}` | {_cell(spec.summary)} |" for name, spec in metrics.usable()[0].items()]
    parts += ["\n## Sizes of splits\n", "Beside a dataset's own keys `data` takes:\n", *_table(SplitSizes)]
    for title, registry in (
        ("Model sources", model_sources),
        ("Datasets", datasets),
        ("Decoders", decoders),
        ("Techniques", techniques),
        ("Backends", backends),
    ):
        parts += [f"## {title}\n", *_entries(registry)]
    return "\n".join(parts).rstrip() + "\n"


def _entries(registry: Registry[Any]) -> Iterator[str]:
    for name, spec in registry.usable()[0].items():
        yield f"### {name}\n"
        yield f"{spec.summary}.\n"
        if spec.params.model_fields:
            yield from _table(spec.params)


def _table(params: Any) -> list[str]:
    return ["| key | type | default | what it is |", "|---|---|---|---|", *_rows(params, ""), ""]


def _rows(params: Any, within: str) -> Iterator[str]:
    for name, info in params.model_fields.items():
        default = "required" if info.is_required() else shown_default(info)
        yield (
            f"| `{within}{name}` | {_cell(type_name(info.annotation))} | {_cell(default)} | {_cell(info.description or '')} |"
        )
        for model in models_in(info.annotation):
            yield from _rows(model, f"{within}{name}.")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
