"""Training on devices in one process: the real engine, ClientApp, handlers, folders and ledgers."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from safetensors.numpy import load_file

from fedrec.agreements.reply import Reply, sign_reply
from fedrec.audit.verify import verify
from fedrec.deployment import locks, metrics, training
from fedrec.deployment.published import COHORTS, PUBLISHED
from fedrec.deployment.status import SERVER_LOCK, Watcher, words
from fedrec.errors import BudgetExceededError, RoundFailedError
from fedrec.federation.planning import make_federation
from fedrec.flower import devices
from fedrec.flower.codec import decode, encode
from fedrec.privacy.accounting import filter_epsilon
from fedrec.privacy.keys import pseudonym
from fedrec.privacy.participants import cohort_root
from fedrec.reporting.folder import RunFolder
from tests.deployment.members import ITEMS
from tests.flower.deployed import Deployment, Tamper, gone

PHASES = ("shares", "masked", "agree", "unmask")


def ledger(deployment: Deployment) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (deployment.home.run / "ledger.jsonl").read_text().splitlines()]


def survivors(deployment: Deployment) -> list[int]:
    return [line["survivors"] for line in RunFolder.open(deployment.home.run).rounds()]


def events(deployment: Deployment, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (deployment.home.logs / training.LOG).read_text().splitlines()]
    return [line for line in lines if line["event"] == name]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What training waits, in seconds, without the waiting."""
    waited: list[float] = []
    monkeypatch.setattr(training, "_sleep", waited.append)
    return waited


def in_the_first_attempt(deployment: Deployment, tamper: Tamper) -> Tamper:
    """Done to replies until the devices are chosen anew."""

    def once(number: int, asked: Message, answer: Message) -> list[Message]:
        first = len(events(deployment, "recruited")) == 1
        return tamper(number, asked, answer) if first else [answer]

    return once


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """A run of two rounds, which the tests below only look at."""
    deployment = Deployment(tmp_path_factory.mktemp("deployment"), federation={"rounds": 2})
    deployment.train()
    return deployment


def test_rounds_are_four_messages_a_device_and_every_device_charges_what_the_ledger_says(finished: Deployment) -> None:
    assert Counter(finished.asked) == {
        (who, phase): 1 if phase == "advert" else 2 for who in range(1, 5) for phase in ("advert", *PHASES)
    }
    assert all(finished.charges(number) == [(1, 0), (2, 0)] for number in finished.devices)
    assert survivors(finished) == [4, 4]
    lines = RunFolder.open(finished.home.run).rounds()
    assert all(line["aggregation"].startswith("secure aggregation: 4 participants") for line in lines)


def test_the_folder_of_a_deployment_passes_the_audit(finished: Deployment) -> None:
    assert RunFolder.open(finished.home.run).finished
    assert not verify(finished.home.run).faults


def test_the_ledger_holds_the_root_of_the_cohort_and_the_cohort_is_kept_beside_it(finished: Deployment) -> None:
    run = finished.home.experiment().digest()
    aliases = {device.number: device.alias for device in finished.registry.devices()}
    cohorts = [json.loads(line) for line in (finished.home.run / COHORTS).read_text().splitlines()]
    asked = [(one["round"], one["attempt"], one["numbers"]) for one in cohorts]
    assert asked == [(1, 0, [1, 2, 3, 4]), (2, 0, [1, 2, 3, 4])]
    roots = [line["clients"] for line in ledger(finished) if line["type"] == "reserve"]
    assert roots == [cohort_root([pseudonym(aliases[who], run) for who in one["numbers"]]) for one in cohorts]


def test_what_is_published_is_the_model_that_the_ledger_committed(finished: Deployment) -> None:
    final, shown = (load_file(finished.home.run / name) for name in ("model.safetensors", PUBLISHED))
    assert final.keys() == shown.keys()
    assert all(np.array_equal(final[name], shown[name]) for name in final)


def test_a_finished_run_is_left_as_it_is(finished: Deployment) -> None:
    before, asked = (finished.home.run / "ledger.jsonl").read_bytes(), len(finished.asked)
    finished.train()
    assert (finished.home.run / "ledger.jsonl").read_bytes() == before
    assert len(finished.asked) == asked


def test_status_and_metrics_say_how_it_went(finished: Deployment) -> None:
    watcher = Watcher(finished.home)
    found = watcher.look()
    assert (found.state, found.round, found.rounds, found.enrolled) == ("finished", 2, 2, 4)
    assert found.epsilon == pytest.approx(RunFolder.open(finished.home.run).rounds()[-1]["epsilon"])
    assert (found.server, found.trainer, found.superlink, found.last_error) == (None, None, None, None)
    text = metrics.render(found, watcher.totals)
    for line in ("fedrec_rounds_total 2", "fedrec_attempts_total 2", "fedrec_answered_total 36", "fedrec_round 2"):
        assert line in text.splitlines()
    assert 'fedrec_state{state="finished"} 1' in text


