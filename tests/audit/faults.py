"""Faults, each planted by exchanging one piece of the real pipeline while a context lasts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

from fedrec.audit.canary_run import prepare
from fedrec.audit.detectors import FALSE_ALARM, adjusted
from fedrec.audit.judgement import findings_of
from fedrec.audit.verify import verify
from fedrec.config import Experiment, resolve
from fedrec.contribution import Floats
from fedrec.data import source
from fedrec.data.interactions import Interactions
from fedrec.data.splits import split
from fedrec.engines.simulate import start
from fedrec.federation import round as rounds
from fedrec.privacy.mechanism import Mechanism, add_noise, draw_noise
from fedrec.randomness import Key
from fedrec.release import Release
from fedrec.reporting.folder import LEDGER, RunFolder
from fedrec.secagg import crypto
from fedrec.secagg.messages import Attempt, Phase, ProtocolError
from fedrec.training import per_interaction
from fedrec.training.local import Ints
from tests.secagg.world import World, replaced, request

Arrays = Mapping[str, Floats]
Noise = Callable[[Release, float, Key, int], dict[str, Floats]]

CANARIES = 100

MISSING = 0.1
"""The part of the clients that drop out with their shares of the noise, where shares are sized for all."""


def experiment(seed: int, **sections: Any) -> Experiment:
    """A small experiment whose tests do not depend on its size: 300 coordinates in 2 rounds, given noise."""
    usual: dict[str, dict[str, Any]] = {
        "data": {"name": "synthetic", "n_users": 30, "n_items": 60, "mean_events": 6},
        "model": {"name": "mf", "start": "random", "dimension": 4},
        "training": {},
        "federation": {"rounds": 2},
        "privacy": {"epsilon": 100.0, "noise_multiplier": 2.0},
        "evaluation": {},
    }
    for name, given in sections.items():
        usual[name] = given if name == "model" and "name" in given else {**usual[name], **given}
    return resolve({"seed": seed, **usual})


def by_interaction(seed: int) -> Experiment:
    """The same where the unit is an interaction, with four negatives each and items enough to keep them apart."""
    return experiment(
        seed,
        data={"n_items": 400},
        model={"user_vector": "public"},
        training={"epochs": 1, "negatives": 4, "backend": "numpy"},  # where the fault is planted
        privacy={"unit": "interaction"},
    )


def _noise(planted: Noise) -> AbstractContextManager[Any]:
    return patch.object(rounds, "draw_noise", planted)


def less_noise(factor: float = 2.0) -> AbstractContextManager[Any]:
    return _noise(lambda release, std, key, part: draw_noise(release, std / factor, key, part))


def seeds_reused_in_every_round() -> AbstractContextManager[Any]:
    return _noise(lambda release, std, key, part: draw_noise(release, std, Key(key.seed), part))


def seeds_shared_by_clients() -> AbstractContextManager[Any]:
    return _noise(lambda release, std, key, _: draw_noise(release, std, key, 0))


def bare_rows() -> AbstractContextManager[Any]:
    """Noise on touched rows only."""

    def planted(arrays: Arrays, noise: dict[str, Floats]) -> dict[str, Floats]:
        noised = add_noise(arrays, noise)
        touched = {name: array.reshape(len(array), -1).any(axis=1) for name, array in arrays.items()}
        return {name: (noised[name].T * touched[name]).T for name in noised}

    return patch.object(rounds, "add_noise", planted)


def no_clip() -> AbstractContextManager[Any]:
    return patch.object(Mechanism, "weights", lambda _, norms: np.ones_like(norms))


def dropped_shares() -> AbstractContextManager[Any]:
    """Shares are sized for the whole cohort, but only the survivors' are in the sum."""
    honest = Mechanism.share_std
    return patch.object(Mechanism, "share_std", lambda self, n_users: honest(self, n_users) * math.sqrt(1 - MISSING))


@contextmanager
def negatives_as_samples() -> Iterator[None]:
    """Each negative is clipped with the positive as a sample of its own, not all negatives with it as one."""
    honest = per_interaction._clipped

    def planted(pull: Floats, items: Ints, norms: Floats, clip_norm: float) -> Floats:
        total = np.zeros_like(pull)
        for negative in range(1, pull.shape[1]):  # BPR pulls the positive as much as the negative
            pair = np.stack([-pull[:, negative], pull[:, negative]], axis=1)
            clipped = honest(pair, items[:, [0, negative]], norms, clip_norm)
            total[:, 0] += clipped[:, 0]
            total[:, negative] += clipped[:, 1]
        return total

    with patch.object(per_interaction, "_clipped", planted):
        yield


