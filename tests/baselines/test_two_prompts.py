"""Prompt-to-Prompt and MasaCtrl against runs of both prompts in one batch, with attention written out here."""

import pytest
import torch

from baselines.small_text import DOG, PROMPT, noise, small_text, told
from sparsight import Loop, SparsightError
from sparsight.baselines import edit_images, fit, method
from sparsight.baselines.injection import Blending
from sparsight.baselines.masactrl import MutualAttention
from sparsight.baselines.retelling import aligned, retell, token_ids
from sparsight.baselines.two_paths import WordMaps
from sparsight.concepts import Concept
from sparsight.diffusion.attention_control import Layer
from sparsight.diffusion.conditioning import Conditioning

LOOP = Loop(5, "plain")
BIG = Concept("big", "cat", "big cat")
LONG = Concept("long", "cat", "big")


class WrittenOut:
    """softmax(q k' / sqrt(d)) v for rows (source, edited) of either half, changed by `change(q, k, v, weights)`."""

    def __init__(self, change):
        self.change = change

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        parts = [
            p.unflatten(-1, (attn.heads, -1))
            for p in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        ]
        q, k, v = self.change(*parts, None)[:3]
        weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5).softmax(-1)
        weights = self.change(q, k, v, weights)[3]
        return attn.to_out[0](torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))


@torch.no_grad()
def both_at_once(model, source, target, change, guidance=3.0):
    """The edited image; `change(step, cross, index of the layer)` gives what is done to attention there, or None."""
    texts = [model.encode_prompts(text, guidance=guidance) for text in (source, target)]
    pair = Conditioning(
        (source, target), torch.cat([t.text for t in texts]), texts[0].negative.expand(2, -1, -1), guidance
    )
    x = noise(1).repeat(2, 1, 1, 1)
    order = ("down_blocks", "mid_block", "up_blocks")
    layers = [
        (n, m)
        for part in order
        for n, m in model.denoiser.named_modules()
        if n.startswith(part) and hasattr(m, "processor")
    ]
    own = [m.processor for _, m in layers]
    for step, (t, t_next) in enumerate(model.pairs(5)):
        counts = {True: 0, False: 0}
        for name, module in layers:
            cross = name.endswith("attn2")
            rule = change(step, cross, counts[cross])
            counts[cross] += 1
            module.processor = WrittenOut(rule or (lambda *parts: parts))
        x0, eps = model.predict(x, t, pair)
        signal, sigma = model.schedule.levels(t_next, x)
        x = signal * x0 + sigma * eps
    for (_, module), processor in zip(layers, own, strict=True):
        module.processor = processor
    return model.decode(x[1:]).clamp(-1, 1)


def injected(cross_steps, self_steps, mix):
    def change(step, cross, index):
        if step >= (cross_steps if cross else self_steps):
            return None

        def rule(q, k, v, weights):
            if weights is not None:
                weights = weights.clone()
                weights[3] = (
                    mix(weights[2], weights[3]) if cross else weights[2]
                )  # rows: negative twice, source, edited
            return q, k, v, weights

        return rule

    return change


def refined(source, own):
    places = {0: 0, 1: 1, 5: 2, 6: 3, 7: 4, 8: 5, 9: 6, 10: 7, 11: 8}  # a [b i g] cat on a dog
    mixed = own.clone()
    for target, before in places.items():
        mixed[..., target] = source[..., before]
    return mixed


@pytest.mark.parametrize(
    ("concept", "edit", "target", "mix"),
    [(DOG, "swap", "a dog on a dog", lambda source, own: source), (BIG, "refine", "a big cat on a dog", refined)],
)
def test_swap_and_refinement_are_the_papers_algorithm_in_one_batch(concept, edit, target, mix):
    model = small_text().model
    editor = fit(method("prompt_to_prompt", edit=edit), concept, small_text())
    for strength, cross_steps, self_steps in ((0.2, 4, 2), (1.0, 0, 0)):
        found = edit_images(model, editor, strength, noise(1), LOOP, told())
        expected = both_at_once(model, PROMPT, target, injected(cross_steps, self_steps, mix))
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    alone = edit_images(model, fit(method("masactrl"), concept, small_text()), 1.0, noise(1), LOOP, told())
    torch.testing.assert_close(found, alone, atol=2e-5, rtol=0)  # at 1 either is the new prompt alone


def test_reweighting_multiplies_one_words_map_in_all_steps():
    model, editor = small_text().model, fit(method("prompt_to_prompt", edit="reweight"), DOG, small_text())

    def mix(source, own):
        scaled = source.clone()
        scaled[..., 5] *= 1 + 0.7  # a cat on a [dog]
        return scaled

    found = edit_images(model, editor, 0.7, noise(1), LOOP, told())
    torch.testing.assert_close(found, both_at_once(model, PROMPT, PROMPT, injected(5, 2, mix)), atol=2e-5, rtol=0)
    with pytest.raises(SparsightError, match="does not say 'dog': nothing to reweight"):
        edit_images(model, editor, 0.7, noise(1), LOOP, told("a cat"))


@pytest.mark.parametrize("layer", [0, 1])
def test_mutual_self_attention_takes_keys_and_values_from_step_s_and_layer_l_on(layer):
    model, editor = small_text().model, fit(method("masactrl", layer=layer), DOG, small_text())

    def change(step, cross, index):
        if cross or step < 2 or index < layer:
            return None

        def rule(q, k, v, weights):
            return q, k[[0, 0, 2, 2]], v[[0, 0, 2, 2]], weights

        return rule

    found = edit_images(model, editor, 0.4, noise(1), LOOP, told())
    torch.testing.assert_close(found, both_at_once(model, PROMPT, "a dog on a dog", change), atol=2e-5, rtol=0)


