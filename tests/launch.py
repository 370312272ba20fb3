"""Starting the processes of one task, as torchrun does, with an end to every wait."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(rank=0, size=1, port=0):
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return (
        os.environ | {name: str(value) for name, value in ranks.items()} | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    )


class Launch:
    """`size` processes of `python -m module arguments`, begun at once; `end()` gives (exit code, stderr) of each."""

    def __init__(self, module, *arguments, size=2):
        command, port = [sys.executable, "-m", module, *map(str, arguments)], free_port()
        self.processes = [
            subprocess.Popen(command, env=environment(rank, size, port), stderr=subprocess.PIPE, text=True)
            for rank in range(size)
        ]

    def end(self, timeout=60):
        try:
            said = [process.communicate(timeout=timeout)[1] for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return [(process.returncode, text) for process, text in zip(self.processes, said, strict=True)]
