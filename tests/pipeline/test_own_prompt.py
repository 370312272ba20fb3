"""Editing one's own prompt, against the equations written out again, and everything that can be asked for wrongly."""

import shutil
from dataclasses import dataclass, replace

import pytest
import torch
from PIL import Image

from sparsight import SparsightError, generate
from sparsight.pipeline.emergence.asked import Move, Style, parse_window
from sparsight.pipeline.emergence.layout import editor
from sparsight.pipeline.emergence.own import by_site, edit_prompt, open_run, planned
from sparsight.pipeline.emergence.run import stream_name
from sparsight.sae import SAE
from tiny_emergence import CAT, CHOSEN, DOG, GRID, PENCIL, PLACE, SITE, STEPS, K, opened, tiny_emergence
from tiny_text import tiny_text_model

LEFT_TOP = torch.zeros(GRID, dtype=torch.bool)
LEFT_TOP[:2, :2] = True
BOUNDS = {"early": (600, 999), "middle": (200, 599), "final": (0, 199)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_emergence(tmp_path_factory.mktemp("own") / "run")


@dataclass
class ByHand:
    """The paper's equations at one stage, with nothing of ours but the SAE's code: rows of the prompt alone are edited.

    `region` None is the global edit. beta is such that beta mean|Z| |sum f| = strength mean|h| on the training tokens.
    """

    run: object
    stage: str
    latents: tuple
    strength: float
    region: object = None
    bounds: tuple = ()
    site: str = SITE

    def __post_init__(self):
        name = stream_name(SITE, self.stage, "cond")
        self.sae = SAE.from_pretrained(self.run.folder / "saes" / f"{name}.k{K}").requires_grad_(False)
        self.atoms = self.sae.W_dec[list(self.latents)] / self.sae.scale
        h = self.run.store(name).load("tokens", images=range(4))["tokens"].float()
        size = self.sae.encode(h).norm(dim=-1).mean() * self.atoms.sum(0).norm()
        self.beta = float(self.strength * h.norm(dim=-1).mean() / size)

    def active(self, t):
        low, high = self.bounds or BOUNDS[self.stage]
        return low <= t <= high

    def change(self, h):
        z = self.sae.encode(h)
        push = self.beta * z.norm(dim=-1, keepdim=True) * self.atoms.sum(0)
        if self.region is None:
            return push
        return torch.where(self.region.flatten()[:, None], push, -z[..., list(self.latents)] @ self.atoms)

    def __call__(self, tokens, step):
        changed = tokens.clone()
        changed[step.conditional] += self.change(tokens[step.conditional])
        return changed


@dataclass
class Both:
    one: ByHand
    other: ByHand
    site: str = SITE

    def active(self, t):
        return self.one.active(t) or self.other.active(t)

    def __call__(self, tokens, step):
        return tokens + sum(hand(tokens, step) - tokens for hand in (self.one, self.other) if hand.active(step.t))


def latents(stage, own):
    return tuple(latent + PLACE[stage] for latent in own)


def drawn(run, prompt, interventions=(), seed=0):
    return generate(run.model, prompt, seed=seed, steps=STEPS, guidance=3.0, interventions=interventions)


def test_strength_zero_is_the_unedited_image_to_the_bit(run):
    edited = edit_prompt(run, "a cat", [Move("cat", "top-left", 0.0)], [Style("pencil", 0.0)], seed=3)
    assert torch.equal(edited.after, edited.before) and torch.equal(edited.before, drawn(run, "a cat", seed=3))
    assert [part.edit.alpha for part in edited.parts] == [0, 0] and edited.parts[0].measured("cond") == 0


def test_a_move_is_the_papers_equations_at_the_strength_that_the_run_chose(run):
    edited = edit_prompt(run, "a cat", [Move("cat", "top-left")])
    hand = ByHand(run, "early", latents("early", CAT), CHOSEN["layout"]["early"], LEFT_TOP)
    torch.testing.assert_close(edited.after, drawn(run, "a cat", [hand]), atol=1e-4, rtol=1e-4)
    assert (edited.after - edited.before).abs().mean() > 0.01
    (part,) = edited.parts
    assert part.stage == "early" and part.edit.latents == CAT and part.edit.alpha == pytest.approx(hand.beta, rel=1e-4)


@pytest.mark.parametrize("strength", [0.8, -0.8])
def test_a_style_is_the_papers_equation_and_may_be_taken_away(run, strength):
    edited = edit_prompt(run, "a cat", styles=[Style("Pencil", strength)], seed=1)
    hand = ByHand(run, "middle", latents("middle", [PENCIL]), strength)
    torch.testing.assert_close(edited.after, drawn(run, "a cat", [hand], seed=1), atol=1e-4, rtol=1e-4)
    assert edited.parts[0].edit.alpha * strength > 0


def test_tokens_of_one_step_are_moved_as_the_equation_says_and_the_strength_is_measured_there(run):
    (part,) = planned(run, Move("cat", "bottom-right", 1.5), None, STEPS)
    told, x = run.model.encode_prompts("a cat", guidance=3.0), torch.randn(1, *run.model.latent_shape)
    with torch.no_grad(), run.model.capture([SITE]) as before:
        run.model.predict(x, 901, told)
    with torch.no_grad(), run.model.edit(by_site([part])), run.model.capture([SITE]) as after:
        run.model.predict(x, 901, told)
    h = before.half(SITE, "cond")
    change = ByHand(run, "early", latents("early", CAT), 1.5, LEFT_TOP.flip(0, 1)).change(h)
    torch.testing.assert_close(after.half(SITE, "cond"), h + change, atol=1e-4, rtol=1e-4)
    assert torch.equal(after.half(SITE, "uncond"), before.half(SITE, "uncond"))
    assert part.measured("cond") == pytest.approx(float(change.norm() / h.norm()), rel=1e-4)
    assert part.measured("uncond") == 0 and len(part.strengths["cond"]) == 1
    assert f"beta {part.edit.alpha:.3g}; |shift|/|h| cond {part.measured('cond'):.2f}, uncond 0.00" in str(part)


def test_edits_of_one_site_all_read_the_unedited_tokens(run):
    edited = edit_prompt(run, "a cat", [Move("cat", "top-left", 1)], [Style("pencil", 1)], window=(0.6, 1.0))
    cat = ByHand(run, "early", latents("early", CAT), 1, LEFT_TOP)
    pencil = ByHand(run, "early", latents("early", [PENCIL]), 1)
    together = drawn(run, "a cat", [Both(cat, pencil)])
    torch.testing.assert_close(edited.after, together, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together, drawn(run, "a cat", [cat, pencil]), atol=1e-3)
    assert [len(part.strengths["cond"]) for part in edited.parts] == [4, 4]


def test_a_window_over_several_stages_takes_each_ones_own_sae(run):
    edited = edit_prompt(run, "a dog", [Move("dog", "top-left")], window=(0.1, 0.75))
    assert [part.stage for part in edited.parts] == ["early", "middle", "final"]
    bounds = {"early": (600, 749), "middle": (200, 599), "final": (100, 199)}
    hands = [
        ByHand(run, stage, latents(stage, DOG), CHOSEN["layout"][stage], LEFT_TOP, bounds[stage]) for stage in bounds
    ]
    torch.testing.assert_close(edited.after, drawn(run, "a dog", hands), atol=1e-4, rtol=1e-4)
    assert [len(part.strengths["cond"]) for part in edited.parts] == [2, 4, 1]


def test_a_stage_without_a_step_in_the_window_is_left_out(run):
    parts = planned(run, Move("cat", "top-left"), (0.55, 0.95), STEPS)  # 901, 801, 701, 601; none from 550 to 599
    assert [(part.stage, part.edit.window.low, part.edit.window.high) for part in parts] == [("early", 600, 949)]
    with pytest.raises(SparsightError, match="none of the 10 steps lies in the window, timesteps 610 to 649"):
        planned(run, Move("cat", "top-left"), (0.61, 0.65), STEPS)


def test_steps_and_guidance_are_the_runs_unless_said(run):
    other = edit_prompt(run, "a cat", styles=[Style("pencil", 0)], steps=4, guidance=1.0, seed=2)
    assert torch.equal(other.before, generate(run.model, "a cat", seed=2, steps=4, guidance=1.0))
    heard = []
    edit_prompt(
        run, "a cat", styles=[Style("pencil")], progress=lambda moment, image: heard.append((image, moment.index))
    )
    assert heard == [(image, step) for image in (0, 1) for step in range(STEPS)]
    (part,) = edit_prompt(run, "a cat", styles=[Style("pencil")], guidance=1.0).parts
    assert set(part.strengths) == {"cond"}


@pytest.mark.parametrize("size", [(16, 24), (4, 4), (100, 64)])
def test_a_mask_of_any_size_is_brought_to_the_grid(run, tmp_path, size):
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1] // 2))
    mask.save(tmp_path / "mask.png")
    move = Move.parse(f"cat:{tmp_path / 'mask.png'}:1.5")
    assert move.strength == 1.5 and torch.equal(move.region(GRID), LEFT_TOP)
    own, named = (planned(run, wish, None, STEPS)[0] for wish in (move, Move("cat", "top-left", 1.5)))
    assert torch.equal(own.edit.region, named.edit.region)


