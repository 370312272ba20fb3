"""What is trained in the benchmark: the shapes. No torch here, for the driver needs none and stays small."""

from __future__ import annotations

from dataclasses import dataclass


class UnsupportedError(Exception):
    """The library has no such SAE."""


@dataclass(frozen=True)
class Workload:
    """One shape: `l0` is k where there is one, and for ReLU what the encoder bias is set for (0: the library's own)."""

    activation: str
    d: int
    n: int
    l0: int
    batch: int


WORKLOADS = {
    "W1": Workload("topk", 1280, 5120, 20, 4096),
    "W2": Workload("relu", 512, 16384, 100, 2048),
    "W2-init": Workload("relu", 512, 16384, 0, 2048),
    "W2b": Workload("relu", 512, 65536, 100, 1024),
    "W3": Workload("batchtopk", 1280, 10240, 32, 4096),
    "Q1": Workload("topk", 256, 2048, 20, 1024),
    "Q3": Workload("batchtopk", 256, 2048, 20, 1024),
}
