"""compressctl zoo: recipes over whole sets of models."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressctl.cli.options import SharedCacheAddress, SharedCacheMode
from compressctl.cli.publish import DryRun, Private
from compressctl.core.errors import CompressctlError, MissingDependencyError, UsageError
from compressctl.core.machine import usable_cpus

if TYPE_CHECKING:
    from compressctl.core.cache import Cache
    from compressctl.zoo.drive import Choice, Execute, Standing
    from compressctl.zoo.results import JobResult
    from compressctl.zoo.schema import Manifest
    from compressctl.zoo.stored import ZooStore


class Executor(StrEnum):
    LOCAL = "local"
    RAY = "ray"


zoo = typer.Typer(
    help="Compress many models: each by the recipe that fits it, in a process of its own, with a row for whatever becomes of it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

ManifestPath = Annotated[Path, typer.Argument(help="The manifest: a YAML file.", metavar="MANIFEST")]
Output = Annotated[Path | None, typer.Option(help="The zoo's folder. [default: runs/zoo-<name>]", show_default=False)]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a value of the manifest. Repeatable."),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only", metavar="JOB", help="Jobs by id or pattern, or `failed`: those that did not end well. Repeatable."
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="The I-th of N parts, the same jobs each time, as in 2/8.", show_default=False),
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="So many at most of the jobs that are not done.", show_default=False)
]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="ADDRESS",
        help="Where results are too, as in s3://bucket/zoo. [default: the manifest's]",
        show_default=False,
    ),
]
UseCache = Annotated[
    bool,
    typer.Option(
        "--resume/--no-cache",
        help="Take finished stages from the cache, or run every stage of the jobs that are not done.",
    ),
]


@zoo.command("plan")
def plan(
    manifest: ManifestPath,
    sets: Sets = None,
    output: Output = None,
    only: Only = None,
    shard: Shard = None,
    limit: Limit = None,
    store: Store = None,
    shared_cache: SharedCacheAddress = None,
) -> None:
    """Show each job: which recipe and why, what the cache holds of it, how long it or others of its recipe took. Loads no model.

    \b
    Examples:
      compressctl zoo plan zoo.yaml
      compressctl zoo plan zoo.yaml --only 'yolo*'
    """
    from compressctl.zoo.estimates import Estimates, in_words
    from compressctl.zoo.results import all_results

    loaded, folder = _loaded(manifest, sets, output)
    _use_shared_cache(loaded, shared_cache, None)
    estimates = Estimates.of(all_results(folder))
    count = done = unknown = 0
    seconds = 0.0
    found = _standings(loaded, manifest, folder, _choice(only, shard, limit), _store(loaded, store, folder))
    chosen = [f"{one.planned.job.recipe_id or 'no recipe'} ({one.planned.job.why})" for one in found]
    widths = [
        min(most, max(map(len, words), default=0))
        for most, words in ((40, [one.planned.job.id for one in found]), (60, chosen))
    ]
    for standing, recipe in zip(found, chosen, strict=True):
        job = standing.planned.job
        takes = estimates.seconds(job)
        print(f"{job.id:<{widths[0]}}  {recipe:<{widths[1]}}  {_expected(standing, takes)}")
        count, done = count + 1, done + standing.is_done
        if standing.is_waiting:
            seconds, unknown = seconds + (takes or 0.0), unknown + (takes is None)
    left = f", {in_words(seconds)} of work left" if seconds else ""
    others = f" beside {unknown} of which nothing is known" if seconds and unknown else ""
    print(f"{count} job{'' if count == 1 else 's'}, {done} done{left}{others}")


@zoo.command("apply")
def apply(
    manifest: ManifestPath,
    sets: Sets = None,
    output: Output = None,
    only: Only = None,
    shard: Shard = None,
    limit: Limit = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", min=1, max=4096, help="Jobs at a time. [default: as many as there are cores]", show_default=False
        ),
    ] = None,
    executor: Annotated[
        Executor, typer.Option(help="Where jobs run: on this machine, or on a Ray cluster whose nodes share its files.")
    ] = Executor.LOCAL,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="The Ray cluster, as in 10.0.0.1:6379; `auto`: the one that this machine belongs to. [default: RAY_ADDRESS, else one of this machine for this run]",
            show_default=False,
        ),
    ] = None,
    cache: UseCache = True,
    store: Store = None,
    shared_cache: SharedCacheAddress = None,
    shared_cache_mode: SharedCacheMode = None,
) -> None:
    """Run the jobs that are not done, several at a time; while one is timed, the others stand still.

    Whatever happens to one job is a row of the results, and no other job's end. Started again, it goes on with what is not done.
    The exit code is 1 where more jobs failed or missed a budget than the manifest's `budget` allows, which is none without one.

    \b
    Examples:
      compressctl zoo apply zoo.yaml --jobs 4
      compressctl zoo apply zoo.yaml --only failed
      compressctl zoo apply zoo.yaml --shard 2/8
      compressctl zoo apply zoo.yaml --executor ray --ray-address auto
    """
    from compressctl.zoo.drive import carry_out

    loaded, folder = _loaded(manifest, sets, output)
    _use_shared_cache(loaded, shared_cache, shared_cache_mode)
    results = _store(loaded, store, folder)
    tell = _telling(loaded, folder)
    try:
        carry_out(
            loaded,
            manifest.parent,
            folder,
            _choice(only, shard, limit),
            execute=_execution(executor, jobs, ray_address, results),
            cache=_cache() if cache else None,
            store=results,
            tell=tell,
        )
    except KeyboardInterrupt:
        _write_leaderboard(folder, loaded, _jobs(loaded, manifest))
        raise
    jobs_there = _jobs(loaded, manifest)
    _write_leaderboard(folder, loaded, jobs_there)
    raise typer.Exit(_print_whole(folder, loaded, jobs_there))


@zoo.command("status")
def status(manifest: ManifestPath, sets: Sets = None, output: Output = None, store: Store = None) -> None:
    """Count what came of the jobs so far, also while they run, and those that were not run yet.

    \b
    Examples:
      compressctl zoo status zoo.yaml
    """
    loaded, folder = _loaded(manifest, sets, output)
    _bring_results(loaded, store, folder)
    _print_whole(folder, loaded, _jobs(loaded, manifest))


@zoo.command("report")
def report(
    manifest: ManifestPath,
    sets: Sets = None,
    output: Output = None,
    store: Store = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="End as `zoo apply` would: with 1 where the manifest's `budget` does not hold."),
    ] = False,
) -> None:
    """Write the leaderboard of the results so far: HTML, CSV, JSON Lines, Markdown and JUnit.

    \b
    Examples:
      compressctl zoo report zoo.yaml
      compressctl zoo report zoo.yaml --output all --check
    """
    loaded, folder = _loaded(manifest, sets, output)
    _bring_results(loaded, store, folder)
    if not (folder / "results").is_dir():
        raise UsageError(
            f"{folder} holds no results", hint="`compressctl zoo apply` makes them; --output names another folder"
        )
    jobs = _jobs(loaded, manifest)
    _write_leaderboard(folder, loaded, jobs)
    if check:
        raise typer.Exit(_print_whole(folder, loaded, jobs))


@zoo.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="The folder that holds the models.", metavar="FOLDER")],
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
) -> None:
    """Write a manifest for the ONNX files in a folder, and a recipe to begin with.

    \b
    Examples:
      compressctl zoo init models/
    """
    from compressctl.core.whole_files import write_whole
    from compressctl.zoo.starter import manifest_for

    texts = {folder / name: text for name, text in manifest_for(folder, "zoo").items()}
    taken = [path for path in texts if path.exists()]
    if taken and not force:
        raise UsageError(f"{taken[0]} exists", hint="write over it with --force")
    for path, text in texts.items():
        write_whole(path, [text.encode()])
        print(f"wrote {path}")
    print(f"next: compressctl zoo plan {shlex.quote(str(next(iter(texts))))}")


@zoo.command("matrix")
def matrix(
    manifest: ManifestPath,
    sets: Sets = None,
    each: Annotated[int, typer.Option("--each", min=1, help="Jobs of one shard, about.")] = 10,
) -> None:
    """Print shards as JSON for a matrix of GitHub Actions, 256 at most: `fromJSON` takes it, `--shard` takes each.

    \b
    Examples:
      compressctl zoo matrix zoo.yaml --each 20
    """
    import json

    from compressctl.zoo.drive import Choice
    from compressctl.zoo.merge import shards_of

    loaded, folder = _loaded(manifest, sets, None)
    jobs = len(_standings(loaded, manifest, folder, Choice()))
    print(json.dumps({"shard": list(shards_of(jobs, each))}))


@zoo.command("merge")
def merge(
    folders: Annotated[list[Path], typer.Argument(help="Folders of the shards.", metavar="FOLDER ...")],
    output: Annotated[Path, typer.Option(help="The folder for all of it.")],
) -> None:
    """Put the results of shards into one folder, and write the leaderboard of the whole.

    \b
    Examples:
      compressctl zoo merge shard-1 shard-2 --output all
    """
    from compressctl.zoo.leaderboard import leaderboard, write
    from compressctl.zoo.merge import merge as merge_results

    name, count = merge_results(folders, output)
    print(f"{count} jobs")
    for path in write(leaderboard(name, output), output):
        print(path)


def _execution(executor: Executor, jobs: int | None, ray_address: str | None, store: ZooStore | None) -> Execute:
    if executor is Executor.RAY:
        from compressctl.zoo.ray_cluster import Cluster

        return Cluster(ray_address or os.environ.get("RAY_ADDRESS") or None, jobs, store, _say).run
    if ray_address is not None:
        raise UsageError("--ray-address is for --executor ray")
    from compressctl.zoo.local import run_local

    return partial(run_local, workers=jobs or len(usable_cpus()))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@zoo.command("publish")
def publish(
    manifest: ManifestPath,
    owner: Annotated[str, typer.Option(metavar="NAME", help="Whose repositories: a user or an organisation.")],
    sets: Sets = None,
    output: Output = None,
    only: Annotated[list[str] | None, typer.Option(metavar="JOB", help="Jobs by id or pattern. Repeatable.")] = None,
    private: Private = False,
    dry_run: DryRun = None,
) -> None:
    """Publish the file of each job that ended well on the Hugging Face Hub, in a repository that is called like the job.

    What cards say beside what was measured stands in the manifest: `card: {base_model: ..., license: ..., dataset: ...}` of a
    model or of `defaults`. What cannot be published does not keep the others from it.

    \b
    Examples:
      compressctl zoo publish zoo.yaml --owner my-team --dry-run cards/
      compressctl zoo publish zoo.yaml --owner my-team --only 'yolo*' --private
    """
    from compressctl.publish.hub import check_name, publish_run
    from compressctl.zoo.publish import cards

    loaded, folder = _loaded(manifest, sets, output)
    found = list(cards(loaded, manifest.parent, folder, only or ()))
    if not found:
        raise UsageError(f"no job in {folder} ended well", hint="`compressctl zoo status` says how they ended")
    failed: list[CompressctlError] = []
    for card in found:
        try:
            repo = check_name(f"{owner}/{card.about.name}")
            into = dry_run / card.about.name if dry_run is not None else None
            print(f"{card.job}  {publish_run(card.run, repo, card.about, into, private=private)}")
        except MissingDependencyError:
            raise
        except CompressctlError as error:
            typer.echo(f"{card.job}  {error}", err=True)
            failed.append(error)
    if failed:
        raise type(failed[0])(f"{len(failed)} of {len(found)} could not be published")


def _jobs(loaded: Manifest, manifest: Path) -> frozenset[str] | None:
    from compressctl.zoo.drive import own_jobs

    return own_jobs(loaded, manifest.parent)


def _write_leaderboard(folder: Path, loaded: Manifest, jobs: frozenset[str] | None) -> None:
    from compressctl.zoo.leaderboard import leaderboard, write

    for path in write(leaderboard(loaded.name, folder, jobs), folder):
        print(path)


def _loaded(manifest: Path, sets: list[str] | None, output: Path | None) -> tuple[Manifest, Path]:
    from compressctl.zoo.load import load_manifest

    loaded = load_manifest(manifest, sets or ())
    return loaded, output or Path("runs") / f"zoo-{loaded.name}"


def _choice(only: list[str] | None, shard: str | None, limit: int | None) -> Choice:
    from compressctl.zoo.drive import Choice

    return Choice(tuple(only or ()), _shard(shard) if shard is not None else None, limit)


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"--shard {text}: write which part of how many", hint="as in --shard 2/8")
    return int(found[1]), int(found[2])


def _standings(
    loaded: Manifest, manifest: Path, folder: Path, choice: Choice, store: ZooStore | None = None
) -> list[Standing]:
    from compressctl.zoo.drive import standings

    return list(standings(loaded, manifest.parent, folder, choice, _cache(), store=store))


def _store(loaded: Manifest, given: str | None, folder: Path) -> ZooStore | None:
    """The address that is given, else the manifest's."""
    from compressctl.store.address import parse
    from compressctl.zoo.stored import ZooStore

    text = given or loaded.store
    return ZooStore(parse(text), folder) if text is not None else None


