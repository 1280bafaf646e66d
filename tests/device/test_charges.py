"""What a device has spent is its own count: kept through crashes, edits and clocks that jump."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.agreements.request import Request
from fedrec.device.charges import Charges, next_day, spent
from fedrec.device.home import DeviceHome
from fedrec.device.policy import Policy
from fedrec.errors import Refusal
from fedrec.federation.round import Plan
from fedrec.privacy.accounting import filter_epsilon
from fedrec.privacy.events import GaussianEvent
from fedrec.release import DpSgd
from fedrec.secagg.messages import Phase
from fedrec.secagg.store import FolderStore
from tests.device.fleet import NOW, Clock, Fleet

DAY = 86_400


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet", n=1)


class Book:
    """The charges of the fleet's device, under a policy, at a time."""

    def __init__(self, fleet: Fleet, clock: Clock | None = None, **policy: Any) -> None:
        generous: dict[str, Any] = {"epsilon_day": 1e6, "epsilon_total": 1e6, "attempts_per_round": 1000}
        self.fleet, self.clock = fleet, clock or Clock()
        self.home = fleet.homes[1]
        self.store = self.home.open_store()
        self.policy = Policy(**{**generous, **policy})
        self.outside = FolderStore(self.home.secagg)
        self.charges = Charges(self.store, self.policy, self.clock, self.outside)

    def charge(self, attempt: int = 0, round_: int = 1, plan: Plan | None = None, experiment: str = "") -> None:
        plan = replace(plan or self.fleet.plan(), round=round_, attempt=attempt)
        request = self.fleet.request("masked", plan)
        if experiment:
            request = replace(request, experiment=experiment)
        with self.store.transaction():
            self.charges.charge(request, plan)
        self.charges.mark()

    def spent(self, day: str | None = None) -> float:
        return spent(self.charges.all(), self.policy, day)

    def refused(self, **what: Any) -> str:
        with pytest.raises(Refusal) as raised:
            self.charge(**what)
        return str(raised.value.code)


@pytest.fixture
def book(fleet: Fleet) -> Iterator[Callable[..., Book]]:
    opened: list[Book] = []

    def make(**policy: Any) -> Book:
        opened.append(Book(fleet, **policy))
        return opened[-1]

    yield make
    for one in opened:
        one.store.close()


def test_a_day_is_refused_as_soon_as_the_filter_says_so(book: Callable[..., Book]) -> None:
    event = book().fleet.plan().mechanism.events()["user"]
    two, three = (filter_epsilon([event] * n, 1e-5) for n in (2, 3))
    today = book(epsilon_day=(two + three) / 2)
    today.charge(0)
    today.charge(1)
    assert today.refused(attempt=2) == "budget-day"
    assert today.spent(next_day(today.charges.all(), today.clock())[1]) == pytest.approx(two)


def test_a_new_day_has_a_new_budget_but_all_days_share_one(book: Callable[..., Book]) -> None:
    event = book().fleet.plan().mechanism.events()["user"]
    one, two, three = (filter_epsilon([event] * n, 1e-5) for n in (1, 2, 3))
    device = book(epsilon_day=(one + two) / 2, epsilon_total=(two + three) / 2)
    device.charge(0)
    assert device.refused(attempt=1) == "budget-day"
    device.clock.now += DAY
    device.charge(1)
    device.clock.now += DAY
    assert device.refused(attempt=2) == "budget-total"


def test_every_experiment_spends_from_the_same_budget(book: Callable[..., Book]) -> None:
    event = book().fleet.plan().mechanism.events()["user"]
    one, two = (filter_epsilon([event] * n, 1e-5) for n in (1, 2))
    device = book(epsilon_total=(one + two) / 2)
    device.charge(experiment="a" * 64)
    assert device.refused(experiment="b" * 64) == "budget-total"


def test_delta_is_the_policy_s_own(book: Callable[..., Book]) -> None:
    device = book(delta=1e-9)
    device.charge()
    assert device.spent() == filter_epsilon([device.fleet.plan().mechanism.events()["user"]], 1e-9)


def test_an_attempt_is_charged_once_and_never_after_a_later_one(book: Callable[..., Book]) -> None:
    device = book()
    device.charge(attempt=1)
    assert device.refused(attempt=1) == "replayed"
    assert device.refused(attempt=0) == "order"
    device.charge(round_=2)
    assert device.refused(attempt=2) == "order"


def test_a_round_has_no_more_attempts_than_the_policy_says(book: Callable[..., Book]) -> None:
    device = book(attempts_per_round=2)
    device.charge(attempt=0)
    device.charge(attempt=3)
    assert device.refused(attempt=4) == "attempts"
    device.charge(round_=2, attempt=0)


def test_a_clock_that_is_set_back_opens_no_day_again(book: Callable[..., Book]) -> None:
    device = book()
    device.charge(0)
    device.clock.now = NOW - DAY
    assert device.refused(attempt=1) == "clock"
    device.clock.now = NOW - 300  # as a time server may do
    device.charge(1)
    assert [charge.at for charge in device.charges.all()] == [NOW, NOW]


