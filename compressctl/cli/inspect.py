"""`compressctl inspect`: what a model is made of, layer by layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compressctl.cli.options import Shapes
from compressctl.core.errors import UsageError

if TYPE_CHECKING:
    import onnx

    from compressctl.core.model import Model
    from compressctl.graph.cost import NodeCost
    from compressctl.graph.summary import Port, Summary

_BUILTIN = "builtin:"


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="An .onnx file, a packed file (.cctl), a recipe (its model), or builtin:NAME."
        ),
    ],
    every: Annotated[bool, typer.Option("--all", help="Show nodes without parameters and computation too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    shape: Shapes = None,
) -> None:
    """Show a model's layers, parameters and cost.

    MACs are multiply-accumulates for one sample; the share is of all bytes that parameters take. The open axis that
    counts samples counts 1 (see docs/data.md); MACs that depend on another open axis are unknown without --shape. A PyTorch network is
    shown as the ONNX graph that it lowers to. Of a packed file the ledger is shown: how each tensor is coded, in how many
    bytes; every number in it is decoded and checked on the way.

    \b
    Examples:
      compressctl inspect model.onnx --shape sequence=128
      compressctl inspect builtin:digits-resnet
    """
    if Path(model).suffix.lower() == ".cctl":
        from compressctl.cli import inspect_packed

        if shape:
            raise UsageError("--shape decides MACs, and of a packed file none are shown", hint="unpack it first")
        if as_json:
            print(json.dumps(inspect_packed.document(Path(model)), indent=2))
        else:
            inspect_packed.show(Path(model), every)
        return
    from compressctl.graph.summary import summarize

    graph = _graph(model)
    summary = summarize(graph, _sizes(graph, shape or []))
    if as_json:
        print(json.dumps(_document(model, summary), indent=2))
    else:
        _print(model, summary, every)


def _sizes(graph: onnx.ModelProto, said: list[str]) -> dict[str, int]:
    """Sizes by axis. Raises UsageError for an axis that the model does not leave open, and for what is no size."""
    if not said:
        return {}
    from compressctl.graph.open_axes import open_axes
    from compressctl.measure.samples import parse_shapes

    axes = open_axes(graph.graph)
    known = {name: axis.name for axis in axes for name in (axis.name, f"{axis.input}.{axis.axis}")}
    sizes: dict[str, int] = {}
    for name, size in parse_shapes(said).items():
        if name not in known:
            open_ = ", ".join(dict.fromkeys(axis.name for axis in axes)) or "none"
            raise UsageError(f"--shape {name}={size}: the model has no open axis {name!r}", hint=f"open axes: {open_}")
        sizes[known[name]] = size
    return sizes


def _graph(model: str) -> onnx.ModelProto:
    """The graph of what was named; nothing about an .onnx file is changed."""
    if model.startswith(_BUILTIN):
        return _lowered(_builtin(model.removeprefix(_BUILTIN)))
    path = Path(model)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _lowered(_of_recipe(path))
    if path.suffix.lower() == ".onnx":
        from compressctl.sources.onnx_file import read_onnx

        return read_onnx(path)
    raise UsageError(
        f"{model!r} is no model that can be inspected",
        hint="name an .onnx file, a packed one (.cctl), a recipe (.yaml), or builtin:NAME",
    )


def _builtin(name: str) -> Model:
    from compressctl.sources import builtin
    from compressctl.sources.params import BuiltinParams

    if name not in builtin.NAMES:
        raise UsageError(f"there is no built-in network {name!r}", hint=f"known: {', '.join(builtin.NAMES)}")
    return builtin.load(BuiltinParams.model_validate({"name": name}), Path(), 0)


def _of_recipe(path: Path) -> Model:
    from compressctl.recipe.loader import load
    from compressctl.sources.load import load_model

    recipe = load(path)
    return load_model(recipe.model, recipe.base, recipe.seed)


def _lowered(model: Model) -> onnx.ModelProto:
    from compressctl.graph.lower import as_graph

    return as_graph(model).body


def _document(model: str, summary: Summary) -> dict[str, Any]:
    return {
        "model": model,
        "ir_version": summary.ir_version,
        "opsets": summary.opsets,
        "inputs": [_tensor(spec) for spec in summary.inputs],
        "outputs": [_tensor(spec) for spec in summary.outputs],
        "parameters": summary.parameters,
        "parameter_bytes": summary.parameter_bytes,
        "open_axes": [
            {"name": axis.name, "input": axis.input, "axis": axis.axis, "size": _size(axis.name, summary)}
            for axis in summary.open_axes
        ],
        "macs": summary.macs.exact,
        "macs_at_least": summary.macs.at_least,
        "macs_unknown": dict(summary.macs.unknown),
        "stored_bytes": summary.stored_bytes,
        "already_quantized": [
            {"what": part.what, "dtype": part.dtype, "how": part.how, "names": part.names} for part in summary.quantized
        ],
        "layers": [
            {
                "name": layer.name,
                "op": layer.op,
                "output_shape": layer.output_shape,
                "parameters": layer.parameters,
                "parameter_bytes": layer.parameter_bytes,
                "size_share": round(summary.size_share(layer), 6),
                "macs": layer.macs,
            }
            for layer in summary.layers
        ],
    }


def _tensor(spec: Port) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": spec.shape}


def _print(model: str, summary: Summary, every: bool) -> None:
    from rich.text import Text

    from compressctl.cli.columns import print_columns
    from compressctl.cli.screen import Screen

    shown = [layer for layer in summary.layers if every or layer.parameters or layer.macs != 0]
    console = Screen(highlight=False, soft_wrap=False)
    console.print(Text(model, style="bold"))
    for title, specs in (("in", summary.inputs), ("out", summary.outputs)):
        for spec in specs:
            console.print(Text(f"  {title:<4} {spec.name}  {spec.dtype} {_shape(spec.shape)}"))
    if summary.open_axes:
        console.print(Text(f"  open axes  {_open_axes(summary)}"))
    opsets = ", ".join(f"{domain} {version}" for domain, version in summary.opsets.items())
    console.print(Text(f"  opset {opsets}; IR version {summary.ir_version}"))
    stored = ", ".join(f"{size:,} bytes of {dtype}" for dtype, size in summary.stored_bytes.items())
    console.print(Text(f"  stored {stored or 'nothing'}"))
    for part in summary.quantized:
        console.print(Text(f"  already quantized: {part}"))
    console.print("")
    titles = ("layer", "op", "output", "parameters", "MACs", "size share")
    total = ("total", "", "", f"{summary.parameters:,}", str(summary.macs), "")
    rows = ((layer.name, layer.op, *_figures(layer, summary)) for layer in shown)
    print_columns(console, titles, rows, total, left=2)
    for line in _unknown(summary):
        console.print(Text(f"\n{line}"))
    hidden = len(summary.layers) - len(shown)
    if hidden:
        nodes = "1 node" if hidden == 1 else f"{hidden} nodes"
        verb = "is" if hidden == 1 else "are"
        console.print(f"\n{nodes} without parameters and MACs {verb} not shown (--all shows them)")


def _figures(layer: NodeCost, summary: Summary) -> tuple[str, str, str, str]:
    share = f"{100 * summary.size_share(layer):.1f} %" if layer.parameter_bytes else ""
    macs = "unknown" if layer.macs is None else f"{layer.macs:,}" if layer.macs else ""
    return _shape(layer.output_shape), f"{layer.parameters:,}" if layer.parameters else "", macs, share


def _size(name: str, summary: Summary) -> int | None:
    """What an open axis counted as."""
    said = (summary.sizes or {}).get(name)
    return said or (1 if any(axis.counts_samples for axis in summary.open_axes if axis.name == name) else None)


def _open_axes(summary: Summary) -> str:
    words = []
    for name in dict.fromkeys(axis.name for axis in summary.open_axes):
        size = _size(name, summary)
        told = "" if size is None else f" = {size}" if name in (summary.sizes or {}) else " = 1 (taken for the batch)"
        words.append(f"{name}{told}")
    return ", ".join(words)


def _unknown(summary: Summary) -> list[str]:
    """Why MACs are unknown, and what would tell them."""
    from compressctl.core.count import by_operator, nodes

    macs = summary.macs
    if not macs.unknown:
        return []
    lines = [f"MACs are unknown for {nodes(macs.unknown_nodes)} ({by_operator(macs.unknown)})."]
    inside = sum(layer.macs is None and layer.within is not None for layer in summary.layers)
    if inside:
        lines.append(
            f"Inside bodies of If, Loop or Scan: {nodes(inside)}. What runs there, and how often, the inputs decide."
        )
    missing = [name for name in dict.fromkeys(axis.name for axis in summary.open_axes) if _size(name, summary) is None]
    if inside < macs.unknown_nodes:
        told = " ".join(f"--shape {name}=SIZE" for name in missing)
        lines.append(
            f"What depends on open axes is told with {told}."
            if missing
            else "Shapes or operators of the others are not known without running the model."
        )
    return lines


def _shape(shape: tuple[int | str | None, ...] | None) -> str:
    return "?" if shape is None else "x".join("?" if size is None else str(size) for size in shape) or "scalar"
