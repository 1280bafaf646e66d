"""The ledger: an append-only, hash-chained record of declared events; the one place where a budget is refused.

One canonical JSON object a line (RFC 8785: sorted keys, no spaces; decimals are strings), each carrying the SHA-256 of
the line before it. An RFC 6962 Merkle root over the lines, signed with Ed25519, is the checkpoint. The ledger records
mechanism events and never just an epsilon, so anyone can recompute the budget.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrec.errors import BudgetExceededError, LedgerError
from fedrec.privacy.accounting import composed_mu, gaussian_epsilon, pld_epsilon

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Event = Mapping[str, Any]

GENESIS = "0" * 64
_TOLERANCE = 1e-9


class Ledger:
    """The events of one run, in a file.

    Args:
        path: the file; created with ``opening`` if absent, else read, verified and continued.
        opening: the first event: what is promised (unit, adjacency, trust, delta, budget, noise source, experiment).

    Raises:
        LedgerError: if the file is damaged or belongs to another experiment.
    """

    def __init__(self, path: Path, opening: Event) -> None:
        self.path = path
        self._lines: list[bytes] = []
        self._events: list[Event] = []
        if path.exists():
            self._lines = _complete_lines(path)
            self._events = verify_chain(self._lines, path.name)
        self._size = sum(len(line) + 1 for line in self._lines)
        first = {"type": "open", "version": 1, **opening}
        if not self._events:
            self._append(first)
        elif _content(self._events[0]) != first:
            raise LedgerError(f"'{path}' belongs to another experiment; choose another folder.")
        self.delta = float(opening["delta"])
        self.budget = None if opening["epsilon"] is None else float(opening["epsilon"])

    @property
    def lines(self) -> tuple[bytes, ...]:
        return tuple(self._lines)

    def reserve(self, round_: int, attempt: int, mechanism: Mapping[str, Any]) -> None:
        """Charge an attempt before any client is asked. An attempt already reserved (a resumed run) is charged once.

        Args:
            round_: the round, from 1.
            attempt: 0 for the first.
            mechanism: the declared event: release, noise_multiplier, clip_norm, cohort, min_cohort, trust …

        Raises:
            BudgetExceededError: if the budget does not allow it; nothing is written then.
            LedgerError: if the attempt is on record with another mechanism.
        """
        event = {"type": "reserve", "round": round_, "attempt": attempt, **_canonical(mechanism)}
        for old in self._events:
            if (old["type"], old.get("round"), old.get("attempt")) == ("reserve", round_, attempt):
                if _content(old) != event:
                    raise LedgerError(
                        f"'{self.path}': round {round_}, attempt {attempt} stands with another mechanism."
                    )
                return
        sigma = float(mechanism["noise_multiplier"])
        check_budget(round_, [*self.noise_multipliers(), sigma], self.budget, self.delta)
        self._append(event)

    def close(self, round_: int, attempt: int, outcome: str, survivors: int) -> None:
        """Record how an attempt ended: ``commit`` or ``abort``. Either way it stays charged."""
        event = {"type": outcome, "round": round_, "attempt": attempt, "survivors": survivors}
        if _content(self._events[-1]) != event:  # a resumed run may repeat the last line
            self._append(event)

    def aborted(self, round_: int, attempt: int) -> bool:
        """Whether an attempt is on record as failed: its noise was used, so it is not answered again."""
        wanted = ("abort", round_, attempt)
        return any((event["type"], event.get("round"), event.get("attempt")) == wanted for event in self._events)

    def noise_multipliers(self) -> list[float]:
        """The noise of every charged event, in order."""
        return [float(event["noise_multiplier"]) for event in self._events if event["type"] == "reserve"]

    def spent(self) -> float:
        """Epsilon so far by the filter (analytic Gaussian), for the progress line."""
        return gaussian_epsilon(composed_mu(self.noise_multipliers()), self.delta)

    def epsilon(self) -> float:
        """Epsilon so far by dp-accounting's PLD: the reported figure."""
        return pld_epsilon(self.noise_multipliers(), self.delta)

    def head(self) -> str:
        """The SHA-256 of the last line, in hex."""
        return hashlib.sha256(self._lines[-1]).hexdigest()

    def checkpoint(self, key: Ed25519PrivateKey) -> str:
        """A signed statement of size, head and Merkle root, as canonical JSON; meant to be published elsewhere."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        body = {"head": self.head(), "root": merkle_root(self._lines).hex(), "size": len(self._lines), "version": 1}
        signature = key.sign(canonical_json(body))
        signed = {**body, "key": base64.b64encode(public).decode(), "signature": base64.b64encode(signature).decode()}
        return canonical_json(signed).decode() + "\n"

    def _append(self, event: Event) -> None:
        """Write one line and wait until it is on the disk: a charge must survive a crash."""
        line = canonical_json({**event, "prev": self.head() if self._lines else GENESIS})
        try:
            with self.path.open("ab") as file:
                file.truncate(self._size)  # cuts a line that a crash left half-written
                file.write(line + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            reason = error.strerror or str(error)
            raise LedgerError(f"Cannot write '{self.path}': {reason}; free some space and try again.") from error
        self._size += len(line) + 1
        self._lines.append(line)
        self._events.append(json.loads(line))


def check_budget(round_: int, noise_multipliers: Sequence[float], budget: float | None, delta: float) -> None:
    """Refuse a round whose noise multiplier is the last of these; a budget of None allows everything.

    Raises:
        BudgetExceededError: if the filter's epsilon of them all is above the budget.
    """
    if budget is None:
        return
    after = gaussian_epsilon(composed_mu(noise_multipliers), delta)
    if after > budget * (1 + _TOLERANCE):
        raise BudgetExceededError(
            f"Round {round_} would bring epsilon to {after:.4g}, above the budget {budget:g} at delta {delta:g}; "
            "raise privacy.epsilon or privacy.noise_multiplier, or run fewer rounds."
        )


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """RFC 8785 for what a ledger holds: objects of strings, integers, null and lists of them."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _content(event: Event) -> dict[str, Any]:
    """An event without the hash that links it to the line before."""
    return {key: value for key, value in event.items() if key != "prev"}


