"""Everything that a device refuses, each with its own code, each written down where its owner sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrec.agreements.request import PURPOSE, mechanism_digest, model_digest, sign_request
from fedrec.agreements.roster import sign_roster
from fedrec.agreements.statement import sign
from fedrec.device.answers import Question
from fedrec.device.refusals import Code
from fedrec.secagg.messages import Phase
from tests.device.fleet import NOW, Fleet, refused, resolved

HEX = "ab" * 32

Make = Callable[[Fleet], Question]


@pytest.fixture(scope="module")
def shared_fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """For questions that are refused, and so change nothing."""
    return Fleet(tmp_path_factory.mktemp("fleet"))


def by_another_key(fleet: Fleet) -> Question:
    request = sign_request(fleet.request("advert"), Ed25519PrivateKey.generate())
    return fleet.question(fleet.request("advert"), request=request)


def a_statement_of_another_kind(fleet: Fleet) -> Question:
    text = sign("fedrec publication", asdict(fleet.request("advert")), fleet.request_key)
    return fleet.question(fleet.request("advert"), request=text)


def a_flipped_bit(fleet: Fleet) -> Question:
    text = bytearray(sign_request(fleet.request("advert"), fleet.request_key))
    text[len(text) // 2] ^= 1
    return fleet.question(fleet.request("advert"), request=bytes(text))


def with_an_unknown_field(fleet: Fleet) -> Question:
    text = sign(PURPOSE, {**asdict(fleet.request("advert")), "hurry": True}, fleet.request_key)
    return fleet.question(fleet.request("advert"), request=text)


def of_another_protocol(fleet: Fleet) -> Question:
    return fleet.question(fleet.request("advert", protocol=2))


def of_a_protocol_that_is_not_known_at_all(fleet: Fleet) -> Question:
    text = sign(PURPOSE, {"protocol": 3, "please": "answer"}, fleet.request_key)
    return fleet.question(fleet.request("advert"), request=text)


def asked(**changes: Any) -> Make:
    """An advert request that is signed with these values."""
    return lambda fleet: fleet.question(fleet.request("advert", **changes))


def with_a_roster(version: int, by_registrar: bool = True) -> Make:
    def make(fleet: Fleet) -> Question:
        members = {number: home.identity().member() for number, home in fleet.homes.items()}
        key = fleet.registrar_key if by_registrar else Ed25519PrivateKey.generate()
        roster = sign_roster(version, members, key)
        return fleet.question(fleet.request("advert", roster=roster.digest), roster=roster.text)

    return make


def without_this_device_on_the_roster(fleet: Fleet) -> Question:
    roster = fleet.sign_roster(7, without=[1])
    return fleet.question(fleet.request("advert", roster=roster.digest), roster=roster.text)


REFUSED: dict[str, tuple[Make, Code]] = {
    "signed by another key": (by_another_key, Code.SIGNATURE),
    "signed for another purpose": (a_statement_of_another_kind, Code.SIGNATURE),
    "damaged": (a_flipped_bit, Code.SIGNATURE),
    "no request at all": (lambda f: f.question(f.request("advert"), request=b"{}"), Code.SIGNATURE),
    "with a field too many": (with_an_unknown_field, Code.FORM),
    "of another protocol": (of_another_protocol, Code.PROTOCOL),
    "of an unknown protocol": (of_a_protocol_that_is_not_known_at_all, Code.PROTOCOL),
    "expired": (asked(expires=NOW), Code.EXPIRED),
    "from the future": (asked(expires=NOW + 600 + 301), Code.CLOCK),
    "of another phase than the message": (
        lambda f: f.question(f.request("shares"), phase="advert"),
        Code.PHASE,
    ),
    "in the clear though its noise is a share": (lambda f: f.question(f.request("train")), Code.PHASE),
    "of another experiment": (asked(experiment=HEX), Code.EXPERIMENT),
    "with another experiment's text": (
        lambda f: f.question(f.request("advert"), experiment=resolved(overrides=["privacy.noise_multiplier=3.9"])),
        Code.EXPERIMENT,
    ),
    "with no experiment": (lambda f: f.question(f.request("advert"), experiment="[["), Code.EXPERIMENT),
    "with an endless experiment": (
        lambda f: f.question(f.request("advert"), experiment=f.text + "#" * 70_000),
        Code.EXPERIMENT,
    ),
    "of an unknown model": (
        lambda f: f.question(f.request("advert"), experiment=f.text.replace('"popularity"', '"nothing"')),
        Code.EXPERIMENT,
    ),
    "without this device": (
        lambda f: f.question(f.request("advert", f.plan(cohort=[2, 3, 4]))),
        Code.COHORT,
    ),
    "with too many devices": (
        lambda f: f.question(f.request("advert", f.plan(cohort=[1, 2, 3, 4, 5]))),
        Code.COHORT,
    ),
    "with too few devices": (lambda f: f.question(f.request("advert", f.plan(cohort=[1, 2]))), Code.COHORT),
    "with a device that is not enrolled": (
        lambda f: f.question(f.request("advert", f.plan(cohort=[1, 2, 3, 9]))),
        Code.COHORT,
    ),
    "with an unsigned roster": (with_a_roster(2, by_registrar=False), Code.ROSTER),
    "with another roster than it names": (
        lambda f: f.question(f.request("advert", roster=HEX)),
        Code.ROSTER,
    ),
    "naming a roster that nobody has shown": (
        lambda f: f.question(f.request("advert", roster=HEX), roster=b""),
        Code.ROSTER,
    ),
    "of a round that there is not": (
        lambda f: f.question(f.request("advert", round=2)),
        Code.ROUND,
    ),
    "with another mechanism": (asked(mechanism=HEX), Code.MECHANISM),
    "with less noise than planned": (
        lambda f: f.question(
            f.request("advert", mechanism=mechanism_digest({**f.plan().event(), "noise_multiplier": 0.1}))
        ),
        Code.MECHANISM,
    ),
    "with arrays that are not signed": (
        lambda f: f.question(f.request("advert"), arrays={"popularity": np.zeros(40, np.float32)}),
        Code.ARRAYS,
    ),
    "with another model than the signed one": (
        lambda f: f.question(f.request("masked"), arrays={"popularity": np.zeros(40, np.float32)}),
        Code.ARRAYS,
    ),
    "for an attempt that never began": (lambda f: f.question(f.request("masked"), b"x"), Code.STEP),
    "for the end of an attempt that never began": (lambda f: f.question(f.request("unmask"), b"x"), Code.STEP),
}


@pytest.mark.parametrize(("make", "code"), REFUSED.values(), ids=REFUSED)
def test_a_request_is_refused(shared_fleet: Fleet, make: Make, code: Code) -> None:
    assert refused(shared_fleet.handler(1), make(shared_fleet)) == code
    assert shared_fleet.codes(1)[-1] == code
    assert shared_fleet.charges(1) == []


def test_the_same_request_without_the_fault_is_answered(shared_fleet: Fleet) -> None:
    server = shared_fleet.server()
    shared_fleet.handler(1).answer(shared_fleet.question(shared_fleet.request("advert"), server.routes[1]))


POLICIES = {
    "nobody has opted in": ("opt_in = false", Code.OPTED_OUT),
    "the model is not allowed": ('models = ["gram"]', Code.MODEL),
    "only local trust is allowed": ('trust = ["local"]', Code.TRUST),
    "more noise is wanted": ("min_noise_multiplier = 4.1", Code.NOISE),
    "a larger cohort is wanted": ("min_cohort = 4", Code.POLICY_COHORT),
    "a day's budget is too small": ("epsilon_day = 0.5", Code.BUDGET_DAY),
    "the whole budget is too small": ("epsilon_total = 0.5", Code.BUDGET_TOTAL),
    "the hook says no": ('hook = ["false"]', Code.HOOK),
    "the hook is missing": ('hook = ["/nowhere/hook"]', Code.HOOK),
    "the hook may not run": ('hook = ["/etc/passwd"]', Code.HOOK),
    "the hook takes too long": ('hook = ["sleep", "30"]\nhook_seconds = 0.2', Code.HOOK),
    "the policy is no policy": ("epsilon_day = -1.0", Code.FAILED),
    "the policy has a typing error": ("optin = true", Code.FAILED),
}


@pytest.mark.parametrize(("line", "code"), POLICIES.values(), ids=POLICIES)
def test_the_policy_refuses(tmp_path: Path, line: str, code: Code) -> None:
    fleet = Fleet(tmp_path, n=4)
    server = fleet.until(Phase.MASKED)
    fleet.set_policy(1, line)
    for question in (
        fleet.question(fleet.request("advert", fleet.plan(attempt=1)), b""),
        fleet.question(fleet.request("masked"), server.routes[1]),
    ):
        assert refused(fleet.handler(1), question) == code
        assert fleet.codes(1)[-1] == code
    assert fleet.charges(1) == []


EXPERIMENTS = {
    "privacy is off": (['privacy.epsilon="none"'], Code.PRIVACY_OFF),
    "the server would add the noise": (['privacy.trust="central"', 'privacy.source="seeded"'], Code.TRUST),
    "the noise is seeded": (['privacy.source="seeded"'], Code.NOISE_SOURCE),
    "the noise is floating point inside of training": (
        [
            'model.name="mf"',
            'model.start="random"',
            'model.user_vector="public"',
            'training.backend="opacus"',
            'privacy.trust="local"',
            'privacy.unit="interaction"',
        ],
        Code.NOISE_SOURCE,
    ),
    "no minimum cohort is planned": (['federation.min_cohort="none"'], Code.POLICY_COHORT),
    "the data is not on devices": (['data.name="synthetic"'], Code.EXPERIMENT),
}


@pytest.mark.parametrize(("overrides", "code"), EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_an_experiment_is_refused(shared_fleet: Fleet, overrides: list[str], code: Code) -> None:
    from fedrec.device.preparation import experiment_of

    text = resolved(overrides=overrides)
    digest = experiment_of(text).digest()
    phase = "train" if 'privacy.trust="local"' in overrides else "advert"
    model = model_digest({}) if phase == "train" else None
    question = shared_fleet.question(shared_fleet.request(phase, experiment=digest, model=model), experiment=text)
    assert refused(shared_fleet.handler(2), question) == code
    assert shared_fleet.codes(2)[-1] == code


def test_a_device_that_is_not_enrolled_answers_nobody(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.homes[1].trust_path.unlink()
    assert refused(fleet.handler(1), fleet.question(fleet.request("advert"))) == "not-enrolled"


def test_a_device_off_the_roster_answers_nobody(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    assert refused(fleet.handler(1), without_this_device_on_the_roster(fleet)) == "not-on-roster"


def test_an_older_roster_is_never_accepted_again(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    old, fleet.roster = fleet.roster, fleet.sign_roster(2)
    server = fleet.server()
    fleet.handler(1).answer(fleet.question(fleet.request("advert"), server.routes[1]))
    for text in (old.text, b""):
        question = fleet.question(fleet.request("advert", roster=old.digest), server.routes[1], roster=text)
        assert refused(fleet.handler(1), question) in {"roster-old", "roster"}


def test_two_rosters_of_one_version_are_one_too_many(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, n=5)
    fleet.handler(1).answer(fleet.question(fleet.request("advert"), fleet.server().routes[1]))
    fleet.roster = fleet.sign_roster(1, without=[5])
    assert refused(fleet.handler(1), fleet.question(fleet.request("advert"))) == "roster-old"


def test_a_new_roster_does_not_stop_an_attempt_under_way(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    server = fleet.until(Phase.MASKED)
    from fedrec.device.rosters import accept

    with fleet.homes[1].open_store() as store:
        accept(store, fleet.sign_roster(2).text, fleet.registrar_key.public_key().public_bytes_raw())
    fleet.step(server)
    assert len(fleet.charges(1)) == 1


def test_an_attempt_ends_with_the_cohort_with_which_it_began(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    server = fleet.until(Phase.MASKED)
    smaller = fleet.request("masked", fleet.plan(cohort=[1, 2, 3]))
    assert refused(fleet.handler(1), fleet.question(smaller, server.routes[1])) == "step"
    assert fleet.charges(1) == []


def test_an_experiment_that_is_not_prepared_is_noted_as_a_wish(tmp_path: Path) -> None:
    from fedrec.device.preparation import prepare, wanted

    fleet = Fleet(tmp_path)
    with fleet.homes[1].open_store() as store:
        store.remove(f"calibration-{fleet.experiment.digest()}")
        store.remove(f"experiment-{fleet.experiment.digest()}")
    question = fleet.question(fleet.request("advert"), fleet.server().routes[1])
    assert refused(fleet.handler(1), question) == "unprepared"
    with fleet.homes[1].open_store() as store:
        assert wanted(store) == [fleet.text]
        prepare(store, fleet.text)
        assert wanted(store) == []
    fleet.handler(1).answer(question)


def test_another_catalogue_is_refused(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    with fleet.homes[1].open_store() as store:
        store.put("catalogue", b"another")
    assert refused(fleet.handler(1), fleet.question(fleet.request("advert"))) == "catalogue"


def test_an_advert_of_what_the_policy_forbids_leaves_no_wish(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    text = resolved(overrides=['model.name="ncf"'])
    from fedrec.device.preparation import experiment_of

    request = fleet.request("advert", experiment=experiment_of(text).digest())
    assert refused(fleet.handler(1), fleet.question(request, experiment=text)) == "model"
    with fleet.homes[1].open_store() as store:
        assert not [name for name in store.names("experiment-") if request.experiment in name]


MODELS = {
    "an array too many": lambda arrays: {**arrays, "more": np.zeros(1, np.float32)},
    "an array too few": lambda arrays: {name: array for name, array in arrays.items() if name != "bias"},
    "another shape": lambda arrays: {**arrays, "bias": np.zeros(41, np.float32)},
    "another type": lambda arrays: {**arrays, "bias": np.zeros(40, np.float64)},
    "infinite values": lambda arrays: {**arrays, "bias": np.full(40, np.inf, np.float32)},
    "values that are no numbers": lambda arrays: {**arrays, "bias": np.full(40, np.nan, np.float32)},
    "values out of reach": lambda arrays: {**arrays, "bias": np.full(40, 1e30, np.float32)},
}


@pytest.fixture(scope="module")
def factors(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    fleet = Fleet(tmp_path_factory.mktemp("mf"), ['model.name="mf"', 'model.start="random"'], n=4)
    fleet.until(Phase.MASKED)
    return fleet


@pytest.mark.parametrize("change", MODELS.values(), ids=MODELS)
def test_a_model_that_cannot_be_is_refused_though_it_is_signed(factors: Fleet, change: Callable[..., object]) -> None:
    arrays = change(dict(factors.state.shared))
    request = factors.request("masked", model=model_digest(arrays))  # type: ignore[arg-type]
    assert refused(factors.handler(1), factors.question(request, b"", arrays=arrays)) == "arrays"
    assert factors.charges(1) == []


def test_a_second_statistic_round_runs_and_refuses_items_that_are_none(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, ['model.name="gram"', "model.top_items=8", "privacy.noise_multiplier=4.0"])
    fleet.round()
    plan = fleet.plan(2)
    server = fleet.until(Phase.MASKED, plan)
    good = dict(fleet.state.shared)
    for items in (good["items"][::-1], good["items"] + 40, np.zeros(8, np.int64)):
        arrays = {**good, "items": np.ascontiguousarray(items)}
        request = fleet.request("masked", plan, model=model_digest(arrays))
        assert refused(fleet.handler(1), fleet.question(request, server.routes[1], arrays=arrays)) == "arrays"
    fleet.step(server, plan)
    assert len(fleet.charges(1)) == 2


def test_the_hook_is_told_of_the_request_and_can_say_yes(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    note = tmp_path / "note"
    fleet.set_policy(1, f'hook = ["sh", "-c", "cat > {note}; echo $FEDREC_PHASE >> {note}"]')
    fleet.handler(1).answer(fleet.question(fleet.request("advert"), fleet.server().routes[1]))
    assert '"cohort": 4' in note.read_text()
    assert note.read_text().endswith("advert\n")


def test_every_code_is_tested(request: pytest.FixtureRequest) -> None:
    text = "".join(path.read_text() for path in request.path.parent.glob("test_*.py"))
    assert not [code for code in Code if f"Code.{code.name}" not in text and f'"{code}"' not in text]


def test_a_flood_of_refusals_stays_small(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    for _ in range(5):
        refused(fleet.handler(1), fleet.question(fleet.request("advert"), request=b"garbage"))
    assert fleet.codes(1) == ["signature"]
