"""What a device has spent, by its own charges; and whether the server's ledger says the same."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fedrec.device.charges import Charge, Charges, next_day
from fedrec.device.charges import spent as epsilon_spent
from fedrec.device.home import DeviceHome
from fedrec.device.policy import Policy, load_policy
from fedrec.device.store import Store
from fedrec.device.trust import raw
from fedrec.errors import DeviceError, LedgerError, Refusal
from fedrec.privacy.accounting import filter_epsilon
from fedrec.privacy.events import from_fields
from fedrec.privacy.keys import pseudonym
from fedrec.privacy.participants import Seat, Taken, client_view
from fedrec.privacy.proofs import Checkpoint, Record, verify_chain, verify_checkpoint
from fedrec.secagg.store import FolderStore
from fedrec.secagg.store import Store as Outside

Place = tuple[int, int]
"""An attempt of a run: round and attempt."""

Standing = Literal["seat proved", "in the ledger", "not there yet", "fault"]

LEDGER, CHECKPOINT, PROOFS = "ledger", "ledger-checkpoint", "proofs"
"""The documents of the server's ledger, its signed checkpoint, and this device's seats in its cohorts."""

FETCHED = "ledger-fetched"
"""The document that says when the ledger was last asked for, unix seconds: what was charged before must be in it."""

FAULTS = "ledger-faults"
"""The document of what did not hold at the last look, a JSON list of sentences; missing where all of it held."""

_SEEN = "ledger-seen-"
"""Before the run's id, the document that holds the newest checkpoint that held."""

PROVED = (
    "the ledger is whole, signed by the server that this device is enrolled with, and continues every one that this "
    "device has checked before",
    "each charge of this device in this run stands in it at the same cost, and not as one that was taken back",
    "where it says 'seat proved': this device is counted in that attempt's cohort",
)
NOT_PROVED = (
    "that other devices are shown the same ledger: compare the root with theirs",
    "that other devices have added their share of the noise, and that there are as many people as devices",
)


@dataclass(frozen=True)
class Run:
    """What one experiment has cost.

    Attributes:
        experiment: its digest.
        charges: of it, in order.
        epsilon: of them alone, at the policy's unit and delta.
    """

    experiment: str
    charges: tuple[Charge, ...]
    epsilon: float


@dataclass(frozen=True)
class Spending:
    """What a device has spent of what its policy allows, by the filter that decides refusals.

    Attributes:
        unit, delta: of the policy: every epsilon here is at these.
        today: the UTC day that the next charge counts on.
        spent_today, epsilon_day: epsilon of today's charges, and the most it may become.
        spent, epsilon_total: epsilon of all charges, and the most it may become.
        runs: by experiment, the first to charge first. Their epsilons do not add up: together they cost ``spent``.
    """

    unit: str
    delta: float
    today: str
    spent_today: float
    epsilon_day: float
    spent: float
    epsilon_total: float
    runs: tuple[Run, ...]


def spending(
    store: Store, policy: Policy, clock: Callable[[], float] = time.time, outside: Outside | None = None
) -> Spending:
    """What was spent, when and for which run.

    Args:
        store: the device's.
        policy: its owner's.
        clock: unix seconds.
        outside: where the head of the charges is kept as well, to notice a store that went back.

    Raises:
        Refusal: if the charges were edited or cannot be priced; the device then answers nothing either.
    """
    charges = Charges(store, policy, clock, outside).all()
    by_run: dict[str, list[Charge]] = {}
    for charge in charges:
        by_run.setdefault(charge.experiment, []).append(charge)
    _, today = next_day(charges, clock())
    runs = [
        Run(name, tuple(own), filter_epsilon([e for c in own if (e := c.event(policy.unit))], policy.delta))
        for name, own in by_run.items()
    ]
    return Spending(
        policy.unit,
        policy.delta,
        today,
        epsilon_spent(charges, policy, today),
        policy.epsilon_day,
        epsilon_spent(charges, policy),
        policy.epsilon_total,
        tuple(runs),
    )


