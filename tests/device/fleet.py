"""A server and its devices for tests: real folders, real keys, real handlers, one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrec.agreements.request import (
    RELEASING,
    Request,
    mechanism_digest,
    model_digest,
    sign_request,
)
from fedrec.agreements.roster import SignedRoster, sign_roster
from fedrec.agreements.statement import in_base64
from fedrec.agreements.terms import terms_of
from fedrec.config import Experiment, parse
from fedrec.data.interactions import Catalogue
from fedrec.device import catalogue, history, preparation
from fedrec.device.answers import Answer, Arrays, Question
from fedrec.device.handler import Handler
from fedrec.device.home import DeviceHome
from fedrec.device.trust import Trust
from fedrec.errors import Refusal
from fedrec.federation.planning import make_federation
from fedrec.federation.round import Federation, Plan, State
from fedrec.privacy.mechanism import ShardSum
from fedrec.secagg.messages import NO_ATTEMPT, Attempt, Phase
from fedrec.secagg.server import Server

NOW = 1_800_000_000
ITEMS = Catalogue(np.array([f"item-{i}" for i in range(40)]))

EXPERIMENT = """
name = "devices"
[data]
name = "devices"
catalogue = "{catalogue}"
[model]
name = "popularity"
[federation]
cohort = 4
min_cohort = 3
attempts = 5
[privacy]
source = "secure"
noise_multiplier = 4.0
[deployment]
answer_seconds = 0.0
"""

POLICY = """
opt_in = true
min_cohort = 3
epsilon_day = 20.0
epsilon_total = 40.0
answer_seconds = 0.0
"""


@dataclass
class Clock:
    """Time that only a test moves."""

    now: float = NOW
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def resolved(text: str = EXPERIMENT, overrides: Sequence[str] = ()) -> str:
    """The text of an experiment on `ITEMS`, as a server sends it."""
    whole = text.format(catalogue=catalogue.digest(catalogue.to_bytes(ITEMS)))
    return parse(whole, "test", overrides).to_toml()


class Fleet:
    """Devices 1 to n, enrolled and prepared, and the keys of their server.

    Attributes:
        text: the experiment's.
        clock: everybody's.
        state: the training's, which `round` moves on.
        seen: everything that left a device.
    """

    def __init__(self, folder: Path, overrides: Sequence[str] = (), n: int = 4, policy: str = POLICY) -> None:
        self.text = resolved(overrides=overrides)
        self.experiment: Experiment = preparation.experiment_of(self.text)
        self.request_key, self.registrar_key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self.clock = Clock()
        self.homes = {number: DeviceHome.create(folder / f"device-{number}") for number in range(1, n + 1)}
        self.roster: SignedRoster = self.sign_roster(1)
        self.federation: Federation = make_federation(self.experiment, ITEMS, self.experiment.federation.cohort or 0)
        self.state: State = self.federation.start()
        self.seen: list[Answer] = []
        for number, home in self.homes.items():
            home.policy_path.write_text(policy)
            self.trust(number).save(home.trust_path)
            with home.open_store() as store:
                store.put(catalogue.DOCUMENT, catalogue.to_bytes(ITEMS))
                for item in range(number, 40, 2 + number):
                    history.record(store, f"item-{item}", at=NOW - 100 + item)
                preparation.prepare(store, self.text)

    def trust(self, number: int) -> Trust:
        request, registrar = self.request_key.public_key(), self.registrar_key.public_key()
        return Trust(
            server="localhost:1",
            ca="none",
            request_key=in_base64(request.public_bytes_raw()),
            registrar_key=in_base64(registrar.public_bytes_raw()),
            ledger_key=in_base64(bytes(32)),
            app_key=in_base64(bytes(32)),
            app_key_id="fpk_0",
            number=number,
            node_id="0",
        )

    def sign_roster(self, version: int, without: Sequence[int] = ()) -> SignedRoster:
        members = {number: home.identity().member() for number, home in self.homes.items() if number not in without}
        return sign_roster(version, members, self.registrar_key)

    def handler(self, number: int) -> Handler:
        return Handler(self.homes[number], clock=self.clock, sleep=self.clock.sleep, timer=self.clock)

    def plan(self, round_: int = 1, attempt: int = 0, cohort: Sequence[int] = (1, 2, 3, 4)) -> Plan:
        return self.federation.plan(round_, attempt, np.array(cohort, np.int64))

    def request(self, phase: str, plan: Plan | None = None, **changes: Any) -> Request:
        """What an honest server would ask, but for the changes."""
        plan = plan or self.plan()
        model = model_digest(self.state.shared) if phase in RELEASING else None
        honest = Request(
            experiment=self.experiment.digest(),
            run="1",
            round=plan.round,
            attempt=plan.attempt,
            phase=phase,
            cohort=tuple(plan.cohort.users.tolist()),
            roster=self.roster.digest,
            mechanism=mechanism_digest(plan.event()),
            model=model,
            expires=int(self.clock.now) + 600,
        )
        return replace(honest, **changes)

    def question(self, asked: Request, message: bytes = b"", **changes: Any) -> Question:
        arrays: Arrays = self.state.shared if asked.phase in RELEASING else {}
        roster = self.roster.text if asked.phase in ("advert", "shares") else b""
        honest = Question(asked.phase, self.text, sign_request(asked, self.request_key), message, roster, arrays)
        return replace(honest, **changes)

    def server(self, plan: Plan | None = None) -> Server:
        """The server of a new attempt at secure aggregation."""
        plan = plan or self.plan()
        members = {int(who): self.roster.members[int(who)] for who in plan.cohort.users}
        attempt = Attempt(plan.round, plan.attempt)
        terms = terms_of(self.federation, plan)
        return Server(
            terms, members, attempt, members, plan.release.size, dtype=plan.mechanism.wire, following=NO_ATTEMPT
        )

    def step(self, server: Server, plan: Plan | None = None, without: Sequence[int] = ()) -> dict[int, Answer]:
        """One phase, answered by everybody else; refusals are dropouts."""
        plan = plan or self.plan()
        request = self.request(server.phase.name.lower(), plan)
        given = {}
        for who, message in server.routes.items():
            if who in without:
                continue
            try:
                given[who] = self.handler(who).answer(self.question(request, message))
            except Refusal:
                continue
            self.seen.append(given[who])
            server.receive(who, given[who].message)
        return given

    def until(self, phase: Phase, plan: Plan | None = None, without: Sequence[int] = ()) -> Server:
        """A server whose next messages are those of a phase."""
        server = self.server(plan)
        while server.phase < phase:
            self.step(server, plan, without)
            server.advance()
        return server

    def round(self, attempt: int = 0, without: Sequence[int] = ()) -> ShardSum:
        """A whole round; its sum."""
        plan = self.plan(self.state.round + 1, attempt)
        server = self.until(Phase.UNMASK, plan, without)
        self.step(server, plan, without)
        result = server.finish()
        shard = ShardSum(plan.release.split(result.total), result.users)
        self.state = self.federation.finish(self.state, plan, [shard])
        return shard

    def codes(self, number: int) -> list[str]:
        """The refusals in a device's store, oldest first."""
        with self.homes[number].open_store() as store:
            return [code for (code,) in store.query("SELECT code FROM refusals ORDER BY id")]

    def charges(self, number: int) -> list[tuple[Any, ...]]:
        with self.homes[number].open_store() as store:
            return store.query("SELECT round, attempt, day FROM charges ORDER BY rowid")

    def set_policy(self, number: int, line: str) -> None:
        """Put a line in place of that key's."""
        path = self.homes[number].policy_path
        key = line.partition("=")[0]
        kept = [old for old in path.read_text().splitlines() if old.partition("=")[0] != key]
        path.write_text("\n".join([*kept, line]))


def refused(handler: Handler, question: Question) -> str:
    """The code with which a question is refused."""
    with pytest.raises(Refusal) as raised:
        handler.answer(question)
    assert raised.value.detail.endswith((".", "?")), "a sentence for the owner"
    return str(raised.value.code)