def test_each_image_of_a_batch_is_edited_as_if_alone():
    model = small_text().model
    for name, options in (
        ("prompt_to_prompt", {}),
        ("masactrl", {"layer": 0, "masked": True}),
        ("prompt_to_prompt", {"blend": True}),
    ):
        editor = fit(method(name, **options), DOG, small_text())
        both = edit_images(model, editor, 0.4, noise(2), LOOP, told([PROMPT, "dog on cat"]))
        alone = edit_images(model, editor, 0.4, noise(2)[1:], LOOP, told("dog on cat"))
        torch.testing.assert_close(both[1:], alone, atol=2e-5, rtol=0)


def test_masked_attention_is_object_to_object_and_rest_to_rest():
    maps = [WordMaps([[1]], 1, (4, 4)) for _ in range(2)]
    for one, seed in zip(maps, (0, 1), strict=True):
        one.total = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(seed))
    q, k, v = torch.randn(3, 2, 3, 16, 8).unbind()  # two halves, three heads
    control = MutualAttention(0, 0, tuple(maps), threshold=0.5)
    weights = (q @ k.mT).softmax(-1)
    found = control.weights(Layer("attn1", False, 0, 1), weights) @ v
    source, edited = (((m.total - m.total.min()) / (m.total.max() - m.total.min()) > 0.5).flatten() for m in maps)
    inside = (q @ k.mT).masked_fill(~source, -torch.inf).softmax(-1) @ v
    outside = (q @ k.mT).masked_fill(source, -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(found, torch.where(edited[:, None], inside, outside), atol=1e-4, rtol=1e-3)
    maps[0].total = torch.zeros(1, 4, 4)  # an empty object: positions of the edited one look everywhere
    found = control.weights(Layer("attn1", False, 0, 1), weights)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 3, 16))


def test_local_blend_keeps_the_source_outside_of_both_words():
    source, edited = (WordMaps([[1]], 1, (5, 5)) for _ in range(2))
    source.total, edited.total = torch.zeros(1, 5, 5), torch.zeros(1, 5, 5)
    source.total[0, 0, 0], edited.total[0, 4, 4], edited.total[0, 0, 4] = 1.0, 1.0, 0.2
    x, still = torch.ones(1, 3, 5, 5), torch.zeros(1, 3, 5, 5)
    expected = torch.zeros(5, 5)
    expected[:2, :2] = expected[3:, 3:] = 1  # widened by one; 0.2 of the largest is too little
    assert torch.equal(Blending(source, edited, 0.3)(x, still), expected.expand(1, 3, 5, 5))


@torch.no_grad()
def test_where_no_word_is_seen_every_step_starts_from_the_source():
    model, editor = small_text().model, fit(method("prompt_to_prompt", blend=True, threshold=1.0), DOG, small_text())
    found = edit_images(model, editor, 0.6, noise(1), LOOP, told())  # no map is above its own maximum
    x, pairs = noise(1), model.pairs(5)
    for t, t_next in pairs[:-1]:
        x0, eps = model.predict(x, t, told())
        signal, sigma = model.schedule.levels(t_next, x)
        x = signal * x0 + sigma * eps
    x0, eps = model.predict(x, pairs[-1][0], told("a dog on a dog"))  # the last step is not blended
    signal, sigma = model.schedule.levels(pairs[-1][1], x)
    torch.testing.assert_close(found, model.decode(signal * x0 + sigma * eps).clamp(-1, 1), atol=2e-5, rtol=0)


def test_tokens_are_aligned_word_by_word():
    model = small_text().model
    before, refine, swap = (token_ids(model, text) for text in (PROMPT, "a big cat on a dog", "a big on a dog"))
    matrix, new = aligned(before, refine, swap=False)
    assert new.nonzero().flatten().tolist() == [2, 3, 4] and matrix[:, [2, 3, 4]].sum() == 0
    assert [int(matrix[:, j].argmax()) for j in (0, 1, 5, 6, 7, 8, 9)] == [0, 1, 2, 3, 4, 5, 6]
    matrix, new = aligned(before, swap, swap=True)
    assert not new.any() and torch.allclose(matrix[2, 2:5], torch.tensor(1 / 3)) and matrix[2].sum() == pytest.approx(1)
    assert torch.equal(aligned(before, before, swap=True)[0], torch.eye(12))
    assert retell("A Cat, and a category", "cat", "dog") == "A dog, and a category"
    assert retell("a cat", "", "at night") == "a cat, at night" and retell("a cat, at night", "at night", "") == "a cat"


def test_mistakes_are_named():
    data = small_text()
    editor = fit(method("prompt_to_prompt"), DOG, data)
    for strength, prompt, why in ((0.5, "a dog", "does not say 'cat'"), (-0.5, "a cat", "does not say 'dog'")):
        with pytest.raises(SparsightError, match=why):
            edit_images(data.model, editor, strength, noise(1), LOOP, told(prompt))
    with pytest.raises(SparsightError, match=r"eta must be 0, not 0\.5"):
        edit_images(data.model, editor, 0.5, noise(1), Loop(5, eta=0.5), told())
    with pytest.raises(SparsightError, match="edits a prompt"):
        edit_images(data.model, editor, 0.5, noise(1), LOOP)
    with pytest.raises(SparsightError, match="inside its context only"):
        editor.move(data.model, noise(1), 500, 0.5, told())
    with pytest.raises(SparsightError, match="unknown edit of a prompt 'swop'"):
        method("prompt_to_prompt", edit="swop")
