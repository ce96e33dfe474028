"""From a recipe file to a Recipe: everything that is wrong at once, each with its place, without torch or numpy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from compressctl.core.backend import backends
from compressctl.core.errors import Origin, Problem, RecipeError, UsageError
from compressctl.core.nearest import suggestion
from compressctl.core.registry import Registry
from compressctl.core.source import ImageSteps, SplitSizes, datasets, decoders, metrics, model_sources
from compressctl.core.tasks import TASKS, PairLoss, Task
from compressctl.core.technique import techniques
from compressctl.recipe.compose import compose
from compressctl.recipe.image_steps import with_model_steps
from compressctl.recipe.messages import problems_of
from compressctl.recipe.nodes import Node, Step, find, join, plain, shown, split
from compressctl.recipe.order import order_problems
from compressctl.recipe.renames import Renamed, warn
from compressctl.recipe.schema import (
    VERSION,
    BudgetSection,
    DataSection,
    DecodeSection,
    Export,
    FunctionSection,
    GateSection,
    Head,
    HeadWeight,
    IfSlower,
    MetricSection,
    ModelSection,
    Pipeline,
    PipelineSection,
    Recipe,
    SearchSection,
    Stage,
    TargetSection,
    Unmatched,
)
from compressctl.recipe.set_of_files import for_one_file
from compressctl.recipe.variables import escaped

_SECTIONS = (
    "recipe",
    "name",
    "seed",
    "task",
    "heads",
    "metric",
    "decode",
    "loss",
    "model",
    "pipeline",
    "data",
    "target",
    "stages",
    "search",
    "export",
    "pack",
    "unmatched",
    "budget",
)
_STAGE_KEYS = ("use", "id", "enabled", "gate", "if_slower")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def load(path: Path, sets: Sequence[str] = (), unsets: Sequence[str] = (), text: str | None = None) -> Recipe:
    """Read, merge and check a recipe. sets, unsets: `path=value` and `path`, as on the command line.

    text: what the file would hold, for a recipe that is in none. Raises RecipeError with every problem that was found.
    Issues a RenamedWarning for each old name.
    """
    recipe, renamed = read(path, sets, unsets, text)
    warn(renamed)
    return recipe


def read(
    path: Path, sets: Sequence[str] = (), unsets: Sequence[str] = (), text: str | None = None
) -> tuple[Recipe, tuple[Renamed, ...]]:
    """The same, with its old names returned."""
    composed = compose(path, sets, unsets, text)
    return _Reader(for_one_file(composed.root), path).recipe(), composed.renamed


class _Reader:
    """Reads one composed tree, gathering problems instead of stopping at the first."""

    def __init__(self, root: Node, path: Path) -> None:
        self.root = root
        self.path = path
        self.problems: list[Problem] = []
        self.image_steps: ImageSteps | None = None

    def recipe(self) -> Recipe:
        self._version()
        self._unknown_keys(self.root, (), _SECTIONS)
        name = self._name()
        seed = self._value("seed", int, 0)
        heads = self._heads()
        task: Task = self._choice(("task",), get_args(Task), "custom" if heads else "classification")
        if heads and task != "custom":
            self._problem("each of `heads` has a task of its own", ("task",), "leave the recipe's out")
        metric, decode, loss = self._metric(task), self._decode(task), self._loss(task)
        model = self._model(("model",))
        pipeline = self._pipeline()
        if pipeline is not None and model is not None and getattr(model.params, "states", None):
            self._problem(
                "the function that calls the model keeps its states", ("model", "states"), "leave `states` out"
            )
        data = self._data(model)
        target = self._section("target", TargetSection)
        stages = self._stages()
        budget = self._section("budget", BudgetSection)
        export = self._export(target)
        pack = self._value("pack", bool, False)
        unmatched: Unmatched = self._choice(("unmatched",), get_args(Unmatched), "error")
        if isinstance(budget, BudgetSection) and budget.packed_size is not None and not pack:
            self._problem("nothing is packed that this could bound", ("budget", "packed_size"), "add `pack: true`")
        search = self._search()
        self._raise()
        assert model is not None
        assert target is not None
        assert budget is not None
        recipe = Recipe(
            name=name,
            seed=seed,
            task=task,
            metric=metric,
            model=model,
            data=data,
            target=target,
            stages=stages,
            export=export,
            budget=budget,
            base=self.path.parent,
            resolved={},
            pack=pack,
            unmatched=unmatched,
            decode=decode,
            loss=loss,
            heads=heads,
            pipeline=pipeline,
            search=search,
            image_steps=self.image_steps,
        )
        for problem in order_problems(recipe):
            self._problem(problem.message, split(problem.path or ""), problem.hint)
        self._raise()
        return replace(recipe, resolved=_with_references(_escaped(resolve(recipe)), self.root))

    def _raise(self) -> None:
        if self.problems:
            raise RecipeError(sorted(self.problems, key=_place))

    def _version(self) -> None:
        node = self.root.child("recipe")
        if node is None:
            self._problem("`recipe` is missing", ("recipe",), f"start with `recipe: {VERSION}`")
        elif node.value != VERSION:
            newer = isinstance(node.value, str) and re.fullmatch(r"compressctl/v(\d+)", node.value)
            if newer and int(newer.group(1)) > 1:
                self._problem(
                    f"this recipe is for a newer compressctl ({node.value})", ("recipe",), "upgrade compressctl"
                )
            else:
                self._problem(f"not a recipe version: {shown(node.value)}", ("recipe",), f"write `recipe: {VERSION}`")

    def _name(self) -> str:
        name: str = self._value("name", str, self.path.stem)
        if not _NAME.fullmatch(name):
            self._problem(
                "a name has letters, digits, `.`, `_` and `-`, at most 100, since it becomes a folder", ("name",), None
            )
        return name

    def _heads(self) -> dict[str, Head]:
        """By name. Each has a task, and what a recipe says of one output."""
        node = self._mapping(("heads",), required=False)
        found: dict[str, Head] = {}
        for name, child in (node.entries if node is not None else {}).items():
            at = ("heads", name)
            if not isinstance(child.value, dict):
                self._problem(
                    f"a head is a mapping, this is {shown(child.value)}", at, "write `{task: classification}`"
                )
                continue
            self._unknown_keys(child, at, ("task", "output", "metric", "decode", "loss", "weight"))
            task: Task = self._choice((*at, "task"), get_args(Task), "classification")
            metric, decode, loss = self._metric(task, at), self._decode(task, at), self._loss(task, at)
            (weight,) = self._parts(child.only("weight"), at, (HeadWeight,))
            output = self._value_at((*at, "output"), str, None)
            if isinstance(weight, HeadWeight):
                found[name] = Head(task, output, metric, decode, loss, weight.weight)
        return found

    def _metric(self, task: Task, under: tuple[Step, ...] = ()) -> str | MetricSection | None:
        """A registered name, or a function of the author's: by its place, or as a mapping with what there is to say about it."""
        at = (*under, "metric")
        node = find(self.root, list(at))
        if node is not None and (isinstance(node.value, dict) or _is_function(node.value)):
            (section,) = self._parts(_as_mapping(node), at, (MetricSection,))
            if isinstance(section, MetricSection) and section.name in metrics:
                hint = "call the function otherwise, so that a report's reader knows which of the two scored"
                self._problem(f"{section.name} is the name of a registered metric", at, hint)
            return section if isinstance(section, MetricSection) else None
        name: str | None = self._value_at(at, str, None)
        if name is None:
            return None
        if not self._known(metrics, name, at):
            return None
        fits = metrics.get(name).tasks
        if fits and task not in fits:
            self._problem(f"{name} does not fit the task {task}", at, f"{name} is for {', '.join(fits)}")
        return name

    def _loss(self, task: Task, under: tuple[Step, ...] = ()) -> FunctionSection | PairLoss | None:
        """A function of the author's, by its place, or as a mapping with its arguments; or the name of a loss between pairs."""
        at = (*under, "loss")
        node = find(self.root, list(at))
        if node is None or node.value is None:
            return None
        if not isinstance(node.value, dict) and not _is_function(node.value):
            name: PairLoss | None = next((name for name in get_args(PairLoss) if name == node.value), None)
            if name is None:
                hint = f"write `loss: file.py:name`; losses between pairs have names: {', '.join(get_args(PairLoss))}"
                self._problem(f"loss names a function, this is {shown(node.value)}", at, hint)
                return None
            if task != "embedding":
                words = f"{node.value} compares the vectors of pairs, and the task is {task}"
                self._problem(words, at, "set `task: embedding`, or leave `loss` out for the task's own")
                return None
            return name
        (section,) = self._parts(_as_mapping(node), at, (FunctionSection,))
        return section if isinstance(section, FunctionSection) else None

    def _decode(self, task: Task, under: tuple[Step, ...] = ()) -> DecodeSection | None:
        """A decoder's name, a function of the author's, or a mapping with `use` and the decoder's keys; default: the task's own."""
        at = (*under, "decode")
        node, usual = find(self.root, list(at)), TASKS[task].decoder
        if node is None or node.value is None:
            if self.root.child("pipeline") is not None:
                return None
            if usual is None and TASKS[task].results is not None:
                fitting = [name for name in decoders.names() if task in decoders.get(name).tasks]
                hint = f"set `decode` to {', '.join(fitting)}, or to a function of yours: file.py:name"
                self._problem(f"nothing says how {task} reads results off outputs", at, hint)
            return DecodeSection(usual, decoders.get(usual).params()) if usual else None
        if not isinstance(node.value, dict):
            node = _as_mapping(node) if _is_function(node.value) else node.with_value({"use": node})
        use = node.child("use") or (replace(node, value="python") if node.child("function") else None)
        if use is None or not isinstance(use.value, str):
            self._problem("`use` names a decoder, or `function` yours", at, decoders.nearest(""))
            return None
        if not self._known(decoders, use.value, (*at, "use")):
            return None
        spec = decoders.get(use.value)
        if (task != "custom" and TASKS[task].results is None) or (spec.tasks and task not in spec.tasks):
            words = f"{use.value} does not fit the task {task}"
            fits = spec.tasks or tuple(name for name in TASKS if TASKS[name].results)
            self._problem(words, at, f"it is for {', '.join(fits)}")
            return None
        (params,) = self._parts(node, at, (spec.params,), ("use",))
        return DecodeSection(use.value, params) if params is not None else None

    def _model(self, at: tuple[Step, ...]) -> ModelSection | None:
        node = self._mapping(at, required=True)
        source = self._source(node, model_sources, at)
        if node is None or source is None:
            return None
        elsewhere = _keys_of_others(model_sources, source)
        (params,) = self._parts(node, at, (model_sources.get(source).params,), ("source",), elsewhere)
        return ModelSection(source, params) if params is not None else None

    def _pipeline(self) -> Pipeline | None:
        """A function, what it calls the model by, and the other files that it calls."""
        node = self._mapping(("pipeline",), required=False)
        if node is None:
            return None
        if self.root.child("decode") is not None or self.root.child("heads") is not None:
            self._problem(
                "the function gives the results: nothing decodes", ("pipeline",), "leave `decode` and `heads` out"
            )
        (section,) = self._parts(node, ("pipeline",), (PipelineSection,), ("models",))
        others = self._mapping(("pipeline", "models"), required=False)
        found = {name: self._model(("pipeline", "models", name)) for name in (others.entries if others else {})}
        if not isinstance(section, PipelineSection):
            return None
        for name in section.compressed.keys() - found.keys():
            self._problem(
                f"{name} is none of `models`", ("pipeline", "compressed", name), f"there are: {', '.join(found)}"
            )
        if section.role in found:
            self._problem(
                f"{section.role} is what the function calls `model` by", ("pipeline", "models", section.role), None
            )
        return Pipeline(section, {name: model for name, model in found.items() if model is not None})

    def _data(self, model: ModelSection | None) -> DataSection | None:
        node = self._mapping(("data",), required=False)
        if node is None:
            return None
        source = self._source(node, datasets, ("data",))
        if source is None:
            return None
        kinds, elsewhere = (datasets.get(source).params, SplitSizes), _keys_of_others(datasets, source)
        try:
            node, self.image_steps = with_model_steps(node, kinds[0], model, self.path.parent)
        except UsageError as error:
            self._problem(error.message, ("model",), error.hint)
        params, sizes = self._parts(node, ("data",), kinds, ("source",), elsewhere)
        if params is None or sizes is None:
            return None
        assert isinstance(sizes, SplitSizes)
        return DataSection(source, params, sizes)

    def _search(self) -> SearchSection | None:
        node = self.root.child("search")
        if node is None:
            return None
        for key in ("stages", "export", "budget", "pack"):
            if (other := self.root.child(key)) is not None and other.value:
                self._problem("a search chooses this itself", (key,), "leave it out, or leave `search` out")
        if (train := node.child("train")) is not None and isinstance(train.value, dict):
            self._parts(train, ("search", "train"), (techniques.get("finetune").params,))
        found: SearchSection | None = self._section("search", SearchSection)
        return found

    def _stages(self) -> tuple[Stage, ...]:
        node = self.root.child("stages")
        if node is None:
            return ()
        if not isinstance(node.value, list):
            self._problem(
                f"stages is a list (order is meaning), this is {shown(node.value)}", ("stages",), "write `- use: ...`"
            )
            return ()
        taken: dict[str, int] = {}
        found = [self._stage(child, position, taken) for position, child in enumerate(node.items)]
        return tuple(stage for stage in found if stage is not None)

    def _stage(self, node: Node, position: int, taken: dict[str, int]) -> Stage | None:
        at: tuple[Step, ...] = ("stages", position)
        if not isinstance(node.value, dict):
            self._problem(f"a stage is a mapping, this is {shown(node.value)}", at, "write `- use: quantize.static`")
            return None
        use = node.child("use")
        if use is None:
            self._problem("`use` is missing", at, "name a technique, as in `use: quantize.static`")
            return None
        if not isinstance(use.value, str) or not self._known(techniques, str(use.value), (*at, "use")):
            if not isinstance(use.value, str):
                self._problem(f"`use` names a technique, this is {shown(use.value)}", (*at, "use"), None)
            return None
        stage_id = self._stage_id(node, use.value, at, taken)
        (params,) = self._parts(node, at, (techniques.get(use.value).params,), _STAGE_KEYS)
        enabled = self._value_at((*at, "enabled"), bool, True)
        if_slower = self._if_slower((*at, "if_slower"))
        given, gate = node.child("gate"), None
        if given is not None and given.value is not None:
            (gate,) = self._parts(given, (*at, "gate"), (GateSection,))
        if params is None:
            return None
        assert gate is None or isinstance(gate, GateSection)
        return Stage(stage_id, use.value, params, gate, enabled, if_slower)

    def _if_slower(self, at: tuple[Step, ...]) -> IfSlower | None:
        value: Any = self._value_at(at, str, None)
        if not value or value in get_args(IfSlower):
            return value or None
        self._problem(f"unknown {at[-1]} {shown(value)}", at, suggestion(value, get_args(IfSlower)))
        return None

    def _stage_id(self, node: Node, use: str, at: tuple[Step, ...], taken: dict[str, int]) -> str:
        given = node.child("id")
        if given is None:
            number = 1
            while (name := use if number == 1 else f"{use}-{number}") in taken:
                number += 1
        else:
            name = str(given.value)
            if not isinstance(given.value, str) or not _NAME.fullmatch(name):
                self._problem("an id has letters, digits, `.`, `_` and `-`", (*at, "id"), "quote it if it is a number")
            elif name in taken:
                self._problem(f"the id {name} is taken by stages[{taken[name]}]", (*at, "id"), "ids are unique")
        taken.setdefault(name, int(at[-1]))
        return name

    def _export(self, target: BaseModel | None) -> tuple[Export, ...]:
        """Each entry is a backend's name, or a mapping with `backend` and what there is to say about it."""
        node = self.root.child("export")
        default = target.backend if isinstance(target, TargetSection) else "onnxruntime"
        known = not isinstance(target, TargetSection) or self._known(backends, default, ("target", "backend"))
        if node is None or node.value is None:
            return (Export(default, backends.get(default).params()),) if known else ()
        if not isinstance(node.value, list) or not node.items:
            self._problem(
                f"export is a list of backends, this is {shown(node.value)}", ("export",), "as in [onnxruntime]"
            )
            return ()
        found: dict[str, Export] = {}
        for position, child in enumerate(node.items):
            entry = self._one_export(child, ("export", position))
            if entry is not None and entry.backend in found:
                self._problem(f"{entry.backend} is exported twice", ("export", position), "one entry per backend")
            elif entry is not None:
                found[entry.backend] = entry
        return tuple(found.values())

    def _one_export(self, node: Node, at: tuple[Step, ...]) -> Export | None:
        if isinstance(node.value, str):
            return (
                Export(node.value, backends.get(node.value).params()) if self._known(backends, node.value, at) else None
            )
        name = node.child("backend") if isinstance(node.value, dict) else None
        if name is None or not isinstance(name.value, str):
            self._problem(f"export names backends, this is {shown(node.value)}", at, "as in {backend: openvino}")
            return None
        if not self._known(backends, name.value, (*at, "backend")):
            return None
        (params,) = self._parts(node, at, (backends.get(name.value).params,), ("backend",))
        return None if params is None else Export(name.value, params)

    def _mapping(self, at: tuple[Step, ...], *, required: bool) -> Node | None:
        node, key = find(self.root, list(at)), at[-1]
        if node is None or node.value is None:
            if required:
                self._problem(f"`{key}` is missing", at[:-1], f"as in `{key}: {{source: ...}}`")
            return None
        if not isinstance(node.value, dict):
            self._problem(f"{key} is a mapping, this is {shown(node.value)}", at, f"as in `{key}: {{source: ...}}`")
            return None
        return node

    def _source(self, node: Node | None, registry: Registry[Any], at: tuple[Step, ...]) -> str | None:
        if node is None:
            return None
        source = node.child("source")
        if source is None:
            self._problem("`source` is missing", at, f"one of: {', '.join(registry.names())}")
            return None
        if not isinstance(source.value, str):
            self._problem(f"source is a name, this is {shown(source.value)}", (*at, "source"), registry.nearest(""))
            return None
        return source.value if self._known(registry, source.value, (*at, "source")) else None

    def _known(self, registry: Registry[Any], name: str, at: Sequence[Step]) -> bool:
        if name in registry:
            return True
        self._problem(f"unknown {registry.kind} {shown(name)}", at, registry.nearest(name))
        return False

    def _section(self, key: str, kind: type[BaseModel]) -> Any:
        node = self.root.child(key)
        if node is None or node.value is None:
            return kind()
        if not isinstance(node.value, dict):
            self._problem(f"{key} is a mapping, this is {shown(node.value)}", (key,), None)
            return None
        return self._parts(node, (key,), (kind,))[0]

    def _parts(
        self,
        node: Node,
        at: tuple[Step, ...],
        kinds: Sequence[type[BaseModel]],
        own: Sequence[str] = (),
        elsewhere: Callable[[str], str | None] = lambda key: None,
    ) -> list[BaseModel | None]:
        """A mapping whose keys belong to these models, or are the recipe's own; None for what is wrong with its part.

        elsewhere: what to say of a key that is none of these.
        """
        self._unknown_keys(node, at, [*own, *(key for kind in kinds for key in kind.model_fields)], elsewhere)
        return [self._params(node, kind, at) for kind in kinds]

    def _params(self, node: Node, kind: type[BaseModel], at: tuple[Step, ...]) -> BaseModel | None:
        known = node.only(*kind.model_fields) if isinstance(node.value, dict) else node
        try:
            # As JSON and strictly: a list may be a tuple, but `no` is not false and "3" is not 3.
            return kind.model_validate_json(json.dumps(plain(known)), strict=True)
        except ValidationError as error:
            self.problems += problems_of(error, known, at, kind)
            return None

    def _unknown_keys(
        self,
        node: Node,
        at: tuple[Step, ...],
        known: Sequence[str],
        elsewhere: Callable[[str], str | None] = lambda key: None,
    ) -> None:
        for key, child in node.entries.items():
            if key not in known:
                hint = elsewhere(key) or suggestion(key, known)
                self.problems.append(Problem("unknown key", join("", *at, key), hint, child.key or child.origin))

    def _value(self, key: str, kind: type, default: Any) -> Any:
        return self._value_at((key,), kind, default)

    def _value_at(self, at: tuple[Step, ...], kind: type, default: Any) -> Any:
        node = find(self.root, list(at))
        if node is None or (node.value is None and default is None):
            return default
        if type(node.value) is not kind:
            if kind is str and node.raw is not None:
                return node.raw
            words = {str: "text", int: "a whole number", bool: "true or false"}[kind]
            hint = "put it in quotes" if kind is str and not isinstance(node.value, dict | list) else None
            self._problem(f"this is {words}, not {shown(node.value)}", at, hint)
            return default if default is not None else kind()
        return node.value

    def _choice(self, at: tuple[Step, ...], known: Sequence[str], default: str) -> Any:
        value = self._value_at(at, str, default)
        if value not in known:
            self._problem(f"unknown {at[-1]} {shown(value)}", at, suggestion(value, known))
            return default
        return value

    def _problem(self, message: str, at: Sequence[Step], hint: str | None) -> None:
        node = find(self.root, list(at))
        steps = list(at)
        while node is None and steps:
            steps.pop()
            node = find(self.root, steps)
        origin = node.origin if node is not None else None
        self.problems.append(Problem(message, join("", *at), hint, origin))


