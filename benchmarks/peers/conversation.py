"""The driver's end of a worker: start it, let it take one step, ask what it took."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from peers.environments import LIBRARIES, python

TUNED = {  # keep freed pages: large fresh tensors otherwise fault in page by page. glibc reads these
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
HERE = Path(__file__).parent.parent


class StoppedError(Exception):
    """The worker cannot do this workload, or failed; says why."""


class Worker:
    """One library on one workload, in its own process and environment."""

    def __init__(self, name: str, workload: str, envs: Path, allocator: str, core: int | None, *more: str) -> None:
        library = LIBRARIES[name]
        pinned = [] if core is None else ["--core", str(core)]
        options = ["--options", json.dumps(library.options)]
        command = [python(name, envs), "-m", "peers.worker", library.module, workload, *options, *pinned, *more]
        foreign = ("MALLOC_",) if library.own else ("MALLOC_", "PYTHON")
        plain = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the worker)
        self.process = subprocess.Popen(
            command,
            cwd=HERE,
            env=plain | ONE_THREAD | (TUNED if allocator == "tuned" else {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def answer(self) -> dict[str, Any]:
        """The next answer. Raises `StoppedError` if there is none."""
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            last = "".join(self.errors.readlines()[-12:])
            raise StoppedError(f"failed with exit code {self.process.returncode}:\n{last}")
        said = json.loads(line)
        if "skip" in said:
            raise StoppedError(said["skip"])
        return said

    def step(self) -> dict[str, float]:
        """Take one step: CPU and wall seconds, and the peak memory so far."""
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()
