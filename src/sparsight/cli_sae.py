"""`sparsight sae`: look at an SAE, and carry it between libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

sae_app = typer.Typer(no_args_is_help=True, help="SAEs as files: look at them, and carry them between libraries.")
FORMATS = "saelens, sparsify (SAeUron too), sdxl_unbox, dictionary_learning or sparsight"
Source = Annotated[str, typer.Argument(help=f"A folder or a Hub id: {FORMATS}.")]
Subfolder = Annotated[str | None, typer.Option(help="Sub-folder of it, such as unet.up_blocks.1.attentions.1.")]
Format = Annotated[
    str | None, typer.Option("--format", "-f", help="Format of the source. Default: what its files say.")
]


@sae_app.command("import")
def import_(
    source: Source,
    out: Annotated[Path, typer.Argument(help="Folder for sparsight's SAE.")],
    format: Format = None,
    subfolder: Subfolder = None,
) -> None:
    """Turn another library's SAE into one of sparsight's, which encodes and decodes the same.

    SAELens: standard, topk, jumprelu and gated; what it trains as BatchTopK or
    Matryoshka it saves as jumprelu. dictionary_learning: all that its
    load_dictionary knows. sparsify and sdxl_unbox: topk. What an SAE of
    sparsight cannot express is refused.
    """
    from sparsight.sae import import_sae

    import_sae(source, format, subfolder).save_pretrained(out)
    typer.echo(str(out))


@sae_app.command("export")
def export(
    source: Source,
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    format: Annotated[str, typer.Option("--format", "-f", help=f"Format to write: {FORMATS}.")],
    subfolder: Subfolder = None,
) -> None:
    """Write an SAE as another library's folder, which encodes and decodes the same there.

    saelens and dictionary_learning hold relu, topk, batchtopk (saelens as
    jumprelu), jumprelu and gated SAEs; sparsify and sdxl_unbox hold topk.
    Matryoshka prefixes, a record of the training, are left out where a format
    has no place for them. An SAE that is told t is refused: no other library
    has one.
    """
    from sparsight.sae import export_sae, import_sae

    export_sae(import_sae(source, None, subfolder), out, format)
    typer.echo(str(out))


@sae_app.command("info")
def info(source: Source, format: Format = None, subfolder: Subfolder = None) -> None:
    """Say what an SAE is: format, sizes, activation and its options, site, and what made it."""
    from sparsight.sae import import_sae
    from sparsight.terminal import print_sae

    print_sae(import_sae(source, format, subfolder))
