"""A device's part in an attempt: the contribution from its own history, and its steps of secure aggregation."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from functools import partial
from typing import Any

import numpy.typing as npt

from fedrec.agreements.request import Request
from fedrec.agreements.roster import SignedRoster
from fedrec.data.interactions import Interactions
from fedrec.device import tables
from fedrec.device.refusals import Code, refusing
from fedrec.device.store import Store
from fedrec.errors import Refusal
from fedrec.federation.round import Federation, Plan, client_round
from fedrec.models.base import Shared
from fedrec.privacy.mechanism import ShardSum
from fedrec.privacy.proofs import canonical_json
from fedrec.randomness import Key
from fedrec.secagg.client import Client
from fedrec.secagg.messages import Phase, ProtocolError, unframe
from fedrec.secagg.session import Member


def own_plan(plan: Plan, secret: bytes, experiment: str) -> Plan:
    """The plan with draws that nobody else can repeat: the server knows the experiment's seed, not this key.

    Args:
        plan: the attempt's.
        secret: 32 random bytes that never leave the device.
        experiment: its digest; HMAC-SHA256 (RFC 2104) of it is the seed.
    """
    seed = int.from_bytes(hmac.digest(secret, experiment.encode(), hashlib.sha256)[:8]) >> 1
    return replace(plan, key=Key(seed).at(plan.round, plan.attempt), noise_key=None)


def contribution(
    federation: Federation, plan: Plan, shared: Shared, user: Interactions, store: Store, secret: bytes
) -> ShardSum:
    """What this device has to say: trained on its own history, clipped, rounded and noised.

    Args:
        federation: as this device prepared it.
        plan: the attempt.
        shared: the checked shared model.
        user: the device's own history, or an empty one: then it is the noise alone.
        store: with what its agent prepared.
        secret: its private randomness.
    """
    own = own_plan(plan, secret, federation.experiment.digest())
    return client_round(federation.model, shared, user, own, int(user.users[0]), partial(tables.noise, store))


def check_seats(request: Request, roster: SignedRoster, number: int, member: Member) -> None:
    """Refuse a cohort without this device, or with others than the roster's: who is not enrolled adds no noise.

    Raises:
        Refusal: saying who is missing.
    """
    if roster.members.get(number) != member:
        raise Refusal(Code.NOT_ON_ROSTER, f"The roster does not hold this device's keys under its number {number}.")
    if number not in request.cohort:
        raise Refusal(Code.COHORT, f"This device, number {number}, is not among those that the request asks.")
    if strangers := [who for who in request.cohort if who not in roster.members]:
        raise Refusal(Code.COHORT, f"The request asks device {strangers[0]}, which is not on the roster.")


def check_masked(client: Client, request: Request, message: bytes) -> None:
    """Refuse a message that asks for a vector and is none of this attempt, before there is one.

    Raises:
        Refusal: as `secure_step`.
    """
    with refusing(Code.STEP, ProtocolError):
        _check_attempt(request, message)
        client.check_masked(message)


def secure_step(client: Client, request: Request, message: bytes, vector: npt.NDArray[Any] | None = None) -> bytes:
    """One step of secure aggregation, of the very attempt that the request is signed for.

    Raises:
        Refusal: if the message is of another attempt, or breaks the protocol.
    """
    with refusing(Code.STEP, ProtocolError):
        phase = _check_attempt(request, message)
        if vector is not None:
            return client.masked(message, vector)
        steps = {
            Phase.ADVERT: client.advert,
            Phase.SHARES: client.shares,
            Phase.AGREE: client.agree,
            Phase.UNMASK: client.unmask,
        }
        return steps[phase](message)


def _check_attempt(request: Request, message: bytes) -> Phase:
    phase = Phase[request.phase.upper()]
    attempt, _ = unframe(message, bytes.fromhex(request.experiment), phase, reply=False)
    if attempt != (request.round, request.attempt):
        raise ProtocolError(f"The message is of {attempt}, and the request of another.")
    return phase


def begin(store: Store, request: Request) -> None:
    """Write down under what an attempt begins, before its secrets are dealt out."""
    store.put(f"attempt-{request.experiment}", _conditions(request))


def check_same(store: Store, request: Request) -> None:
    """Refuse a later phase whose request differs from the one under which the attempt began.

    Raises:
        Refusal: in cohort, roster or mechanism; or if this attempt is not under way.
    """
    if store.get(f"attempt-{request.experiment}") != _conditions(request):
        raise Refusal(
            Code.STEP, f"Round {request.round}, attempt {request.attempt} did not begin here, or not with this cohort."
        )


def _conditions(request: Request) -> bytes:
    return canonical_json(
        {
            "round": request.round,
            "attempt": request.attempt,
            "cohort": request.cohort,
            "roster": request.roster,
            "mechanism": request.mechanism,
        }
    )
