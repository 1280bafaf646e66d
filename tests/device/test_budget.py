"""The budget: what was spent, and a server's ledger that must say the same of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrec.agreements.request import Request
from fedrec.config import Experiment, resolve
from fedrec.device.budget import Checked, compare, spending
from fedrec.device.catalogue import digest, to_bytes
from fedrec.device.charges import Charges
from fedrec.device.policy import Policy
from fedrec.device.store import Store
from fedrec.engines.run import open_ledger
from fedrec.errors import DeviceError, Refusal
from fedrec.federation.planning import make_federation
from fedrec.federation.round import Federation, Plan
from fedrec.privacy.accounting import filter_epsilon
from fedrec.privacy.events import SkellamEvent
from fedrec.privacy.keys import pseudonym
from fedrec.privacy.ledger import Ledger, Outcome
from fedrec.privacy.participants import cohort_root, seats
from fedrec.privacy.proofs import canonical_json, sign_checkpoint
from fedrec.reporting.folder import RunFolder
from tests.device.stored import catalogue, new_store

ITEMS = catalogue(30)
POLICY = Policy(opt_in=True, min_cohort=4, epsilon_day=30, epsilon_total=50, min_noise_multiplier=0.1)
COHORT = tuple(range(6))
ME = 2
ALIASES = [bytes([number] * 32) for number in range(8)]
DAY = 86_400
LEDGER_KEY = Ed25519PrivateKey.generate()


def training(seed: int = 1) -> Federation:
    experiment: Experiment = resolve(
        {
            "seed": seed,
            "data": {"name": "devices", "catalogue": digest(to_bytes(ITEMS))},
            "model": {"name": "mf", "start": "random", "dimension": 4},
            "federation": {"cohort": 6, "min_cohort": 4, "rounds": 9},
            "privacy": {"source": "secure", "noise": "skellam", "noise_multiplier": 4.0, "epsilon": 60},
        }
    )
    return make_federation(experiment, ITEMS, 6)


@dataclass
class Server:
    """A ledger as a server keeps it, and what its devices fetch of it."""

    folder: Path
    federation: Federation
    key: Ed25519PrivateKey = LEDGER_KEY
    shown: list[dict[str, object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger: Ledger = open_ledger(self.federation, RunFolder.create(self.folder))
        self.run = self.federation.experiment.digest()

    def plan(self, round_: int, attempt: int = 0, numbers: Sequence[int] = COHORT) -> Plan:
        return self.federation.plan(round_, attempt, np.array(numbers))

    def reserve(
        self, round_: int, attempt: int = 0, numbers: Sequence[int] = COHORT, outcome: Outcome = "commit"
    ) -> None:
        names = [pseudonym(ALIASES[number], self.run) for number in numbers]
        plan = self.plan(round_, attempt, numbers)
        event = {**plan.event(), "clients": cohort_root(names)}
        self.ledger.reserve(round_, attempt, event, plan.mechanism.events())
        self.ledger.close(round_, attempt, outcome, len(numbers))
        found = [
            {"pseudonym": seat.pseudonym, "index": seat.index, "proof": [step.hex() for step in seat.proof]}
            for seat in seats(names, pseudonym(ALIASES[ME], self.run))
        ]
        self.shown.append({"round": round_, "attempt": attempt, "seats": found})

    def publish(self, store: Store) -> None:
        store.put("ledger-checkpoint", self.ledger.checkpoint(self.key).encode())
        store.put("ledger", self.ledger.path.read_bytes())
        store.put("proofs", json.dumps({"experiment": self.run, "attempts": self.shown}).encode())


@dataclass
class Device:
    """A device's charges, made as its handler makes them."""

    store: Store
    trusted: bytes
    now: float = 1000.0

    @property
    def charges(self) -> Charges:
        return Charges(self.store, POLICY, lambda: self.now)

    def answer(self, server: Server, round_: int, attempt: int = 0, numbers: Sequence[int] = COHORT) -> None:
        request = Request(
            server.run, "1", round_, attempt, "masked", tuple(numbers), "0" * 64, "0" * 64, "0" * 64, 2**40, 1
        )
        self.charges.charge(request, server.plan(round_, attempt, numbers))

    def checked(self) -> Checked:
        return compare(self.store, ALIASES[ME], self.charges.all(), self.trusted)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    (tmp_path / "device").mkdir()
    with new_store(tmp_path / "device") as store:
        yield Device(store, LEDGER_KEY.public_key().public_bytes_raw())


@pytest.fixture(scope="module")
def federation() -> Federation:
    return training()


@pytest.fixture
def server(tmp_path: Path, federation: Federation) -> Server:
    return Server(tmp_path / "run", federation)


# What was spent


