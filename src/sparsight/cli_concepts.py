"""`sparsight concepts`: search the concept dictionaries of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sparsight.concepts.dictionary import ConceptDictionary
    from sparsight.concepts.map_statistics import MapStatistics

concepts_app = typer.Typer(no_args_is_help=True, help="Concept dictionaries: which latents stand for what.")
Source = Annotated[str, typer.Argument(help="A run, or any folder with concept dictionaries in it or below it.")]
Most = Annotated[int, typer.Option("--most", "-n", min=1, help="Rows of each dictionary.")]


@concepts_app.command("find")
def find(
    source: Source,
    word: Annotated[str, typer.Argument(help='A label, such as "dog".')],
    match: Annotated[str, typer.Option(help="exact: the label itself. word: every label that has the word.")] = "exact",
    most: Most = 10,
) -> None:
    """Say which latents stand for a word, in every dictionary of a run."""
    from rich.table import Table

    from sparsight.errors import SparsightError

    table = Table(title=f"latents whose maps were over {word!r}")
    for column in ("dictionary", "latent", "objects", "of its own", "of all seen", "entry"):
        table.add_column(column, justify="right" if column in ("latent", "objects") else "left", overflow="fold")
    absent: list[SparsightError] = []
    opened = _open(source)
    for name, dictionary in opened.items():
        try:
            hits = dictionary.find(word, match=match)
        except SparsightError as error:
            absent.append(error)
            continue
        for hit in hits[:most]:
            shares = f"{hit.share:.0%}", f"{hit.recall:.1%}"
            table.add_row(name, str(hit.latent), str(hit.objects), *shares, _entry(dictionary, hit.latent))
    if len(absent) == len(opened):
        raise absent[0]
    _print(table)


@concepts_app.command("show")
def show(
    source: Source,
    latent: Annotated[int | None, typer.Argument(help="One latent. Default: a summary of each dictionary.")] = None,
    styles: Annotated[bool, typer.Option("--styles", help="List the latents with the most uniform maps.")] = False,
    most: Most = 10,
) -> None:
    """Show a latent's entry, the latents that look like styles, or what the dictionaries of a run hold."""
    from rich.table import Table

    table = Table()
    columns = ("dictionary", "latents with an entry", "images", "objects", "labels", "commonest labels")
    for column in (
        columns if latent is None and not styles else ("dictionary", "latent", "entry", "uniformity", "top images")
    ):
        table.add_column(column, overflow="fold")
    for name, dictionary in _open(source).items():
        if latent is not None:
            table.add_row(name, *_row(dictionary, latent))
        elif styles:
            for unit in _statistics(dictionary, name).style_latents(most):
                table.add_row(name, *_row(dictionary, unit))
        else:
            common = dictionary.seen.argsort(descending=True, stable=True)[:most].tolist()
            counts = (
                f"{len(dictionary)} of {dictionary.latents}",
                str(dictionary.images),
                str(int(dictionary.seen.sum())),
            )
            labels = ", ".join(f"{dictionary.labels[i]} {int(dictionary.seen[i])}" for i in common)
            table.add_row(name, *counts, str(len(dictionary.labels)), labels)
    _print(table)


def _open(source: str) -> dict[str, ConceptDictionary]:
    from sparsight.concepts.dictionary import ConceptDictionary
    from sparsight.concepts.dictionary_files import list_dictionaries

    found = list_dictionaries(source)
    return {name.removeprefix("dictionaries/"): ConceptDictionary.load(folder) for name, folder in found.items()}


def _entry(dictionary: ConceptDictionary, latent: int, most: int = 6) -> str:
    entry = dictionary.labels_of(latent)
    more = f", and {len(entry) - most} more" if len(entry) > most else ""
    return ", ".join(f"{label} {count}" for label, count in entry[:most]) + more or "-"


def _row(dictionary: ConceptDictionary, latent: int) -> tuple[str, str, str, str]:
    entry, statistics = _entry(dictionary, latent, 12), dictionary.statistics
    if statistics is None:
        return str(latent), entry, "-", "-"
    images = ", ".join(map(str, statistics.top_images(latent)[:8])) or "-"
    return str(latent), entry, f"{float(statistics.uniformity()[latent]):.2f}", images


def _statistics(dictionary: ConceptDictionary, name: str) -> MapStatistics:
    from sparsight.errors import SparsightError

    if dictionary.statistics is None:
        raise SparsightError(f"the dictionary {name} has no statistics of maps, so styles cannot be searched")
    return dictionary.statistics


def _print(table: object) -> None:
    from rich.console import Console

    Console().print(table)