def test_latents_and_beta_are_those_of_the_runs_own_tests(run):
    (part,) = planned(run, Move("cat", "top-left"), None, STEPS)
    theirs = editor(run, run.recipe.layout, "cat", "early", CHOSEN["layout"]["early"], 1)
    assert part.edit.latents == theirs.latents and part.edit.alpha == theirs.alpha
    assert torch.equal(part.edit.region, theirs.region[0])


def test_what_is_written_is_read():
    assert Move.parse("red car:top-left") == Move("red car", "top-left")
    assert Move.parse("cat:C:/a.png") == Move("cat", "C:/a.png")
    assert Style.parse("pencil:-0.6") == Style("pencil", -0.6) and Style.parse(" pencil") == Style("pencil")
    assert parse_window("0.6-1.0") == (0.6, 1.0) and parse_window(".2 - 1") == (0.2, 1.0)


@pytest.mark.parametrize(
    ("parse", "text", "words"),
    [
        (Move.parse, "cat", "must have the form WORD:PLACE"),
        (Move.parse, ":top-left", "must have the form WORD:PLACE"),
        (Move.parse, "cat:", "must have the form WORD:PLACE"),
        (Move.parse, "cat:top_left", "unknown quadrant or mask file 'top_left': did you mean 'top-left'"),
        (Move.parse, "cat:top_left:2", "unknown quadrant or mask file 'top_left'"),
        (Move.parse, "cat:top-left:", "ends in '', which is no strength"),
        (Move.parse, "cat:top-left:strong", "ends in 'strong', which is no strength"),
        (Move.parse, "cat:top-left:-1", "from 0 on, not -1"),
        (Move.parse, "cat:top-left:nan", "from 0 on, not nan"),
        (Style.parse, "", "must have the form WORD or"),
        (Style.parse, ":0.6", "must have the form WORD or"),
        (Style.parse, "pencil:much", "ends in 'much', which is no strength"),
        (Style.parse, "pencil:inf", "must be a finite number"),
        (parse_window, "early", "must have the form LOW-HIGH"),
        (parse_window, "0.6", "must have the form LOW-HIGH"),
        (parse_window, "1.0-0.6", "must run upwards between 0"),
        (parse_window, "0.6-1.2", "must run upwards between 0"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(parse, text, words):
    with pytest.raises(SparsightError, match=words) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def refused(run, words, moves=(), styles=(), **options):
    run.model.edit = run.model.predict = None  # nothing may be drawn
    with pytest.raises(SparsightError, match=words) as caught:
        edit_prompt(run, "a cat", moves, styles, **options)
    assert "\n" not in str(caught.value)


@pytest.fixture
def own(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "run")
    return opened(tmp_path / "run", tiny_text_model())


def test_words_that_the_dictionary_does_not_have_are_named_with_the_nearest(own):
    refused(own, r"at the early stage: .*'cta'.* did you mean 'cat'", [Move("cta", "top-left")])
    refused(own, r"at the middle stage: .*'pencl'.* did you mean 'pencil'", styles=[Style("pencl")])
    refused(own, "at the middle stage: .*'watercolor'", styles=[Style("watercolor")])  # a style of the world, unseen


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "does not exist"), (b"nothing", "is not a readable image"), ("dark", "is empty"), ("small", "by half")],
)
def test_a_mask_that_cannot_be_used_is_said(own, tmp_path, content, words):
    path = tmp_path / "mask.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        mask = Image.new("L", (64, 64), 0)
        if content == "small":
            mask.paste(255, (0, 0, 5, 5))
        mask.save(path)
    refused(own, words, [Move("cat", str(path))])