def look(home: DeviceHome, store: Store, *, check: bool) -> tuple[Spending, Checked | None]:
    """What a device has spent, and if asked for, what its server's ledger says of it; raises what `spending` does."""
    spent = spending(store, load_policy(home.policy_path), outside=FolderStore(home.secagg))
    charges = [charge for run in spent.runs for charge in run.charges]
    return spent, _compared(home, store, charges) if check else None


def watch(home: DeviceHome, store: Store) -> tuple[str, ...]:
    """Look whether the charges and the server's ledger hold, and keep the sentences of what does not as `FAULTS`."""
    try:
        charges = Charges(store, load_policy(home.policy_path), outside=FolderStore(home.secagg)).all()
        faults = _compared(home, store, charges).faults
    except Refusal as refusal:
        faults = (refusal.detail,)
    if faults != known_faults(store):
        if faults:
            store.put(FAULTS, json.dumps(faults).encode())
        else:
            store.remove(FAULTS)
    return faults


def known_faults(store: Store) -> tuple[str, ...]:
    """What did not hold when `watch` looked last."""
    return tuple(json.loads(store.get(FAULTS) or b"[]"))


def _compared(home: DeviceHome, store: Store, charges: Sequence[Charge]) -> Checked:
    trust = home.trust()
    if trust is None:
        unheard = "The device is enrolled nowhere, so that no key can tell whose ledger this is; enrol it again."
        return Checked(elsewhere=len(charges), faults=(unheard,) if store.get(LEDGER) is not None else ())
    return compare(store, home.alias(), charges, raw(trust.ledger_key))


@dataclass(frozen=True)
class Checked:
    """A device's charges against its server's ledger.

    Attributes:
        experiment: the ledger's run, "" where no ledger has been fetched or it cannot be read.
        lines: how many are signed.
        root: their Merkle root in hex, which others can compare.
        key: that signed them, base64.
        standing: of each charge of this run, by (round, attempt): ``seat proved``, ``in the ledger`` (where the seat
            was not shown), ``not there yet`` (charged after the signed lines were fetched), or ``fault``.
        elsewhere: charges of other runs, whose ledgers are not at hand.
        asked: attempts whose cohort this device was in and that it did not answer; they cost it nothing.
        epsilon: what the ledger counts for this device at most, at the ledger's unit and delta; None for no bound.
        faults: a sentence for whatever does not hold.
    """

    experiment: str = ""
    lines: int = 0
    root: str = ""
    key: str = ""
    standing: Mapping[Place, Standing] = field(default_factory=dict)
    elsewhere: int = 0
    asked: tuple[Place, ...] = ()
    epsilon: float | None = 0.0
    faults: tuple[str, ...] = ()


def compare(store: Store, alias: bytes, charges: Sequence[Charge], trusted: bytes) -> Checked:
    """Check charges against the ledger that was fetched last, and remember that ledger if all of it holds.

    Args:
        store: the device's; the newest checkpoint that held is kept there, one a run.
        alias: what this device's pseudonyms are made of.
        charges: the device's own, all of them.
        trusted: the only key whose checkpoints count, 32 bytes.

    Guarantees:
        Without a fault, what `PROVED` says holds, if SHA-256 and Ed25519 do. What `NOT_PROVED` says is left open.

    Raises:
        DeviceError: if the store cannot be read or written.
    """
    content, text = store.get(LEDGER), store.get(CHECKPOINT)
    if content is None or text is None:
        return Checked(elsewhere=len(charges))
    try:
        return _checked(store, content.split(b"\n")[:-1], text.decode(errors="replace"), alias, charges, trusted)
    except DeviceError:  # the store's own trouble
        raise
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:  # whatever a server can write
        return Checked(elsewhere=len(charges), faults=(f"The server's ledger does not hold: {error}",))


