"""Recommending from a real store: what is met is left out, changes count at once, and what is missing is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.device import history
from fedrec.device.received import NO_MODEL, OTHER_CATALOGUE
from fedrec.device.recommend import NEWCOMER, NOTHING_KNOWN, Adviser, Recommendations, recommend
from fedrec.device.store import Store
from fedrec.errors import DeviceError, UsageError
from fedrec.models.base import Shared, build
from tests.device.stored import catalogue, experiment, mf_model, new_store, put_catalogue, put_model

N = 60


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A device that has seen three items and holds an MF model."""
    with new_store(tmp_path) as made:
        put_catalogue(made, catalogue(N))
        put_model(made, experiment(catalogue(N), name="mf", dimension=8), mf_model(N))
        for at, item in enumerate(("i3", "i5", "i8"), start=1):
            history.record(made, item, at=at)
        yield made


def ids(found: Recommendations) -> list[str]:
    return [one.item for one in found.items]


def test_the_list_is_the_model_s_order_without_what_is_met(store: Store) -> None:
    found = recommend(store, k=N)
    items = catalogue(N)
    model = build(experiment(items, name="mf", dimension=8))
    user = history.interactions(store, items)
    scores = model.score(mf_model(N), model.personalise(mf_model(N), user))[0]
    order = [f"i{number}" for number in np.argsort(-scores) if number not in (3, 5, 8)]
    assert ids(found) == order
    assert [one.score for one in found.items] == pytest.approx(np.sort(np.delete(scores, [3, 5, 8]))[::-1])
    assert (found.experiment, found.round, found.note) == (experiment(items, name="mf", dimension=8).digest(), 3, "")
    assert ids(recommend(store, k=4)) == order[:4]


def test_each_score_is_the_sum_of_its_reasons_and_names_only_what_was_met(store: Store) -> None:
    for one in recommend(store, k=N, most_reasons=2).items:
        assert sum(reason.amount for reason in one.reasons) == pytest.approx(one.score, rel=1e-4, abs=1e-5)
        assert {reason.item for reason in one.reasons if reason.kind == "history"} <= {"i3", "i5", "i8"}


def test_what_happens_counts_at_once(store: Store) -> None:
    adviser = Adviser(store)
    first = ids(adviser.top(5))
    history.record(store, first[0])
    assert first[0] not in ids(adviser.top(N))
    history.feedback(store, first[1], "hidden")
    assert first[1] not in ids(adviser.top(N))
    history.forget(store, first[0])
    assert first[0] in ids(adviser.top(N))


def test_a_change_by_another_process_s_connection_counts_too(store: Store) -> None:
    adviser = Adviser(store)
    first = ids(adviser.top(5))
    with Store(store.path) as other:
        history.record(other, first[0])
        assert first[0] not in ids(adviser.top(5))
        items = catalogue(N)
        put_model(other, experiment(items, name="popularity"), {"popularity": -np.arange(N, dtype=np.float32)}, 9)
    found = adviser.top(4)
    assert found.round == 9
    assert set(ids(found)) <= {"i0", "i1", "i2", "i4", "i6", "i7"}


def test_liking_an_item_raises_what_is_like_it(tmp_path: Path) -> None:
    with new_store(tmp_path) as store:
        items = catalogue(N)
        shared: Shared = {**mf_model(N), "bias": np.zeros(N, np.float32)}
        shared["table"][7] = shared["table"][3]
        put_catalogue(store, items)
        put_model(store, experiment(items, name="mf", dimension=8, content_weight=0.0), shared)
        history.record(store, "i20")
        adviser = Adviser(store)
        before = ids(adviser.top(N)).index("i7")
        history.feedback(store, "i3", "liked")
        assert ids(adviser.top(N)).index("i7") < before or before == 0
        assert "i3" in {reason.item for one in adviser.top(N).items if one.item == "i7" for reason in one.reasons}


def test_the_dials_change_the_list_and_not_its_scores(store: Store) -> None:
    plain = {one.item: one.score for one in recommend(store, k=N).items}
    for found in (recommend(store, k=5, diversity=0.9), recommend(store, k=5, novelty=0.9)):
        assert ids(found) != ids(recommend(store, k=5))
        assert all(plain[one.item] == one.score for one in found.items)


