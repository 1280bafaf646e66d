"""What a peer of the benchmark is given and asked: arrays in a file, then one line of JSON a question and an answer.

Only NumPy and the standard library: a peer runs in an environment of its own, without fedrec.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Sum = tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]
"""The clipped changes of the item vectors ``[n_items, d]`` and biases ``[n_items]``, summed over clients."""


@dataclass(frozen=True)
class Task:
    """One round of federated matrix factorisation, every draw but the noise made.

    Attributes:
        table, bias: the shared model, ``[n_items, d]`` and ``[n_items]``.
        personal: where each client's own vector starts, ``[C, d]``; it is trained along and stays with the client.
        indptr: ``[C + 1]``; client u's pairs are ``indptr[u]:indptr[u + 1]``.
        positives, negatives: the pairs in the order of training; a batch is the next ``batch_size`` of a client.
        batch_size, learning_rate: of SGD on the sum of a batch's BPR losses.
        clip_norm: of a client's whole change, both arrays together.
        noise_std: of the Gaussian noise on each coordinate of the sum.
    """

    table: F32
    bias: F32
    personal: F32
    indptr: npt.NDArray[np.int64]
    positives: npt.NDArray[np.int64]
    negatives: npt.NDArray[np.int64]
    batch_size: int
    learning_rate: float
    clip_norm: float
    noise_std: float

    @classmethod
    def read(cls, path: Path) -> Task:
        """From an ``.npz`` file whose arrays have the attributes' names."""
        with np.load(path) as found:
            arrays = {name: found[name] for name in found.files}
        return cls(
            table=arrays["table"],
            bias=arrays["bias"],
            personal=arrays["personal"],
            indptr=arrays["indptr"],
            positives=arrays["positives"],
            negatives=arrays["negatives"],
            batch_size=int(arrays["batch_size"]),
            learning_rate=float(arrays["learning_rate"]),
            clip_norm=float(arrays["clip_norm"]),
            noise_std=float(arrays["noise_std"]),
        )

    @property
    def clients(self) -> int:
        return len(self.indptr) - 1


def serve(run: Callable[[bool], Sum], cpu: Callable[[], float] = time.process_time) -> None:
    """Answer questions until the input ends: rounds with or without noise, and what each took.

    Args:
        run: one round; told whether to add noise.
        cpu: CPU seconds used so far.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # whatever a library prints is no answer
        print(json.dumps({"ready": True}), file=answers, flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            taken: dict[str, list[float]] = {"cpu": [], "wall": []}
            for _ in range(asked["rounds"]):
                began, clock = cpu(), time.perf_counter()
                table, bias = run(bool(asked["noise"]))
                taken["wall"].append(time.perf_counter() - clock)
                taken["cpu"].append(cpu() - began)
            if asked.get("out"):
                np.savez(asked["out"], table=table, bias=bias)
            print(json.dumps(taken), file=answers, flush=True)
