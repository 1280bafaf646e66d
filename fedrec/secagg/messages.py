"""The bytes on the wire: a fixed header, then fields of known length. Anything else is refused; nothing is guessed."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from fedrec.errors import ContributionError
from fedrec.secagg.graph import Bools

VERSION = 1
_HEADER = struct.Struct(">3sBBB32sII")


class ProtocolError(ContributionError):
    """A message that breaks the secure aggregation protocol; whoever receives it does not answer."""


class Phase(IntEnum):
    """What the server asks for; each phase is one message to a device and its reply."""

    ADVERT = 0
    """Fresh public keys. Needed only where the previous attempt's last reply has not brought them."""
    SHARES = 1
    """Everybody's adverts; the reply is two secrets in shares, sealed to the neighbours."""
    MASKED = 2
    """The shares that neighbours sealed; the reply is the masked vector."""
    AGREE = 3
    """The bitmap of all survivors; the reply is a signature over it."""
    UNMASK = 4
    """The others' signatures; the reply is the shares that open the sum, and the next attempt's advert."""


class Attempt(NamedTuple):
    """One try at one round; attempts are ordered, and a device only ever moves forward."""

    round: int
    attempt: int

    def __str__(self) -> str:
        return f"round {self.round}, attempt {self.attempt}"


NO_ATTEMPT = Attempt(0, 0)
"""Stands for "no advert wanted"; rounds count from 1."""


def frame(run: bytes, attempt: Attempt, phase: Phase, reply: bool, *body: bytes | memoryview) -> bytes:
    """A message: the header that binds it to its place, then the body."""
    header = _HEADER.pack(b"FSA", VERSION, phase, reply, run, *attempt)
    return b"".join((header, *body))


def unframe(data: bytes, run: bytes, phase: Phase, reply: bool) -> tuple[Attempt, Reader]:
    """The attempt and the body of a message that must belong to this run and phase.

    Raises:
        ProtocolError: for anything else.
    """
    what = f"a {phase.name.lower()} {'reply' if reply else 'request'}"
    if len(data) < _HEADER.size:
        raise ProtocolError(f"A message of {len(data)} bytes is too short for {what}.")
    magic, version, found, is_reply, found_run, round_, attempt = _HEADER.unpack_from(data)
    if magic != b"FSA":
        raise ProtocolError(f"A message that is no secure aggregation message came instead of {what}.")
    if version != VERSION:
        raise ProtocolError(f"A message of protocol version {version} came, not {VERSION}; install the same fedrec.")
    if (found, is_reply) != (phase, reply):
        raise ProtocolError(f"A message of phase {found} (reply: {is_reply}) came out of order instead of {what}.")
    if found_run != run:
        raise ProtocolError(f"A message of another run came instead of {what}.")
    return Attempt(round_, attempt), Reader(memoryview(data)[_HEADER.size :], what)


class Reader:
    """Takes fields off a body, and refuses what is too short, too long or not canonical."""

    def __init__(self, body: memoryview, what: str) -> None:
        self._body = body
        self._what = what

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        if size > len(self._body):
            raise ProtocolError(f"{self._what.capitalize()} ends {size - len(self._body)} bytes too early.")
        taken, self._body = self._body[:size], self._body[size:]
        return bytes(taken)

    def fields(self, count: int, size: int) -> list[bytes]:
        """The next ``count`` fields of ``size`` bytes each."""
        whole = self.take(count * size)
        return [whole[i : i + size] for i in range(0, len(whole), size)]

    def number(self) -> int:
        """The next 32-bit number."""
        return int.from_bytes(self.take(4))

    def numbers(self, count: int) -> tuple[int, ...]:
        """The next 32-bit numbers, which must ascend strictly."""
        found = np.frombuffer(self.take(4 * count), ">u4").astype(np.int64)
        if np.any(np.diff(found) <= 0):
            raise ProtocolError(f"{self._what.capitalize()} lists participants twice or out of order.")
        return tuple(found.tolist())

    def bitmap(self, size: int) -> Bools:
        """The next bitmap; unused bits must be zero."""
        packed = np.frombuffer(self.take((size + 7) // 8), np.uint8)
        bits = np.unpackbits(packed).astype(bool)
        if bits[size:].any():
            raise ProtocolError(f"{self._what.capitalize()} has a bitmap of more than {size} bits.")
        return bits[:size]

    def end(self) -> None:
        """Refuse bytes that are left over."""
        if len(self._body):
            raise ProtocolError(f"{self._what.capitalize()} is {len(self._body)} bytes too long.")


def numbers(values: Sequence[int]) -> bytes:
    """32-bit numbers, as `Reader.numbers` takes them."""
    return np.array(values, ">u4").tobytes()


def bitmap(bits: Bools) -> bytes:
    """A bitmap, as `Reader.bitmap` takes it."""
    return np.packbits(bits).tobytes()
