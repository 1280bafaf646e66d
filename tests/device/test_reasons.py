"""Reasons add up: every part of every model's score, on any history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.config import resolve
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.device.reasons import Anatomy, dissect, dissect_features, reasons
from fedrec.models.base import Personal, Recommender, Shared, build
from fedrec.models.history import unit_rows

ITEMS = 40
GENRES = ("comedy", "drama", "horror")


def catalogue(n: int = ITEMS, genres: bool = True) -> Catalogue:
    draw = np.random.default_rng(n)
    return Catalogue(
        ids=np.array([f"i{number}" for number in range(n)]),
        titles=np.array([f"Title {number}" for number in range(n)]),
        years=draw.integers(1980, 2000, n).astype(float),
        genre_names=GENRES if genres else (),
        genres=draw.integers(0, 2, (n, len(GENRES))).astype(np.float32) if genres else None,
    )


def history(items: list[int], genres: bool = True) -> Interactions:
    times = np.arange(len(items)) * 60
    return Interactions(
        "me", np.array([0, len(items)]), np.array(items, np.int32), catalogue(genres=genres), times=times
    )


def make(name: str, **options: Any) -> Recommender:
    return build(resolve({"data": "synthetic", "model": {"name": name, **options}, "training": {"backend": "auto"}}))


def rows(seed: int, *shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


SOME = np.arange(0, ITEMS, 2)
GRAM: Shared = {"popularity": rows(1, ITEMS), "items": SOME}

CASES: dict[str, tuple[Recommender, Shared]] = {
    "popularity": (make("popularity"), {"popularity": rows(2, ITEMS)}),
    "gram, spectral": (
        make("gram", popularity_weight=0.3, content_weight=0.4),
        {**GRAM, "items": np.arange(ITEMS), "factor": rows(3, ITEMS, 5), "item_weight": np.abs(rows(4, ITEMS))},
    ),
    "gram, spectral on some items": (
        make("gram", popularity_weight=0.3, content_weight=0.4, recency=0.0),
        {**GRAM, "factor": rows(3, len(SOME), 5), "item_weight": np.abs(rows(4, len(SOME)))},
    ),
    "gram, EASE on some items": (
        make("gram", solver="ease", popularity_weight=0.2),
        {**GRAM, "weights": rows(5, len(SOME), len(SOME))},
    ),
    "gram, after a round of popularity": (make("gram", popularity_weight=0.5), GRAM),
    "mf": (
        make("mf", dimension=6, content_weight=0.5),
        {"table": rows(6, ITEMS, 6), "bias": rows(7, ITEMS), "item_weight": np.abs(rows(8, ITEMS))},
    ),
    "mf, after a round of popularity": (make("mf", popularity_weight=0.5, top_items=20), GRAM),
    "ncf": (
        make("ncf", dimension=4, hidden=(6, 3)),
        {
            "table": rows(9, ITEMS, 4),
            "bias": rows(10, ITEMS),
            **{f"weight{depth}": rows(depth, *shape) for depth, shape in enumerate([(6, 8), (3, 6), (1, 3)])},
            **{f"offset{depth}": rows(20 + depth, size) for depth, size in enumerate([6, 3, 1])},
        },
    ),
}


@dataclass(frozen=True)
class Unknown(Recommender):
    """A model of a third party, of which nothing is known but its verbs."""

    def releases(self, *_: Any) -> Any:
        return ()

    def init(self, *_: Any) -> Shared:
        return {}

    def contribute(self, *_: Any) -> Any:
        return None

    def apply(self, shared: Shared, *_: Any) -> Shared:
        return shared

    def personalise(self, shared: Shared, users: Interactions) -> Personal:
        return {"sum": np.array([[shared["table"][users.items].sum()]])}

    def score(self, shared: Shared, personal: Personal) -> Any:
        return np.tanh(personal["sum"] + shared["table"][None])


CASES["of a third party"] = (Unknown(None, make("mf").training, make("mf").federation), {"table": rows(11, ITEMS)})

histories = st.lists(st.integers(0, ITEMS - 1), max_size=15, unique=True)


def total(anatomy: Anatomy) -> np.ndarray[Any, Any]:
    history_s = anatomy.pull(np.arange(ITEMS)).sum(axis=1)
    return np.asarray(np.sum([history_s, *anatomy.whole.values()], axis=0))


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25, deadline=None)
@given(items=histories, genres=st.booleans())
def test_the_parts_add_up_to_the_model_s_own_score(name: str, items: list[int], genres: bool) -> None:
    model, shared = CASES[name]
    user = history(items, genres)
    anatomy = dissect(model, shared, user)
    score = model.score(shared, model.personalise(shared, user))[0]
    np.testing.assert_array_equal(anatomy.scores, score)
    assert anatomy.pull(np.arange(ITEMS)).shape == (ITEMS, len(items))
    np.testing.assert_allclose(total(anatomy), score, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=10, deadline=None)
@given(items=histories, most=st.integers(0, 5))
def test_the_reasons_of_an_item_add_up_whatever_is_named(name: str, items: list[int], most: int) -> None:
    model, shared = CASES[name]
    user = history(items)
    anatomy = dissect(model, shared, user)
    for item, found in enumerate(reasons(anatomy, user, user.catalogue, np.arange(ITEMS), most)):
        assert sum(one.amount for one in found) == pytest.approx(anatomy.scores[item], rel=1e-4, abs=2e-5)
        assert not found or sum(one.share for one in found) == pytest.approx(1)
        named = [one for one in found if one.kind == "history"]
        assert len(named) <= most
        assert {one.item for one in named} <= {f"i{number}" for number in items}
        assert [one.amount for one in found] == sorted((one.amount for one in found), reverse=True)


@pytest.mark.parametrize("name", ["gram, spectral", "gram, spectral on some items", "gram, EASE on some items", "mf"])
def test_an_item_s_part_is_what_it_adds_where_scale_and_norm_are_fixed(name: str) -> None:
    """The part of an item, on its own, is linear: it does not depend on the others but through one common scale."""
    model, shared = CASES[name]
    model = make(model.config.name, **{**model.config.model_dump(exclude={"name"}), "recency": 0.0})
    alone = dissect(model, shared, history([4])).pull(np.arange(ITEMS))[:, 0]
    among = dissect(model, shared, history([8, 4, 30])).pull(np.arange(ITEMS))[:, 1]
    scale = (alone @ among) / (alone @ alone)
    assert scale > 0
    np.testing.assert_allclose(among, scale * alone, rtol=1e-3, atol=1e-4)


def test_the_history_item_that_is_most_alike_is_named_first() -> None:
    table = unit_rows(rows(12, ITEMS, 6))
    table[7] = table[3]
    shared = {"table": table, "bias": np.zeros(ITEMS, np.float32), "item_weight": np.ones(ITEMS, np.float32)}
    user = history([1, 3, 5])
    (found,) = reasons(dissect(make("mf", dimension=6), shared, user), user, user.catalogue, np.array([7]), 2)
    first = next(one for one in found if one.kind == "history")
    assert (first.item, first.title) == ("i3", user.catalogue.title(3))
    assert str(first).startswith("because you saw Title 3 (19")


def test_a_network_that_says_nothing_has_no_part() -> None:
    model, shared = CASES["ncf"]
    silent = {**shared, "weight2": np.zeros((1, 3), np.float32), "offset2": np.zeros(1, np.float32)}
    np.testing.assert_allclose(dissect(model, silent, history([1, 2])).whole["together"], 0, atol=1e-5)


def test_leaving_one_out_of_a_network_would_not_add_up() -> None:
    """Why the network's part is one: differences of leaving one item out are not parts of the score."""
    model, shared = CASES["ncf"]
    items = [3, 9, 21]
    full = dissect(model, shared, history(items)).scores
    left = [dissect(model, shared, history([one for one in items if one != out])).scores for out in items]
    nobody = dissect(model, shared, history([])).scores
    assert np.abs(sum(full - one for one in left) + nobody - full).max() > 0.1


def test_features_alone_explain_where_there_is_no_model() -> None:
    anatomy = dissect_features(catalogue(), history([1, 2]))
    assert anatomy is not None
    np.testing.assert_allclose(total(anatomy), anatomy.scores)
    assert dissect_features(catalogue(), history([])) is None
    assert dissect_features(catalogue(genres=False), history([1], genres=False)) is None