def test_what_was_spent_is_told_by_day_by_run_and_in_all(device: Device, server: Server, tmp_path: Path) -> None:
    other = Server(tmp_path / "other", training(seed=2))
    device.answer(server, 1)
    device.answer(server, 2)
    device.now += DAY
    device.answer(other, 1)
    found = spending(device.store, POLICY, lambda: device.now)
    assert (found.unit, found.delta, found.today) == ("user", 1e-5, "1970-01-02")
    assert [(run.experiment, [charge.place for charge in run.charges]) for run in found.runs] == [
        (server.run, [(1, 0), (2, 0)]),
        (other.run, [(1, 0)]),
    ]
    event = server.plan(1).mechanism.events()["user"]
    assert found.spent_today == filter_epsilon([event], 1e-5)
    assert found.spent == pytest.approx(filter_epsilon([event] * 3, 1e-5))
    assert found.runs[0].epsilon == pytest.approx(filter_epsilon([event] * 2, 1e-5))
    assert found.spent < found.runs[0].epsilon + found.runs[1].epsilon


def test_nothing_was_spent_at_first(device: Device) -> None:
    found = spending(device.store, POLICY, lambda: device.now)
    assert (found.spent, found.spent_today, found.runs) == (0.0, 0.0, ())


def test_charges_that_were_edited_tell_no_figure(device: Device, server: Server) -> None:
    device.answer(server, 1)
    with device.store.transaction() as connection:
        connection.execute("UPDATE charges SET cohort = 1000")
    with pytest.raises(Refusal, match="edited"):
        spending(device.store, POLICY, lambda: device.now)


# What the ledger says


def test_an_honest_ledger_proves_every_charge(device: Device, server: Server) -> None:
    server.reserve(1)
    server.reserve(2, numbers=(0, 1, 3, 4, 5, 6))
    server.reserve(3, outcome="abort")
    server.reserve(3, 1)
    for place in ((1, 0), (3, 0), (3, 1)):
        device.answer(server, *place)
    server.publish(device.store)
    found = device.checked()
    assert found.faults == ()
    assert found.standing == {(1, 0): "seat proved", (3, 0): "seat proved", (3, 1): "seat proved"}
    assert (found.experiment, found.lines, found.asked) == (server.run, len(server.ledger.lines), ())
    event = server.plan(1).mechanism.events()["user"]
    assert found.epsilon == pytest.approx(filter_epsilon([event] * 3, server.ledger.delta))


def test_before_anything_was_fetched_nothing_is_checked(device: Device, server: Server) -> None:
    device.answer(server, 1)
    assert device.checked() == Checked(elsewhere=1)


def test_an_attempt_that_the_device_did_not_answer_costs_it_nothing(device: Device, server: Server) -> None:
    server.reserve(1)
    server.publish(device.store)
    found = device.checked()
    assert (found.asked, found.standing, found.faults) == (((1, 0),), {}, ())


def test_a_charge_since_the_last_fetch_waits(device: Device, server: Server) -> None:
    server.reserve(1)
    device.answer(server, 1)
    server.publish(device.store)
    device.now = 2**33  # after the fetch, which is stamped by the real clock
    server.reserve(2)
    device.answer(server, 2)
    assert device.checked().standing == {(1, 0): "seat proved", (2, 0): "not there yet"}
    assert device.checked().faults == ()


def test_a_charge_beyond_the_signed_lines_waits(device: Device, server: Server) -> None:
    server.reserve(1)
    signed = server.ledger.checkpoint(server.key).encode()
    server.reserve(2)
    device.answer(server, 1)
    device.answer(server, 2)
    server.publish(device.store)
    device.store.put("ledger-checkpoint", signed)
    assert device.checked().standing == {(1, 0): "seat proved", (2, 0): "not there yet"}


def test_charges_of_another_run_are_counted_apart(device: Device, server: Server, tmp_path: Path) -> None:
    other = Server(tmp_path / "other", training(seed=2))
    device.answer(other, 1)
    server.publish(device.store)
    assert (device.checked().elsewhere, device.checked().faults) == (1, ())


def test_without_proofs_a_charge_is_in_the_ledger_and_its_seat_is_not_proved(device: Device, server: Server) -> None:
    server.reserve(1)
    device.answer(server, 1)
    server.publish(device.store)
    device.store.remove("proofs")
    found = device.checked()
    assert (found.standing, found.faults) == ({(1, 0): "in the ledger"}, ())


# What a dishonest server does

Trick = Callable[[Server, Device], None]


def leave_out(server: Server, device: Device) -> None:
    server.reserve(2)
    server.publish(device.store)


def leave_the_device_out(server: Server, device: Device) -> None:
    server.reserve(1, numbers=(0, 1, 3, 4, 5, 6))
    server.publish(device.store)


def take_back(server: Server, device: Device) -> None:
    server.reserve(1, outcome="release")
    server.publish(device.store)


def declare_less(server: Server, device: Device) -> None:
    plan = server.plan(1)
    event = plan.mechanism.events()["user"]
    assert isinstance(event, SkellamEvent)
    events = {**plan.mechanism.events(), "user": replace(event, variance=2 * event.variance)}
    server.ledger.reserve(1, 0, plan.event(), events)
    server.publish(device.store)


def declare_another_release(server: Server, device: Device) -> None:
    plan = server.plan(1)
    server.ledger.reserve(1, 0, {**plan.event(), "release": "popularity"}, plan.mechanism.events())
    server.publish(device.store)