@pytest.mark.parametrize("phase", ["masked", "agree"])
def test_devices_that_go_in_any_phase_cost_their_own_part_alone(tmp_path: Path, phase: str) -> None:
    deployment = Deployment(tmp_path)
    deployment.tamper = gone([4], phase)
    deployment.train()
    assert survivors(deployment) == [4 if phase == "agree" else 3]  # its vector was in, and the others open the sum


def test_below_the_minimum_cohort_nothing_is_unmasked_and_the_next_attempt_is_a_new_charge(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    deployment.tamper = in_the_first_attempt(deployment, gone([1, 2], "masked"))
    deployment.train()
    kinds = [(line["type"], line["attempt"]) for line in ledger(deployment)[1:]]
    assert kinds == [("reserve", 0), ("abort", 0), ("reserve", 1), ("commit", 1)]
    assert deployment.charges(1) == [(1, 0), (1, 1)]
    phases = [line["phase"] for line in events(deployment, "phase")]
    assert phases == ["advert", "shares", "masked", "advert", "shares", "masked", "agree", "unmask"]


@pytest.mark.parametrize("phase", ["advert", "shares"])
def test_an_attempt_that_fails_before_any_vector_was_asked_for_costs_nobody_anything(
    tmp_path: Path, phase: str, pauses: list[float]
) -> None:
    deployment = Deployment(tmp_path)
    deployment.tamper = in_the_first_attempt(deployment, gone([1, 2], phase))
    deployment.train()
    kinds = [(line["type"], line["attempt"]) for line in ledger(deployment)[1:]]
    assert kinds == [("reserve", 0), ("release", 0), ("reserve", 1), ("commit", 1)]
    assert all(deployment.charges(number) == [(1, 1)] for number in deployment.devices)
    assert not verify(deployment.home.run).faults
    assert pauses == [2.0]
    assert [line["why"] for line in events(deployment, "released")] == ["2 of 4 devices did not answer"]


def test_devices_that_refuse_are_waited_for_and_end_nothing(
    tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = Deployment(tmp_path)
    opted_out = [deployment.devices[number].policy_path for number in (1, 2)]
    for path in opted_out:
        path.write_text(path.read_text().replace("opt_in = true", "opt_in = false"))
    seen: list[str] = []

    def wait(seconds: float) -> None:
        pauses.append(seconds)
        seen.append(words(Watcher(deployment.home).look()))
        if len(pauses) == 2:
            for path in opted_out:
                path.write_text(path.read_text().replace("opt_in = false", "opt_in = true"))

    monkeypatch.setattr(training, "_sleep", wait)
    with locks.held(deployment.home.root / SERVER_LOCK, "running this server"):
        deployment.train()
    assert pauses == [2.0, 4.0]
    assert survivors(deployment) == [4]
    kinds = [line["type"] for line in ledger(deployment)[1:]]
    assert kinds == ["reserve", "release"] * 2 + ["reserve", "commit"]
    assert not verify(deployment.home.run).faults
    assert all("waiting: 2 of 4 devices refused" in text for text in seen)


def test_no_number_of_released_attempts_ends_the_training_and_pauses_grow_to_a_minute(
    tmp_path: Path, pauses: list[float]
) -> None:
    deployment = Deployment(tmp_path, federation={"attempts": 1})
    few = gone([1, 2], "advert")

    class EnoughError(BaseException):
        pass

    def seven_times(number: int, asked: Message, answer: Message) -> list[Message]:
        if len(pauses) == 7:
            raise EnoughError
        return few(number, asked, answer)

    deployment.tamper = seven_times
    with pytest.raises(EnoughError):
        deployment.train()
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    found = Watcher(deployment.home).look()
    costs = make_federation(deployment.home.experiment(), ITEMS, 4).plan(1).mechanism.events()
    assert found.epsilon == filter_epsilon([costs["user"]], 1e-5)  # of the attempt that was under way, and no other
    assert training.failure(deployment.home) is None
    assert not verify(deployment.home.run).faults


def test_every_line_of_the_ledger_is_signed_when_an_attempt_ends_in_the_middle(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)

    class KilledError(BaseException):
        pass

    def crash(number: int, asked: Message, answer: Message) -> list[Message]:  # noqa: ARG001 - a Tamper's arguments
        raise KilledError

    deployment.tamper = crash
    with pytest.raises(KilledError):
        deployment.train()
    assert [line["type"] for line in ledger(deployment)] == ["open", "reserve"]
    found = verify(deployment.home.run)
    assert not found.faults
    assert not any("not signed" in check.detail for check in found.checks)


@pytest.mark.parametrize("trust", ["distributed", "local"])
def test_a_reply_that_another_device_has_signed_does_not_count(tmp_path: Path, trust: str) -> None:
    local: dict[str, Any] = {"trust": "local", "noise_multiplier": 40.0, "noise": "skellam"}
    deployment = Deployment(tmp_path, privacy=local if trust == "local" else {})
    forger = deployment.devices[4].identity()
    experiment = deployment.home.experiment().digest()

    def forged(number: int, asked: Message, answer: Message) -> list[Message]:
        """What device 4 would send in device 3's name, once Flower took it: the same content, its own signature."""
        if number != 3:
            return [answer]
        packet, phase = decode(answer), asked.metadata.message_type.removeprefix("train.")
        said = Reply(experiment, 1, 0, phase, packet.blob("message"), packet.arrays)
        config = {"message": packet.blob("message"), "signature": sign_reply(said, forger.signing)}
        return [Message(encode(packet.arrays, config), reply_to=asked)]

    deployment.tamper = forged
    deployment.train()
    assert survivors(deployment) == [3]
    phases = events(deployment, "phase")
    assert [line["rejected"] for line in phases] == ([1] if trust == "local" else [1, 0, 0, 0, 0])


def test_a_device_over_its_budget_refuses_and_the_others_go_on(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    policy = deployment.devices[2].policy_path
    policy.write_text(policy.read_text().replace("epsilon_total = 50.0", "epsilon_total = 0.0001"))
    deployment.train()
    assert survivors(deployment) == [3]
    assert [code for code in deployment.codes(2) if "budget" in code or "epsilon" in code]
    assert deployment.charges(2) == []
    assert [line["refused"] for line in events(deployment, "phase")] == [1, 0, 0, 0, 0]


def test_a_run_that_was_interrupted_goes_on_with_the_next_attempt(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)

    class Killed(BaseException):
        pass

    def crash(number: int, asked: Message, answer: Message) -> list[Message]:  # noqa: ARG001 - a Tamper's arguments
        if asked.metadata.message_type == "train.agree":
            raise Killed
        return [answer]

    deployment.tamper = crash
    with pytest.raises(Killed):
        deployment.train()
    deployment.tamper = lambda number, asked, answer: [answer]  # noqa: ARG005 - a Tamper's arguments
    deployment.train()
    kinds = [(line["type"], line["round"], line["attempt"]) for line in ledger(deployment)[1:]]
    assert kinds == [("reserve", 1, 0), ("abort", 1, 0), ("reserve", 1, 1), ("commit", 1, 1)]
    assert all(deployment.charges(number) == [(1, 0), (1, 1)] for number in deployment.devices)


def test_revoked_and_offline_devices_are_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_SETTLED_S", 0.1)
    deployment = Deployment(tmp_path)
    deployment.registry.revoke(4, 1)
    deployment.train()
    assert {number for number, _ in deployment.asked} == {1, 2, 3}
    (line,) = RunFolder.open(deployment.home.run).rounds()
    assert line["waiting_s"] >= 0.1  # for more devices to come, which is no part of the round's own seconds
    assert not verify(deployment.home.run).faults  # three were asked, where the experiment asks four at most
    deployment.online.discard(1)
    online, _ = deployment.engine(*deployment.parts())._online()
    assert set(online) == {2, 3}


def test_a_larger_fleet_than_the_cohort_is_drawn_from_at_random_and_who_failed_comes_last(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, federation={"cohort": 3})
    engine = deployment.engine(*deployment.parts())
    cohorts = {engine.recruit(1, 0) for _ in range(40)}
    # Each of the four cohorts is missed with probability 0.75**40, so this fails wrongly once in 24,000 times.
    assert cohorts == {(1, 2, 3), (1, 2, 4), (1, 3, 4), (2, 3, 4)}
    engine._lapsed[2] = time.monotonic()
    assert {engine.recruit(1, 0) for _ in range(10)} == {(1, 3, 4)}


def test_with_local_trust_every_vector_is_a_shard_of_its_own(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, privacy={"trust": "local", "noise_multiplier": 40.0, "noise": "skellam"})
    deployment.train()
    assert {phase for _, phase in deployment.asked} == {"train"}
    assert survivors(deployment) == [4]


def test_malformed_replies_are_drops_and_never_end_the_round(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    bad = [
        encode({}, {}),
        encode({}, {"message": 7}),
        encode({}, {"message": b""}),
        encode({}, {"message": b"FSA" + bytes(200)}),
        encode({"x": np.zeros(3)}, {"message": b"x" * 1000}),
        encode({}, {"refused": 1}),
    ]

    def mangle(number: int, asked: Message, answer: Message) -> list[Message]:
        if number != 3:
            return [answer]
        return [Message(content, reply_to=asked) for content in bad]

    deployment.tamper = mangle
    deployment.train()
    assert survivors(deployment) == [3]
    assert [line["rejected"] for line in events(deployment, "phase")] == [1, 0, 0, 0, 0]


def test_the_second_reply_of_a_device_does_not_count(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    deployment.tamper = lambda number, asked, answer: [answer, answer]  # noqa: ARG005 - a Tamper's arguments
    deployment.train()
    assert survivors(deployment) == [4]


def test_when_the_budget_allows_no_retry_training_stops_and_says_so(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, privacy={"epsilon": 0.9, "noise_multiplier": 8.0})
    deployment.tamper = gone([1, 2], "masked")
    with pytest.raises((BudgetExceededError, RoundFailedError)) as raised:
        deployment.train()
    found = training.failure(deployment.home)
    assert found is not None
    assert found["type"] == type(raised.value).__name__
    assert Watcher(deployment.home).look().state == "stopped"
