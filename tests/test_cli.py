import subprocess
import sys

import pytest
from PIL import Image


def _run(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "sparsight.cli", *map(str, arguments)], capture_output=True, text=True, cwd=cwd
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "avatar"], "did you mean 'avatars'"),
        (["run", "demo", "-s", "sae.expanson=3"], "did you mean 'sae.expansion'"),
        (["run", "demo", "--until", "trian"], "did you mean 'train'"),
        (["run", "demo", "-s", "concepts=[Smilling]"], "did you mean 'Smiling'"),
        (["evaluate", "nowhere"], "no run folder"),
        (["sites", "worlds/avatarz"], "did you mean 'worlds/avatars'"),
        (["sites", "worlds/avatars", "--site", "mid_blok"], "did you mean 'mid_block'"),
        (["harvest", "worlds/avatars", "nowhere", "store"], "not a folder"),
        (["train", "nowhere", "sae"], "nowhere"),
        (["world", "build", "avatarz"], "did you mean"),
    ],
)
def test_a_mistake_is_one_line_exit_2_and_nothing_written(arguments, words, tmp_path):
    done = _run(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_images_that_cannot_be_harvested_are_named(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    assert "holds no images" in _run("harvest", "worlds/avatars", folder, tmp_path / "s").stderr
    (folder / "a.png").write_bytes(b"\x89PNG not really")
    done = _run("harvest", "worlds/avatars", folder, tmp_path / "s")
    assert done.returncode == 2 and "a.png is not a readable image" in done.stderr
    Image.new("RGB", (32, 32)).save(folder / "a.png")
    assert "32x32 pixels, but 64x64 are needed" in _run("harvest", "worlds/avatars", folder, tmp_path / "s").stderr


def test_help_names_every_command():
    text = _run("--help").stdout
    for command in ("run", "harvest", "train", "align", "steer", "evaluate", "report", "sites", "world"):
        assert command in text


def test_importing_sparsight_does_not_import_torch():
    code = "import sys, sparsight; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
