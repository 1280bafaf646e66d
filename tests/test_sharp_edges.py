"""One test for every row of the design's table of sharp edges; what each rests on is tested more closely elsewhere."""

from __future__ import annotations

import ast
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrec
from fedrec.errors import BudgetExceededError, ContributionError, LedgerError, PrivacyError, RoundFailedError
from fedrec.federation.round import client_round
from fedrec.privacy import proofs
from fedrec.privacy.ledger import Ledger
from fedrec.privacy.mechanism import Mechanism
from fedrec.privacy.stream import SecureWords
from fedrec.secagg import local, messages, parameters
from fedrec.secagg.messages import Attempt, Phase, ProtocolError
from fedrec.secagg.server import Server
from fedrec.secagg.session import Terms
from tests.cases import Case, histories

ROOT = Path(fedrec.__file__).parent
MF = {"name": "mf", "start": "random", "dimension": 4}


def case(**sections: Any) -> Case:
    return Case.of(MF, **sections)


@pytest.mark.parametrize("noise", ["gaussian", "skellam"])
def test_a_row_that_is_exactly_zero_tells_who_touched_what(noise: str) -> None:
    """Every row of every array is noised, also for a client that touched three items of eighty."""
    one = case()
    federation = one.federation(noise_multiplier=1.0, noise=noise, trust="local")
    plan = federation.plan(1)
    me = histories(one.train.catalogue, [[3, 5, 8]])
    sent = client_round(federation.model, federation.start().shared, me, plan, part=0)
    for array in sent.arrays.values():
        assert np.all(np.any(np.atleast_2d(array.reshape(len(array), -1)), axis=1))


@pytest.mark.parametrize(
    ("model", "training"),
    [
        (MF, {"epochs": 1}),  # the personal vector is the user's profile
        ({**MF, "user_vector": "public"}, {"epochs": 2}),  # a second local step
        ({**MF, "start": "spectral"}, {"epochs": 1}),  # a statistic of the whole history
    ],
)
def test_a_personal_vector_or_a_second_step_carries_an_interaction_into_others(
    model: dict[str, Any], training: dict[str, Any]
) -> None:
    with pytest.raises(PrivacyError, match="no proved guarantee"):
        Case.of(model, training=training).federation(noise_multiplier=1.0, unit="interaction")


def test_negatives_as_samples_of_their_own_understate_epsilon() -> None:
    """A positive with all its negatives is one sample: with four times the negatives, as many samples and no more."""
    from fedrec.training.samples import draw

    for negatives in (1, 4):
        one = Case.of({**MF, "user_vector": "public"}, training={"epochs": 1, "negatives": negatives})
        federation = one.federation(noise_multiplier=1.0, unit="interaction")
        plan = federation.releases[0].dpsgd
        assert plan is not None
        (step,) = draw(one.train, plan, negatives, federation.key.at(1))
        assert step.negatives.shape == (len(step.events), negatives)
        assert len(step.events) <= one.train.n_events
        assert plan.interaction == pytest.approx(plan.clip_norm, rel=2e-3)


def test_batch_sizes_normalisers_and_step_counts_say_nothing_of_a_clients_data() -> None:
    """A client with 32 interactions trains by the very plan of one with 33, which knows neither."""
    pytest.importorskip("opacus")
    one = Case.of({**MF, "user_vector": "public"}, training={"backend": "opacus", "epochs": 1})
    few, many = (one.federation(noise_multiplier=1.0, unit="interaction", trust="local") for _ in range(2))
    assert few.releases == many.releases
    sizes = [
        {name: (a.shape, a.dtype, a.nbytes) for name, a in client_round(
            few.model, few.start().shared, histories(one.train.catalogue, [list(range(n))]), few.plan(1), 0
        ).arrays.items()}
        for n in (32, 33)
    ]  # fmt: skip
    assert sizes[0] == sizes[1]


def test_an_empty_poisson_batch_is_noised_all_the_same() -> None:
    pytest.importorskip("opacus")
    one = Case.of({**MF, "user_vector": "public"}, training={"backend": "opacus", "epochs": 1})
    federation = one.federation(noise_multiplier=1.0, unit="interaction", trust="local")
    nobody = histories(one.train.catalogue, [[]])
    sent = client_round(federation.model, federation.start().shared, nobody, federation.plan(1), 0)
    assert all(np.all(array != 0) for array in sent.arrays.values())


def test_counts_losses_and_metrics_are_not_sent() -> None:
    """What a node's handlers put beside the vector is known to the server: place, attempt, planned users."""
    source = (ROOT / "flower" / "clientapp.py").read_text()
    assert not [word for word in ("rejected", "loss", "MetricRecord", "num-examples", "n_events") if word in source]


def test_dropouts_and_colluders_take_their_noise_along() -> None:
    mechanism = Mechanism(2.0, 1.0, min_cohort=60, colluders=10)
    assert mechanism.total_std(50) == pytest.approx(2.0)  # the honest of the least cohort make up all of it
    one = case(federation={"rounds": 2, "min_cohort": 60})
    federation = one.federation(noise_multiplier=2.0)
    state, plan = federation.start(), federation.plan(1)
    few = client_round(federation.model, state.shared, one.train.take(np.arange(59)), plan, part=0)
    with pytest.raises(RoundFailedError, match="nothing was released"):
        federation.finish(state, plan, [few])