def test_a_step_back_over_midnight_stays_on_the_later_day(book: Callable[..., Book]) -> None:
    midnight = NOW - NOW % DAY + DAY
    device = book(clock=Clock(midnight + 10))
    device.charge(0)
    device.clock.now = midnight - 10
    device.charge(1)
    assert len({charge.day for charge in device.charges.all()}) == 1


def test_what_promises_nothing_at_the_policy_s_unit_is_refused(book: Callable[..., Book]) -> None:
    device = book()
    plan = device.fleet.plan()
    inside = DpSgd(clip_norm=1.0, steps=3, inside=True, noise_multiplier=4.0)
    alone = replace(plan.mechanism, grid=None, unit="interaction", interaction=1.0, inside=inside)
    assert device.refused(plan=replace(plan, mechanism=alone)) == "unit"
    other = book(unit="interaction")
    other.charge(plan=replace(plan, mechanism=alone))
    assert other.spent() == filter_epsilon([GaussianEvent(4.0, 1.0, 3)], 1e-5)
    assert device.refused(attempt=1) == "unit", "what was charged cannot be priced at this unit"


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE charges SET day = '2020-01-01' WHERE attempt = 1",
        "UPDATE charges SET events = replace(events, '4', '9') WHERE attempt = 0",
        "UPDATE charges SET chain = x'00' WHERE attempt = 2",
        "DELETE FROM charges WHERE attempt = 0",
        "DELETE FROM charges WHERE attempt = 1",
        "DELETE FROM charges WHERE attempt = 2",
        "DELETE FROM charges",
    ],
)
def test_an_edited_record_is_noticed(book: Callable[..., Book], edit: str) -> None:
    device = book()
    for attempt in range(3):
        device.charge(attempt)
    with device.store.transaction() as connection:
        connection.execute(edit)
    assert device.refused(attempt=3) == "charges"


def test_an_older_copy_of_the_store_is_noticed(book: Callable[..., Book], tmp_path: Path) -> None:
    device = book()
    device.charge(0)
    copy = tmp_path / "backup"
    device.store.backup(copy)
    device.charge(1)
    device.store.close()
    for extra in ("-wal", "-shm"):
        device.home.store_path.with_name(f"store.sqlite{extra}").unlink(missing_ok=True)
    device.home.store_path.write_bytes(copy.read_bytes())
    assert book().refused(attempt=2) == "charges"


def test_charges_outlive_the_process_and_a_crash_before_the_mark(book: Callable[..., Book]) -> None:
    device = book()
    device.charge(0)
    request = device.fleet.request("masked", device.fleet.plan(attempt=1))
    device.charges.charge(request, device.fleet.plan(attempt=1))  # and no mark
    device.store.close()
    again = book()
    assert [charge.attempt for charge in again.charges.all()] == [0, 1]
    again.charge(2)


def test_a_transaction_that_fails_charges_nothing(book: Callable[..., Book]) -> None:
    device = book()
    request = device.fleet.request("masked")

    def fail_after_the_charge() -> None:
        with device.store.transaction():
            device.charges.charge(request, device.fleet.plan())
            raise KeyError

    with pytest.raises(KeyError):
        fail_after_the_charge()
    assert device.charges.all() == ()


def _charge_once(root: Path, plan: Plan, request: Request, budget: float, results: Any) -> None:
    policy = Policy(epsilon_day=budget, epsilon_total=1e6)
    with DeviceHome.open(root).open_store() as store:
        try:
            Charges(store, policy, Clock()).charge(request, plan)
            results.put("charged")
        except Refusal as refusal:
            results.put(str(refusal.code))


def test_two_processes_cannot_spend_the_same_room(fleet: Fleet) -> None:
    event = fleet.plan().mechanism.events()["user"]
    one, two = (filter_epsilon([event] * n, 1e-5) for n in (1, 2))
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = []
    for number in range(4):
        request = fleet.request("masked", experiment=f"{number}" * 64)  # so that no order between them matters
        arguments = (fleet.homes[1].root, fleet.plan(), request, (one + two) / 2, results)
        workers.append(context.Process(target=_charge_once, args=arguments))
    for worker in workers:
        worker.start()
    found = [results.get(timeout=30) for _ in workers]
    for worker in workers:
        worker.join(timeout=30)
    assert sorted(found) == ["budget-day", "budget-day", "budget-day", "charged"]


def test_noise_of_many_kinds_adds_up_as_the_filter_says(book: Callable[..., Book]) -> None:
    device = book()
    rng = np.random.default_rng(5)
    events = []
    for attempt in range(6):
        plan = device.fleet.plan()
        mechanism = replace(plan.mechanism, noise_multiplier=float(rng.uniform(2, 8)))
        device.charge(attempt, plan=replace(plan, mechanism=mechanism))
        events.append(mechanism.events()["user"])
    assert device.spent() == pytest.approx(filter_epsilon(events, 1e-5))


def test_a_handler_refuses_when_the_record_is_broken(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.step(fleet.until(Phase.MASKED))
    with fleet.homes[1].open_store() as store, store.transaction() as connection:
        connection.execute("UPDATE charges SET cohort = 1000")
    second = fleet.plan(attempt=1)
    with pytest.raises(Refusal) as raised:
        fleet.handler(1).answer(fleet.question(fleet.request("advert", second), fleet.server(second).routes[1]))
    assert raised.value.code == "charges"
