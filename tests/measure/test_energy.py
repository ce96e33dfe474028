"""Energy: counters as the Linux kernel lays them out, an estimate from declared watts, and a reason where there is neither."""

from pathlib import Path

import pytest

from compressctl.core.target import Target
from compressctl.measure.energy import Meter, NoMeter, find_meter
from compressctl.measure.latency import TimingPoint, _energy, _point, _Start
from compressctl.measure.results import Memory
from compressctl.measure.samples import Call
from compressctl.measure.served import Block


def _zone(folder: Path, number: str, name: str, microjoules: int, most: int = 1_000_000_000) -> Path:
    zone = folder / f"intel-rapl:{number}"
    zone.mkdir()
    (zone / "name").write_text(f"{name}\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text(f"{most}\n")
    return zone


def test_packages_and_memory_are_added_but_not_a_packages_own_cores(tmp_path: Path) -> None:
    package = _zone(tmp_path, "0", "package-0", 5_000_000)
    _zone(tmp_path, "0:0", "core", 3_000_000)
    dram = _zone(tmp_path, "0:1", "dram", 1_000_000)
    _zone(tmp_path, "1", "psys", 9_000_000)
    meter = find_meter("cpu", tmp_path)
    assert isinstance(meter, Meter)
    before = meter.read()
    (package / "energy_uj").write_text("7000000")
    (dram / "energy_uj").write_text("1500000")
    assert meter.read() - before == pytest.approx(2.5)


def test_a_counter_that_starts_again_goes_on(tmp_path: Path) -> None:
    package = _zone(tmp_path, "0", "package-0", 900_000, most=1_000_000)
    meter = find_meter("cpu", tmp_path)
    assert isinstance(meter, Meter)
    before = meter.read()
    (package / "energy_uj").write_text("200000")
    assert meter.read() - before == pytest.approx(0.3)


def test_without_counters_there_is_a_reason_and_no_number(tmp_path: Path) -> None:
    meter = find_meter("cpu", tmp_path)
    assert isinstance(meter, NoMeter)
    blocks = [[Block([0.01] * 10, 0.1, None)] * 3]
    unknown = _energy(blocks, Target("onnxruntime"), None, meter.reason)
    assert (unknown.joules, unknown.provenance) == (None, "cannot be measured here")
    assert "watts_per_core" in unknown.source
    estimated = _energy(blocks, Target("onnxruntime", watts_per_core=8), None, meter.reason)
    assert (estimated.joules, estimated.provenance) == (pytest.approx(0.08), "estimated")


def test_a_counter_too_coarse_for_a_block_measures_nothing() -> None:
    blocks = [[Block([0.0001] * 10, 0.001, 0.0)]]
    found = _energy(blocks, Target("onnxruntime"), "RAPL", None)
    assert found.joules is None
    assert found.provenance == "cannot be measured here"


def _at(target: Target) -> TimingPoint:
    return TimingPoint(target, Call({}))


def test_a_counter_too_coarse_for_one_file_is_used_for_none() -> None:
    """Or a ratio would hold a counter's joules against an estimate."""
    counted, coarse = [[Block([0.01] * 10, 0.1, 2.0)] * 3] * 2, [[Block([0.01] * 10, 0.1, 0.0)] * 3] * 2
    starts = [_Start(Memory(before_bytes=1, load_peak_bytes=1, run_peak_bytes=1), 1.0)] * 2
    target = Target("onnxruntime", watts_per_core=8)
    before, after = (run.energy for run in _point(_at(target), [counted, coarse], {}, starts, "RAPL (package-0)", None))
    assert (before.provenance, after.provenance) == ("estimated", "estimated")
    without = _point(_at(Target("onnxruntime")), [counted, coarse], {}, starts, "RAPL (package-0)", None)
    assert without[0].energy.provenance == "cannot be measured here"
    assert without[0].energy.source.startswith("RAPL (package-0): the counter did not move in every block")