def test_parts_of_the_run_that_are_missing_are_named(own):
    move, style = Move("cat", "top-left"), Style("pencil")
    refused(own, "give a move or a style")
    refused(own, "the schedule has 1 to 1000", [move], steps=0)
    refused(own, "must be at least 1", [move], guidance=0.5)
    (own.folder / "layout.json").unlink()
    refused(own, r"chosen no strength for layout edits of the early stage yet: say one, as in --move cat:", [move])
    assert planned(own, replace(move, strength=1.0), None, STEPS)
    (own.folder / "style.json").unlink()
    refused(own, r"chosen no strength for style edits of the middle stage yet: say one, as in --style", [], [style])
    strong = replace(move, strength=1.0)
    shutil.rmtree(own.folder / "stores")
    refused(own, "no longer holds the tokens of mid_block", [strong])
    shutil.rmtree(own.folder / "dictionaries")
    refused(own, "has no concept dictionary mid_block.* yet", [strong])


def test_another_model_another_site_and_another_stage_are_refused(own):
    move, name = Move("cat", "top-left"), f"{stream_name(SITE, 'early', 'cond')}.k{K}"
    sae = SAE.from_pretrained(own.folder / "saes" / name)
    for change, words in (
        ({"site": "mid_block.attentions.0"}, "the SAE was trained at mid_block.attentions.0, but the edit is at"),
        ({"timesteps": [1]}, "the SAE was trained at timesteps 1 to 1, but the edit acts from 600 to 999"),
        ({"model_hash": "0123"}, r"is of the model tiny-text \(0123\), but tiny-text is"),
    ):
        sae.save_pretrained(own.folder / "saes" / name, {**sae.extra, **change})
        refused(own, words, [move])
        sae.save_pretrained(own.folder / "saes" / name, sae.extra)
    shutil.rmtree(own.folder / "saes" / name)
    refused(own, "there is no SAE folder", [move])


def test_a_folder_that_is_no_emergence_run_is_refused(tmp_path):
    with pytest.raises(SparsightError, match="is no run folder"):
        open_run(tmp_path)
    (tmp_path / "recipe.yaml").write_text("name: demo\n")
    with pytest.raises(SparsightError, match="is a run of the experiment casl"):
        open_run(tmp_path)
