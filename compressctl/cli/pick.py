"""compressctl pick: another network of a run's architecture search."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from compressctl.pipeline.measure_level import MeasureLevel

_USE = "search.architecture"


def pick(
    run: Annotated[
        Path, typer.Argument(help="A run's folder, which holds recipe.lock.yaml, or that lock file.", metavar="RUN")
    ],
    macs: Annotated[
        float | None,
        typer.Option(help="Share of the whole network's multiply-accumulates, as in 0.4.", show_default=False),
    ] = None,
    parameters: Annotated[
        float | None, typer.Option(help="Share of the parameters of its layers.", show_default=False)
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(help="Share of the bytes of its weights and of the values that live at once.", show_default=False),
    ] = None,
    energy: Annotated[
        float | None, typer.Option(help="Share of the energy of one call, where it is counted.", show_default=False)
    ] = None,
    latency: Annotated[
        list[str] | None,
        typer.Option(
            help="Of one call before it is quantized, measured on the target's runtime: a share, as in 0.5, or 0.4ms; on another "
            "runtime as openvino=0.5. Several times for several runtimes.",
            show_default=False,
        ),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Which search, by its id, where the recipe has several.", show_default=False)
    ] = None,
    nested: Annotated[
        bool,
        typer.Option(
            "--nested",
            help="Search inside the network that the run found and trained, which the new one then begins as; shares stay those of the whole network.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the new run. [default: runs/<name>/<time>-<hash>]", show_default=False),
    ] = None,
    measure: Annotated[MeasureLevel, typer.Option(help="How much is measured, as for apply.")] = MeasureLevel.STAGES,
) -> None:
    """Run a run's recipe again with other limits for its stage `search.architecture`.

    Stages before the search come from the cache: a supernet is trained once and serves every budget. With --nested, so does the search itself: a family,
    each of whose networks goes on from the trained weights of the next larger one. Of several searches in a row, those behind the picked one are left out.

    \b
    Examples:
      compressctl pick runs/searched/20261126-131803-bce8143f --macs 0.35
      compressctl pick runs/searched/20261126-131803-bce8143f --latency 0.4ms --output fast
      compressctl pick runs/searched/20261126-131803-bce8143f --latency onnxruntime=0.6 --latency openvino=0.7 --memory 0.5
      compressctl pick half --macs 0.35 --nested --output third
    """
    from compressctl.cli.apply import LogFormat, run_and_show
    from compressctl.pipeline.plan import make_plan
    from compressctl.recipe.lock import load_lock
    from compressctl.store.cache_place import stage_cache

    shares = {"macs": macs, "parameters": parameters, "memory": memory, "energy": energy}
    limits = _limits({name: share for name, share in shares.items() if share is not None}, latency or [])
    lock = run if run.name == "recipe.lock.yaml" else run / "recipe.lock.yaml"
    recipe, _ = load_lock(lock, lambda content: _limited(content, limits, stage, lock, is_nested=nested))
    cache = stage_cache()
    plan, format_ = make_plan(recipe, cache), LogFormat.RICH if sys.stdout.isatty() else LogFormat.PLAIN
    report = run_and_show(recipe, plan, output, cache, format_, measure, None, False, None, None)
    raise typer.Exit(report.exit_code)


def _limits(shares: dict[str, float], latencies: list[str]) -> dict[str, Any]:
    """As `at_most` has them. Raises UsageError."""
    from compressctl.core.errors import UsageError

    for name, share in shares.items():
        if not 0 < share <= 1:
            raise UsageError(f"--{name} {share:g} is no share", hint="it is above 0 and at most 1, as in 0.4")
    found: dict[str, Any] = {}
    for said in latencies:
        where, _, value = said.rpartition("=")
        number, unit = (value[:-2], "latency_ms") if value.endswith("ms") else (value, "latency")
        try:
            amount = float(number)
        except ValueError:
            hint = "as in 0.5, 0.4ms or openvino=0.5"
            raise UsageError(f"--latency {said} is neither a share nor milliseconds", hint=hint) from None
        if not 0 < amount < float("inf") or (unit == "latency" and amount > 1):
            raise UsageError(
                f"--latency {said} is no limit", hint="a share is above 0 and at most 1, milliseconds are above 0"
            )
        found.setdefault(unit, {})[where] = amount
    for unit, amounts in found.items():
        if "" in amounts:
            if len(amounts) > 1:
                raise UsageError(
                    "--latency is given with and without a runtime", hint="name the target's too, as in onnxruntime=0.5"
                )
            found[unit] = amounts[""]
    if not found and not shares:
        raise UsageError(
            "say what the network may take",
            hint="--macs 0.4, --parameters 0.4, --memory 0.5, --energy 0.5, --latency 0.5 or --latency 0.4ms",
        )
    return {**shares, **found}


Taken = dict[str, dict[str, float]]
"""What the network takes that a search found, as shares of what the whole one takes, by the search's id and the limit's name."""


def _taken(run: Path) -> Taken:
    """As the run's report has it. Raises UsageError for a folder without one."""
    from compressctl.report.read import read_report

    found: Taken = {}
    so_far: dict[str, float] = {}
    for one in read_report(run).stages:
        if one.use == _USE and "macs" in one.facts:
            facts = one.facts
            shares = {name: facts[name]["after"] / facts[name]["before"] for name in ("macs", "parameters")}
            shares |= facts.get("reached", {})
            # Limits on what only this search measured are no shares of the whole where another search stands before it.
            known = so_far.keys() & shares.keys() if found else shares.keys()
            so_far = {name: shares[name] * so_far.get(name, 1.0) for name in known}
            found[one.id] = so_far
    return found


