"""The ranks of a stage that is not finished yet: a killed run goes on with those that it had found.

Another look at the clock could choose others, and the training that follows would start from other weights, so from nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compressctl.core.technique import RunContext
from compressctl.techniques.factorize._ranks import Chosen
from compressctl.techniques.factorize._split import Split, option

_FILE = "ranks.json"


def keep(chosen: Chosen, run: RunContext) -> None:
    ranks = {name: [one.split.scheme, list(one.rank)] for name, one in chosen.options.items()}
    found = {"ranks": ranks, "whole": chosen.whole, "latency": chosen.latency, "tried": chosen.tried}
    run.keep(_FILE, lambda path: path.write_text(json.dumps(found)))


def found_before(splits: Mapping[str, Sequence[Split]], folder: Path | None) -> Chosen | None:
    """What `keep` wrote in an earlier process, None without it or when it does not fit these layers."""
    if folder is None:
        return None
    try:
        return _read(json.loads((folder / _FILE).read_text()), splits)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration):
        return None


def _read(found: Mapping[str, Any], splits: Mapping[str, Sequence[Split]]) -> Chosen:
    options = {}
    for name, (scheme, rank) in found["ranks"].items():
        split = next(one for one in splits[name] if one.scheme == scheme)
        options[name] = option(split, tuple(rank))
    latency = {name: (before, after) for name, (before, after) in found["latency"].items()}
    return Chosen(options, found["whole"], latency, tuple(found["tried"]))