@pytest.mark.parametrize("k", [0, -1])
def test_a_list_of_nothing_is_refused(store: Store, k: int) -> None:
    with pytest.raises(UsageError, match="at least one item"):
        recommend(store, k=k)


# New users


@pytest.mark.parametrize("name", ["popularity", "gram", "mf"])
def test_someone_without_a_history_is_told_what_is_popular(tmp_path: Path, name: str) -> None:
    popular = np.linspace(3, 0.1, N)
    shared: dict[str, Shared] = {
        "popularity": {"popularity": popular.astype(np.float32)},
        "gram": {
            "popularity": np.log(popular).astype(np.float32),
            "items": np.arange(N),
            "factor": mf_model(N)["table"],
            "item_weight": np.ones(N, np.float32),
        },
        "mf": {**mf_model(N), "bias": np.zeros(N, np.float32), "item_weight": (popular**-0.5).astype(np.float32)},
    }
    with new_store(tmp_path) as store:
        put_catalogue(store, catalogue(N))
        put_model(store, experiment(catalogue(N), name=name), shared[name])
        found = recommend(store, k=5)
        assert ids(found) == ["i0", "i1", "i2", "i3", "i4"]
        assert found.note == ("" if name == "popularity" else NEWCOMER)
        for one in found.items:
            assert {reason.kind for reason in one.reasons} == {"popularity"}
            assert sum(reason.amount for reason in one.reasons) == pytest.approx(one.score)


def test_where_nothing_at_all_is_known_that_is_said(tmp_path: Path) -> None:
    with new_store(tmp_path) as store:
        put_catalogue(store, catalogue(N))
        put_model(
            store, experiment(catalogue(N), name="mf", dimension=8), {**mf_model(N), "bias": np.zeros(N, np.float32)}
        )
        found = recommend(store, k=5)
        assert (len(found.items), found.note) == (5, NOTHING_KNOWN)


# New items


@pytest.mark.parametrize("genres", [True, False])
def test_items_that_the_model_does_not_know_are_placed_by_features_or_last(store: Store, genres: bool) -> None:
    store.put(f"catalogue-{_hash(catalogue(N))}", store.get("catalogue") or b"")
    put_catalogue(store, catalogue(N + 20, genres=genres))
    found = recommend(store, k=2 * N)
    assert len(found.items) == N + 20 - 3
    old = [one for one in found.items if int(one.item[1:]) < N]
    new = [one for one in found.items if int(one.item[1:]) >= N]
    assert len(new) == 20
    for one in found.items:
        assert sum(reason.amount for reason in one.reasons) == pytest.approx(one.score, rel=1e-4, abs=1e-5)
    assert all({reason.kind for reason in one.reasons} <= {"new", "features"} for one in new)
    assert all("new" not in {reason.kind for reason in one.reasons} for one in old)
    if not genres:
        assert max(one.score for one in new) <= min(one.score for one in old)


def test_a_new_item_like_what_is_seen_comes_before_one_unlike_it(tmp_path: Path) -> None:
    """The model's scores follow the genres, so the new items' do as well."""
    old, wide = catalogue(N), catalogue(N + 20)
    assert wide.genres is not None
    genre = wide.genres.argmax(axis=1)
    seen = [int(item) for item in np.flatnonzero(genre[:N] == 0)[:3]]
    with new_store(tmp_path) as store:
        put_model(store, experiment(old, name="mf", dimension=3), {**mf_model(N, 3), "table": wide.genres[:N]})
        put_catalogue(store, old)
        store.put(f"catalogue-{_hash(old)}", store.get("catalogue") or b"")
        put_catalogue(store, wide)
        for item in seen:
            history.record(store, f"i{item}")
        scores = {int(one.item[1:]): one.score for one in recommend(store, k=100).items}
        like = [scores[item] for item in range(N, N + 20) if genre[item] == 0]
        unlike = [scores[item] for item in range(N, N + 20) if genre[item] != 0]
        assert min(like) > max(unlike)


