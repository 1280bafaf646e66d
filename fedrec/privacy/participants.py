"""Who was charged, without names: a cohort's pseudonyms under one hash, and what a device can check with its own.

The line that reserves an attempt may carry, as ``clients``, the Merkle root of the cohort's pseudonyms in ascending
order; ``cohort`` is their number. Whoever runs the round proves to a device that it is among them, or that the two
neighbours of its place stand side by side, so that it is not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedrec.errors import LedgerError
from fedrec.privacy.accounting import report_epsilon
from fedrec.privacy.events import Event, from_fields
from fedrec.privacy.proofs import Record, inclusion_proof, merkle_root, verify_chain, verify_inclusion


@dataclass(frozen=True)
class Seat:
    """A place in a cohort: ``pseudonym`` is leaf ``index`` of its tree, ``proof`` the path from there to the root."""

    pseudonym: str
    index: int
    proof: tuple[bytes, ...]


def cohort_root(pseudonyms: Collection[str]) -> str:
    """What a ledger holds of a cohort: the Merkle root of its pseudonyms in ascending order, in hex.

    Raises:
        LedgerError: if a pseudonym is there twice.
    """
    return merkle_root(_leaves(pseudonyms)).hex()


def seats(pseudonyms: Collection[str], pseudonym: str) -> tuple[Seat, ...]:
    """What shows a client that it is in a cohort: its seat; or that it is not: the neighbours of where it would be."""
    leaves = _leaves(pseudonyms)
    own = pseudonym.encode()
    place = sum(leaf < own for leaf in leaves)
    shown = [place] if own in leaves else [index for index in (place - 1, place) if 0 <= index < len(leaves)]
    return tuple(Seat(leaves[index].decode(), index, inclusion_proof(leaves, index)) for index in shown)


def is_member(pseudonym: str, shown: Sequence[Seat], size: int, root: str) -> bool:
    """Whether a client is in a cohort, by what it was shown.

    Guarantees:
        True is proved by the root alone; False rests on the order of the tree, which whoever holds all pseudonyms
        can check. A device that answered an attempt knows the truth and should be shown True.

    Args:
        pseudonym: the client's.
        shown: as made by `seats`.
        size: of the cohort.
        root: of its pseudonyms, in hex.

    Raises:
        LedgerError: if this proves neither.
    """
    for seat in shown:
        verify_inclusion(seat.pseudonym.encode(), seat.index, size, seat.proof, bytes.fromhex(root))
    if any(seat.pseudonym == pseudonym for seat in shown):
        return True
    before = [seat for seat in shown if seat.pseudonym < pseudonym]
    after = [seat for seat in shown if seat.pseudonym > pseudonym]
    last = max((seat.index for seat in before), default=-1)
    if min((seat.index for seat in after), default=size) != last + 1:
        raise LedgerError("What was shown proves neither that this client is in the cohort nor that it is not.")
    return False


@dataclass(frozen=True)
class Taken:
    """An attempt that a client was part of.

    Attributes:
        round, attempt: which.
        outcome: how it ended; ``open`` where the ledger does not say.
        proved: whether the client was shown its seat; else it is only not shown to have been left out.
        events: what it costs, by unit.
    """

    round: int
    attempt: int
    outcome: str
    proved: bool
    events: Mapping[str, Event]


@dataclass(frozen=True)
class ClientView:
    """What a run has cost one client.

    Attributes:
        taken: every attempt that it was not shown to have been left out of.
        delta: of the run.
    """

    taken: tuple[Taken, ...]
    delta: float

    def epsilon(self, unit: str) -> float:
        """What the attempts add up to, by the accountant of reports; a released one costs nothing."""
        return report_epsilon([one.events[unit] for one in self.taken if one.outcome != "release"], self.delta)


def client_view(lines: Sequence[bytes], pseudonym: str, proofs: Mapping[tuple[int, int], Sequence[Seat]]) -> ClientView:
    """A client's own view of a ledger: it counts every attempt but those that it is shown to have had no part in.

    Args:
        lines: the ledger.
        pseudonym: the client's in this run.
        proofs: what it was shown, by round and attempt.

    Raises:
        LedgerError: if the ledger is damaged or a proof does not hold.
    """
    records = verify_chain(lines)
    try:
        return ClientView(tuple(_taken(records, pseudonym, proofs)), float(records[0]["delta"]))
    except LedgerError:
        raise
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise LedgerError(f"The ledger lacks what a client's view is made of ({error}); it is damaged.") from error


def _taken(
    records: Sequence[Record], pseudonym: str, proofs: Mapping[tuple[int, int], Sequence[Seat]]
) -> Iterator[Taken]:
    ends = {(one["round"], one["attempt"]): one["type"] for one in records if one["type"] not in ("open", "reserve")}
    for record in records:
        if record["type"] != "reserve":
            continue
        key = (record["round"], record["attempt"])
        proved = "clients" in record and key in proofs
        if proved and not is_member(pseudonym, proofs[key], record["cohort"], record["clients"]):
            continue
        events = {unit: from_fields(fields) for unit, fields in record["events"].items()}
        yield Taken(*key, ends.get(key, "open"), proved, events)


def _leaves(pseudonyms: Collection[str]) -> list[bytes]:
    if len(set(pseudonyms)) < len(pseudonyms):
        raise LedgerError("A pseudonym stands twice in one cohort; each client has one of its own.")
    return sorted(pseudonym.encode() for pseudonym in pseudonyms)
