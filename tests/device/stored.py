"""Stores with a catalogue, a history and a model in them, as a device has them after a sync."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fedrec.config import Experiment, resolve
from fedrec.data.interactions import Catalogue
from fedrec.device.catalogue import digest, to_bytes
from fedrec.device.store import Store
from fedrec.models.base import Shared

GENRES = ("comedy", "drama", "horror")


def new_store(folder: Path) -> Store:
    folder.chmod(0o700)
    return Store.create(folder / "store.sqlite")


def catalogue(n: int, *, genres: bool = True, seed: int = 1) -> Catalogue:
    """Items ``i0``, ``i1`` … of three genres; a larger one begins with the smaller one's items."""
    draw = np.random.default_rng(seed)
    kinds = draw.integers(0, len(GENRES), 10_000)[:n]
    return Catalogue(
        ids=np.array([f"i{number}" for number in range(n)]),
        titles=np.array([f"Title {number}" for number in range(n)]),
        genre_names=GENRES if genres else (),
        genres=np.eye(len(GENRES), dtype=np.float32)[kinds] if genres else None,
    )


def experiment(of: Catalogue, **model: Any) -> Experiment:
    data = {"name": "devices", "catalogue": digest(to_bytes(of))}
    return resolve({"data": data, "model": model, "federation": {"cohort": 5, "min_cohort": 4}})


def put_catalogue(store: Store, of: Catalogue) -> None:
    store.put("catalogue", to_bytes(of))


def put_model(store: Store, of: Experiment, shared: Shared, round_: int = 3) -> str:
    """Keep a model and its experiment; its digest."""
    from safetensors.numpy import save

    store.put(f"experiment-{of.digest()}", of.to_toml().encode())
    store.put("model", bytes(save(dict(shared), metadata={"experiment": of.digest(), "round": str(round_)})))
    return of.digest()


def mf_model(n: int, dimension: int = 8, seed: int = 2) -> Shared:
    draw = np.random.default_rng(seed)
    return {
        "table": draw.standard_normal((n, dimension)).astype(np.float32),
        "bias": draw.standard_normal(n).astype(np.float32),
        "item_weight": np.ones(n, np.float32),
    }
