"""The server's side of one attempt: routes messages between participants, and learns the sum of their vectors."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from fedrec.errors import ConfigError, RoundFailedError
from fedrec.secagg import crypto, messages, shamir
from fedrec.secagg.graph import Bools, marked
from fedrec.secagg.messages import NO_ATTEMPT, Attempt, Phase, ProtocolError, Reader
from fedrec.secagg.opening import Opening
from fedrec.secagg.pairs import Deal
from fedrec.secagg.session import Roster, Session, Terms


@dataclass(frozen=True, eq=False)
class Result:
    """What an attempt leaves behind.

    Attributes:
        total: ``[d]``, the survivors' vectors added modulo the ring.
        survivors: the participants in it, ascending.
        users: how many users they stand for.
        adverts: by participant, for the attempt that follows.
        wrong: (holder, owner) of each share that was not the one its owner had committed to: either of them lies.
    """

    total: npt.NDArray[Any]
    survivors: tuple[int, ...]
    users: int
    adverts: Mapping[int, bytes]
    wrong: tuple[tuple[int, int], ...]


class Server:
    """One attempt: send ``routes``, hand every reply to `receive`, `advance`; after phase UNMASK, `finish`.

    Args:
        terms: the run's.
        roster: who is enrolled.
        attempt: which; never one that devices may have seen.
        cohort: the participants invited, by their numbers on the roster.
        size: coordinates of a vector.
        dtype: uint32 or uint64.
        adverts: those that the last attempt brought for this one; who is missing, or brought a bad one, is asked.
        following: the attempt for which the last reply is to bring adverts.
        seen: keys of the run's earlier adverts; this attempt's are added, and an advert that repeats one is refused.

    Raises:
        ConfigError: for a cohort that is not enrolled, an attempt out of order or a ring that is none.

    Guarantees:
        Nothing is asked that would unmask a sum below the minimum cohort; but the proof does not rest on the server's
        word: every client checks for itself.
    """

    def __init__(
        self,
        terms: Terms,
        roster: Roster,
        attempt: Attempt,
        cohort: Collection[int],
        size: int,
        *,
        dtype: npt.DTypeLike = np.uint32,
        adverts: Mapping[int, bytes] | None = None,
        following: Attempt = NO_ATTEMPT,
        seen: set[bytes] | None = None,
    ) -> None:
        self._terms, self._roster, self._attempt, self._following = terms, roster, attempt, following
        self._total = np.zeros(size, np.dtype(dtype).newbyteorder("<"))
        if self._total.dtype.kind != "u" or self._total.dtype.itemsize not in {4, 8}:
            raise ConfigError(f"A ring has 32 or 64 bits, not those of {self._total.dtype}; use uint32 or uint64.")
        unknown = sorted(set(cohort) - set(roster))
        if unknown:
            raise ConfigError(f"Participant {unknown[0]} of the cohort is not enrolled; enrol it or leave it out.")
        if attempt <= NO_ATTEMPT or NO_ATTEMPT < following <= attempt:
            raise ConfigError(f"Rounds count from 1, and {following} cannot follow {attempt}; choose later ones.")
        self._seen = set() if seen is None else seen
        self._probe = crypto.Exchange(crypto.new_pair()[0])
        self._adverts: dict[int, bytes] = {}
        self._next_adverts: dict[int, bytes] = {}
        self.phase = Phase.ADVERT
        self.answered: set[int] = set()
        self.routes = dict.fromkeys(sorted(cohort), self._frame(Phase.ADVERT))
        """The messages to send in this phase, by participant."""
        for who in sorted(set(adverts or ()) & set(self.routes)):
            try:
                self._take_advert(who, Reader(memoryview((adverts or {})[who]), "an advert"))
            except ProtocolError:
                continue
            del self.routes[who]

    @property
    def waiting(self) -> set[int]:
        """Who has not answered in this phase."""
        return set(self.routes) - self.answered

    def receive(self, who: int, reply: bytes) -> None:
        """Take a participant's reply, which the transport has authenticated as its own.

        Raises:
            ProtocolError: for a reply that is not valid, late or a second one; nothing changes then, and a participant
                without a valid reply has dropped out.
        """
        if who not in self.routes:
            raise ProtocolError(f"Participant {who} was not asked in phase {self.phase.name}.")
        if who in self.answered:
            raise ProtocolError(f"Participant {who} has answered phase {self.phase.name} already.")
        attempt, body = messages.unframe(reply, self._terms.run, self.phase, reply=True)
        if attempt != self._attempt:
            raise ProtocolError(f"A reply of participant {who} to {attempt} came in {self._attempt}.")
        take = self._take_advert, self._take_shares, self._take_masked, self._take_endorsement, self._take_unmask
        take[self.phase](who, body)
        self.answered.add(who)

    def advance(self) -> None:
        """Close a phase and fill ``routes`` for the next; who has not answered has dropped out.

        Raises:
            RoundFailedError: if too few are left. Nothing has been unmasked, and nothing of the attempt ever will be.
        """
        if self.phase is Phase.UNMASK:
            raise ProtocolError("The last phase is over; finish the attempt.")
        (self._invite, self._deliver, self._ask_agreement, self._show_endorsements)[self.phase]()
        self.phase = Phase(self.phase + 1)
        self.answered = set()

    def finish(self) -> Result:
        """Open the sum.

        Raises:
            RoundFailedError: if too few shares came, or a participant has shared something else than its secrets.
        """
        if self.phase is not Phase.UNMASK:
            raise ProtocolError(f"The attempt is in phase {self.phase.name}; it is finished after UNMASK.")
        now, opening = self._session, self._opening
        opening.unmask(self._total)
        survivors = tuple(now.cohort[u] for u in np.flatnonzero(opening.survivors).tolist())
        users = int(now.users[opening.survivors].sum())
        total = self._total.astype(self._total.dtype.newbyteorder("="), copy=False)
        return Result(total, survivors, users, self._next_adverts, tuple(opening.wrong))

    def _take_advert(self, who: int, body: Reader) -> None:
        advert = body.take(self._terms.advert_bytes)
        body.end()
        keys = self._terms.keys_of([advert])
        if self._terms.signed and not self._terms.is_signed_by(self._roster[who], who, self._attempt, advert):
            raise ProtocolError(f"The advert of participant {who} is not signed by its enrolled key.")
        if not self._seen.isdisjoint(keys):
            raise ProtocolError(f"The advert of participant {who} carries a key that was used before.")
        if self._terms.signed:
            try:
                for key in keys:
                    self._probe.shared(key)
            except ValueError as error:
                raise ProtocolError(f"The advert of participant {who} carries a key of low order.") from error
        self._seen.update(keys)
        self._adverts[who] = advert

    def _invite(self) -> None:
        """ADVERT → SHARES: fixes the cohort."""
        cohort = tuple(sorted(self._adverts))
        adverts = [self._adverts[who] for who in cohort]
        users = sum(self._roster[who].users for who in cohort)
        if users < self._terms.n_min:
            self._fail(f"{users} users advertised, fewer than the minimum cohort of {self._terms.n_min}")
        if len(cohort) < 2:
            self._fail(f"{len(cohort)} devices advertised, and a sum of fewer than 2 hides nothing")
        self._session = Session.open(self._terms, self._roster, self._attempt, cohort, adverts)
        self._place = {who: place for place, who in enumerate(cohort)}
        self._table: list[list[int]] = self._session.graph.table().tolist()
        self._deals: dict[int, Deal] = {}
        request = self._frame(Phase.SHARES, len(cohort).to_bytes(4), messages.numbers(cohort), *adverts)
        self.routes = dict.fromkeys(cohort, request)

    def _take_shares(self, who: int, body: Reader) -> None:
        self._deals[self._place[who]] = Deal.decode(self._session, body)

    def _deliver(self) -> None:
        """SHARES → MASKED: fixes whose masks the vectors carry, and routes the sealed shares."""
        self._sharers = marked(self._session.n, self._deals)
        self._check(self._sharers, "shared their secrets")
        packed = messages.bitmap(self._sharers)
        self.routes = {}
        for v in sorted(self._deals):
            boxes = [self._deals[u].sealed[bisect_left(self._table[u], v)] for u in self._table[v] if u in self._deals]
            self.routes[self._session.cohort[v]] = self._frame(Phase.MASKED, packed, *boxes)

    def _take_masked(self, _: int, body: Reader) -> None:
        data = body.take(self._total.nbytes)
        body.end()
        self._total += np.frombuffer(data, self._total.dtype)

    def _ask_agreement(self) -> None:
        """MASKED → AGREE: fixes the survivors, whose vectors make the sum."""
        survivors = marked(self._session.n, (self._place[who] for who in self.answered))
        self._check(survivors, "sent their vectors")
        keys = {place: self._adverts[who][:32] for who, place in self._place.items()}
        self._opening = Opening(self._session, self._table, self._deals, keys, survivors)
        self._endorsements: dict[int, list[bytes]] = {}
        self._living = [[v for v in near if survivors[v]] for near in self._table]
        self._statement = self._session.statement(self._sharers, survivors)
        request = self._frame(Phase.AGREE, messages.bitmap(survivors))
        self.routes = dict.fromkeys(sorted(self.answered), request)

    def _take_endorsement(self, who: int, body: Reader) -> None:
        u = self._place[who]
        if self._terms.signed:
            endorsement = [body.take(self._terms.endorsement_bytes)]
            if not crypto.verifies(self._roster[who].identity, endorsement[0], self._statement):
                raise ProtocolError(f"Participant {who} has not signed the statement that it was shown.")
        else:
            endorsement = body.fields(len(self._living[u]), self._terms.endorsement_bytes)
        body.end()
        self._endorsements[u] = endorsement

    def _show_endorsements(self) -> None:
        """AGREE → UNMASK: shows everybody that the others have agreed."""
        self._check(marked(self._session.n, self._endorsements), "agreed on the survivors")
        if self._terms.signed and len(self._endorsements) < self._session.parameters.quorum:
            self._fail(f"{len(self._endorsements)} participants agreed, and {self._session.parameters.quorum} must")
        enough = self._enough_endorsers() if self._terms.signed else []
        self.routes = {}
        for v in sorted(self._endorsements):
            if self._terms.signed:
                shown = [(u, self._endorsements[u][0]) for u in enough]
            else:
                near = [u for u in self._table[v] if u in self._endorsements]
                shown = [(u, self._endorsements[u][bisect_left(self._living[u], v)]) for u in near]
            who = messages.numbers(tuple(u for u, _ in shown))
            head = messages.numbers((*self._following, len(shown)))
            self.routes[self._session.cohort[v]] = self._frame(Phase.UNMASK, head, who, *(text for _, text in shown))

    def _enough_endorsers(self) -> list[int]:
        """The first that make a quorum and stand for the minimum cohort: each costs every device a verification."""
        agreed = sorted(self._endorsements)
        users = np.cumsum(self._session.users[agreed])
        least = int(np.searchsorted(users, self._terms.n_min)) + 1
        return agreed[: max(least, self._session.parameters.quorum)]

    def _take_unmask(self, who: int, body: Reader) -> None:
        holder = self._place[who]
        near = self._table[holder]
        opened = np.flatnonzero(body.bitmap(len(near))).tolist()
        shares = body.fields(len(opened), shamir.SHARE_BYTES)
        advert = body.take(self._terms.advert_bytes) if self._following != NO_ATTEMPT else b""
        body.end()
        if not all(self._sharers[near[i]] for i in opened):
            raise ProtocolError(f"Participant {who} sent a share of one who shared nothing.")
        for i, share in zip(opened, shares, strict=True):
            self._opening.take(near[i], holder, share)
        if advert:
            self._next_adverts[who] = advert

    def _check(self, present: Bools, what: str) -> None:
        """Fail while nothing is unmasked: below the minimum cohort, or where too few hold shares of some secret."""
        users, least = int(self._session.users[present].sum()), self._session.parameters.t
        if not self._session.enough(present):
            self._fail(f"{users} users {what}, fewer than the minimum cohort of {self._terms.n_min}")
        holders = int(present[np.array(self._table)[self._sharers]].sum(axis=1).min())
        if holders < least:
            self._fail(f"so few {what} that some secret has {holders} holders and needs {least}")

    def _fail(self, why: str) -> NoReturn:
        raise RoundFailedError(f"Secure aggregation, {self._attempt}: {why}; nothing was unmasked, try again.")

    def _frame(self, phase: Phase, *body: bytes) -> bytes:
        return messages.frame(self._terms.run, self._attempt, phase, False, *body)
