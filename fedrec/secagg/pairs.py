"""What two neighbours have in common in one attempt, and what a participant deals out to all of its neighbours."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from fedrec.secagg import crypto, shamir
from fedrec.secagg.messages import Reader
from fedrec.secagg.session import Session

SELF, PAIR = 0, 1
"""A participant's two secrets. SELF opens a survivor: the seed of its self mask. PAIR opens one that dropped out: its
mask private key, or the key to its escrowed pair seeds. Whoever had both would see its vector."""

HELD_BYTES = 2 * shamir.SHARE_BYTES
"""A share of each."""
SEALED_BYTES = HELD_BYTES + crypto.SEAL_BYTES
_TAG_BYTES = 16

_place = struct.Struct(">II").pack


def pair_seed(root: bytes, context: bytes, a: int, b: int) -> bytes:
    """The seed of the mask that the lower of two participants adds and the higher subtracts."""
    return crypto.expand(root, b"pair mask", context, _place(min(a, b), max(a, b)))


def seal_key(root: bytes, context: bytes, a: int, b: int) -> bytes:
    """The key under which each of two participants seals one message to the other."""
    return crypto.expand(root, b"seal", context, _place(min(a, b), max(a, b)))


def seal(key: bytes, context: bytes, sender: int, receiver: int, plain: bytes) -> bytes:
    """A sealed message; the two directions have different nonces, and what it is bound to names both ends."""
    return crypto.seal(key, sender > receiver, plain, context + _place(sender, receiver))


def unseal(key: bytes, context: bytes, sender: int, receiver: int, sealed: bytes) -> bytes | None:
    """What the sender sealed; None if it is not from it, not for this receiver or not of this attempt."""
    return crypto.unseal(key, sender > receiver, sealed, context + _place(sender, receiver))


def statement_tag(root: bytes, sender: int, receiver: int, statement: bytes) -> bytes:
    """With what a participant vouches to a neighbour for the statement that it was shown."""
    return crypto.expand(root, b"statement tag", _place(sender, receiver), statement)[:16]


def vouches(root: bytes, sender: int, receiver: int, statement: bytes, tag: bytes) -> bool:
    """Whether a tag is the sender's over this statement."""
    return hmac.compare_digest(statement_tag(root, sender, receiver, statement), tag)


def put_in_escrow(secret: bytes, context: bytes, seeds: Sequence[bytes]) -> bytes:
    """A participant's pair seeds, closed to the server until its PAIR secret is opened."""
    return crypto.seal(crypto.expand(secret, b"escrow", context), 0, b"".join(seeds), b"")


def open_escrow(secret: bytes, context: bytes, sealed: bytes) -> list[bytes] | None:
    """The pair seeds, by neighbour; None if the owner had closed in something else."""
    seeds = crypto.unseal(crypto.expand(secret, b"escrow", context), 0, sealed, b"")
    return None if seeds is None else [seeds[i : i + 32] for i in range(0, len(seeds), 32)]


@dataclass(frozen=True, eq=False)
class Deal:
    """A participant's secrets as the server holds them: closed, and with what tells a right share from a wrong one.

    Attributes:
        commitments: to either secret.
        sealed: for each neighbour in ascending order, its shares.
        tags: of either secret's shares, by neighbour.
        escrow: the pair seeds, closed; with cached channels only.
    """

    commitments: Sequence[bytes]
    sealed: Sequence[bytes]
    tags: tuple[Sequence[bytes], Sequence[bytes]]
    escrow: bytes

    @staticmethod
    def make(now: Session, owner: int, secrets: tuple[bytes, bytes], keys: list[bytes], seeds: list[bytes]) -> Deal:
        """Share two secrets out among the neighbours.

        Args:
            now: the attempt.
            owner: whose secrets.
            secrets: SELF and PAIR, 32 bytes each.
            keys: by neighbour, to seal its shares.
            seeds: by neighbour, to put in escrow.
        """
        near, sizes = now.graph.neighbours(owner), now.parameters
        shares = [shamir.split(secret, sizes.t, sizes.k) for secret in secrets]
        boxes = [seal(key, now.context, owner, v, a + b) for v, key, a, b in zip(near, keys, *shares, strict=True)]
        tags = share_tags(now, owner, SELF, near, shares[SELF]), share_tags(now, owner, PAIR, near, shares[PAIR])
        escrow = b"" if now.terms.signed else put_in_escrow(secrets[PAIR], now.context, seeds)
        return Deal([commitment(now, owner, i, secret) for i, secret in enumerate(secrets)], boxes, tags, escrow)

    def encode(self) -> bytes:
        return b"".join((*self.commitments, *self.sealed, *self.tags[SELF], *self.tags[PAIR], self.escrow))

    @staticmethod
    def decode(now: Session, body: Reader) -> Deal:
        """The deal in a message.

        Raises:
            ProtocolError: if it is too short or too long.
        """
        k = now.parameters.k
        commitments, sealed = body.fields(2, 32), body.fields(k, SEALED_BYTES)
        tags = body.fields(k, _TAG_BYTES), body.fields(k, _TAG_BYTES)
        escrow = b"" if now.terms.signed else body.take(32 * k + crypto.SEAL_BYTES)
        body.end()
        return Deal(commitments, sealed, tags, escrow)


def commitment(now: Session, owner: int, which: int, secret: bytes) -> bytes:
    """Lets the server check an opened secret; it hides, since the secret is 32 random bytes."""
    return crypto.digest(b"secret", now.context, _place(owner, which), secret)


def share_tags(now: Session, owner: int, which: int, holders: Sequence[int], shares: Sequence[bytes]) -> list[bytes]:
    """Lets the server tell each right share from a wrong one; a share below the threshold is 32 random bytes, too."""
    start = crypto.LABEL + b"share\0" + now.context + _place(owner, which)
    return [
        hashlib.sha256(start + holder.to_bytes(4) + share).digest()[:_TAG_BYTES]
        for holder, share in zip(holders, shares, strict=True)
    ]
