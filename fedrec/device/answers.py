"""The answers that a device has given: the same question gets the same bytes, and another one none."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fedrec.agreements.request import Request, model_digest
from fedrec.device.store import Store

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Question:
    """What reaches a device; nothing in it is believed before it was checked.

    Attributes:
        phase: what the message says it asks for.
        experiment: TOML text.
        request: the signed request.
        message: secure aggregation's; empty in phase ``train``.
        roster: the signed roster, in phases ``advert`` and ``shares``; else empty.
        arrays: the shared model, where the phase has it.
    """

    phase: str
    experiment: str
    request: bytes
    message: bytes = b""
    roster: bytes = b""
    arrays: Arrays = field(default_factory=dict)

    @cached_property
    def model(self) -> str:
        """`model_digest` of the arrays."""
        return model_digest(self.arrays)

    def digest(self) -> bytes:
        """SHA-256 over everything that an answer depends on."""
        parts = (self.phase.encode(), self.request, self.message, self.roster, self.model.encode())
        return hashlib.sha256(b"".join(len(part).to_bytes(8) + part for part in parts)).digest()


@dataclass(frozen=True, eq=False)
class Answer:
    """What leaves a device.

    Attributes:
        message: secure aggregation's; empty in phase ``train``.
        arrays: the clipped and noised vector in phase ``train``; else none.
        signature: the device's (`fedrec.agreements.reply`), 64 bytes; it is made anew, and the same, whenever a kept
            answer leaves again.
    """

    message: bytes = b""
    arrays: Arrays = field(default_factory=dict)
    signature: bytes = b""


def find(store: Store, request: Request, digest: bytes) -> Answer | None:
    """The answer that the very same question was given."""
    rows = store.query(
        "SELECT reply FROM answers WHERE experiment = ? AND round = ? AND attempt = ? AND phase = ? AND request = ?",
        (request.experiment, request.round, request.attempt, request.phase, digest),
    )
    return _unpacked(rows[0][0]) if rows else None


def keep(store: Store, request: Request, digest: bytes, answer: Answer) -> None:
    """Keep an answer, and forget those of the experiment's earlier attempts.

    Raises:
        sqlite3.IntegrityError: if the phase of this attempt has one already.
    """
    place = (request.experiment, request.round, request.attempt)
    with store.transaction() as connection:
        connection.execute("DELETE FROM answers WHERE experiment = ? AND (round, attempt) < (?, ?)", place)
        connection.execute(
            "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)", (*place, request.phase, digest, _packed(answer))
        )


def _packed(answer: Answer) -> bytes:
    from safetensors.numpy import save

    arrays = {f"array/{name}": np.ascontiguousarray(array) for name, array in answer.arrays.items()}
    return bytes(save({**arrays, "message": np.frombuffer(answer.message, np.uint8)}))


def _unpacked(reply: bytes) -> Answer:
    from safetensors.numpy import load

    found = load(reply)
    message = found.pop("message").tobytes()
    return Answer(message, {name.removeprefix("array/"): array for name, array in found.items()})
