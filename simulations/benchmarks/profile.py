"""Work "profile": where the CPU seconds of the round of work "mf" go, by function, on the compiled and the NumPy path.

cProfile's own time of each function, what it calls left out, as a share of the round; a compiled function is one entry.
cProfile slows Python code down and compiled code not at all, so shares are a map, not a measurement.
"""

from __future__ import annotations

import cProfile
import pstats
from pathlib import Path

from fedrec.federation.round import client_round
from simulations.benchmarks import mf
from simulations.benchmarks.rows import Row, of

SHOWN = 8


def rows(repeats: int) -> list[Row]:
    """The functions that take most of it."""
    return [row for backend in ("numba", "numpy") for row in _profiled(backend, repeats)]


def _profiled(backend: str, repeats: int) -> list[Row]:
    loaded = mf.setting(backend)
    federation, users = loaded.federation, loaded.split.train
    shared, plan = federation.start().shared, federation.plan(1)
    client_round(federation.model, shared, users, plan, part=0)  # compiles, and fills what is kept with the data
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(3 * repeats):
        client_round(federation.model, shared, users, plan, part=0)
    profile.disable()
    stats = pstats.Stats(profile)
    own = {_named(place): entry[2] for place, entry in stats.stats.items()}  # type: ignore[attr-defined]
    whole = sum(own.values())
    largest = sorted(own.items(), key=lambda item: -item[1])[:SHOWN]
    return [of("profile", f"{backend}: {name}", [100 * seconds / whole], "%") for name, seconds in largest]


def _named(place: tuple[str, int, str]) -> str:
    """A function as a reader finds it: module and name, without the folders of one machine."""
    file, _, name = place
    if file == "~":  # built in
        return name.strip("<>").replace("built-in method ", "").replace("method ", "")
    return f"{Path(file).parent.name}/{Path(file).name}:{name}"
