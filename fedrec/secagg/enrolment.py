"""A device's long-term keys, and the pairwise channels that it makes of them once, at enrolment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedrec.secagg import crypto, messages
from fedrec.secagg.messages import ProtocolError
from fedrec.secagg.session import Member, Roster
from fedrec.secagg.store import Store

_KEY = "channels"


@dataclass(frozen=True, repr=False)
class Identity:
    """The secret half of an enrolment.

    Attributes:
        signing: Ed25519 private key, 32 bytes.
        channel: X25519 private key, 32 bytes.
    """

    signing: bytes
    channel: bytes

    @staticmethod
    def generate() -> Identity:
        """A new one, from the system's secure source."""
        return Identity(crypto.new_signing_key()[0], crypto.new_pair()[0])

    def member(self, users: int = 1) -> Member:
        """The public half, for the roster."""
        return Member(crypto.signing_public(self.signing), crypto.Exchange(self.channel).public, users)


def cache_channels(identity: Identity, me: int, roster: Roster, store: Store) -> None:
    """Make this device's channel with everybody on its roster and keep them; to be repeated when the roster changes.

    A channel is authentic if the roster is: it binds both numbers and both identity keys. It stays secret as long as
    both devices keep their keys; there is no forward secrecy.

    Raises:
        ProtocolError: for a roster with a channel key of low order.
    """
    exchange = crypto.Exchange(identity.channel)
    peers = sorted(who for who in roster if who != me)
    keys = []
    for who in peers:
        low, high = min(me, who), max(me, who)
        try:
            root = crypto.extract(crypto.LABEL, exchange.shared(roster[who].channel))
        except ValueError as error:
            raise ProtocolError(
                f"The roster's channel key of participant {who} is not valid; enrol it anew."
            ) from error
        names = messages.numbers((low, high)), roster[low].identity, roster[high].identity
        keys.append(crypto.expand(root, b"channel", *names))
    write_channels(store, peers, keys)


def write_channels(store: Store, peers: Sequence[int], keys: Sequence[bytes]) -> None:
    """Keep channel keys, by participant in ascending order."""
    store.put(_KEY, len(peers).to_bytes(4) + messages.numbers(tuple(peers)) + b"".join(keys))


def read_channels(store: Store, wanted: Sequence[int]) -> list[bytes]:
    """The channel keys with these participants.

    Raises:
        ProtocolError: if one is not there.
    """
    raw = store.get(_KEY) or bytes(4)
    count = int.from_bytes(raw[:4])
    start = 4 + 4 * count
    peers = np.frombuffer(raw, ">u4", count, 4)
    places = np.searchsorted(peers, np.array(wanted, np.uint32)).tolist()
    for who, place in zip(wanted, places, strict=True):
        if place == count or peers[place] != who:
            raise ProtocolError(f"No channel with participant {who} is cached on this device; make them anew.")
    return [raw[start + 32 * place : start + 32 * (place + 1)] for place in places]