def _checked(
    store: Store, lines: Sequence[bytes], text: str, alias: bytes, charges: Sequence[Charge], trusted: bytes
) -> Checked:
    records = verify_chain(lines, "the server's ledger")
    if not records:
        raise LedgerError("it is empty.")
    run, unit = records[0]["run"], records[0]["unit"]
    checkpoint, seen = _continued(store, run, lines, text, trusted)
    view = client_view(lines[: checkpoint.size], pseudonym(alias, run), _proofs(store, run))
    reserved = {_place(record): record for record in records[: checkpoint.size] if record["type"] == "reserve"}
    taken = {(one.round, one.attempt): one for one in view.taken}
    fetched = _fetched(store)
    later = {_place(record) for record in records[checkpoint.size :] if record["type"] == "reserve"}
    standing: dict[Place, Standing] = {}
    faults = []
    own = [charge for charge in charges if charge.experiment == run]
    for charge in own:
        place = charge.place
        standing[place] = "seat proved" if place in taken and taken[place].proved else "in the ledger"
        if place not in reserved and (place in later or charge.at >= fetched):
            standing[place] = "not there yet"
        elif fault := _fault(charge, reserved.get(place), taken.get(place)):
            standing[place] = "fault"
            faults.append(f"Round {charge.round}, attempt {charge.attempt}, which this device has answered, {fault}.")
    if not faults and (seen is None or seen.size < checkpoint.size):
        store.put(_SEEN + run, text.encode())
    counted = filter_epsilon([one.events[unit] for one in view.taken if one.outcome != "release"], view.delta)
    return Checked(
        experiment=run,
        lines=checkpoint.size,
        root=checkpoint.root,
        key=checkpoint.key,
        standing=standing,
        elsewhere=len(charges) - len(own),
        asked=tuple(place for place, one in taken.items() if one.proved and place not in standing),
        epsilon=counted if math.isfinite(counted) else None,
        faults=tuple(faults),
    )


def _continued(
    store: Store, run: str, lines: Sequence[bytes], text: str, trusted: bytes
) -> tuple[Checkpoint, Checkpoint | None]:
    """The checkpoint of a ledger, and the one that held before, which the ledger must still begin with."""
    before, seen = store.get(_SEEN + run), None
    if before is not None:
        name = "the checkpoint that this device has checked before"
        seen = verify_checkpoint(before.decode(), lines, trusted, name)
    found = verify_checkpoint(text, lines, trusted, "its checkpoint")
    if found.run != run:
        raise LedgerError("its checkpoint is of another run.")
    return found, seen


def _proofs(store: Store, run: str) -> Mapping[Place, Sequence[Seat]]:
    """What the server has shown of this device's seats; nothing where it is about another run."""
    content = store.get(PROOFS)
    try:
        shown: Any = None if content is None else json.loads(content)
        if shown is None or shown["experiment"] != run:
            return {}
        return {_place(attempt): [_seat(seat) for seat in attempt["seats"]] for attempt in shown["attempts"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LedgerError(f"the proofs that came with it cannot be read ({error}).") from error


def _seat(shown: Mapping[str, Any]) -> Seat:
    index = shown["index"]
    if type(index) is not int:
        raise TypeError(f"{index!r} is no place")
    return Seat(str(shown["pseudonym"]), index, tuple(bytes.fromhex(step) for step in shown["proof"]))


def _fetched(store: Store) -> int:
    """When the ledger was last asked for, unix seconds: what was charged before must be in it."""
    told = store.get(FETCHED)
    return store.query("SELECT updated FROM documents WHERE name = ?", (LEDGER,))[0][0] if told is None else int(told)


def _place(record: Mapping[str, Any]) -> Place:
    return record["round"], record["attempt"]


def _fault(charge: Charge, record: Record | None, taken: Taken | None) -> str:
    """What is wrong with a charge's line in the ledger; "" for nothing."""
    if record is None:
        return "is not in the ledger"
    if taken is None:
        return "stands in the ledger without this device in its cohort"
    if taken.outcome == "release":
        return "stands in the ledger as one that no device has answered"
    declared = json.loads(charge.mechanism)
    costs = {unit: from_fields(fields) for unit, fields in json.loads(charge.events).items()}
    if dict(taken.events) != costs or {name: record.get(name) for name in declared} != declared:
        return "stands in the ledger with another mechanism than the one it was asked under"
    return ""