@dataclass(frozen=True)
class Fault:
    """A fault, and the test that is there to find it."""

    plant: Callable[[], AbstractContextManager[Any]]
    found_by: str
    deterministic: bool = False
    experiment: Callable[[int], Experiment] = experiment


FAULTS = {
    "half the noise": Fault(less_noise, "noise on canaries"),
    "no clip": Fault(no_clip, "users' clip"),
    "dropped shares": Fault(dropped_shares, "noise on reserved coordinates"),
    "seeds reused in every round": Fault(seeds_reused_in_every_round, "rounds' noise independent"),
    "seeds shared by clients": Fault(seeds_shared_by_clients, "clients' noise independent"),
    "negatives as samples": Fault(negatives_as_samples, "interactions' clip", experiment=by_interaction),
    "bare rows": Fault(bare_rows, "rows without noise", deterministic=True),
}


_TRAINING: dict[str, Interactions] = {}


def training(made: Experiment) -> Interactions:
    """The users' training histories, the same for every seed, and loaded once."""
    key = made.data.model_dump_json()
    if key not in _TRAINING:
        _TRAINING[key] = split(source.load(made.data), made.split, Key(0)).train
    return _TRAINING[key]


def objections(made: Experiment, plant: Callable[[], AbstractContextManager[Any]] = nullcontext) -> set[str]:
    """The tests that object to an experiment's releases, at the family's false alarm, with a fault planted or none."""
    with plant():
        prepared = prepare(made, training(made), CANARIES, seed=made.seed)
        findings = findings_of(prepared.plain, list(prepared.rehearsal.rounds()), CANARIES)
    return {one.name for one, p in zip(findings, adjusted(findings), strict=True) if p <= FALSE_ALARM}


def replayed_attempts(n: int) -> int:
    """In how many of n runs of secure aggregation a message, and an attempt, that comes again is refused."""
    found = 0
    for _ in range(n):
        world = World(4)
        message = world.until(Phase.MASKED).routes[0]
        world.answer(Phase.MASKED, 0, message)
        again = request(Phase.ADVERT, attempt=Attempt(1, 0))
        found += _refused(partial(world.answer, Phase.MASKED, 0, message)) and _refused(
            partial(world.reborn(0).advert, again)
        )
    return found


def stale_keys(n: int) -> int:
    """In how many of n runs of secure aggregation a neighbour's mask key of an earlier attempt is refused."""
    found = 0
    for _ in range(n):
        world = World(4)
        first = world.until(Phase.SHARES)
        old = first._adverts[1][:64]
        world.until(Phase.MASKED, first)
        later = world.until(Phase.SHARES, world.server(Attempt(2, 0)))
        signed = crypto.sign(world.identities[1].signing, world.terms.advert_text(1, Attempt(2, 0), old))
        message = replaced(later.routes[0], later._adverts[1], old + signed)
        found += _refused(partial(world.answer, Phase.SHARES, 0, message))
    return found


def edited_ledgers(n: int) -> int:
    """In how many of n ledgers of a run the one bit that was flipped is found."""
    draw = np.random.default_rng(0)
    with TemporaryDirectory() as place:
        folder = RunFolder.create(Path(place) / "run")
        start(experiment(1, evaluation={"baselines": False, "sampled": 0}), lambda: folder)
        written = folder.read_bytes(LEDGER)
        found = int(verify(folder.root).sound) - 1  # nothing counts where the ledger is at fault before
        for bit in draw.integers(8 * (len(written) - 1), size=n):
            edited = bytearray(written)
            edited[bit // 8] ^= 1 << bit % 8
            folder.write_bytes(LEDGER, bytes(edited))
            found += not verify(folder.root).sound
    return found


def _refused(act: Callable[[], object]) -> bool:
    try:
        act()
    except ProtocolError:
        return True
    return False


CERTAIN = {"replayed attempt": replayed_attempts, "stale key": stale_keys, "edited ledger": edited_ledgers}
"""Faults that records and keys show with certainty: how many of n are found."""
