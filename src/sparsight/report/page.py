"""Put the page together and write it, whole or not at all."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sparsight.files import atomic
from sparsight.report.casl.page import casl_context
from sparsight.report.compare.page import comparison_context
from sparsight.report.emergence.page import emergence_context
from sparsight.report.numbers import digits_plain, label
from sparsight.report.run_files import RunFiles, mapping, number
from sparsight.report.sheets import Sprites

CONTEXTS = {"casl": casl_context, "emergence": emergence_context, "compare": comparison_context}


def write_report(run: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of the finished run folder `run` to `out` (default: `run`/report.html) and return its path.

    The page holds everything it shows and loads nothing. A missing piece leaves a dash or drops its section.
    Raises `SparsightError` if the run has no metrics.json, or one of a newer schema.
    """
    found = RunFiles(Path(run))
    path = Path(out) if out is not None else found.root / "report.html"
    page = _page(found)
    with atomic(path) as temporary:
        temporary.write_text(page, "utf-8")
        temporary.chmod(0o644)  # a temporary file is born private; a page is made to be shared
    return path


def _page(run: RunFiles) -> str:
    """The page of the run's experiment: CASL's, unless metrics.json names another."""
    experiment = str(run.metrics.get("experiment") or "casl")
    sprites = Sprites()
    own = CONTEXTS.get(experiment, casl_context)(run, sprites)
    shared = {**_foot(run), "css": _asset("style.css"), "js": _asset("page.js")}
    images = {"sprites": Markup(sprites.css()), "colours": sprites.colours}
    template = f"{experiment if experiment in CONTEXTS else 'casl'}/template.html"
    return _environment().get_template(template).render(shared | own | images)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sparsight.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["label"] = label
    environment.filters["plain"] = digits_plain
    return environment


def _asset(name: str) -> Markup:
    """A file of this package as it is: ours, so it needs no escaping."""
    return Markup(files("sparsight.report").joinpath(name).read_text("utf-8"))


def _foot(run: RunFiles) -> dict[str, Any]:
    """How the run was made."""
    seconds = {str(k): s for k, v in mapping(run.run.get("seconds")).items() if (s := number(v)) is not None}
    versions = mapping(run.run.get("versions")) | mapping(run.metrics.get("versions"))
    return {
        "recipe_text": run.recipe_text,
        "command": str(run.run.get("command") or ""),
        "seconds": seconds,
        "versions": {str(k): str(v) for k, v in versions.items()},
    }
