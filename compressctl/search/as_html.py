"""A search as one HTML file that opens offline: the verdict, the front as a picture, a table that sorts, and what was left out."""

from __future__ import annotations

from pathlib import Path

from compressctl.recipe.as_yaml import as_yaml
from compressctl.report.as_html import page_part, page_template, script_hash
from compressctl.search import picture, words
from compressctl.search.document import Point, Search


def render(found: Search) -> str:
    script = page_part("report.js")
    return page_template("search.html.jinja", Path(__file__).parent).render(
        search=found, words=words, pictures=picture.pictures(found), stages=_stages, sizes=(picture.WIDTH, picture.HEIGHT, picture.MARGIN),
        environment=[[name, str(value)] for name, value in found.environment.items()], style=page_part("report.css"), script=script, script_hash=script_hash(script),
    )  # fmt: skip


def _stages(point: Point) -> str:
    """What is a point's own of its recipe."""
    return as_yaml({name: point.recipe[name] for name in ("stages", "export") if name in point.recipe})
