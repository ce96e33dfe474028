"""Times of layers on another machine, as `compressctl tables measure` wrote them there: what files that are made here take on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from compressctl.core.errors import UsageError
from compressctl.search.document import CostsOf, OnTarget
from compressctl.search.facts import Facts
from compressctl.search.kept_tables import read_table
from compressctl.search.program import Program
from compressctl.search.space import Candidate
from compressctl.search.tables import LayerOption, LayerTable, Tables

_LIKE = {"weights8": "float", "weights4": "float", "shared16": "int8", "shared8": "int8"}
"""Options that compute as another does: weights alone are made float again when the file is loaded, or as they are read; shared values are codes of 8 bits."""


_LONGEST_NAME = 100


_MEASURE = "`compressctl tables measure MODEL --output tables.json` writes one on the machine that will serve the file"


_SAME_SIZE = 0.02
"""Share by which two writings of one model differ at most: other versions name and fold a little otherwise."""


@dataclass(frozen=True)
class Costs:
    """tables: of the same model, in which float and integer files were timed. file: as it was named."""

    tables: Tables
    file: Path

    def check(self, facts: Facts) -> None:
        """Raises UsageError where the costs are another model's: exporters give every width of a network the same names, so its file's size counts too.
        A layer without an operator is one that calibration made of several: the graph has no node of its name."""
        there, here = self.tables.float_bytes, facts.original_bytes
        if abs(there - here) > _SAME_SIZE * here:
            raise UsageError(
                f"--costs {self.file}: measured of another model: its float file takes {there:,} bytes, and this one's {here:,}",
                hint="run `compressctl tables measure` there on the same file",
            )
        for layer in self.tables.layers:
            if layer.op and facts.operators.get(layer.name) != layer.op:
                raise UsageError(
                    f"--costs {self.file}: measured of another model: this one has no {layer.op} {layer.name}",
                    hint="run `compressctl tables measure` there on the same file",
                )

    def with_times(self, own: Tables) -> Tables:
        """What layers lose here, and take there."""
        return own.model_copy(
            update={
                "float_ms": self.tables.float_ms,
                "integer_ms": self.tables.integer_ms,
                "target": self.tables.target,
                "layers": tuple(
                    layer.model_copy(update={"options": self._timed(layer)}) for layer in own.layers
                ),
            }
        )  # fmt: skip

    def on_target(self, one: Candidate) -> OnTarget:
        """What its file is foretold to take there."""
        if one.choice is not None:
            return OnTarget(times_faster=self._program.times_faster(one.choice))
        if one.width is None:
            return OnTarget(times_faster=None, why=f"{self.file.name} holds no times of what it does")
        choice = self._program.all_at(_LIKE.get(one.width, one.width))
        return OnTarget(times_faster=self._program.times_faster(choice))

    @property
    def used(self) -> CostsOf:
        target, machine = self.tables.target, self.tables.environment.get("cpu")
        return CostsOf(
            file=str(self.file),
            machine=str(machine)[:_LONGEST_NAME] if machine else "a machine that the file does not name",
            threads=target.threads if target is not None else None,
            float_ms=self.tables.float_ms,
        )

    @cached_property
    def _program(self) -> Program:
        return Program(self.tables)

    @cached_property
    def _layers(self) -> Mapping[str, LayerTable]:
        return {layer.name: layer for layer in self.tables.layers}

    def _timed(self, layer: LayerTable) -> tuple[LayerOption, ...]:
        known = self._layers.get(layer.name)
        there = {} if known is None else {option.name: option.adds_ms for option in known.options}
        return tuple(
            option.model_copy(update={"adds_ms": there.get(_LIKE.get(option.name, option.name))})
            for option in layer.options
        )


def read_costs(file: Path, target: Mapping[str, Any]) -> Costs:
    """target: the recipe's section. Raises UsageError for a file that holds no times, or those of another backend or batch."""
    found = read_table(file)
    if found is None and not file.exists():
        raise UsageError(f"--costs {file} does not exist", hint=_MEASURE)
    if found is None:
        raise UsageError(
            f"--costs {file}: no table of layers that this version reads",
            hint=_MEASURE,
        )
    timed = found.target
    if timed is None or found.float_ms is None or found.integer_ms is None:
        raise UsageError(
            f"--costs {file}: nothing in it was timed", hint="run `compressctl tables measure` on that machine"
        )
    said = (
        ("backend", timed.backend, "onnxruntime"),
        ("batch_size", timed.batch_size, 1),
        ("threads", timed.threads, timed.threads),
    )
    for name, there, default in said:
        here = target.get(name, default)
        if there != here:
            raise UsageError(
                f"--costs {file}: measured for {name} {there}, and this search is for {name} {here}",
                hint=f"set target.{name}, or run `compressctl tables measure` for it",
            )
    return Costs(found, file)