def resolve(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain data with every default filled in; it loads to an equal recipe."""
    data = None
    if recipe.data is not None:
        sizes = recipe.data.sizes.model_dump(mode="json")
        data = {"source": recipe.data.source, **_set_values(recipe.data.params), **sizes}
    return {
        "recipe": VERSION,
        "name": recipe.name,
        "seed": recipe.seed,
        "task": recipe.task,
        **_judged(recipe),
        **({"heads": {name: _head(head) for name, head in recipe.heads.items()}} if recipe.heads else {}),
        "model": {"source": recipe.model.source, **_set_values(recipe.model.params)},
        **({"pipeline": _pipeline_values(recipe.pipeline)} if recipe.pipeline else {}),
        **({"data": data} if data else {}),
        "target": recipe.target.model_dump(mode="json"),
        **_treatment(recipe),
    }


def _treatment(recipe: Recipe) -> dict[str, Any]:
    """Stages, deliverables and limits, or what is searched instead."""
    if recipe.search is not None:
        return {"search": recipe.search.model_dump(mode="json")}
    stages = []
    for stage in recipe.stages:
        entry: dict[str, Any] = {"id": stage.id, "use": stage.use, "enabled": stage.enabled}
        if stage.gate is not None:
            entry["gate"] = stage.gate.model_dump(mode="json")
        if stage.if_slower is not None:
            entry["if_slower"] = stage.if_slower
        stages.append({**entry, **stage.params.model_dump(mode="json")})
    return {
        "stages": stages,
        "export": [{"backend": entry.backend, **_set_values(entry.params)} for entry in recipe.export],
        "pack": recipe.pack,
        **({"unmatched": recipe.unmatched} if recipe.unmatched != "error" else {}),
        "budget": recipe.budget.model_dump(mode="json"),
    }


def _judged(where: Recipe | Head) -> dict[str, Any]:
    """Metric, loss and decoder."""
    return {
        "metric": where.metric.model_dump(mode="json") if isinstance(where.metric, BaseModel) else where.metric_name,
        **(
            {"loss": where.loss.model_dump(mode="json") if isinstance(where.loss, BaseModel) else where.loss}
            if where.loss
            else {}
        ),
        **({"decode": {"use": where.decode.use, **_set_values(where.decode.params)}} if where.decode else {}),
    }


def _head(head: Head) -> dict[str, Any]:
    output = {} if head.output is None else {"output": head.output}
    return {"task": head.task, **output, **_judged(head), "weight": head.weight}


def _pipeline_values(pipeline: Pipeline) -> dict[str, Any]:
    models = {name: {"source": model.source, **_set_values(model.params)} for name, model in pipeline.models.items()}
    return {**pipeline.section.model_dump(mode="json"), "models": models}


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_escaped(inner) for inner in value]
    return escaped(value) if isinstance(value, str) else value


def _with_references(resolved: Any, node: Node) -> Any:
    """The same with references to the environment where the recipe has them."""
    if node.reference is not None:
        # A backend that is named alone is written out as a mapping.
        return {**resolved, "backend": node.reference} if isinstance(resolved, dict) else node.reference
    if isinstance(resolved, dict):
        return {key: _with_references(value, node.entries.get(key, _NOWHERE)) for key, value in resolved.items()}
    if isinstance(resolved, list) and len(node.items) == len(resolved):
        return [_with_references(value, item) for value, item in zip(resolved, node.items, strict=True)]
    return resolved


def _keys_of_others(sources: Registry[Any], source: str) -> Callable[[str], str | None]:
    """What to say of a key that another source of models or data has, None where none has it."""

    def of_others(key: str) -> str | None:
        having = [name for name in sources.names() if name != source and key in sources.get(name).params.model_fields]
        why = f"; {_ONLY_FILES[key]}" if sources is model_sources and key in _ONLY_FILES else ""
        return (
            f"{source} has none, {', '.join(having)} {'has' if len(having) == 1 else 'have'} it{why}"
            if having
            else None
        )

    return of_others


_ONLY_FILES = {
    "states": "stages that train or cut a network know no sequence of steps: export one step of it, states as inputs and outputs"
}
"""Why a key is of models in files alone."""


def _is_function(value: Any) -> bool:
    """Whether it is written as what names a function."""
    return isinstance(value, str) and ":" in value


def _as_mapping(node: Node) -> Node:
    """A function's place alone stands for a mapping with nothing else."""
    return node if isinstance(node.value, dict) else node.with_value({"function": node})


_NOWHERE = Node(None, Origin(""))


def _set_values(params: BaseModel) -> dict[str, Any]:
    """Sources have parameters that exclude each other, so only what was set can be loaded again."""
    return params.model_dump(mode="json", exclude_unset=True)


def _place(problem: Problem) -> tuple[str, int, int]:
    origin = problem.origin
    return ("", 0, 0) if origin is None else (origin.source, origin.line or 0, origin.column or 0)
