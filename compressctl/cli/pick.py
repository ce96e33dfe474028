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
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the new run. [default: runs/<name>/<time>-<hash>]", show_default=False),
    ] = None,
    measure: Annotated[MeasureLevel, typer.Option(help="How much is measured, as for apply.")] = MeasureLevel.STAGES,
) -> None:
    """Run a run's recipe again with other limits for its stage `search.architecture`.

    Stages before the search come from the cache: a supernet is trained once and serves every budget.

    \b
    Examples:
      compressctl pick runs/searched/20261126-131803-bce8143f --macs 0.35
      compressctl pick runs/searched/20261126-131803-bce8143f --latency 0.4ms --output fast
      compressctl pick runs/searched/20261126-131803-bce8143f --latency onnxruntime=0.6 --latency openvino=0.7 --memory 0.5
    """
    from compressctl.cli.apply import LogFormat, run_and_show
    from compressctl.pipeline.plan import make_plan
    from compressctl.recipe.lock import load_lock
    from compressctl.store.cache_place import stage_cache

    shares = {"macs": macs, "parameters": parameters, "memory": memory, "energy": energy}
    limits = _limits({name: share for name, share in shares.items() if share is not None}, latency or [])
    lock = run if run.name == "recipe.lock.yaml" else run / "recipe.lock.yaml"
    recipe, _ = load_lock(lock, lambda content: _limited(content, limits, stage, lock))
    cache = stage_cache()
    plan, format_ = make_plan(recipe, cache), LogFormat.RICH if sys.stdout.isatty() else LogFormat.PLAIN
    report = run_and_show(recipe, plan, output, cache, format_, measure, None, False, None, None)
    raise typer.Exit(report.exit_code)


def _limits(shares: dict[str, float], latencies: list[str]) -> dict[str, Any]:
    """As `at_most` has them. Raises UsageError."""
    from compressctl.core.errors import UsageError

    found: dict[str, Any] = {}
    for said in latencies:
        where, _, value = said.rpartition("=")
        number, unit = (value[:-2], "latency_ms") if value.endswith("ms") else (value, "latency")
        try:
            amount = float(number)
        except ValueError:
            hint = "as in 0.5, 0.4ms or openvino=0.5"
            raise UsageError(f"--latency {said} is neither a share nor milliseconds", hint=hint) from None
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


def _limited(content: dict[str, Any], limits: dict[str, Any], stage: str | None, lock: Path) -> dict[str, Any]:
    """The recipe with these limits alone for its search. Raises UsageError where it has none, or several."""
    from compressctl.core.errors import UsageError

    stages = content.get("stages") or []
    found = [
        one for one in stages if isinstance(one, dict) and one.get("use") == _USE and stage in (None, one.get("id"))
    ]
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
    changed = {**found[0], "at_most": limits, "architecture": None}
    return {**content, "stages": [changed if one is found[0] else one for one in stages]}
