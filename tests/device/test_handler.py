"""A device answers what an honest server asks, once, and charges itself before the answer leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedrec.agreements.reply import Reply, verify_reply
from fedrec.device import history
from fedrec.device.answers import find
from fedrec.device.handler import Handler
from fedrec.errors import AgreementError, Refusal
from fedrec.secagg.messages import Phase
from tests.device.fleet import Fleet, refused


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_a_round_of_devices_gives_the_noised_sum_of_their_histories(fleet: Fleet) -> None:
    shard = fleet.round()
    assert shard.n_users == 4
    exact = np.zeros(40)
    for home in fleet.homes.values():
        with home.open_store() as store:
            items = history.interactions(store, fleet.federation.catalogue).items
        exact[items] += len(items) ** -0.5
    found = fleet.state.shared["popularity"]
    std = fleet.federation.mechanisms[0].total_std(4)
    # 40 coordinates of noise: beyond 6 standard deviations by chance about once in 10^7 runs.
    assert np.abs(found - exact).max() < 6 * std
    assert np.abs(found - exact).max() > 0


def test_everybody_is_charged_once_a_round(fleet: Fleet) -> None:
    fleet.round()
    assert all(fleet.charges(number) == [(1, 0, "2027-01-15")] for number in fleet.homes)


@pytest.mark.parametrize("phase", ["advert", "shares", "masked", "agree", "unmask"])
def test_every_answer_is_signed_and_the_same_when_it_is_given_again(fleet: Fleet, phase: str) -> None:
    request = fleet.request(phase)
    question = fleet.question(request, fleet.until(Phase[phase.upper()]).routes[1])
    for _ in range(2):
        given = fleet.handler(1).answer(question)
        said = Reply(request.experiment, 1, 0, phase, given.message, given.arrays)
        verify_reply(said, given.signature, fleet.roster.members[1].identity)
        with pytest.raises(AgreementError):
            verify_reply(said, given.signature, fleet.roster.members[2].identity)


def test_a_device_that_drops_out_before_its_vector_pays_nothing(fleet: Fleet) -> None:
    assert fleet.round(without=[4]).n_users == 3
    assert fleet.charges(4) == []


def test_a_retry_is_a_new_charge_with_another_vector(fleet: Fleet) -> None:
    first = fleet.step(fleet.until(Phase.MASKED))
    second = fleet.plan(attempt=1)
    again = fleet.step(fleet.until(Phase.MASKED, second), second)
    assert fleet.charges(1) == [(1, 0, "2027-01-15"), (1, 1, "2027-01-15")]
    assert first[1].message != again[1].message


def test_the_same_question_gets_the_same_bytes_and_one_charge(fleet: Fleet) -> None:
    server = fleet.until(Phase.MASKED)
    question = fleet.question(fleet.request("masked"), server.routes[2])
    first, again = (fleet.handler(2).answer(question) for _ in range(2))
    assert first.message == again.message
    assert len(fleet.charges(2)) == 1


@pytest.mark.parametrize("phase", ["shares", "agree", "unmask"])
def test_a_lost_reply_of_any_phase_is_given_again(fleet: Fleet, phase: str) -> None:
    server = fleet.until(Phase[phase.upper()])
    question = fleet.question(fleet.request(phase), server.routes[1])
    assert fleet.handler(1).answer(question).message == fleet.handler(1).answer(question).message


def test_an_attempt_that_was_answered_gets_no_other_answer(fleet: Fleet) -> None:
    server = fleet.until(Phase.MASKED)
    fleet.step(server)
    other = fleet.request("masked", expires=int(fleet.clock.now) + 601)
    assert refused(fleet.handler(1), fleet.question(other, server.routes[1])) == "replayed"
    assert len(fleet.charges(1)) == 1


def test_an_earlier_attempt_is_never_answered(fleet: Fleet) -> None:
    second = fleet.plan(attempt=1)
    fleet.step(fleet.until(Phase.MASKED, second), second)
    assert refused(fleet.handler(1), fleet.question(fleet.request("advert"), b"")) == "order"


def test_old_answers_are_forgotten_with_the_next_attempt(fleet: Fleet) -> None:
    server = fleet.until(Phase.MASKED)
    request = fleet.request("masked")
    question = fleet.question(request, server.routes[1])
    fleet.handler(1).answer(question)
    second = fleet.plan(attempt=1)
    fleet.until(Phase.MASKED, second)
    with fleet.homes[1].open_store() as store:
        assert find(store, request, question.digest()) is None
    assert refused(fleet.handler(1), question) == "replayed"


def test_no_vector_leaves_without_the_masks_of_its_attempt(fleet: Fleet) -> None:
    """A message of another attempt than the one that is signed and charged."""
    server = fleet.until(Phase.MASKED)
    second = fleet.plan(attempt=1)
    question = fleet.question(fleet.request("masked", second), server.routes[1])
    assert refused(fleet.handler(1), question) == "step"
    assert fleet.charges(1) == []


def test_a_message_that_breaks_the_protocol_costs_nothing(fleet: Fleet) -> None:
    server = fleet.until(Phase.MASKED)
    for message in (b"", server.routes[1][:-1], server.routes[2], bytes(len(server.routes[1]))):
        assert refused(fleet.handler(1), fleet.question(fleet.request("masked"), message)) == "step"
    assert fleet.charges(1) == []
    fleet.handler(1).answer(fleet.question(fleet.request("masked"), server.routes[1]))
    assert len(fleet.charges(1)) == 1


def test_who_has_sent_no_vector_endorses_no_sum(fleet: Fleet) -> None:
    server = fleet.until(Phase.MASKED)
    fleet.step(server, without=[1])
    server.advance()
    question = fleet.question(fleet.request("agree"), server.routes[2])
    assert refused(fleet.handler(1), question) == "step"


def test_the_shared_model_is_kept_to_recommend_from(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, ['model.name="mf"', 'model.start="random"', "federation.rounds=2"])
    fleet.round()
    fleet.clock.now += 86_400
    fleet.until(Phase.AGREE, fleet.plan(2))
    from fedrec.device.shared import kept_round

    with fleet.homes[1].open_store() as store:
        assert kept_round(store, fleet.experiment.digest()) == 1


def test_two_devices_draw_differently_and_one_draws_as_before(fleet: Fleet) -> None:
    from fedrec.device.rounds import own_plan

    keys = [own_plan(fleet.plan(), home.secret(), fleet.experiment.digest()).key for home in fleet.homes.values()]
    assert len({key.seed for key in keys}) == 4
    assert fleet.experiment.seed not in {key.seed for key in keys}
    assert own_plan(fleet.plan(), fleet.homes[1].secret(), fleet.experiment.digest()).key == keys[0]


@pytest.mark.parametrize("phase", ["masked", "advert"])
def test_what_touches_the_history_takes_a_multiple_of_a_public_time(fleet: Fleet, phase: str) -> None:
    for number in fleet.homes:
        fleet.set_policy(number, "answer_seconds = 2.0")
    fleet.until(Phase.MASKED)
    before, fleet.clock.slept = fleet.clock.now, []
    with pytest.raises(Refusal):
        fleet.handler(1).answer(fleet.question(fleet.request(phase, run="x" * 12), b"nonsense"))
    assert fleet.clock.slept == ([2.0] if phase == "masked" else [])
    assert fleet.clock.now - before in (0, 2)


def test_work_longer_than_the_public_time_ends_at_the_next_multiple(fleet: Fleet) -> None:
    fleet.set_policy(1, "answer_seconds = 2.0")
    server = fleet.until(Phase.MASKED)
    ticks = iter([100.0, 104.5])
    slept: list[float] = []
    handler = Handler(fleet.homes[1], clock=fleet.clock, sleep=slept.append, timer=lambda: next(ticks))
    handler.answer(fleet.question(fleet.request("masked"), server.routes[1]))
    assert slept == [1.5]


def test_under_local_trust_the_vector_carries_all_of_the_noise(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, ['privacy.trust="local"'])
    with fleet.homes[1].open_store() as store:
        store.put(f"roster-{fleet.roster.digest}", fleet.roster.text)
    question = fleet.question(fleet.request("train"))
    answer, again = fleet.handler(1).answer(question), fleet.handler(1).answer(question)
    mechanism = fleet.federation.mechanisms[0]
    assert answer.message == b""
    assert answer.arrays["popularity"].dtype == mechanism.wire
    assert np.array_equal(answer.arrays["popularity"], again.arrays["popularity"])
    assert mechanism.grid is not None
    noise = answer.arrays["popularity"].view("int32").astype(float) / mechanism.grid.scale
    # The spread of 40 draws of the noise is within a factor of 2 of its own but once in 10^8 runs.
    assert 0.5 < noise.std() / mechanism.share_std(1) < 2
    assert len(fleet.charges(1)) == 1


def test_what_the_history_makes_fail_is_answered_by_noise_alone_and_charged(fleet: Fleet) -> None:
    server = fleet.until(Phase.MASKED)
    with fleet.homes[1].open_store() as store, store.transaction() as connection:
        connection.execute("DROP TABLE interactions")
    answer = fleet.handler(1).answer(fleet.question(fleet.request("masked"), server.routes[1]))
    server.receive(1, answer.message)
    assert fleet.codes(1)[-1] == "failed"
    assert len(fleet.charges(1)) == 1


def test_training_that_could_take_longer_than_an_answer_is_refused(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, ['model.name="mf"', 'model.start="random"', "training.epochs=200"])
    assert refused(fleet.handler(1), fleet.question(fleet.request("advert"), b"")) == "work"


def test_a_round_looks_at_the_latest_interactions_alone(fleet: Fleet) -> None:
    with fleet.homes[1].open_store() as store:
        whole = history.interactions(store, fleet.federation.catalogue)
        part = history.interactions(store, fleet.federation.catalogue, most=3)
    assert part.items.tolist() == whole.items[-3:].tolist()


def test_a_damaged_store_is_one_refusal(fleet: Fleet) -> None:
    fleet.homes[1].store_path.write_bytes(b"not a store")
    assert refused(fleet.handler(1), fleet.question(fleet.request("advert"), b"")) == "failed"
