"""The entry point: one table of commands, each imported when it is called, and errors turned into messages and exit codes.

A command is a function in a file of its own, with typer's Annotated parameters and a docstring that teaches; it is
registered by one line in GROUPS. Nothing that is slow to import belongs at the top of such a file.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from compressctl import __version__
from compressctl.cli.boundary import any_text_can_be_printed, boundary, warnings_are_one_line
from compressctl.cli.ending import ends_as_decided
from compressctl.cli.room import ask_for_room_before_libraries
from compressctl.core.errors import EXIT_CODES, UsageError
from compressctl.core.machine import check_system
from compressctl.core.nearest import suggestion
from compressctl.pipeline.signals import ending_signals_interrupt


@dataclass(frozen=True)
class Command:
    """function: `"module:function"`. summary: the line that `compressctl --help` shows."""

    function: str
    summary: str


GROUPS = {
    "Compress a model": {
        "auto": Command("compressctl.cli.auto:auto", "Find what makes a model as small and fast as asked: no recipe."),
        "init": Command("compressctl.cli.init:init", "Write a starter recipe for a model."),
        "validate": Command("compressctl.cli.validate:validate", "Check a recipe and name everything wrong with it."),
        "migrate": Command("compressctl.cli.migrate:migrate", "Write recipes in the names that their keys have now."),
        "plan": Command("compressctl.cli.plan:plan", "Show a recipe's steps; --check tries one real batch."),
        "apply": Command("compressctl.cli.apply:apply", "Run a recipe: compress, export, measure, report."),
        "show": Command(
            "compressctl.cli.show:show",
            "Print a recipe with variables, bases, overrides and its stages' defaults filled in, and where it came from.",
        ),
    },
    "Compress many models": {
        "zoo": Command("compressctl.cli.zoo:zoo", "Run recipes over a set of models: plan, apply, report."),
    },
    "Look into runs": {
        "report": Command("compressctl.cli.report:report", "Show a run's report and write its files again."),
        "diagnose": Command(
            "compressctl.cli.diagnose:diagnose", "Say what a run lost most, why, and which edit of its recipe mends it."
        ),
        "explain-search": Command(
            "compressctl.cli.explain_search:explain_search",
            "Show what a search knows of every layer, and what it chose.",
        ),
        "compare": Command("compressctl.cli.compare:compare", "Show runs side by side, and what they differ in."),
        "check": Command("compressctl.cli.check:check", "Hold a budget against a run that ended."),
        "reproduce": Command("compressctl.cli.reproduce:reproduce", "Run a lock file again and say what differs."),
        "pick": Command("compressctl.cli.pick:pick", "Search a run's networks again within other limits."),
        "runs": Command("compressctl.cli.runs:runs", "List earlier runs, show, pin or clean them up."),
        "publish": Command("compressctl.cli.publish:publish", "Publish a run's file with a model card on the Hub."),
        "tables": Command(
            "compressctl.cli.tables:tables", "Time a model's layers on this machine, for searches on another one."
        ),
        "cache": Command("compressctl.cli.cache:cache", "Say what the caches hold, and remove what is too much."),
    },
    "Work on files, without a recipe": {
        "inspect": Command("compressctl.cli.inspect:inspect", "Show a model's layers, parameters and cost."),
        "bench": Command("compressctl.cli.bench:bench", "Time files against each other."),
        "evaluate": Command("compressctl.cli.evaluate:evaluate", "Score a file on a recipe's data."),
        "diff": Command(
            "compressctl.cli.diff:diff", "Compare two files of one model, output by output, layer by layer."
        ),
        "export": Command("compressctl.cli.export:export", "Write an ONNX file in other runtimes' forms."),
        "pack": Command("compressctl.cli.pack:pack", "Pack an ONNX file for transport, without loss."),
        "unpack": Command("compressctl.cli.unpack:unpack", "Give back the ONNX file that was packed."),
    },
    "Look things up": {
        "list": Command(
            "compressctl.cli.list_names:list_names", "List techniques, backends, metrics, models, datasets."
        ),
        "explain": Command(
            "compressctl.cli.explain:explain", "Explain a technique, backend, metric or source by name."
        ),
        "schema": Command(
            "compressctl.cli.schema:schema", "Write the JSON schema of recipes (for editors) or reports."
        ),
        "doctor": Command("compressctl.cli.doctor:doctor", "Say what this machine can do and what is missing."),
    },
}
"""By what one wants to do, in the order of `compressctl --help`."""

COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
_WIDEST = max(map(len, COMMANDS))


def main() -> None:
    """Run the command line. Never returns: the process ends with an ExitCode."""
    # Starting up makes thousands of objects that all stay, and looking for garbage among them is a twentieth of it.
    # It begins when the command does, see `_after_start_up`.
    gc.disable()
    any_text_can_be_printed()
    warnings_are_one_line()
    ask_for_room_before_libraries()
    with ends_as_decided(), ending_signals_interrupt():
        app(prog_name="compressctl")


class LazyGroup(TyperGroup):
    """Commands that are imported when they are called, so that `--help` costs no more than typer itself."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in self.commands:
            self.commands[cmd_name] = _build(cmd_name)
        return self.commands[cmd_name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise UsageError(f"there is no command {args[0]!r}", hint=suggestion(args[0], COMMANDS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, group in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(_WIDEST), command.summary) for name, command in group.items()])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Exit codes (docs/exit-codes.md)"):
            formatter.write_dl([(str(int(code)), words) for code, words in EXIT_CODES.items()])

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with boundary():
            check_system()
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with boundary():
            return super().invoke(ctx)


def _build(name: str) -> Any:
    module, _, function = COMMANDS[name].function.partition(":")
    found = getattr(import_module(module), function)
    if isinstance(found, typer.Typer):
        return _group(found)
    single = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=_CONTEXT)
    single.command(name)(_after_start_up(found))
    return typer.main.get_command(single)


def _group(commands: typer.Typer) -> Any:
    """Commands of a command."""
    for command in commands.registered_commands:
        assert command.callback is not None
        command.callback = _after_start_up(command.callback)
        command.context_settings = _CONTEXT
    return typer.main.get_command(commands)


def _after_start_up(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with garbage collection on, and what start-up made exempt from it (at the process's end too)."""

    @functools.wraps(command)
    def started(*args: Any, **options: Any) -> None:
        gc.freeze()
        gc.enable()
        command(*args, **options)

    return started


def _show_version(asked: bool) -> None:
    if asked:
        print(f"compressctl {__version__}")
        raise typer.Exit


_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}

app = typer.Typer(
    cls=LazyGroup,
    help="Make trained models smaller, faster and cheaper to run, and prove it on the exported file.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=_CONTEXT,
)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


if __name__ == "__main__":
    main()
