"""A zoo's workers: what a second one gains, what it does to timings, what Ray costs, and what is left of a node that is killed.

    python benchmarks/zoo_workers.py [--jobs 20] [--timed 4] [--epochs 30] [--parts workers timings ray lost] [--folder FOLDER]

Each job prunes channels of the built-in network, trains it again for so many epochs with a seed of its own and quantizes it, with one core and nothing from the
cache. Needs two cores, and for `ray` and `lost` the extra `ray`. `--jobs 4 --epochs 2 --timed 2` tries it. A machine on which something
else works shows nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from compressctl.zoo.results import JobResult, Outcome

_RECIPE = """recipe: compressctl/v1
data: {{source: digits, calibration: 200}}
stages:
  - {{id: prune, use: prune.channels, keep: 0.7, finetune: {{epochs: {epochs}}}}}
  - {{id: int8, use: quantize.static, if_slower: keep}}
"""
_MANIFEST = """zoo: compressctl/v1
defaults: {recipe: recipe.yaml, resources: {cores: 1}}
models:
"""
_RAY = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
_GAIN, _MOST_OF_RAY, _LEAST_SECONDS = 1.7, 1.1, 20
"""What is hoped for: times as fast with a second worker, Ray's time by the local executor's, and how long a job must take for that to count."""


@dataclass(frozen=True)
class Ran:
    """A zoo that was run. seconds: of the whole command."""

    results: dict[str, JobResult]
    seconds: float

    @property
    def shortest(self) -> float:
        return min(result.seconds for result in self.results.values())

    @property
    def paused(self) -> float:
        """Seconds that jobs stood still for timings; of others, where they are not timed themselves."""
        return sum(result.paused_seconds for result in self.results.values())

    @property
    def good(self) -> int:
        return sum(result.outcome is Outcome.GOOD for result in self.results.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--timed", type=int, default=4, help="jobs that are timed, too, for `timings`")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--parts", nargs="+", choices=list(_PARTS), default=list(_PARTS))
    parser.add_argument("--folder", type=Path, help="where to work [default: a temporary folder]")
    chosen = parser.parse_args()
    if {"ray", "lost"} & set(chosen.parts) and importlib.util.find_spec("ray") is None:
        parser.error("`ray` and `lost` need Ray: pip install 'compressctl[ray]', or leave them out of --parts")
    bench = Bench(chosen.folder or Path(tempfile.mkdtemp(prefix="zoo-workers-")), chosen.jobs, chosen.timed)
    bench.prepare(chosen.epochs)
    went_well = [_PARTS[part](bench) for part in chosen.parts]
    return int(not all(went_well))


class Bench:
    """The zoo, and its runs so far."""

    def __init__(self, folder: Path, jobs: int, timed: int) -> None:
        self.folder, self.jobs, self.timed = folder.absolute(), jobs, timed
        self._ran: dict[str, Ran] = {}

    def prepare(self, epochs: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "recipe.yaml").write_text(_RECIPE.format(epochs=epochs))
        lines = [
            f"  - {{id: net-{seed:02}, model: {{source: builtin, name: digits-resnet}}, set: {{seed: {seed}}}}}\n"
            for seed in range(self.jobs)
        ]
        (self.folder / "zoo.yaml").write_text(_MANIFEST + "".join(lines))

    def run(self, name: str, *arguments: str, measure: str = "untimed") -> Ran:
        """Once for each name."""
        if name not in self._ran:
            began = time.monotonic()
            done = self.start(name, *arguments, measure=measure).wait()
            self._ran[name] = Ran(self.results(name), time.monotonic() - began)
            if done != 0:
                print(f"{name}: exit code {done}; see {self.folder / name}.log", file=sys.stderr)
        return self._ran[name]

    def start(self, name: str, *arguments: str, measure: str = "untimed") -> psutil.Popen:
        command = [sys.executable, "-m", "compressctl", "zoo", "apply", "zoo.yaml", "--no-cache"]
        command += ["--output", name, "--set", f"defaults.measure={measure}", *arguments]
        with (self.folder / f"{name}.log").open("w") as log:
            return psutil.Popen(command, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT)

    def results(self, name: str) -> dict[str, JobResult]:
        files = sorted((self.folder / name / "results").glob("*.json"))
        return {file.stem: JobResult.model_validate_json(file.read_text()) for file in files}


def _workers(bench: Bench) -> bool:
    one, two = bench.run("one-worker", "--jobs", "1"), bench.run("two-workers", "--jobs", "2")
    gain = one.seconds / two.seconds
    print(f"\n## A second worker\n\n{bench.jobs} jobs without timing; the whole command.\n")
    print("| workers | seconds | good | shortest job | stood still for others |\n|---|---|---|---|---|")
    print(f"| 1 | {one.seconds:.0f} | {one.good} | {one.shortest:.0f} s | {one.paused:.0f} s |")
    print(f"| 2 | {two.seconds:.0f} | {two.good} | {two.shortest:.0f} s | {two.paused:.0f} s |")
    print(f"\n**{gain:.2f} times as fast** (hoped for: {_GAIN}, {_word(gain >= _GAIN)}).")
    return one.good == two.good == bench.jobs


def _timings(bench: Bench) -> bool:
    """The gain of each file with its 95 % interval, alone and while another job has to stand still for it."""
    limit = ("--limit", str(bench.timed))
    alone = bench.run("timed-alone", "--jobs", "1", *limit, measure="final")
    beside = bench.run("timed-beside", "--jobs", "2", *limit, measure="final")
    print(f"\n## Timings beside another worker\n\n{bench.timed} jobs, gain in latency with its 95 % interval.\n")
    print(
        "| job | one worker | two workers | inside the first interval | intervals overlap | stood still |\n|---|---|---|---|---|---|"
    )
    inside = overlapping = 0
    for job in sorted(alone.results.keys() & beside.results.keys()):
        first, second = alone.results[job].figures, beside.results[job].figures
        assert first is not None
        assert second is not None
        assert None not in (first.speed, first.speed_low, first.speed_high)
        assert None not in (second.speed, second.speed_low, second.speed_high)
        is_inside = first.speed_low <= second.speed <= first.speed_high
        is_overlapping = first.speed_low <= second.speed_high and second.speed_low <= first.speed_high
        inside, overlapping = inside + is_inside, overlapping + is_overlapping
        gains = [f"{one.speed:.3f} ({one.speed_low:.3f} to {one.speed_high:.3f})" for one in (first, second)]
        still = beside.results[job].paused_seconds
        print(f"| {job} | {gains[0]} | {gains[1]} | {_yes(is_inside)} | {_yes(is_overlapping)} | {still:.0f} s |")
    print(
        f"\n**{inside} of {bench.timed} inside the interval of the run alone, intervals of {overlapping} overlap** "
        f"({_word(overlapping == bench.timed)}). {alone.seconds:.0f} s with one worker, {beside.seconds:.0f} s with two."
    )
    return alone.good == beside.good == bench.timed


def _ray(bench: Bench) -> bool:
    local = bench.run("two-workers", "--jobs", "2")
    with _cluster() as cluster:
        cluster.start_node(2)
        ray = bench.run("ray", "--executor", "ray", "--ray-address", cluster.address)
    ratio = ray.seconds / local.seconds
    print(
        f"\n## Ray\n\n{bench.jobs} jobs of one core; a cluster of one node with two cores that runs already; the whole command.\n"
    )
    print("| executor | seconds | good | shortest job | stood still for others |\n|---|---|---|---|---|")
    print(f"| local | {local.seconds:.0f} | {local.good} | {local.shortest:.0f} s | {local.paused:.0f} s |")
    print(f"| ray | {ray.seconds:.0f} | {ray.good} | {ray.shortest:.0f} s | {ray.paused:.0f} s |")
    counts = bench.jobs >= 20 and min(ray.shortest, local.shortest) >= _LEAST_SECONDS
    verdict = _word(ratio <= _MOST_OF_RAY) if counts else "too few or too short jobs to say"
    print(f"\n**{100 * (ratio - 1):+.1f} %** (at most {100 * (_MOST_OF_RAY - 1):.0f} % hoped for: {verdict}).")
    return ray.good == bench.jobs


def _lost(bench: Bench) -> bool:
    """Two nodes of one core. Once each has finished a job, all processes of the second are killed."""
    count = min(bench.jobs, 10)
    with _cluster() as cluster:
        cluster.start_node(1)
        second = cluster.start_node(1)
        driver = bench.start("lost", "--executor", "ray", "--ray-address", cluster.address, "--limit", str(count))
        while len({result.host for result in bench.results("lost").values()}) < 2 and driver.poll() is None:
            time.sleep(0.2)
        time.sleep(2)
        before = bench.results("lost")
        killed = _kill_all(second)
        driver.wait()
    after = bench.results("lost")
    moved = [result for result in after.values() if result.lost]
    hosts = {result.host for result in after.values() if result.job not in before}
    unchanged = all(after[job] == result for job, result in before.items())
    print(f"\n## A node that is killed\n\n{count} jobs on two nodes of one core on this machine.\n")
    print(
        f"- SIGKILL to all {killed} processes of one node when {len(before)} jobs were done: {', '.join(sorted(_hosts(before)))}"
    )
    print(f"- sent again: {', '.join(f'{result.job} ({result.lost[0]})' for result in moved) or 'none'}")
    print(f"- what was done then is as it was: {_yes(unchanged)}; the other jobs ran on {', '.join(sorted(hosts))}")
    good = sum(result.outcome is Outcome.GOOD for result in after.values())
    holds = good == count and len(hosts) == 1 and bool(moved) and unchanged
    print(f"\n**{good} of {count} good** (nothing lost, {_word(holds)}).")
    return holds


_PARTS = {"workers": _workers, "timings": _timings, "ray": _ray, "lost": _lost}


def _hosts(results: dict[str, JobResult]) -> Iterator[str]:
    for host in {result.host for result in results.values()}:
        yield f"{sum(result.host == host for result in results.values())} on {host}"


class _Cluster:
    """Nodes on this machine, each in a session of its own."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"
        self.nodes: list[psutil.Popen] = []

    def start_node(self, cores: int) -> psutil.Popen:
        where = (
            ["--address", self.address]
            if self.nodes
            else ["--head", "--port", str(self._port), "--include-dashboard", "false"]
        )
        command = [*_RAY, "start", "--block", *where, "--num-cpus", str(cores), "--object-store-memory", str(80 << 20)]
        node = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        self.nodes.append(node)
        while self._alive() < len(self.nodes):
            assert node.poll() is None, "the node did not start"
            time.sleep(0.5)
        return node

    def _alive(self) -> int:
        said = subprocess.run([*_RAY, "status", "--address", self.address], capture_output=True, text=True, check=False)
        return sum(line.startswith(" 1 node_") for line in said.stdout.splitlines())


@contextmanager
def _cluster() -> Iterator[_Cluster]:
    """With a token of its own, and workers that do not give way to other programs."""
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_worker_niceness": "0"}
    os.environ.update(variables)
    cluster = _Cluster()
    try:
        yield cluster
    finally:
        for node in reversed(cluster.nodes):
            _kill_all(node)
        for name in variables:
            del os.environ[name]


def _kill_all(node: psutil.Popen) -> int:
    try:
        processes: Sequence[psutil.Process] = [node, *node.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        if process.is_running():
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(processes)
    node.wait()
    return len(processes)


def _word(holds: bool) -> str:
    return "held" if holds else "missed"


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


if __name__ == "__main__":
    sys.exit(main())