@pytest.mark.parametrize(
    ("trick", "said"),
    [
        (leave_out, "Round 1, attempt 0, which this device has answered, is not in the ledger."),
        (leave_the_device_out, "without this device in its cohort"),
        (take_back, "as one that no device has answered"),
        (declare_less, "with another mechanism"),
        (declare_another_release, "with another mechanism"),
    ],
)
def test_a_ledger_that_hides_a_charge_is_found(device: Device, server: Server, trick: Trick, said: str) -> None:
    device.answer(server, 1)
    trick(server, device)
    found = device.checked()
    (fault,) = found.faults
    assert said in fault
    assert found.standing == {(1, 0): "fault"}
    assert device.store.names("ledger-seen-") == []


def rewritten(server: Server, folder: Path) -> Server:
    """The same server's second story."""
    return Server(folder / "second", server.federation, server.key)


def test_a_rewritten_ledger_is_found(device: Device, server: Server, tmp_path: Path) -> None:
    server.reserve(1)
    server.reserve(2)
    server.publish(device.store)
    assert device.checked().faults == ()
    second = rewritten(server, tmp_path)
    for round_ in (1, 2, 3, 4):
        second.reserve(round_, numbers=(0, 1, 3, 4, 5, 7))
    second.publish(device.store)
    (fault,) = device.checked().faults
    assert "does not hold the 5 lines that the checkpoint that this device has checked before signed" in fault


def test_a_ledger_that_went_back_is_found(device: Device, server: Server, tmp_path: Path) -> None:
    server.reserve(1)
    second = rewritten(server, tmp_path)
    second.reserve(1)
    server.reserve(2)
    server.publish(device.store)
    assert device.checked().faults == ()
    second.publish(device.store)
    (fault,) = device.checked().faults
    assert "has 3 lines where" in fault


def test_a_ledger_that_grows_is_followed(device: Device, server: Server) -> None:
    for round_ in range(1, 5):
        server.reserve(round_)
        device.answer(server, round_)
        server.publish(device.store)
        assert device.checked().faults == ()
    (name,) = device.store.names("ledger-seen-")
    assert json.loads(device.store.get(name) or b"")["size"] == len(server.ledger.lines)


def test_another_signer_is_found_from_the_first_ledger_on(device: Device, server: Server) -> None:
    server.key = Ed25519PrivateKey.generate()
    server.publish(device.store)
    assert "signed by another key" in device.checked().faults[0]


@pytest.mark.parametrize("name", ["ledger", "ledger-checkpoint", "proofs"])
def test_no_byte_of_what_was_fetched_can_be_changed(device: Device, server: Server, name: str) -> None:
    """A changed ledger or checkpoint is a fault. Changed proofs are one too, or prove no other seat."""
    server.reserve(1)
    device.answer(server, 1)
    server.publish(device.store)
    honest = device.store.get(name) or b""
    for place in range(0, len(honest) - 1, 7):
        device.store.put(name, honest[:place] + bytes([honest[place] ^ 1]) + honest[place + 1 :])
        found = device.checked()
        assert found.faults or (name == "proofs" and found.standing[1, 0] in ("in the ledger", "seat proved"))


def test_an_own_seat_of_another_attempt_proves_nothing(device: Device, server: Server) -> None:
    server.reserve(1, numbers=(0, 1, 2, 3, 4, 6))
    server.reserve(2)
    device.answer(server, 2)
    server.shown[1]["seats"] = server.shown[0]["seats"]
    server.publish(device.store)
    assert "does not show line" in device.checked().faults[0]


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", b"nonsense", b'{"experiment": 1}'])
@pytest.mark.parametrize("name", ["ledger", "ledger-checkpoint", "proofs"])
def test_nonsense_is_a_fault_or_nothing_and_never_a_crash(
    device: Device, server: Server, name: str, text: bytes
) -> None:
    server.reserve(1)
    device.answer(server, 1)
    server.publish(device.store)
    device.store.put(name, text)
    found = device.checked()
    assert found.faults or (name == "proofs" and found.standing == {(1, 0): "in the ledger"})


@pytest.mark.parametrize("delta", ["0.0", "-1.0", "nan", "2.0", "1e-320", "x"])
def test_a_delta_that_is_none_is_a_fault_or_bounds_nothing(device: Device, server: Server, delta: str) -> None:
    opening = json.loads(server.ledger.lines[0])
    odd = [canonical_json({**opening, "delta": delta})]
    device.store.put("ledger", odd[0] + b"\n")
    device.store.put("ledger-checkpoint", sign_checkpoint(odd, server.run, server.key).encode())
    found = device.checked()
    assert found.faults or found.epsilon == 0.0


def test_a_damaged_store_is_not_taken_for_the_server_s_fault(device: Device, server: Server) -> None:
    server.publish(device.store)
    with device.store.transaction() as connection:
        connection.execute("UPDATE documents SET value = x'00' WHERE name = 'proofs'")
    with pytest.raises(DeviceError, match="damaged"):
        device.checked()
