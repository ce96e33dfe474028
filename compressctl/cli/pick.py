"""compressctl pick: another network of a run's architecture search."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from compressctl.pipeline.measure_level import MeasureLevel


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
    from compressctl.cli.picked_search import limited
    from compressctl.pipeline.plan import make_plan
    from compressctl.recipe.lock import load_lock
    from compressctl.store.cache_place import stage_cache

    shares = {"macs": macs, "parameters": parameters, "memory": memory, "energy": energy}
    limits = _limits({name: share for name, share in shares.items() if share is not None}, latency or [])
    lock = run if run.name == "recipe.lock.yaml" else run / "recipe.lock.yaml"
    recipe, _ = load_lock(lock, lambda content: limited(content, limits, stage, lock, is_nested=nested))
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
