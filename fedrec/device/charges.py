"""Charges: what this device's answers have cost, over everything it ever took part in. It takes nobody's word for it.

Each charge carries the hash of the one before, and the head of that chain also stands outside of the store: a store
that was edited, or went back to an older backup, is noticed before another charge.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime

from fedrec.agreements.request import Request
from fedrec.device.policy import Policy
from fedrec.device.refusals import Code
from fedrec.device.store import Store
from fedrec.errors import LedgerError, Refusal
from fedrec.federation.round import Plan
from fedrec.privacy.accounting import filter_epsilon
from fedrec.privacy.events import Event, from_fields, to_fields
from fedrec.privacy.proofs import canonical_json, plain
from fedrec.secagg.store import Store as Outside

_GENESIS = bytes(32)
_MARK = "charges"
_SKEW = 300
"""Seconds that a clock may be set back by, as time servers do; charges then carry the later time."""
_ROUNDING = 1 + 1e-9
_COLUMNS = "experiment, round, attempt, at, day, release, mechanism, events, cohort"


@dataclass(frozen=True)
class Charge:
    """One answer that was made from the history.

    Attributes:
        experiment, round, attempt: which.
        at: when, unix seconds.
        day: of it, UTC, as YYYY-MM-DD.
        release: what was released.
        mechanism: what the plan declared, canonical JSON.
        events: what it costs by unit, canonical JSON.
        cohort: devices that were asked.
    """

    experiment: str
    round: int
    attempt: int
    at: int
    day: str
    release: str
    mechanism: str
    events: str
    cohort: int

    @property
    def place(self) -> tuple[int, int]:
        return self.round, self.attempt

    def event(self, unit: str) -> Event | None:
        """What it costs at a unit; None where it promises nothing there.

        Raises:
            LedgerError: if what stands there is no event.
        """
        fields = json.loads(self.events).get(unit)
        return None if fields is None else from_fields(fields)

    def link(self, before: bytes) -> bytes:
        """Its hash, and so that of all before it."""
        names = _COLUMNS.split(", ")
        return hashlib.sha256(before + canonical_json(dict(zip(names, astuple(self), strict=True)))).digest()


class Charges:
    """The charges in a device's store.

    Args:
        store: the device's.
        policy: its owner's.
        clock: unix seconds.
        outside: where the head of the chain is kept as well, to notice a store that went back; without it, a store
            that went back as a whole passes.

    Guarantees:
        `filter_epsilon` of everything charged at the policy's unit is at most ``epsilon_total`` at ``delta``, and of
        what was charged on a day at most ``epsilon_day``: whatever servers have chosen by earlier answers, except where
        steps are sampled (`fedrec.privacy.accounting`: trust ``local``, unit ``interaction``). A day never
        comes before the last charge's day, so that no budget comes back by setting the clock back. Two processes cannot
        spend the same room: a charge is checked and written in one transaction.
    """

    def __init__(
        self, store: Store, policy: Policy, clock: Callable[[], float] = time.time, outside: Outside | None = None
    ) -> None:
        self._store, self._policy, self._clock, self._outside = store, policy, clock, outside

    def all(self) -> tuple[Charge, ...]:
        """Every charge, in order.

        Raises:
            Refusal: if the chain is broken, or shorter than it was.
        """
        return self._read()[0]

    def has(self, request: Request) -> bool:
        """Whether this attempt is charged."""
        return any(c.experiment == request.experiment and c.place == _place(request) for c in self.all())

    def check(self, request: Request, plan: Plan) -> None:
        """Refuse an attempt that could not be charged now; nothing is written.

        Raises:
            Refusal: as `charge`.
        """
        self._next(self.all(), request, plan)

    def charge(self, request: Request, plan: Plan) -> Charge:
        """Charge an attempt; it stays charged once the transaction around it has ended.

        Raises:
            Refusal: if it was charged before, comes before one that was, is one too many, has no event at the
                policy's unit, is over budget, or if the clock or the chain is not right.
        """
        with self._store.transaction() as connection:
            charges, head = self._read()
            charge = self._next(charges, request, plan)
            row = (*astuple(charge), charge.link(head))
            connection.execute(f"INSERT INTO charges ({_COLUMNS}, chain) VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608 - constants
        return charge

    def mark(self) -> None:
        """Keep the chain's length and head outside of the store, after a charge was committed."""
        if self._outside is None:
            return
        with self._outside.lock():
            charges, head = self._read()
            self._outside.put(_MARK, canonical_json({"count": len(charges), "head": head.hex()}))

    def _read(self) -> tuple[tuple[Charge, ...], bytes]:
        """The charges and the head of their chain."""
        heads = [_GENESIS]
        charges = []
        for *values, chain in self._store.query(f"SELECT {_COLUMNS}, chain FROM charges ORDER BY rowid"):  # noqa: S608 - constants
            charges.append(Charge(*values))
            heads.append(charges[-1].link(heads[-1]))
            if heads[-1] != chain:
                raise Refusal(
                    Code.CHARGES,
                    f"The record of charges was edited at line {len(charges)}, so that nobody knows what was spent; "
                    "restore a backup of the store, or start a new device.",
                )
        mark = None if self._outside is None else self._outside.get(_MARK)
        if mark is not None:
            known = json.loads(mark)
            if known["count"] >= len(heads) or heads[known["count"]].hex() != known["head"]:
                raise Refusal(
                    Code.CHARGES,
                    f"The store holds {len(charges)} charges where {known['count']} were made: it is an older copy, "
                    "whose missing ones cannot be counted; put the newer one back, or start a new device.",
                )
        return tuple(charges), heads[-1]

    def _next(self, charges: Sequence[Charge], request: Request, plan: Plan) -> Charge:
        """The charge for an attempt, after every check."""
        where = f"round {request.round}, attempt {request.attempt}"
        own = [charge for charge in charges if charge.experiment == request.experiment]
        if any(charge.place == _place(request) for charge in own):
            raise Refusal(Code.REPLAYED, f"This device has answered {where} already; it is not answered again.")
        if own and _place(request) < own[-1].place:
            last = own[-1]
            raise Refusal(
                Code.ORDER,
                f"This device has answered round {last.round}, attempt {last.attempt}, and {where} comes before it.",
            )
        if (tries := sum(charge.round == request.round for charge in own)) >= self._policy.attempts_per_round:
            raise Refusal(
                Code.ATTEMPTS,
                f"Round {request.round} was tried {tries} times with this device, and attempts_per_round ends it.",
            )
        at, day = next_day(charges, self._clock())
        events = plan.mechanism.events()
        if self._policy.unit not in events:
            raise Refusal(
                Code.UNIT, f"The experiment promises nothing at unit '{self._policy.unit}', which the budget is about."
            )
        self._afford(charges, day, events[self._policy.unit])
        costs = {unit: to_fields(event) for unit, event in events.items()}
        return Charge(
            request.experiment,
            request.round,
            request.attempt,
            at,
            day,
            plan.release.name,
            canonical_json(plain(plan.event())).decode(),
            canonical_json(costs).decode(),
            len(request.cohort),
        )

    def _afford(self, charges: Sequence[Charge], day: str, event: Event) -> None:
        policy = self._policy
        today = spent(charges, policy, day, event)
        if today > policy.epsilon_day * _ROUNDING:
            raise Refusal(
                Code.BUDGET_DAY,
                f"It would bring the epsilon of {day} to {today:.4g}, above epsilon_day = {policy.epsilon_day:g}.",
            )
        ever = spent(charges, policy, more=event)
        if ever > policy.epsilon_total * _ROUNDING:
            raise Refusal(
                Code.BUDGET_TOTAL,
                f"It would bring epsilon to {ever:.4g}, above epsilon_total = {policy.epsilon_total:g}.",
            )


