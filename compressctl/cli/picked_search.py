"""The recipe of a run with another limit for its architecture search, or with a search inside the network that it found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compressctl.core.errors import UsageError
from compressctl.report.read import read_report

_USE = "search.architecture"

Taken = dict[str, dict[str, float]]
"""What the network takes that a search found, as shares of what the whole one takes, by the search's id and the limit's name."""


def limited(
    content: dict[str, Any], limits: dict[str, Any], stage: str | None, lock: Path, *, is_nested: bool
) -> dict[str, Any]:
    """The recipe with these limits alone for its search, or with another search behind it, and none behind that. Raises UsageError where it has none, or several."""
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


def _taken(run: Path) -> Taken:
    """As the run's report has it. Raises UsageError for a folder without one."""
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


def _inside(limits: dict[str, Any], taken: Taken, search: str, lock: Path) -> dict[str, Any]:
    """Limits as shares of what the network takes that this search found, without those that it keeps already; milliseconds are what they are. Raises UsageError where none is
    left, or where it is not known."""
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