def test_a_retried_vector_has_new_noise_and_a_new_charge(tmp_path: Path) -> None:
    one = case()
    federation = one.federation(noise_multiplier=2.0)
    ledger = Ledger(tmp_path / "ledger.jsonl", opening())
    shared, sent = federation.start().shared, []
    for attempt in (0, 1):
        plan = federation.plan(1, attempt)
        ledger.reserve(1, attempt, plan.event(), plan.mechanism.events())
        sent.append(client_round(federation.model, shared, one.train, plan, part=0).arrays["bias"])
    assert np.all(sent[0] != sent[1])
    assert len(ledger.events("user")) == 2


def test_floating_point_seeded_and_forked_noise_is_no_devices_noise() -> None:
    """A secure source needs integers, and a forked child does not repeat its parent's stream."""
    with pytest.raises(ValueError, match="floating-point noise is no guarantee"):
        case().experiment.replaced(privacy={"epsilon": 8.0, "source": "secure", "noise": "gaussian"})
    words = SecureWords()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, words.words(8).tobytes())
        os._exit(0)
    mine = words.words(8)
    os.waitpid(child, 0)
    assert not np.any(np.frombuffer(os.read(read, 64), np.uint64) == mine)
    os.close(read)
    os.close(write)


def test_one_malicious_client_under_masks_is_noticed_where_the_sum_is_out_of_range() -> None:
    one = case()
    federation = one.federation(noise_multiplier=1.0, noise="skellam")
    state, plan = federation.start(), federation.plan(1)
    shard = client_round(federation.model, state.shared, one.train, plan, part=0)
    spoiled = {name: array + np.asarray(2**30, array.dtype) for name, array in shard.arrays.items()}
    with pytest.raises(ContributionError, match="beyond what 100 clipped vectors"):
        federation.finish(state, plan, [replace(shard, arrays=spoiled)])


def test_a_device_cannot_check_others_noise_so_the_sum_is_tested() -> None:
    """An honest share proves a tenth of the sum's noise here; what is missing, canaries find (in the audits' tests)."""
    mechanism = Mechanism(2.0, 1.0, min_cohort=100)
    assert mechanism.share_std(1) == pytest.approx(mechanism.total_std(100) / 10)


def test_a_server_that_shows_different_ledgers_is_found_by_their_checkpoints(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key, shown = Ed25519PrivateKey.generate(), []
    for name, sigma in (("one", 2.0), ("other", 3.0)):
        ledger = Ledger(tmp_path / name, opening())
        plan = case().federation(noise_multiplier=sigma).plan(1)
        ledger.reserve(1, 0, plan.event(), plan.mechanism.events())
        shown.append((ledger.checkpoint(key), ledger.lines))
    proofs.verify_checkpoint(*shown[0])
    with pytest.raises(LedgerError):
        proofs.verify_checkpoint(shown[0][0], shown[1][1])


def test_opacus_is_used_without_what_is_wrong_or_dead_in_it() -> None:
    """No ghost clipping, no make_private, no secure_mode, no padding_idx, no attention of its own."""
    banned = ("make_private", "GradSampleModuleFastGradientClipping", "secure_mode", "padding_idx", "DPMultihead")
    code = {path: ast.dump(without_docstrings(ast.parse(path.read_text()))) for path in ROOT.rglob("*.py")}
    assert not [f"{path.name}: {word}" for path, text in code.items() for word in banned if word in text]


def test_flowers_own_privacy_and_masks_are_not_used() -> None:
    """fedrec clips, checks and masks itself."""
    banned = (
        "dp_fixed_clipping",
        "dp_adaptive_clipping",
        "DifferentialPrivacy",
        "secaggplus",
        "SecAgg",
        "fixedclipping_mod",
    )
    for path in (ROOT / "flower").rglob("*.py"):
        text = ast.dump(without_docstrings(ast.parse(path.read_text())))
        assert not [word for word in banned if word in text], path


def test_settings_tuned_on_private_data_are_listed_as_not_accounted() -> None:
    from fedrec.engines.outcome import unprotected
    from fedrec.engines.setting import load_setting

    listed = unprotected(load_setting(case().experiment.replaced(privacy={"epsilon": 8.0, "noise_multiplier": 2.0})))
    assert any("tuning" in line and "not accounted" in line for line in listed)


def test_nothing_is_unmasked_for_a_server_that_calls_a_survivor_dropped() -> None:
    """The classic attack on secure aggregation: two views of who is left, to get both secrets of a victim."""
    identities, roster = local.enrol(6)
    terms = Terms(os.urandom(32), 4, choose=lambda n: parameters.choose(n, 0.0, 0.0))
    clients = dict(enumerate(local.make_clients(identities, roster, terms)))
    server = Server(terms, roster, Attempt(1, 0), roster, 4)
    vectors = np.ones((6, 4), np.uint32)
    while server.phase is not Phase.AGREE:
        for who, message in server.routes.items():
            server.receive(who, local.answer(clients[who], server.phase, message, vectors[who]))
        server.advance()
    honest = server.routes[0]
    clients[0].agree(honest)
    with pytest.raises(ProtocolError):
        clients[0].agree(honest)  # one statement an attempt, whatever it says
    with pytest.raises(ProtocolError, match="do not include this device"):
        clients[1].agree(honest[:-1] + messages.bitmap(np.arange(6) != 1))


def test_a_budget_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", {**opening(), "epsilon": "1.0"})
    plan = case().federation(noise_multiplier=0.5).plan(1)
    with pytest.raises(BudgetExceededError):
        ledger.reserve(1, 0, plan.event(), plan.mechanism.events())
    assert len(ledger.lines) == 1


def opening() -> dict[str, Any]:
    return {"unit": "user", "delta": "1e-05", "epsilon": None, "run": "0" * 64}


def without_docstrings(tree: ast.AST) -> ast.AST:
    """What a module does, without what it says."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            del body[0]
            if not body:
                body.append(ast.Pass())
    return tree
