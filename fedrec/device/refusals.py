"""Why a device says no: a code that its owner can search for, and a sentence that never leaves the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from fedrec.agreements.request import Request
from fedrec.device.store import Store
from fedrec.errors import FedrecError, Refusal

MOST = 1000
"""Refusals that are kept; whoever floods a device with requests does not fill its disk."""


class Code(StrEnum):
    """What a refusal is about."""

    NOT_ENROLLED = "not-enrolled"
    OPTED_OUT = "opted-out"
    SIGNATURE = "signature"
    PROTOCOL = "protocol"
    FORM = "form"
    EXPIRED = "expired"
    CLOCK = "clock"
    PHASE = "phase"
    EXPERIMENT = "experiment"
    CATALOGUE = "catalogue"
    PRIVACY_OFF = "privacy-off"
    TRUST = "trust"
    NOISE_SOURCE = "noise-source"
    MODEL = "model"
    NOISE = "noise"
    UNIT = "unit"
    POLICY_COHORT = "policy-cohort"
    COHORT = "cohort"
    WORK = "work"
    ROSTER = "roster"
    ROSTER_OLD = "roster-old"
    NOT_ON_ROSTER = "not-on-roster"
    UNPREPARED = "unprepared"
    ROUND = "round"
    ATTEMPTS = "attempts"
    MECHANISM = "mechanism"
    REPLAYED = "replayed"
    ORDER = "order"
    STEP = "step"
    BUDGET_DAY = "budget-day"
    BUDGET_TOTAL = "budget-total"
    CHARGES = "charges"
    ARRAYS = "arrays"
    HOOK = "hook"
    FAILED = "failed"


@contextmanager
def refusing(code: Code, *errors: type[FedrecError]) -> Iterator[None]:
    """An error of these kinds in the block becomes a refusal that keeps its words."""
    try:
        yield
    except errors as error:
        raise Refusal(code, str(error)) from error


def log(store: Store, refusal: Refusal, at: float, phase: str, request: Request | None) -> None:
    """Keep a refusal where the owner sees it; the same one again takes the place of the last.

    Args:
        store: the device's.
        refusal: why.
        at: when, unix seconds.
        phase: as asked.
        request: what was asked, where its signature is known to be good.
    """
    where = (None, None, None) if request is None else (request.experiment, request.round, request.attempt)
    same = (*where, phase[:32], str(refusal.code))
    with store.transaction() as connection:
        connection.execute(
            "DELETE FROM refusals WHERE id = (SELECT max(id) FROM refusals) AND experiment IS ? AND round IS ? "
            "AND attempt IS ? AND phase IS ? AND code = ?",
            same,
        )
        connection.execute(
            "INSERT INTO refusals (experiment, round, attempt, phase, code, at, detail) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*same, int(at), refusal.detail),
        )
        connection.execute("DELETE FROM refusals WHERE id <= (SELECT max(id) FROM refusals) - ?", (MOST,))
