"""What a device writes down of a run: the attempts it has used, for ever; an attempt's secrets, until it is over."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from fedrec.secagg import messages
from fedrec.secagg.messages import NO_ATTEMPT, Attempt, Phase, ProtocolError
from fedrec.secagg.store import Store

_MARK = 16


@dataclass(frozen=True, repr=False)
class OwnAdvert:
    """An advert made for an attempt that has not begun.

    Attributes:
        attempt: as `messages.numbers`.
        advert: as sent.
        mask: X25519 mask private key; empty with cached channels.
        channel: X25519 channel private key; likewise.
    """

    attempt: bytes
    advert: bytes
    mask: bytes
    channel: bytes


@dataclass(frozen=True, repr=False)
class Progress:
    """An attempt between two messages. Everything is bytes, so that it is one value in the store.

    Attributes:
        attempt: as `messages.numbers`.
        phase: the last one answered, one byte.
        cohort: the participants' numbers, as `messages.numbers`.
        users: how many users each stands for, as `messages.numbers`.
        context: the session's.
        own: seed of the self mask; empty once the vector is masked.
        seeds: ``k`` pair seeds, by neighbour; empty once the vector is masked.
        keys: ``k`` sealing keys, by neighbour; empty once the vector is masked.
        roots: ``k`` channels, by neighbour, with cached channels only.
        held: the shares that the neighbours sealed, `pairs.HELD_BYTES` each, zeros where there is none.
        opened: bitmap ``[k]`` of those that are there.
        sharers: bitmap ``[n]``; whose masks the vector carries.
        survivors: bitmap ``[n]``; what was agreed on.
    """

    attempt: bytes
    phase: bytes
    cohort: bytes
    users: bytes
    context: bytes
    own: bytes
    seeds: bytes
    keys: bytes
    roots: bytes
    held: bytes = b""
    opened: bytes = b""
    sharers: bytes = b""
    survivors: bytes = b""


class Records:
    """One run's records in a device's store."""

    def __init__(self, store: Store, run: bytes) -> None:
        self._store = store
        self._used, self._seen = f"used-{run.hex()}", f"seen-{run.hex()}"
        self._advert, self._progress = f"advert-{run.hex()}", f"attempt-{run.hex()}"

    def refuse_used(self, attempt: Attempt) -> None:
        """Refuse an attempt that was begun before, or that comes before one that was.

        Raises:
            ProtocolError: naming the last one used.
        """
        raw = self._store.get(self._used)
        used = Attempt(int.from_bytes(raw[:4]), int.from_bytes(raw[4:])) if raw else NO_ATTEMPT
        if attempt <= used:
            raise ProtocolError(f"This device has used {used} already and takes no part in {attempt}; start a new one.")

    def use(self, attempt: Attempt, keys: Sequence[bytes] = ()) -> None:
        """Mark an attempt as begun, for ever, and these keys of neighbours as seen.

        Raises:
            ProtocolError: if an earlier attempt had one of them; nothing is marked then.
        """
        seen = self._store.get(self._seen) or b""
        old = {seen[i : i + _MARK] for i in range(0, len(seen), _MARK)}
        marks = [hashlib.sha256(key).digest()[:_MARK] for key in keys]
        if not old.isdisjoint(marks):
            raise ProtocolError("A neighbour's advert carries a key that it used in an earlier attempt.")
        self._store.put(self._used, messages.numbers(attempt))
        if marks:
            self._store.put(self._seen, seen + b"".join(marks))

    def advert(self) -> OwnAdvert | None:
        raw = self._store.get(self._advert)
        return OwnAdvert(*_unpack(raw, len(fields(OwnAdvert)))) if raw else None

    def put_advert(self, advert: OwnAdvert) -> None:
        self._store.put(self._advert, _pack(astuple(advert)))

    def erase_advert(self) -> None:
        self._store.erase(self._advert)

    def progress(self, attempt: Attempt, phase: Phase) -> Progress:
        """The attempt under way, whose last answered phase must be this one.

        Raises:
            ProtocolError: if it is another, or there is none: it was never begun, or is over and erased.
        """
        raw = self._store.get(self._progress)
        if raw:
            found = Progress(*_unpack(raw, len(fields(Progress))))
            if (found.attempt, found.phase) == (messages.numbers(attempt), bytes([phase])):
                return found
        raise ProtocolError(f"This device is not at that step of {attempt}: the message is late, early or repeated.")

    def put_progress(self, progress: Progress) -> None:
        self._store.put(self._progress, _pack(astuple(progress)))

    def erase_progress(self) -> None:
        self._store.erase(self._progress)


def _pack(parts: tuple[bytes, ...]) -> bytes:
    return b"".join(len(part).to_bytes(4) + part for part in parts)


def _unpack(data: bytes, count: int) -> list[bytes]:
    reader = messages.Reader(memoryview(data), "a record of the device's store")
    parts = [reader.take(reader.number()) for _ in range(count)]
    reader.end()
    return parts
