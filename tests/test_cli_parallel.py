"""The commands that several processes may run, as docs/scale.md gives them."""

import subprocess
import sys

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from launch import environment, free_port
from sae.conftest import planted_store
from sparsight import SAE, SparsightError, TrainConfig, train_sae
from sparsight.cli import app
from sparsight.parallel import Part, parse_part

OPTIONS = ["activation=topk", "k=3", "d_sae=48", "steps=12", "batch_size=64", "lr=1e-2", "aux_k=8", "dead_after=64"]


def test_torchrun_trains_from_the_command_line(tmp_path):
    store = planted_store(tmp_path / "store")
    options = [word for option in OPTIONS for word in ("-s", option)]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    command = [
        sys.executable,
        *launch,
        "-m",
        "sparsight",
        "train",
        str(tmp_path / "store"),
        str(tmp_path / "sae"),
        *options,
    ]
    surroundings = {k: v for k, v in environment().items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(tmp_path / "sae")]  # one of the two speaks
    config = TrainConfig(activation="topk", k=3, d_sae=48, steps=12, batch_size=64, lr=1e-2, aux_k=8, dead_after=64)
    alone = train_sae(store, config)
    torch.testing.assert_close(SAE.from_pretrained(tmp_path / "sae").W_enc, alone.W_enc.detach(), rtol=1e-4, atol=1e-5)


def harvest(*arguments):
    result = CliRunner().invoke(app, ["harvest", "worlds/avatars", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_parts_of_a_harvest_from_the_command_line(tmp_path):
    pictures, generator = tmp_path / "pictures", torch.Generator().manual_seed(0)
    pictures.mkdir()
    for number in range(3):
        pixels = torch.randint(0, 256, (64, 64, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(pictures / f"{number}.png")
    options = ["--steps", 4, "--method", "noising", "--batch-size", 1, "--device", "cpu"]
    harvest(pictures, tmp_path / "whole", *options)
    said = harvest(pictures, tmp_path / "parts", *options, "--part", "2/2")
    assert "part 2 of 2 is done; the store is finished when the last one is" in said
    assert "6 maps" in harvest(pictures, tmp_path / "parts", *options, "--part", "1/2")
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes()


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/"])
def test_a_part_is_written_in_one_way(text):
    assert parse_part("2/16") == Part(1, 16)
    with pytest.raises(SparsightError, match="the second of sixteen, not"):
        parse_part(text)


def test_a_run_is_for_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    result = CliRunner().invoke(app, ["run", "demo"])
    assert isinstance(result.exception, SparsightError) and "sparsight harvest" in str(result.exception)
