"""What a store says of itself: `StoreSpec`, the shards with their hashes, and the `store.json` that holds both."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from sparsight.activations.encoding import DTYPES
from sparsight.activations.folder import Folder
from sparsight.errors import SparsightError, unknown
from sparsight.files import digest

# Schema 2 adds int8, kept positions and conditioning. A store that uses none of them is still written as schema 1:
# earlier versions read it, and its digest is the one that they would have given it.
SCHEMAS = (1, 2)
INDEX = "store.json"
_ADDED = {"conditioning": "", "kept": None, "kept_seed": 0}


@dataclass(frozen=True)
class StoreSpec:
    """What a store holds: written to `store.json` and checked on opening.

    `channels` is C, `grid` the height and width of the map (positions run row-major over it), `dtype` the storage type
    of the tokens ("fp32", "fp16", "bf16", "int8"), `timesteps` the scheduler's integer timesteps, `source` where x_t
    came from. `conditioning` names the prompt or the half of guidance that the model saw ("" for models without one).
    With `kept` set only that many positions of each map are stored, chosen for each image from `kept_seed`.
    """

    site: str
    mode: str
    channels: int
    grid: tuple[int, int]
    model: str
    model_hash: str
    dtype: str
    timesteps: tuple[int, ...]
    source: str
    conditioning: str = ""
    kept: int | None = None
    kept_seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", tuple(self.grid))
        object.__setattr__(self, "timesteps", tuple(self.timesteps))
        if self.dtype not in DTYPES:
            raise unknown("store dtype", self.dtype, DTYPES)
        if self.mode not in ("output", "update"):
            raise unknown("site mode", self.mode, ("output", "update"))
        if len(self.grid) != 2 or min(self.channels, *self.grid) < 1:
            raise SparsightError(
                f"a store needs channels and a grid of at least 1, not {self.channels} and {self.grid}"
            )
        if self.kept is not None and not 1 <= self.kept <= self.grid[0] * self.grid[1]:
            raise SparsightError(f"{self.kept} positions of {self.grid[0] * self.grid[1]} cannot be kept")

    @property
    def positions(self) -> int:
        """Tokens stored of one map: all positions of the grid, or those kept."""
        return self.kept or self.grid[0] * self.grid[1]

    @property
    def map_bytes(self) -> int:
        """Bytes that the tokens of one map take in the storage type, with their scales and positions."""
        token = self.channels * DTYPES[self.dtype].itemsize + 4 * (self.dtype == "int8") + 4 * (self.kept is not None)
        return self.positions * token

    @property
    def schema(self) -> int:
        """The lowest schema that can say this."""
        return 2 if self.dtype == "int8" or len(self.plain()) > len(asdict(self)) - len(_ADDED) else 1

    def plain(self) -> dict[str, Any]:
        """JSON-able values; what schema 2 added is left out where it is not used, so that old digests stay."""
        return {k: v for k, v in asdict(self).items() if k not in _ADDED or v != _ADDED[k]}


class Shard(NamedTuple):
    """One file of a store: its name, the number of maps in it, its size in bytes and its SHA-256."""

    file: str
    maps: int
    size: int
    sha256: str


class Index(NamedTuple):
    """`store.json`. `errors` maps a unit to (squared error, squared deviation) of its storage type."""

    spec: StoreSpec
    shards: list[Shard]
    finished: bool
    errors: dict[str, list[float]]
    digest: str

    @classmethod
    def read(cls, folder: Folder) -> Index:
        """Raises `SparsightError` if there is none, or if it is of a schema that is not known here."""
        index = folder.read_json(INDEX)
        found = index.get("schema") if isinstance(index, dict) else None
        if found not in SCHEMAS:
            known = " and ".join(map(str, SCHEMAS))
            raise SparsightError(f"{folder / INDEX} has schema {found}, but this version of sparsight reads {known}")
        try:
            shards = [Shard(**row) for row in index["shards"]]
            spec = StoreSpec(**index["spec"])
            return cls(spec, shards, index["finished"], index.get("errors", {}), index["digest"])
        except (KeyError, TypeError) as error:
            raise SparsightError(f"{folder / INDEX} does not describe a store: {error}") from error

    @classmethod
    def of(cls, spec: StoreSpec, shards: list[Shard], finished: bool, errors: dict[str, list[float]]) -> Index:
        """With the digest: SHA-256 over what the store says it holds and over the hashes of all its shards."""
        return cls(spec, shards, finished, errors, digest([spec.plain(), [shard._asdict() for shard in shards]]))

    @property
    def relative_mse(self) -> float | None:
        """Share of the tokens' variance that the storage type lost; None where some shard was not measured."""
        if not self.shards or len(self.errors) < len(self.shards):
            return None
        lost, spread = (sum(pair[i] for pair in self.errors.values()) for i in (0, 1))
        return lost / spread if spread else 0.0

    def write(self, folder: Folder) -> None:
        """Write `store.json`, whole or not at all."""
        said = {"schema": self.spec.schema, "finished": self.finished, "spec": self.spec.plain()}
        rows = [shard._asdict() for shard in self.shards]
        measured = {"relative_mse": self.relative_mse, "errors": self.errors}
        folder.write_json(INDEX, said | {"shards": rows, "digest": self.digest} | measured)
