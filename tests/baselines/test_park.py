import torch

from baselines.small_data import BRIGHT, noise, small_data
from sparsight import Loop
from sparsight.baselines import edit_images, fit, method
from sparsight.baselines.park import Basis

QUICK = {"t": 600, "count": 3, "images": 2, "repeats": 3}


def _dense(model, x):
    """dh/dx_t of one image by one backward pass for each entry of h."""
    x = x.clone().requires_grad_()
    h = model.read(x, 600, ["mid_block"])["mid_block"].flatten()
    return torch.stack([torch.autograd.grad(one, x, retain_graph=True)[0].flatten() for one in h])


def test_the_vector_is_the_right_singular_one_whose_image_is_closest_to_the_wanted_change():
    model, x = small_data().model, noise()
    wanted = torch.randn(16, 64, generator=torch.Generator().manual_seed(4))
    found = Basis("mid_block", 3, 200, 1e-3, 0).named(model, x, 600, wanted)
    for row in range(2):
        dense = _dense(model, x[row : row + 1])
        left, _, right = torch.linalg.svd(dense, full_matrices=False)
        cosines = torch.cosine_similarity(left[:, :3].T, wanted.flatten()[None])  # J v_k is along u_k
        best = int(cosines.abs().argmax())
        expected = right[best] * cosines[best].sign()
        assert float(torch.cosine_similarity(found[row].flatten(), expected, dim=0)) > 0.99


def test_a_global_direction_is_the_mean_of_local_ones_at_unit_length():
    data = small_data()
    editor = fit(method("park_pullback", **QUICK), BRIGHT, data)
    local = editor.basis.named(data.model, data.at(600, "x_t")["x_t"][:2], 600, editor.wanted)
    torch.testing.assert_close(editor.vector, local.mean(0) / local.mean(0).norm())
    torch.testing.assert_close(local.flatten(1).norm(dim=1), torch.ones(2))


def test_the_state_is_guided_k_times_at_one_timestep():
    data = small_data()
    editor, model, x = fit(method("park_pullback", **QUICK), BRIGHT, data), data.model, noise()
    for strength, turn in ((2.0, 1.0), (-2.0, -1.0)):
        expected = x
        with torch.no_grad():
            for _ in range(3):
                pushed = model.predict(expected + turn * editor.vector, 600).eps - model.predict(expected, 600).eps
                expected = expected + 2.0 * 0.1 * pushed
            torch.testing.assert_close(editor.move(model, x, 600, strength), expected)
    assert editor.move(model, x, 700, 2.0) is x


def test_local_and_global_directions_edit_differently():
    data = small_data()
    images = [
        edit_images(data.model, fit(method("park_pullback", scope=s, **QUICK), BRIGHT, data), 3.0, noise(), Loop(10))
        for s in ("local", "global")
    ]
    assert not torch.equal(*images)
