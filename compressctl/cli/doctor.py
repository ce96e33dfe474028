"""compressctl doctor: what this machine can do, and what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from compressctl.core.machine import Machine


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Say what this machine can do: packages, backends, instruction sets and what they mean for INT8.

    \b
    Examples:
      compressctl doctor
      compressctl doctor --json
    """
    found = examine()
    if as_json:
        import json

        print(json.dumps(found, indent=1))
        return
    for title, facts in found.items():
        print(title)
        for name, value in facts.items():
            first, *rest = [value] if isinstance(value, str | int) else value
            print(f"  {name}: {first}")
            for line in rest:
                print(f"    {line}")


def examine() -> dict[str, dict[str, Any]]:
    from compressctl.core.backend import backends
    from compressctl.core.machine import installed_version, nvidia_gpu, this_machine
    from compressctl.core.registry import load
    from compressctl.core.target import resolve_profile

    machine, gpu = this_machine(), nvidia_gpu()
    profile = resolve_profile("auto", machine)
    return {
        "machine": {
            "processor": machine.cpu,
            "system": f"{machine.system}, {machine.architecture}{_support(machine)}",
            "logical processors": machine.logical_cpus,
            "profile": profile,
            "INT8": _INT8[profile],
            "GPU": f"{gpu.name}, compute capability {gpu.capability[0]}.{gpu.capability[1]}"
            if gpu
            else "no NVIDIA GPU",
        },
        "backends": {
            name: _backend_lines(backends.get(name), load(backends.get(name).implementation).probe())
            for name in backends.names()
        },
        "plugins": _plugins(),
        "packages": {name: installed_version(name) or f"not installed: {how}" for name, how in _PACKAGES.items()},
    }


def _support(machine: Machine) -> str:
    tested = machine.system.startswith("Linux") and machine.architecture == "x86_64"
    return "" if tested else "; nothing is tested here, Linux on x86-64 is (docs/install.md)"


_INT8 = {
    "x86-vnni": "8-bit products add up in 32 bits (VNNI): weights use all of 8 bits",
    "x86-amx": "8-bit products add up in 32 bits (AMX, VNNI): weights use all of 8 bits",
    "x86-avx2": "no VNNI: pairs of 8-bit products add up in 16 bits and can overflow; weights are limited just below that",
    "arm64": "8-bit products add up in 32 bits: weights use all of 8 bits",
}


def _plugins() -> dict[str, str]:
    """What other packages add, which runs when a recipe, or a network's structure, names it."""
    from compressctl.cli.registries import REGISTRIES
    from compressctl.core.registry import plugins_of

    found = [plugin for registry in REGISTRIES.values() for plugin in registry.plugins()]
    found += plugins_of("module", "compressctl.modules")
    told = {f"{plugin.kind} {plugin.name}": f"{plugin.package} {plugin.version} ({plugin.value})" for plugin in found}
    return told or {"none": "no other package adds techniques, backends, metrics, models, datasets or modules"}


_PACKAGES = {
    "onnxruntime": "pip install onnxruntime",
    "openvino": "pip install 'compressctl[openvino]'",
    "torch": "pip install 'compressctl[torch]'",
    "onnxscript": "pip install 'compressctl[torch]'",
}


def _backend_lines(spec: Any, available: Any) -> list[str]:
    """What is installed, what it can run here, and each thing missing with the command that mends it."""
    from compressctl.core.machine import installed_version

    if not available.installed:
        return [f"not installed: {available.install}"]
    lines = [f"{available.version}, devices: {', '.join(available.devices) or 'none here'}"]
    lines += [available.note] if available.note else []
    lines += [f"missing: {words}" for words in available.missing]
    for extra in spec.extras:
        found = installed_version(extra.distribution or extra.package)
        missing = f"missing: {extra.package}, for {extra.purpose}: {extra.install}"
        lines.append(f"{extra.package} {found}: {extra.purpose}" if found else missing)
    return lines
