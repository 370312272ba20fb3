"""The method of docs/adding-a-method.md works as it stands there, and keeps the harness's promises."""

import re
from pathlib import Path

import torch

from baselines.small_data import BRIGHT, LOOP, noise, small_data
from sparsight import sample
from sparsight.baselines import edit_images, fit

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-method.md"


def test_the_example_is_a_whole_method():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    names = {"__name__": "example"}
    exec(compile(code, str(PAGE), "exec"), names)
    data = small_data()
    editor, model = fit(names["PullToMean"](), BRIGHT, data), data.model
    plain = model.decode(sample(model, noise(), LOOP)).clamp(-1, 1)
    assert torch.equal(edit_images(model, editor, 0, noise(), LOOP), plain)
    assert not torch.equal(edit_images(model, editor, 0.5, noise(), LOOP), plain)
    (whole,) = editor.interventions(1.0)
    rows = data.store.load("tokens", "image")
    goal = rows["tokens"][rows["image"] % 2 == 1].mean(0)
    moved = whole(torch.randn(2, 16, 64), type("Step", (), {"t": 700}))
    torch.testing.assert_close(moved, goal.expand(2, -1, -1), rtol=1e-4, atol=1e-4)
