"""Work "mf": one round of federated matrix factorisation on MovieLens-100K, by fedrec and by its peers.

943 clients, 1,682 items, dimension 32, BPR with one negative a positive, batches of 32, one epoch; each client's change
is clipped, the changes are summed, and Gaussian noise is added to every coordinate. Each peer is a process of one
thread, and they take turns. fedrec draws orders and negatives in every round, which is in its time; peers are given
both in a file.

Before anything is timed, each one's sum without noise must be fedrec's (`TOLERANCE`, relative, in float32), and so must
the mean BPR loss of all training pairs once the sum's mean is applied: a peer whose work differs fails the benchmark.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from fedrec.config import parse
from fedrec.engines.setting import Setting, load_setting
from fedrec.models.mf import Mf
from fedrec.training.local import draw_negatives, ordered
from simulations.benchmarks.peers.process import Peer
from simulations.benchmarks.peers.serving import Task
from simulations.benchmarks.rows import BenchmarkError, Row, clients, ratio

EXPERIMENT = """
seed = 1
[data]
name = "ml-100k"
[model]
name = "mf"
dimension = 32
start = "random"
[training]
backend = "{backend}"
batch_size = 32
learning_rate = 0.05
[federation]
rounds = 1
[privacy]
epsilon = 100.0
noise_multiplier = 1.0
clip_norm = 1.0
"""
"""The budget leaves room for other works' rounds; a third of the clients are clipped, so both cases are compared."""

TOLERANCE = 1e-4

ROUNDS = {"fedrec-numba": 10, "fedrec-numpy": 3}
"""Rounds in a turn: more of what takes milliseconds; of all others one."""

FLOWER_CLIENTS = 200
"""Clients of a timed round of Flower's (`simulations.benchmarks.peers.flower_ray`): it takes seconds."""

FLOWER_TURNS = 3
"""After which it sits out."""


def rows(repeats: int) -> list[Row]:
    """A row each, and how many times faster the compiled path is, in this run.

    Raises:
        BenchmarkError: if a peer cannot run here, or does other work.
    """
    return measured(repeats, ["fedrec-numba", "fedrec-numpy", "pfl", "torch-loop", "flower-ray"])


def measured(repeats: int, names: Sequence[str]) -> list[Row]:
    """Rows of some of the peers, checked against the first of them."""
    task = drawn(setting("numpy"))
    with tempfile.TemporaryDirectory(prefix="fedrec-bench-") as scratch, ExitStack() as open_peers:
        file = Path(scratch) / "task.npz"
        np.savez(file, **vars(task))
        peers = {name: open_peers.enter_context(Peer.start(name, file)) for name in names}
        check(task, {name: peer.sum_without_noise(Path(scratch) / "sum.npz") for name, peer in peers.items()})
        taken: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
        for turn in range(repeats):
            for name, peer in peers.items():
                if name == "flower-ray" and turn >= FLOWER_TURNS:
                    continue
                print(f"mf: turn {turn + 1} of {repeats}: {name}", file=sys.stderr)
                all_of_them = task.clients / FLOWER_CLIENTS if name == "flower-ray" else 1.0
                for kept, seconds in zip(taken[name], peer.rounds(ROUNDS.get(name, 1)), strict=True):
                    kept.append(all_of_them * median(seconds))
    found = [clients("mf", name, task.clients, *taken[name], note=NOTES.get(name, "")) for name in names]
    fast = taken[names[0]]
    return found + [
        ratio("mf", f"{names[0]} over {name}", fast[0], taken[name][0], note="CPU seconds, of turns of this run")
        for name in names[1:]
    ]


NOTES = {
    "flower-ray": f"of all of Ray's processes; {FLOWER_TURNS} turns of {FLOWER_CLIENTS} clients each",
}


def setting(backend: str) -> Setting:
    """The experiment with its data."""
    if backend == "numba" and importlib.util.find_spec("numba") is None:
        raise BenchmarkError("The compiled path needs numba: pip install 'fedrec[fast]'.")
    return load_setting(parse(EXPERIMENT.format(backend=backend)))


def drawn(loaded: Setting) -> Task:
    """What fedrec draws in the first round, for peers that draw nothing."""
    federation, users = loaded.federation, loaded.split.train
    shared, plan, model = federation.start().shared, federation.plan(1), federation.model
    if not isinstance(model, Mf):
        raise BenchmarkError(f"The work is matrix factorisation, not '{federation.experiment.model.name}'.")
    positives = users.items[ordered(users, 1, plan.key)[0]]
    _, negatives = draw_negatives(users, users.counts, plan.key)
    return Task(
        table=shared["table"],
        bias=shared["bias"],
        personal=model.personalise(shared, users)["vector"],
        indptr=users.indptr,
        positives=positives.astype(np.int64),
        negatives=negatives,
        batch_size=model.training.batch_size,
        learning_rate=model.training.learning_rate,
        clip_norm=plan.mechanism.clip_norm,
        noise_std=plan.mechanism.share_std(users.n_users),
    )


Arrays = Mapping[str, npt.NDArray[np.floating]]


def check(task: Task, sums: Mapping[str, Arrays]) -> None:
    """Hold every sum, and the loss after its mean is applied, against the first's.

    Raises:
        BenchmarkError: naming the peer that does other work.
    """
    first, *others = sums
    for name in others:
        apart = max(_distance(sums[name][part], sums[first][part]) for part in ("table", "bias"))
        one, other = loss_after(task, sums[first]), loss_after(task, sums[name])
        print(f"mf: {name} against {first}: sum {apart:.1e}, loss {other:.6f} and {one:.6f}", file=sys.stderr)
        if not (apart <= TOLERANCE and abs(other - one) <= TOLERANCE * one):
            raise BenchmarkError(
                f"'{name}' does not do the work of '{first}': clipped sums differ by {apart:.1e} (relative) and "
                f"losses after a round are {other:.6f} and {one:.6f}; mend its script in simulations/benchmarks/peers."
            )


def _distance(one: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> float:
    return float(np.linalg.norm(one.astype(np.float64) - other) / np.linalg.norm(other))


def loss_after(task: Task, summed: Arrays) -> float:
    """The mean BPR loss of all training pairs, at the vectors that clients started from."""
    table, bias = (getattr(task, part) + summed[part] / task.clients for part in ("table", "bias"))
    vectors = np.repeat(task.personal, np.diff(task.indptr), axis=0)
    one, other = task.positives, task.negatives
    scores = np.einsum("kd,kd->k", vectors, table[one] - table[other]) + bias[one] - bias[other]
    with np.errstate(invalid="ignore"):  # a loss that is not finite is refused above
        return float(np.logaddexp(0.0, -scores).mean())
