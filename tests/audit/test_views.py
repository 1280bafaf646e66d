"""What holds against whom: checked against mechanisms that are sized for exactly what an observer does not know."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.audit.views import UNITS, Charge, coalitions, declared, views
from fedrec.privacy.events import GaussianEvent, SkellamEvent
from fedrec.privacy.grid import Grid
from fedrec.privacy.mechanism import Mechanism, Trust

DELTA = 1e-5
GRID = Grid(1000, 1.0)


def mechanism(trust: Trust = "distributed", integers: bool = True) -> Mechanism:
    """Noise for 20 users, 4 of whom may collude."""
    colluders = 4 if trust == "distributed" else 0
    grid = GRID if integers and trust != "central" else None
    return Mechanism(3.0, 1.0, trust, 20, colluders, interaction=0.5, grid=grid, bits=32)


def charge(of: Mechanism) -> Charge:
    return Charge(of.trust, of.min_cohort, of.colluders, of.events())


@given(known=st.integers(0, 19), integers=st.booleans(), unit=st.sampled_from(UNITS))
def test_an_observer_faces_the_shares_that_it_does_not_know(known: int, integers: bool, unit: str) -> None:
    of = mechanism(integers=integers)
    found = charge(of).against(unit, known)
    # The same shares, declared for a mechanism that leaves out exactly what the observer knows.
    same = replace(of, noise_multiplier=of.share_std(20 - known), colluders=known)
    assert same.share_std(1) == pytest.approx(of.share_std(1))
    wanted = same.events()[unit]
    if isinstance(wanted, SkellamEvent):
        assert isinstance(found, SkellamEvent)
        assert (found.l2, found.l1) == (wanted.l2, wanted.l1)
        assert found.variance == pytest.approx(wanted.variance)
        assert found.distance == pytest.approx(wanted.distance)
    else:
        assert isinstance(found, GaussianEvent)
        assert found.noise_multiplier == pytest.approx(wanted.noise_multiplier)


def test_who_knows_all_of_the_noise_is_promised_nothing() -> None:
    assert charge(mechanism()).against("user", 20) is None


@pytest.mark.parametrize("integers", [True, False])
def test_the_colluders_that_noise_is_sized_for_face_what_is_declared(integers: bool) -> None:
    charges = [charge(mechanism(integers=integers))] * 2
    by_name = {view.observer: view.epsilon for view in views(charges, DELTA)}
    stated = declared(charges, DELTA)
    assert by_name["the server with 4 clients"] == stated
    for unit in UNITS:
        alone, client, all_four = (by_name[name][unit] for name in ("the server", "another client", "the public"))
        assert alone == all_four
        assert alone is not None
        assert client is not None
        assert alone < client < (stated[unit] or 0)


def test_without_declared_colluders_another_client_knows_more_than_is_declared() -> None:
    of = replace(mechanism(), colluders=0)
    by_name = {view.observer: view.epsilon["user"] for view in views([charge(of)], DELTA) if view.epsilon}
    assert by_name["the server"] == declared([charge(of)], DELTA)["user"]
    assert (by_name["another client"] or 0) > (by_name["the server"] or math.inf)


def test_under_trust_local_the_server_faces_one_noise_and_others_that_of_all() -> None:
    charges = [charge(mechanism("local"))]
    by_name = {view.observer: view.epsilon for view in views(charges, DELTA)}
    assert by_name["the server"] == declared(charges, DELTA)
    assert (by_name["the public"]["user"] or math.inf) < 0.5 * (by_name["the server"]["user"] or 0)
    assert coalitions(charges, DELTA) == ()


def test_under_trust_central_nothing_is_hidden_from_the_server() -> None:
    charges = [charge(mechanism("central"))]
    by_name = {view.observer: view.epsilon for view in views(charges, DELTA)}
    assert by_name["the server"] == {"user": None, "interaction": None}
    assert by_name["another client"] == by_name["the public"] == declared(charges, DELTA)


def test_every_view_says_that_a_device_hides_nothing_from_itself() -> None:
    for trust in ("distributed", "local", "central"):
        assert views([charge(mechanism(trust))], DELTA)[-1].epsilon == {}


def test_the_more_collude_the_less_is_promised() -> None:
    found = coalitions([charge(mechanism())] * 3, DELTA)
    assert [one.colluders for one in found] == [0, 1, 2, 4, 10]
    for unit in UNITS:
        epsilons = [one.epsilon[unit] or math.inf for one in found]
        assert epsilons == sorted(epsilons)
        assert epsilons[0] < epsilons[-1]


def test_noise_inside_of_local_training_is_priced_as_declared_for_everybody() -> None:
    event = GaussianEvent(2.0)
    inside = Charge("local", 20, 0, {"interaction": event})
    assert inside.inside
    assert not charge(mechanism("local")).inside
    assert all(inside.against("interaction", known) == event for known in (0, 1, 20))
    assert inside.against("user", 0) is None
    for view in views([inside] * 2, DELTA)[:-1]:
        assert view.epsilon == {"user": None, "interaction": declared([inside] * 2, DELTA)["interaction"]}


def test_nothing_charged_is_nothing_to_see() -> None:
    assert views([], DELTA) == ()
    assert coalitions([], DELTA) == ()
