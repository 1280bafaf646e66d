"""Whatever is asked, in whatever order: one answer an attempt, never over budget, no charge without an answer."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fedrec.device.answers import Answer, Question
from fedrec.device.charges import Charges
from fedrec.device.policy import load_policy
from fedrec.errors import Refusal
from fedrec.privacy.accounting import filter_epsilon
from fedrec.secagg.messages import Phase
from tests.device.fleet import POLICY, Fleet

Rng = np.random.Generator

DAY, TOTAL = 1.2, 1.8
"""One attempt costs an epsilon of 1.01, two 1.48, three 1.85: room for one a day, and for two in all."""

TIGHT = POLICY.replace("epsilon_day = 20.0", f"epsilon_day = {DAY}").replace(
    "epsilon_total = 40.0", f"epsilon_total = {TOTAL}"
)


class Requests(RuleBasedStateMachine):
    """A server that asks one device for vectors with all of their noise, again and again, as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="fedrec-"))
        self.fleet = Fleet(self.folder / "fleet", ['privacy.trust="local"'], n=4, policy=TIGHT)
        self.given: dict[int, set[bytes]] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(attempt=st.integers(0, 5), later=st.integers(0, 1), cohort=st.sampled_from([(1, 2, 3), (1, 2, 3, 4)]))
    def ask(self, attempt: int, later: int, cohort: tuple[int, ...]) -> None:
        plan = self.fleet.plan(attempt=attempt, cohort=cohort)
        request = self.fleet.request("train", plan, expires=1_800_000_900 + later)
        question = self.fleet.question(request, roster=self.fleet.roster.text)
        try:
            answer = self.fleet.handler(1).answer(question)
        except Refusal:
            return
        self.given.setdefault(attempt, set()).add(answer.arrays["popularity"].tobytes())

    @rule(seconds=st.sampled_from([60, -60, 500, -500, -86_400]))
    def set_the_clock(self, seconds: int) -> None:
        self.fleet.clock.now += seconds

    @rule()
    def a_new_day(self) -> None:
        self.fleet.clock.now += 0 if self.fleet.clock.now > 1_800_080_000 else 86_400

    @invariant()
    def one_answer_an_attempt(self) -> None:
        assert all(len(answers) == 1 for answers in self.given.values())

    @invariant()
    def charged_for_what_was_given_and_for_nothing_else(self) -> None:
        assert [attempt for _, attempt, _ in self.fleet.charges(1)] == sorted(self.given)

    @invariant()
    def never_over_budget(self) -> None:
        policy = load_policy(self.fleet.homes[1].policy_path)
        with self.fleet.homes[1].open_store() as store:
            charges = Charges(store, policy).all()
        events = [event for charge in charges if (event := charge.event("user")) is not None]
        assert len(events) == len(charges)
        assert not events or filter_epsilon(events, policy.delta) <= TOTAL
        for day in {charge.day for charge in charges}:
            assert (
                filter_epsilon([e for c, e in zip(charges, events, strict=True) if c.day == day], policy.delta) <= DAY
            )


TestRequests = Requests.TestCase
TestRequests.settings = settings(max_examples=8, stateful_step_count=12, deadline=None)


def flipped(raw: bytes, rng: Rng) -> bytes:
    """Some bits changed, or a piece cut, doubled or replaced."""
    data = bytearray(raw or b"\0")
    at = int(rng.integers(len(data)))
    match int(rng.integers(5)):
        case 0:
            data[at] ^= 1 << int(rng.integers(8))
        case 1:
            del data[at:]
        case 2:
            data[at:at] = data[: int(rng.integers(len(data)) + 1)]
        case 3:
            data[at:] = rng.bytes(int(rng.integers(64)))
        case _:
            for place in rng.integers(len(data), size=8):
                data[place] = int(rng.integers(256))
    return bytes(data)


def mutated(question: Question, rng: Rng) -> Question:
    """One part of a question changed."""
    match int(rng.integers(6)):
        case 0:
            return replace(
                question, phase=str(rng.choice(["advert", "shares", "masked", "agree", "unmask", "train", "?"]))
            )
        case 1:
            return replace(question, experiment=flipped(question.experiment.encode(), rng).decode(errors="replace"))
        case 2:
            return replace(question, request=flipped(question.request, rng))
        case 3:
            return replace(question, message=flipped(question.message, rng))
        case 4:
            return replace(question, roster=flipped(question.roster, rng))
        case _:
            shape = tuple(rng.integers(0, 50, size=int(rng.integers(3))))
            return replace(question, arrays={"popularity": rng.standard_normal(shape).astype(np.float32)})


def fuzz(fleet: Fleet, question: Question, times: int, rng: Rng) -> list[Answer]:
    """What a device answers to so many broken questions: nothing but refusals may be raised."""
    given = []
    for _ in range(times):
        try:
            given.append(fleet.handler(1).answer(mutated(question, rng)))
        except Refusal:
            continue
    return given


def questions(fleet: Fleet, phase: Phase) -> Question:
    return fleet.question(fleet.request(phase.name.lower()), fleet.until(phase).routes[1])


@pytest.mark.parametrize("times", [150, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("phase", [Phase.SHARES, Phase.MASKED])
def test_broken_questions_neither_crash_a_device_nor_cost_it(tmp_path: Path, phase: Phase, times: int) -> None:
    """A roster that a later phase does not look at, a comment in an experiment, or a share that does not open, which is
    its sender's loss, may change and leave the question good: then there is an answer, and its charge.
    """
    fleet = Fleet(tmp_path)
    question = questions(fleet, phase)
    given = fuzz(fleet, question, times, np.random.default_rng(times))
    assert len({answer.message for answer in given}) <= 1
    assert len(fleet.charges(1)) == (bool(given) and phase is Phase.MASKED)
    rest = fuzz(fleet, replace(question, request=b"{}"), times // 10, np.random.default_rng(7))
    assert not rest


def test_nothing_that_is_signed_can_be_changed(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    question, rng = questions(fleet, Phase.MASKED), np.random.default_rng(3)
    others = [replace(question, request=flipped(question.request, rng)) for _ in range(100)]
    others += [replace(question, arrays={"popularity": rng.standard_normal(n).astype(np.float32)}) for n in range(20)]
    for other in others:
        with pytest.raises(Refusal):
            fleet.handler(1).answer(other)
    assert fleet.charges(1) == []


def test_what_leaves_holds_nothing_of_the_history_but_the_masked_vector(tmp_path: Path) -> None:
    """The masked vector is uniform to whoever lacks the masks: all of a device's messages but that one are the same
    in size and form whatever it has met.
    """
    fleet = Fleet(tmp_path)
    with fleet.homes[2].open_store() as store, store.transaction() as connection:
        connection.execute("DELETE FROM interactions")
    server = fleet.server()
    while True:
        given = fleet.step(server)
        assert {len(answer.message) for answer in given.values()} == {len(given[1].message)}
        assert all(not answer.arrays for answer in given.values())
        assert not [who for who, answer in given.items() if b"item-" in answer.message]
        if server.phase is Phase.UNMASK:
            break
        server.advance()