def _bring_results(loaded: Manifest, given: str | None, folder: Path) -> None:
    from compressctl.zoo.drive import bring_results

    store = _store(loaded, given, folder)
    if store is not None:
        bring_results(loaded, folder, store)


def _use_shared_cache(loaded: Manifest, address: str | None, mode: str | None) -> None:
    """Whoever starts it decides before the manifest does."""
    from compressctl.store.cache_place import shared_place, use_shared_cache

    use_shared_cache(address or (None if shared_place() is not None else loaded.shared_cache), mode)


def _cache() -> Cache | None:
    from compressctl.store.cache_place import stage_cache

    return stage_cache()


def _expected(standing: Standing, seconds: float | None) -> str:
    from compressctl.search.words import duration
    from compressctl.zoo.estimates import in_words

    planned, result = standing.planned, standing.result
    if planned.problem is not None:
        return f"cannot run: {planned.problem.splitlines()[0]}"
    if result is not None and standing.is_done:
        return f"done: {result.outcome}"
    if planned.job.is_unfetched:
        return "its model was not brought yet"
    takes = f", {in_words(seconds)}" if seconds is not None else ""
    if planned.job.searching is not None:
        return f"a search of at most {duration(planned.job.searching.seconds)}{takes}"
    return f"{planned.cached} of {planned.steps} steps in the cache{takes}"


