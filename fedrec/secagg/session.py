"""What every participant of an attempt must hold in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from fedrec.errors import ConfigError
from fedrec.secagg import crypto, messages
from fedrec.secagg.graph import Bools, Graph, Ints
from fedrec.secagg.messages import Attempt, ProtocolError
from fedrec.secagg.parameters import Parameters, choose

Variant = Literal["signed", "cached"]


@dataclass(frozen=True)
class Member:
    """The public half of an enrolment.

    Attributes:
        identity: Ed25519 public key, 32 bytes.
        channel: X25519 public key, 32 bytes, from which pairwise channels are made at enrolment.
        users: how many users the participant stands for.
    """

    identity: bytes
    channel: bytes
    users: int = 1


Roster = Mapping[int, Member]
"""Who is enrolled, by number. A device holds its own copy from its enrolment; no round's message can change it."""


@dataclass(frozen=True)
class Terms:
    """What a run's participants agree on before its first round, each from its own copy of the experiment.

    Attributes:
        run: 32 bytes that name the run: the experiment's digest.
        n_min: the least number of users in a sum.
        variant: ``signed``: fresh X25519 keys and Ed25519 signatures in every attempt, against a malicious server.
            ``cached``: keys derived from channels that were authenticated at enrolment, against a semi-honest one.
        choose: the parameters for a number of participants; None takes `parameters.choose` for the variant's server.

    Raises:
        ConfigError: for values that no run can have.
    """

    run: bytes
    n_min: int
    variant: Variant = "signed"
    choose: Callable[[int], Parameters] | None = None

    def __post_init__(self) -> None:
        if len(self.run) != 32 or not 1 <= self.n_min < 2**32:
            raise ConfigError("Secure aggregation needs a run name of 32 bytes and a minimum cohort of 1 user or more.")
        if self.variant not in {"signed", "cached"}:
            raise ConfigError(f"No secure aggregation variant is called '{self.variant}'; use 'signed' or 'cached'.")

    @property
    def signed(self) -> bool:
        return self.variant == "signed"

    def parameters(self, n: int) -> Parameters:
        """The parameters of an attempt with n participants.

        Raises:
            ConfigError: if there are none.
        """
        found = self.choose(n) if self.choose else choose(n, malicious=self.signed)
        if found.n != n:
            raise ConfigError(f"The parameters are for {found.n} participants, and the cohort has {n}.")
        return found

    @property
    def advert_bytes(self) -> int:
        """Mask key, channel key and signature; or a nonce."""
        return 128 if self.signed else 32

    @property
    def endorsement_bytes(self) -> int:
        """A signature; or a tag for one neighbour."""
        return 64 if self.signed else 16

    def advert_text(self, who: int, attempt: Attempt, keys: bytes) -> bytes:
        """What an advert signs. Its cohort is not known yet when it is made: the session's context binds that."""
        return crypto.LABEL + b"advert\0" + self.run + messages.numbers((who, *attempt)) + keys

    def is_signed_by(self, member: Member, who: int, attempt: Attempt, advert: bytes) -> bool:
        """Whether an advert of the signed variant is that of an enrolled participant for this attempt."""
        return crypto.verifies(member.identity, advert[64:], self.advert_text(who, attempt, advert[:64]))

    def keys_of(self, adverts: Sequence[bytes]) -> list[bytes]:
        """The values in adverts that nobody may use twice: mask and channel keys, or nonces."""
        if not self.signed:
            return list(adverts)
        return [key for advert in adverts for key in (advert[:32], advert[32:64])]


@dataclass(frozen=True, eq=False)
class Session:
    """One attempt with its participants, who are called by their position 0 to n - 1 in the cohort.

    Attributes:
        terms: the run's.
        attempt: which.
        cohort: the participants' numbers in the roster, ascending.
        users: ``[n]``, how many users each stands for.
        parameters: for this number of participants.
        context: the digest of all of this and of every advert; it is in every key, seal and statement.
    """

    terms: Terms
    attempt: Attempt
    cohort: tuple[int, ...]
    users: Ints
    parameters: Parameters
    context: bytes

    @staticmethod
    def open(
        terms: Terms, roster: Roster, attempt: Attempt, cohort: tuple[int, ...], adverts: Sequence[bytes]
    ) -> Session:
        """The session of a cohort and its adverts, in the same order.

        Raises:
            ProtocolError: for participants that are not enrolled, keys that two of them share, or too few users.
            ConfigError: if the terms have no parameters for so many.
        """
        try:
            members = [roster[who] for who in cohort]
        except KeyError as error:
            raise ProtocolError(f"Participant {error} is not enrolled on this roster.") from None
        users = np.array([member.users for member in members], np.int64)
        if len(cohort) < 2 or users.sum() < terms.n_min:
            raise ProtocolError(
                f"A cohort of {len(cohort)} participants with {users.sum()} users is below the minimum of "
                f"{terms.n_min} users, or of 2 participants."
            )
        keys = terms.keys_of(adverts)
        if len(set(keys)) < len(keys):
            raise ProtocolError("Two adverts of the cohort carry the same key.")
        sizes = terms.parameters(len(cohort))
        numbers = (terms.signed, terms.n_min, *attempt, sizes.n, sizes.k, sizes.t, sizes.quorum)
        context = crypto.digest(
            b"context",
            terms.run,
            messages.numbers(numbers),
            messages.numbers(cohort),
            messages.numbers(users.tolist()),
            *(member.identity for member in members),
            *adverts,
        )
        return Session(terms, attempt, cohort, users, sizes, context)

    @property
    def n(self) -> int:
        return len(self.cohort)

    @cached_property
    def graph(self) -> Graph:
        return Graph.of(self.context, self.n, self.parameters.k)

    def enough(self, present: Bools) -> bool:
        """Whether these participants stand for the minimum cohort."""
        return int(self.users[present].sum()) >= self.terms.n_min

    def statement(self, sharers: Bools, survivors: Bools) -> bytes:
        """What survivors agree on: who shared secrets, so whose masks are in the vectors; and whose vectors count."""
        bits = messages.bitmap(sharers), messages.bitmap(survivors)
        return crypto.LABEL + b"statement\0" + crypto.digest(b"statement", self.context, *bits)