def test_an_item_that_is_gone_is_not_recommended(store: Store) -> None:
    store.put(f"catalogue-{_hash(catalogue(N))}", store.get("catalogue") or b"")
    order = ids(recommend(store, k=N))
    left = [number for number in range(N) if f"i{number}" != order[0]][::-1]
    put_catalogue(store, catalogue(N).take(np.array(left)))
    assert ids(recommend(store, k=N)) == order[1:]


@settings(max_examples=15, deadline=None)
@given(grown=st.integers(0, 15), dials=st.tuples(st.floats(0, 1), st.floats(0, 1)), k=st.integers(1, 90))
def test_no_dial_and_no_length_fails_on_a_newer_catalogue(
    tmp_path_factory: pytest.TempPathFactory, grown: int, dials: tuple[float, float], k: int
) -> None:
    with new_store(tmp_path_factory.mktemp("device")) as store:
        put_catalogue(store, catalogue(N))
        put_model(store, experiment(catalogue(N), name="mf", dimension=8), mf_model(N))
        store.put(f"catalogue-{_hash(catalogue(N))}", store.get("catalogue") or b"")
        put_catalogue(store, catalogue(N + grown))
        history.record(store, f"i{N}")
        history.record(store, "i1")
        found = recommend(store, k=k, diversity=dials[0], novelty=dials[1])
        assert len(set(ids(found))) == len(found.items) == min(k, N + grown - (2 if grown else 1))


# What is missing or damaged


def test_without_a_model_features_decide(store: Store) -> None:
    store.remove("model")
    found = recommend(store, k=5)
    assert (found.note, found.experiment) == (NO_MODEL, "")
    assert {reason.kind for one in found.items for reason in one.reasons} == {"features"}


def test_with_a_model_of_an_unknown_catalogue_features_decide(store: Store) -> None:
    put_catalogue(store, catalogue(N + 1))
    assert recommend(store, k=5).note == OTHER_CATALOGUE


def test_without_model_and_features_there_is_nothing(store: Store) -> None:
    store.remove("model")
    put_catalogue(store, catalogue(N, genres=False))
    with pytest.raises(DeviceError, match=r"no model has arrived.*features.*fedrec device sync"):
        recommend(store)


def test_without_a_catalogue_there_is_nothing(tmp_path: Path) -> None:
    with new_store(tmp_path) as store, pytest.raises(DeviceError, match="no catalogue of items yet"):
        recommend(store)


@pytest.mark.parametrize(
    "shared",
    [
        {"table": np.ones((N, 8), np.float32)},
        {**mf_model(N), "bias": np.ones(N + 1, np.float32)},
        {**mf_model(N - 1)},
        {**mf_model(N), "bias": np.full(N, np.nan, np.float32)},
    ],
    ids=["an array missing", "a wrong shape", "of another size", "not finite"],
)
def test_a_model_that_does_not_fit_is_named(store: Store, shared: Shared) -> None:
    put_model(store, experiment(catalogue(N), name="mf", dimension=8), shared)
    with pytest.raises(DeviceError, match=r"stored model does not .*fedrec device sync"):
        recommend(store)


def test_a_model_that_is_no_file_of_arrays_is_named(store: Store) -> None:
    store.put("model", b"nonsense")
    with pytest.raises(DeviceError, match="stored model is not readable"):
        recommend(store)


def test_a_model_without_its_experiment_is_named(store: Store) -> None:
    store.remove(f"experiment-{experiment(catalogue(N), name='mf', dimension=8).digest()}")
    with pytest.raises(DeviceError, match="a model but not its experiment"):
        recommend(store)


def test_another_experiment_in_its_place_is_named(store: Store) -> None:
    name = f"experiment-{experiment(catalogue(N), name='mf', dimension=8).digest()}"
    store.put(name, experiment(catalogue(N), name="mf", dimension=9).to_toml().encode())
    with pytest.raises(DeviceError, match="is another one"):
        recommend(store)


def _hash(of: object) -> str:
    from fedrec.data.interactions import Catalogue
    from fedrec.device.catalogue import digest, to_bytes

    assert isinstance(of, Catalogue)
    return digest(to_bytes(of))