def _telling(loaded: Manifest, folder: Path) -> Callable[[JobResult], None]:
    """What is done with each result, beside keeping it."""
    if loaded.track is None:
        return _tell
    from compressctl.zoo.track import Tracker

    tracker = Tracker(loaded.name, folder, lambda words: typer.echo(f"warning: {words}", err=True))

    def tell(result: JobResult) -> None:
        _tell(result)
        tracker.log(result)

    return tell


def _tell(result: JobResult) -> None:
    what = result.figures.headline if result.figures is not None and result.figures.headline else result.message
    again = f"  (sent again: {'; '.join(result.lost)})" if result.lost else ""
    notes = f"  ({'; '.join(result.notes)})" if result.notes else ""
    print(f"{result.job}  {result.outcome}  {result.seconds:.0f} s  {what}{notes}{again}", flush=True)


def _print_whole(folder: Path, loaded: Manifest, jobs: frozenset[str] | None) -> int:
    """The exit code."""
    from compressctl.zoo.drive import whole
    from compressctl.zoo.results import OUTCOME_WORDS, Outcome

    found = whole(folder, loaded.budget, jobs)
    for outcome in Outcome:
        if found.counts.get(outcome):
            print(f"{found.counts[outcome]:>6}  {outcome}: {OUTCOME_WORDS[outcome]}")
    if found.unreadable:
        shown = ", ".join(found.unreadable[:5]) + (", ..." if len(found.unreadable) > 5 else "")
        print(f"{len(found.unreadable):>6}  cannot be read, and run again with the next `zoo apply`: {shown}")
    waiting = len(jobs) - sum(found.counts.values()) - len(found.unreadable) if jobs is not None else 0
    if waiting and loaded.match == "first":  # else rules that fit several decide how many there are
        print(f"{waiting:>6}  not run yet")
    for broken in found.broken:
        print(f"missed: {broken}")
    print(f"results: {folder / 'results'}" if found.counts else f"no results in {folder}")
    return int(found.exit_code)