def _limited(
    content: dict[str, Any], limits: dict[str, Any], stage: str | None, lock: Path, *, is_nested: bool
) -> dict[str, Any]:
    """The recipe with these limits alone for its search, or with another search behind it, and none behind that. Raises UsageError where it has none, or several."""
    from compressctl.core.errors import UsageError

    stages = content.get("stages") or []
    searches = [one for one in stages if isinstance(one, dict) and one.get("use") == _USE and one.get("enabled", True)]
    found = [one for one in searches if stage in (None, one.get("id"))]
    if is_nested and stage is None:
        found = found[-1:]
    if len(found) != 1:
        named = ", ".join(str(one.get("id")) for one in found)
        what = (
            f"has several stages {_USE} ({named})"
            if found
            else f"has no stage {_USE}" + (f" called {stage}" if stage else "")
        )
        raise UsageError(
            f"{lock}: its recipe {what}",
            hint="name one with --stage" if found else "pick chooses among the networks of such a stage",
        )
    (old,) = found
    place = searches.index(old)
    # What the network takes that the new search looks inside: shares of it are not those of the whole network.
    inside = old if is_nested else searches[place - 1] if place else None
    if inside is not None:
        limits = _inside(limits, _taken(lock.parent), str(inside.get("id")), lock)
    new = {**old, "at_most": limits, "architecture": None}
    made = [old, {**new, "id": _free(str(old["id"]), stages)}] if is_nested else [new]
    later = searches[place + 1 :]
    kept = [one for one in stages if not any(one is each for each in later)]
    return {**content, "stages": [part for one in kept for part in (made if one is old else [one])]}


def _inside(limits: dict[str, Any], taken: Taken, search: str, lock: Path) -> dict[str, Any]:
    """Limits as shares of what the network takes that this search found, without those that it keeps already; milliseconds are what they are. Raises UsageError where none is
    left, or where it is not known."""
    from compressctl.core.errors import UsageError

    if search not in taken:
        raise UsageError(
            f"{lock.parent}: its search {search} did not end, so that there is no network to look inside",
            hint="leave --nested out",
        )
    found: dict[str, Any] = {}
    for name, limit in limits.items():
        if name == "latency_ms":
            found[name] = limit
        elif isinstance(limit, dict):
            shares = {where: _share(f"{name}.{where}", part, taken[search], lock) for where, part in limit.items()}
            found[name] = {where: share for where, share in shares.items() if share < 1}
        else:
            found[name] = _share(name, limit, taken[search], lock)
    left = {
        name: limit
        for name, limit in found.items()
        if name == "latency_ms" or (limit if isinstance(limit, dict) else limit < 1)
    }
    if not left:
        raise UsageError(
            f"{lock.parent}: the network of its search {search} keeps that already: "
            + ", ".join(f"{share:.1%} of {name}" for name, share in taken[search].items()),
            hint="ask for less, or leave --nested out",
        )
    return left


def _share(name: str, asked: float, taken: dict[str, float], lock: Path) -> float:
    """1 or more where the network keeps it already."""
    from compressctl.core.errors import UsageError

    if name not in taken:
        raise UsageError(
            f"{lock.parent}: it is not known which share of {name} its network takes",
            hint="its search had no such limit: give macs or parameters, or --latency in ms, or leave --nested out",
        )
    return round(asked / taken[name], 6)


def _free(name: str, stages: list[Any]) -> str:
    taken = {one.get("id") for one in stages if isinstance(one, dict)}
    stem = name.rstrip("0123456789").rstrip("-") or name
    return next(made for number in range(2, len(taken) + 3) if (made := f"{stem}-{number}") not in taken)