def spent(charges: Sequence[Charge], policy: Policy, day: str | None = None, more: Event | None = None) -> float:
    """Epsilon at the policy's unit and delta, by the filter that decides.

    Args:
        charges: of one reading.
        policy: the owner's.
        day: of this day alone; None is all of them.
        more: what would come on top.

    Raises:
        Refusal: if a charge cannot be priced, or promises nothing at this unit.
    """
    events = [] if more is None else [more]
    for charge in charges:
        if day not in (None, charge.day):
            continue
        try:
            event = charge.event(policy.unit)
        except LedgerError as error:
            raise Refusal(Code.CHARGES, f"A charge cannot be priced: {error}") from error
        if event is None:
            raise Refusal(
                Code.UNIT,
                f"Round {charge.round} of experiment {charge.experiment[:8]} was charged with nothing promised at "
                f"unit '{policy.unit}'; set unit back to what it was then.",
            )
        events.append(event)
    return filter_epsilon(events, policy.delta) if events else 0.0


def next_day(charges: Sequence[Charge], now: float) -> tuple[int, str]:
    """When the next charge is, and on which day; neither is ever before the last one's.

    Raises:
        Refusal: if the clock was set back.
    """
    last = charges[-1].at if charges else int(now)
    if now < last - _SKEW:
        raise Refusal(
            Code.CLOCK,
            f"The clock is {last - int(now)} s behind the last charge, which could open a day's budget twice; set it "
            "right.",
        )
    at = max(int(now), last)
    return at, datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def _place(request: Request) -> tuple[int, int]:
    return request.round, request.attempt