def _canonical(mechanism: Mapping[str, Any]) -> dict[str, Any]:
    return {key: repr(value) if isinstance(value, float) else value for key, value in mechanism.items()}


def _complete_lines(path: Path) -> list[bytes]:
    """The file's lines; a last one without its newline was never acknowledged and does not count."""
    return path.read_bytes().split(b"\n")[:-1]


def verify_chain(lines: Sequence[bytes], name: str = "ledger.jsonl") -> list[Event]:
    """The events of a ledger whose every line carries the hash of the line before.

    Raises:
        LedgerError: naming the first line that is damaged, reordered, dropped or inserted.
    """
    events: list[Event] = []
    prev = GENESIS
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
            canonical = canonical_json(event)
        except (ValueError, RecursionError) as error:
            raise LedgerError(f"{name}, line {number}: not valid JSON; the ledger is damaged.") from error
        if not isinstance(event, dict) or canonical != line:
            raise LedgerError(f"{name}, line {number}: not in canonical form; the ledger was edited.")
        if event.get("prev") != prev:
            raise LedgerError(f"{name}, line {number}: does not follow the line before it; the ledger was edited.")
        events.append(event)
        prev = hashlib.sha256(line).hexdigest()
    return events


def merkle_root(lines: Sequence[bytes]) -> bytes:
    """The Merkle tree hash of RFC 6962, section 2.1."""
    level = [hashlib.sha256(b"\x00" + line).digest() for line in lines]
    if not level:
        return hashlib.sha256(b"").digest()
    while len(level) > 1:  # pairing neighbours and carrying an odd last one up is the RFC's recursive split
        pairs = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


def verify_checkpoint(text: str, lines: Sequence[bytes]) -> None:
    """Check a signed checkpoint against a ledger's lines.

    Raises:
        LedgerError: if the signature, the size, the head or the root does not fit.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        signed = json.loads(text)
        body = {key: signed[key] for key in ("head", "root", "size", "version")}
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(signed["key"]))
        public.verify(base64.b64decode(signed["signature"]), canonical_json(body))
    except (ValueError, KeyError, TypeError, InvalidSignature) as error:
        raise LedgerError("ledger.checkpoint: its signature is not valid.") from error
    size = body["size"]
    known = list(lines[:size]) if isinstance(size, int) and 0 < size <= len(lines) else []
    head = hashlib.sha256(known[-1]).hexdigest() if known else ""
    if not known or merkle_root(known).hex() != body["root"] or head != body["head"]:
        raise LedgerError(f"ledger.jsonl does not hold the {body['size']} lines that ledger.checkpoint signed.")
