"""A participant: takes the server's messages as bytes and returns its replies; no network, no clock.

Nothing lives in the object: each message may be handled by a new process, and what it needs of the earlier ones is in
the store. A refused message raises and is not answered; no message is answered twice.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fedrec.errors import ConfigError
from fedrec.faults import reach
from fedrec.secagg import crypto, messages, pairs, shamir
from fedrec.secagg.enrolment import Identity, read_channels
from fedrec.secagg.graph import Bools, marked
from fedrec.secagg.messages import NO_ATTEMPT, Attempt, Phase, ProtocolError, Reader
from fedrec.secagg.records import OwnAdvert, Progress, Records
from fedrec.secagg.session import Roster, Session, Terms
from fedrec.secagg.store import Store


@dataclass(frozen=True, eq=False)
class _Dealt:
    """What a participant holds when phase 2 is checked: its position and neighbours, who shared, whose shares open."""

    mine: int
    near: list[int]
    sharers: Bools
    opened: Bools
    held: bytes


class Client:
    """One enrolled participant of a run.

    Args:
        me: its number on the roster.
        identity: its long-term secrets.
        roster: who is enrolled, as this device knows it.
        store: where it keeps its records.
        terms: the run's, from its own copy of the experiment.

    Raises:
        ConfigError: if the roster has another key under its number.

    Guarantees:
        One masked vector an attempt, and attempts only forward. Of each neighbour's two secrets it releases a share of
        at most one, and none before it holds the endorsements that its variant asks for: signatures over one statement
        by a quorum that stands for ``n_min`` users (``signed``), or tags by t of its neighbours (``cached``).
    """

    def __init__(self, me: int, identity: Identity, roster: Roster, store: Store, terms: Terms) -> None:
        if me not in roster or roster[me].identity != crypto.signing_public(identity.signing):
            raise ConfigError(f"The roster does not hold this device's key as participant {me}; enrol it first.")
        self._me, self._identity, self._roster, self._store, self._terms = me, identity, roster, store, terms
        self._records = Records(store, terms.run)

    def advert(self, message: bytes) -> bytes:
        """Phase 0: fresh public keys for an attempt; asked again for the same attempt, the same ones.

        Raises:
            ProtocolError: if the message is refused. The other phases do so, too.
        """
        with self._store.lock():
            attempt, body = self._open(message, Phase.ADVERT)
            body.end()
            advert = self._make_advert(attempt)
            self._records.erase_progress()  # of an attempt that ended without this device
            return self._frame(attempt, Phase.ADVERT, advert)

    def shares(self, message: bytes) -> bytes:
        """Phase 1: everybody's adverts in; this device's two secrets out, in shares sealed to its neighbours."""
        with self._store.lock():
            attempt, body = self._open(message, Phase.SHARES)
            count = body.number()
            cohort = body.numbers(count)
            adverts = body.fields(count, self._terms.advert_bytes)
            body.end()
            self._records.refuse_used(attempt)
            own = self._records.advert()
            if own is None or own.attempt != messages.numbers(attempt):
                raise ProtocolError(f"This device has no advert for {attempt} under way; ask for one first.")
            if self._me not in cohort or adverts[cohort.index(self._me)] != own.advert:
                raise ProtocolError("The cohort shows another advert for this device than the one that it made.")
            now = Session.open(self._terms, self._roster, attempt, cohort, adverts)
            self._check_adverts(now, adverts)
            mine = cohort.index(self._me)
            near = now.graph.neighbours(mine)
            masks, channels = self._roots(own, now, {v: adverts[v] for v in near})
            self._records.use(attempt, self._terms.keys_of([adverts[v] for v in near]) if self._terms.signed else ())
            self._records.erase_progress()
            seeds = [pairs.pair_seed(root, now.context, mine, v) for v, root in zip(near, masks, strict=True)]
            keys = [pairs.seal_key(root, now.context, mine, v) for v, root in zip(near, channels, strict=True)]
            secrets = os.urandom(32), own.mask or os.urandom(32)
            reply = pairs.Deal.make(now, mine, secrets, keys, seeds).encode()
            self._records.put_progress(
                Progress(
                    attempt=own.attempt,
                    phase=bytes([Phase.SHARES]),
                    cohort=messages.numbers(cohort),
                    users=messages.numbers(now.users.tolist()),
                    context=now.context,
                    own=secrets[pairs.SELF],
                    seeds=b"".join(seeds),
                    keys=b"".join(keys),
                    roots=b"" if self._terms.signed else b"".join(channels),
                )
            )
            self._records.erase_advert()
            return self._frame(attempt, Phase.SHARES, reply)

    def check_masked(self, message: bytes) -> None:
        """Refuse what `masked` would refuse; nothing changes, so that no vector is made for a message that is none."""
        with self._store.lock():
            self._dealt(message)

    def masked(self, message: bytes, vector: npt.NDArray[Any]) -> bytes:
        """Phase 2: the neighbours' sealed shares in, the masked vector out.

        Args:
            message: the server's.
            vector: ``[d]``, uint32 or uint64, already clipped and noised; it is not changed.
        """
        if vector.ndim != 1 or vector.dtype.kind != "u" or vector.dtype.itemsize not in {4, 8}:
            raise ProtocolError(
                f"Only a flat uint32 or uint64 vector can be masked, not {vector.dtype} {vector.shape}."
            )
        with self._store.lock():
            attempt, past, dealt = self._dealt(message)
            masked = vector.astype(vector.dtype.newbyteorder("<"), order="C", copy=True)
            seeds = [(v, seed) for v, seed in zip(dealt.near, _split(past.seeds), strict=True) if dealt.sharers[v]]
            above, below = ([seed for v, seed in seeds if (v > dealt.mine) is up] for up in (True, False))
            crypto.add_masks(masked, [past.own, *above], below)
            past = replace(past, phase=bytes([Phase.MASKED]), own=b"", seeds=b"", keys=b"")
            bits = messages.bitmap(dealt.sharers), messages.bitmap(dealt.opened)
            self._records.put_progress(replace(past, held=dealt.held, sharers=bits[0], opened=bits[1]))
            reach("secagg.progress-stored")
            return self._frame(attempt, Phase.MASKED, masked.data.cast("B"))

    def agree(self, message: bytes) -> bytes:
        """Phase 3: the bitmap of all survivors in, this device's signature or tags over it out. One an attempt."""
        with self._store.lock():
            attempt, body = self._open(message, Phase.AGREE)
            past = self._records.progress(attempt, Phase.MASKED)
            now, mine, near = self._resume(attempt, past)
            sharers, survivors = _bits(past.sharers, now.n), body.bitmap(now.n)
            body.end()
            if not survivors[mine]:
                raise ProtocolError("The survivors do not include this device, whose vector was sent.")
            if np.any(survivors & ~sharers):
                raise ProtocolError("The survivors include a participant that had dropped out before.")
            if not now.enough(survivors):
                raise ProtocolError(f"The survivors are fewer than the minimum cohort of {self._terms.n_min} users.")
            statement = now.statement(sharers, survivors)
            if self._terms.signed:
                endorsement = [crypto.sign(self._identity.signing, statement)]
            else:
                roots = _living(near, past.roots, survivors)
                endorsement = [pairs.statement_tag(root, mine, v, statement) for v, root in roots.items()]
            self._records.put_progress(replace(past, phase=bytes([Phase.AGREE]), survivors=messages.bitmap(survivors)))
            return self._frame(attempt, Phase.AGREE, *endorsement)

    def unmask(self, message: bytes) -> bytes:
        """Phase 4: the others' endorsements in, the shares that open the sum out; then the attempt is forgotten."""
        with self._store.lock():
            attempt, body = self._open(message, Phase.UNMASK)
            past = self._records.progress(attempt, Phase.AGREE)
            now, mine, near = self._resume(attempt, past)
            following = Attempt(body.number(), body.number())
            if following != NO_ATTEMPT and following <= attempt:
                raise ProtocolError(f"An advert for {following} was asked for, which does not come after {attempt}.")
            endorsers = body.numbers(count := body.number())
            endorsements = body.fields(count, self._terms.endorsement_bytes)
            body.end()
            sharers, survivors = _bits(past.sharers, now.n), _bits(past.survivors, now.n)
            if any(v >= now.n or not survivors[v] for v in endorsers):
                raise ProtocolError("An endorsement came from a participant that is no survivor.")
            given = dict(zip(endorsers, endorsements, strict=True))
            statement = now.statement(sharers, survivors)
            if self._terms.signed:
                self._check_signatures(now, statement, given)
            else:
                _check_tags(now, mine, statement, given, _living(near, past.roots, survivors))
            shares = []
            for i in np.flatnonzero(_bits(past.opened, len(near))).tolist():
                start = i * pairs.HELD_BYTES + (0 if survivors[near[i]] else shamir.SHARE_BYTES)
                shares.append(past.held[start : start + shamir.SHARE_BYTES])
            self._records.erase_progress()
            advert = self._make_advert(following) if following != NO_ATTEMPT else b""
            return self._frame(attempt, Phase.UNMASK, past.opened, *shares, advert)

    def forget(self) -> None:
        """Erase the secrets of an attempt under way, as at the end of a run. The used attempts stay on record."""
        with self._store.lock():
            self._records.erase_progress()
            self._records.erase_advert()

    def _dealt(self, message: bytes) -> tuple[Attempt, Progress, _Dealt]:
        """What phase 2 brings: the sealed shares of those who shared their secrets, opened."""
        attempt, body = self._open(message, Phase.MASKED)
        past = self._records.progress(attempt, Phase.SHARES)
        now, mine, near = self._resume(attempt, past)
        sharers = body.bitmap(now.n)
        if not sharers[mine] or not now.enough(sharers):
            raise ProtocolError("Those who shared their secrets do not include this device, or are too few users.")
        present = [i for i, v in enumerate(near) if sharers[v]]
        boxes = dict(zip(present, body.fields(len(present), pairs.SEALED_BYTES), strict=True))
        body.end()
        keys, held, opened = _split(past.keys), bytearray(len(near) * pairs.HELD_BYTES), np.zeros(len(near), bool)
        for i, box in boxes.items():
            plain = pairs.unseal(keys[i], now.context, near[i], mine, box)
            if plain is not None:  # one that does not open harms its sender alone: its secrets stay closed
                held[i * pairs.HELD_BYTES : (i + 1) * pairs.HELD_BYTES] = plain
                opened[i] = True
        if opened.sum() < now.parameters.t:
            raise ProtocolError(
                f"Only {opened.sum()} neighbours' sealed shares can be opened, and {now.parameters.t} are needed; "
                "the neighbours are not there, or were shown another cohort."
            )
        return attempt, past, _Dealt(mine, near, sharers, opened, bytes(held))

    def _open(self, message: bytes, phase: Phase) -> tuple[Attempt, Reader]:
        return messages.unframe(message, self._terms.run, phase, reply=False)

    def _frame(self, attempt: Attempt, phase: Phase, *body: bytes | memoryview) -> bytes:
        return messages.frame(self._terms.run, attempt, phase, True, *body)

    def _make_advert(self, attempt: Attempt) -> bytes:
        """The advert for an attempt; its secrets replace those of an attempt that never began."""
        self._records.refuse_used(attempt)
        kept = self._records.advert()
        if kept is not None and kept.attempt == messages.numbers(attempt):
            return kept.advert
        if self._terms.signed:
            (mask, mask_public), (channel, channel_public) = crypto.new_pair(), crypto.new_pair()
            keys = mask_public + channel_public
            advert = keys + crypto.sign(self._identity.signing, self._terms.advert_text(self._me, attempt, keys))
        else:
            mask, channel, advert = b"", b"", os.urandom(32)
        self._records.put_advert(OwnAdvert(messages.numbers(attempt), advert, mask, channel))
        return advert

    def _check_adverts(self, now: Session, adverts: Sequence[bytes]) -> None:
        if not self._terms.signed:
            return  # nobody but an enrolled neighbour can seal a share; the graph's other nonces are the server's word
        for who, advert in zip(now.cohort, adverts, strict=True):
            if not self._terms.is_signed_by(self._roster[who], who, now.attempt, advert):
                raise ProtocolError(
                    f"The advert of participant {who} is not signed by its enrolled key for this attempt."
                )

    def _resume(self, attempt: Attempt, past: Progress) -> tuple[Session, int, list[int]]:
        """The session, this device's position and its neighbours."""
        cohort, users = np.frombuffer(past.cohort, ">u4").tolist(), np.frombuffer(past.users, ">u4").astype(np.int64)
        now = Session(self._terms, attempt, tuple(cohort), users, self._terms.parameters(len(cohort)), past.context)
        mine = cohort.index(self._me)
        return now, mine, now.graph.neighbours(mine)

    def _roots(self, own: OwnAdvert, now: Session, adverts: Mapping[int, bytes]) -> tuple[list[bytes], list[bytes]]:
        """What the mask seeds and the sealing keys are derived from, by neighbour."""
        if not self._terms.signed:
            roots = read_channels(self._store, [now.cohort[v] for v in adverts])
            return roots, roots
        mask, channel = crypto.Exchange(own.mask), crypto.Exchange(own.channel)
        try:
            masks = [crypto.extract(now.context, mask.shared(advert[:32])) for advert in adverts.values()]
            channels = [crypto.extract(now.context, channel.shared(advert[32:64])) for advert in adverts.values()]
        except ValueError as error:
            raise ProtocolError("A neighbour's advert carries a key of low order.") from error
        return masks, channels

    def _check_signatures(self, now: Session, statement: bytes, given: Mapping[int, bytes]) -> None:
        """A quorum over one statement leaves none for another; and its users are there, for they have signed."""
        for v, signature in given.items():
            if not crypto.verifies(self._roster[now.cohort[v]].identity, signature, statement):
                raise ProtocolError(
                    f"Participant {now.cohort[v]} has not signed the statement that this device signed."
                )
        if len(given) < now.parameters.quorum or not now.enough(marked(now.n, given)):
            raise ProtocolError(
                f"{len(given)} participants signed the statement; {now.parameters.quorum} that stand for "
                f"{self._terms.n_min} users must."
            )


def _check_tags(
    now: Session, mine: int, statement: bytes, given: Mapping[int, bytes], roots: Mapping[int, bytes]
) -> None:
    """The server cannot tell a wrong tag from a right one, so a wrong one proves nothing: it just does not count."""
    valid = sum(v in roots and pairs.vouches(roots[v], v, mine, statement, tag) for v, tag in given.items())
    if valid < now.parameters.t:
        raise ProtocolError(
            f"{valid} neighbours vouch for the statement that this device made; {now.parameters.t} must."
        )


def _living(near: Sequence[int], roots: bytes, survivors: Bools) -> dict[int, bytes]:
    """The channels with the neighbours that survive."""
    return {v: root for v, root in zip(near, _split(roots), strict=True) if survivors[v]}


def _split(keys: bytes) -> list[bytes]:
    return [keys[i : i + 32] for i in range(0, len(keys), 32)]


def _bits(data: bytes, size: int) -> Bools:
    return Reader(memoryview(data), "a record").bitmap(size)
