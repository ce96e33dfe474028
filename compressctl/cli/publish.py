"""compressctl publish: a run's files on the Hugging Face Hub, with a card of what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BaseModel = Annotated[
    str | None,
    typer.Option(metavar="OWNER/NAME", help="The model on the Hub that this was made of.", show_default=False),
]
License = Annotated[str | None, typer.Option(help="As the Hub names it, as in apache-2.0.", show_default=False)]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", help="What it was scored on, as in mnist.", show_default=False)
]
PipelineTag = Annotated[
    str | None, typer.Option(help="The Hub's name of the task, as in image-classification.", show_default=False)
]
Private = Annotated[bool, typer.Option("--private", help="A repository that is new is private.")]
Missed = Annotated[bool, typer.Option("--missed", help="Also where a budget was missed; the card says so.")]
DryRun = Annotated[
    Path | None,
    typer.Option("--dry-run", metavar="FOLDER", help="Write what would be published here, and send nothing."),
]


def publish(
    run: Annotated[Path, typer.Argument(help="A run's folder.", metavar="RUN")],
    repo: Annotated[str, typer.Option(metavar="OWNER/NAME", help="The repository; made where there is none.")],
    base_model: BaseModel = None,
    license: License = None,
    dataset: DatasetName = None,
    pipeline_tag: PipelineTag = None,
    backend: Annotated[
        str | None, typer.Option(help="Whose file. [default: the recipe's first]", show_default=False)
    ] = None,
    private: Private = False,
    missed: Missed = False,
    dry_run: DryRun = None,
) -> None:
    """Publish a run's file on the Hugging Face Hub, with a model card of what was measured, the report and the recipe's lock.

    The card says what it was made of, every figure with its interval, and what is not known. A run that failed is not
    published. The token is that of `hf auth login`, or HF_TOKEN.

    \b
    Examples:
      compressctl publish runs/quickstart/20261126-a1b2c3 --repo my-team/digits-int8 --dry-run card/
      compressctl publish runs/resnet/latest --repo my-team/resnet-int8 --base-model my-team/resnet --license apache-2.0
    """
    from compressctl.publish.card import About
    from compressctl.publish.hub import check_name, publish_run

    if base_model is not None:
        check_name(base_model)
    about = About(check_name(repo).partition("/")[2], base_model, license, dataset, pipeline_tag)
    print(publish_run(run, repo, about, dry_run, backend=backend, private=private, missed=missed))
