"""The page that `sparsight generate --help` prints: what edits mean, and what to try first."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from typer.core import TyperCommand

EXAMPLES = {
    "An image": 'sparsight generate worlds/scenes -p "a cat on a beach" --seed 3 -o cat.png',
    "A run first: SAEs, dictionaries and strengths": "sparsight run demo-scenes",
    "The cat to the top left, beside the unedited image": (
        'sparsight generate --run runs/demo-scenes -p "a cat on a beach" --move cat:top-left'
    ),
    "Into a mask of your own (white marks the region)": "... --move cat:mask.png",
    "Stronger, and a style with it": "... --move cat:top-left:8 --style pencil:0.6",
    "A style taken away": "... --style pencil:-0.6",
    "At other times: t is 1 for noise and 0 for the image": "... --style pencil --window 0.2-1.0",
}
ADVICE = (
    "Layout is decided early, style in the middle: hence the default windows, early (0.6-1.0) for --move, middle (0.2-0.6) for "
    "--style. A window over several stages edits each with that stage's own SAE. A strength is the mean norm of the push over "
    "the mean norm of the tokens it is added to; left out, it is what the run chose on validation images for that stage, and 0 "
    "gives the unedited image to the bit. Each edit prints its latents, its beta and |shift|/|h|, as measured on both halves "
    "of guidance. A word that the run's dictionary does not have is refused, and the nearest are named."
)


class GeneratePage(TyperCommand):
    """A command whose --help goes on with what edits mean, and examples."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Typer's own help, then the page."""
        super().format_help(ctx, formatter)
        console = Console()
        console.print(f"{ADVICE}\n", highlight=False)
        for what, command in EXAMPLES.items():
            console.print(f"[bold]{what}[/bold]")
            console.print(f"  {command}", soft_wrap=True, highlight=False)
