"""A process that trains: the server's real loop, folder and ledger, and the real handlers of its devices.

``main(ROOT, UNTIL, FROM, WEATHER)`` ends in order before round UNTIL + 1. The fault point counts from the moment FROM
on, ``recruit 2`` or ``collect 1``, or from the start. Only Flower is left out. Every reply is on the disk before the
server has it. What stops training is one sentence on standard error, and exit status 1.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from fedrec import faults
from fedrec.agreements.request import RELEASING, Request, mechanism_digest, model_digest, sign_request
from fedrec.agreements.roster import SignedRoster
from fedrec.agreements.terms import terms_of
from fedrec.deployment.journal import Journal
from fedrec.deployment.registry import Registry
from fedrec.deployment.training import append, train
from fedrec.device.answers import Question
from fedrec.device.handler import Handler
from fedrec.engines.base import Collected
from fedrec.errors import FedrecError, Refusal
from fedrec.federation.round import Federation, Plan
from fedrec.models.base import Shared
from fedrec.privacy.mechanism import ShardSum
from fedrec.secagg.messages import NO_ATTEMPT, Attempt, Phase
from fedrec.secagg.server import Server
from tests.faults.world import World


@dataclass(frozen=True)
class Weather:
    """What else is wrong.

    Attributes:
        clocks: by device, seconds by which its clock is wrong; "0" is the server's.
        full: from when on the server's disk is full, a moment.
        full_devices: whose disks are full while they answer with their vectors.
    """

    clocks: Mapping[str, float] = field(default_factory=dict)
    full: str = ""
    full_devices: tuple[int, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def clock(self, number: int) -> float:
        return time.time() + self.clocks.get(str(number), 0.0)


class InProcess:
    """Devices that answer in this process: what `fedrec.flower.devices` does, without Flower."""

    name = "devices"

    def __init__(
        self,
        world: World,
        until: int,
        begins: str,
        armed: str | None,
        weather: Weather,
        federation: Federation,
        registry: Registry,
        _: Journal,
    ) -> None:
        self._world, self._weather, self._federation = world, weather, federation
        self._registry, self._roster = registry, registry.roster()
        self._adverts: dict[Attempt, Mapping[int, bytes]] = {}
        self._seen: set[bytes] = set()
        self._until, self._begins, self._armed = until, begins, armed

    def recruit(self, round_: int, attempt: int) -> tuple[int, ...]:  # noqa: ARG002 - the engine's verb
        if round_ > self._until:
            sys.exit()
        self._at(f"recruit {round_}")
        return tuple(device.number for device in self._registry.active())

    def collect(self, plan: Plan, shared: Shared) -> Collected:
        attempt, following = Attempt(plan.round, plan.attempt), Attempt(plan.round + 1, 0)
        terms = terms_of(self._federation, plan)
        members = {int(who): self._roster.members[int(who)] for who in plan.cohort.users}
        last = plan.round == self._federation.rounds
        server = Server(
            terms,
            members,
            attempt,
            members,
            plan.release.size,
            dtype=plan.mechanism.wire,
            adverts=self._adverts.pop(attempt, None),
            following=NO_ATTEMPT if last else following,
            seen=self._seen,
        )
        while True:
            for who, message in server.routes.items():
                self._ask(server, who, plan, shared, message)
            if server.phase is Phase.UNMASK:
                break
            server.advance()
        result = server.finish()
        self._adverts = {following: result.adverts}
        shard = ShardSum(plan.release.split(result.total), result.users)
        self._at(f"collect {plan.round}")
        missing = len(members) - len(result.survivors)
        how = f"secure aggregation: {terms.parameters(len(members)).describe()}"
        return Collected((shard,), missing, 1, 1, len(members), how)

    def _ask(self, server: Server, who: int, plan: Plan, shared: Shared, message: bytes) -> None:
        phase = server.phase.name.lower()
        question = Question(
            phase,
            self._federation.experiment.to_toml(),
            self._request(phase, plan, shared, self._roster),
            message,
            self._roster.text if phase in ("advert", "shares") else b"",
            shared if phase in RELEASING else {},
        )
        handler = Handler(self._world.device(who), clock=partial(self._weather.clock, who))
        try:
            with _full_disk(phase == "masked" and who in self._weather.full_devices):
                answer = handler.answer(question)
        except Refusal:
            return
        digest = hashlib.sha256(answer.message).hexdigest()
        line = {"device": who, "round": plan.round, "attempt": plan.attempt, "phase": phase, "sha256": digest}
        append(self._world.sent, line)
        server.receive(who, answer.message)

    def _request(self, phase: str, plan: Plan, shared: Shared, roster: SignedRoster) -> bytes:
        request = Request(
            experiment=self._federation.experiment.digest(),
            run="1",
            round=plan.round,
            attempt=plan.attempt,
            phase=phase,
            cohort=tuple(plan.cohort.users.tolist()),
            roster=roster.digest,
            mechanism=mechanism_digest(plan.event()),
            model=model_digest(shared) if phase in RELEASING else None,
            expires=int(self._weather.clock(0)) + 600,
        )
        return sign_request(request, self._world.server.key("request"))

    def _at(self, moment: str) -> None:
        if moment == self._begins:
            faults._ARMED = self._armed
        if moment == self._weather.full:
            _set_limit(0)


@contextmanager
def _full_disk(true: bool) -> Iterator[None]:
    """No file can be written in the block: the system says so to every write, as on a full disk."""
    if true:
        _set_limit(0)
    try:
        yield
    finally:
        if true:
            _set_limit(resource.RLIM_INFINITY)


def _set_limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def main(root: str, until: str, begins: str = "", weather: str = "{}") -> None:
    """Train."""
    world, given, armed = World(Path(root)), Weather(**json.loads(weather)), faults._ARMED
    if begins:
        faults._ARMED = None
    try:
        train(world.server, partial(InProcess, world, int(until), begins, armed, given))
    except FedrecError as error:
        sys.exit(str(error))
