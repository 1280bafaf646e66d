"""The history: told once or twice, it is kept once; and what a device trains on is what simulations train on."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.config import DataConfig
from fedrec.data.ingest import Events, build
from fedrec.data.interactions import Catalogue
from fedrec.device import history
from fedrec.device.history import Event
from fedrec.device.store import Store
from fedrec.errors import DataError, UsageError

CATALOGUE = Catalogue(np.array(["d", "c", "b", "a"]))
"""Not in the order of letters: the numbers are the catalogue's."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "store.sqlite") as made:
        yield made


def add(store: Store, *events: Event) -> None:
    with store.transaction() as connection:
        history.insert(connection, events, "test")


def positives(store: Store) -> str:
    """The positives' ids in their order, as one word."""
    return "".join(CATALOGUE.ids[history.interactions(store, CATALOGUE).items])


def test_an_event_is_one_however_often_it_is_told(store: Store) -> None:
    assert history.record(store, "a", at=5)
    assert not history.record(store, "a", at=5)
    assert history.record(store, "a", at=6)
    assert history.record(store, "a", "liked", at=5)
    add(store, Event("b"), Event("b"))  # without a time, too
    assert history.counts(store) == history.Counts(4, 2, {"seen": 3, "liked": 1, "skipped": 0, "hidden": 0})


def test_a_rating_told_later_is_learned_and_none_is_forgotten(store: Store) -> None:
    history.record(store, "a", at=5)
    history.record(store, "a", at=5, rating=4.5)
    history.record(store, "a", at=5)
    assert store.query("SELECT rating FROM interactions") == [(4.5,)]


def test_what_happens_now_has_a_time(store: Store) -> None:
    before = int(time.time())
    history.record(store, "a")
    history.feedback(store, "a", "liked")
    ((least, most),) = store.query("SELECT min(at), max(at) FROM interactions")
    assert before <= least <= most <= time.time()


def test_positives_are_in_the_order_of_time_with_the_catalogue_s_numbers(store: Store) -> None:
    for item, at in (("b", 30), ("a", 10), ("unknown", 20), ("c", -5), ("a", 40)):
        history.record(store, item, at=at)
    found = history.interactions(store, CATALOGUE, number=7)
    assert found.items.tolist() == [1, 3, 2]
    assert found.items.dtype == np.int32
    assert found.times is not None
    assert found.times.tolist() == [-5, 10, 30]
    assert (found.n_users, found.users.tolist(), found.n_items) == (1, [7], 4)
    assert history.counts(store).items == 4  # the unknown one waits for a catalogue that has it
    learned = Catalogue(np.array(["unknown", "a"]))
    assert history.interactions(store, learned).items.tolist() == [1, 0]


def test_nothing_at_all_is_a_user_without_events(store: Store) -> None:
    found = history.interactions(store, CATALOGUE)
    assert (found.n_users, found.n_events) == (1, 0)
    assert history.excluded(store) == set()
    add(store, Event("unknown", at=1))
    assert history.interactions(store, CATALOGUE).n_events == 0


def test_events_without_a_time_come_first_as_written(store: Store) -> None:
    add(store, Event("a", at=-100), Event("c"), Event("b"))
    assert positives(store) == "cba"
    assert history.interactions(store, CATALOGUE).times is None


def test_the_threshold_decides_where_there_is_a_rating(store: Store) -> None:
    add(store, Event("a", at=1, rating=3.5), Event("b", at=2, rating=4), Event("c", at=3))
    assert positives(store) == "abc"
    history.set_min_rating(store, 4)
    assert history.min_rating(store) == 4
    assert positives(store) == "bc"
    history.feedback(store, "a", "liked", at=4)
    assert positives(store) == "bca"
    with pytest.raises(DataError, match="nan is not a rating"):
        history.set_min_rating(store, float("nan"))


@pytest.mark.parametrize(
    ("told", "positive", "excluded"),
    [
        ("seen", True, True),
        ("liked", True, True),
        ("skipped", False, False),
        ("hidden", False, True),
        ("skipped liked", True, True),
        ("liked skipped", False, True),
        ("hidden liked", True, True),
        ("liked hidden", False, True),
        ("seen skipped", False, True),
        ("skipped seen", True, True),
        ("hidden seen", False, True),
        ("seen hidden liked", True, True),
        ("hidden skipped", False, False),
    ],
)
def test_the_latest_word_counts(store: Store, told: str, positive: bool, excluded: bool) -> None:
    events = [Event("a", kind, at) for at, kind in enumerate(told.split())]
    add(store, *reversed(events))  # the times decide, not the order of writing
    assert positives(store) == ("a" if positive else "")
    assert history.excluded(store) == ({"a"} if excluded else set())


def test_forgetting_an_item_forgets_all_of_it(store: Store) -> None:
    add(store, Event("a", at=1), Event("a", "hidden", 2), Event("b", at=3))
    assert history.forget(store, "a") == 2
    assert history.forget(store, "a") == 0
    assert positives(store) == "b"
    assert history.excluded(store) == {"b"}


@pytest.mark.parametrize(
    ("item", "at", "rating", "told"),
    [
        ("", 1, None, "1 to 200 bytes"),
        ("a\nb", 1, None, "control character"),
        ("a", 10**12, None, "is not a time in whole seconds"),
        ("a", 1.5, None, "is not a time in whole seconds"),
        ("a", 1, float("inf"), "is not a rating"),
    ],
)
def test_what_cannot_have_happened(store: Store, item: str, at: int, rating: float | None, told: str) -> None:
    with pytest.raises(DataError, match=told):
        history.record(store, item, at=at, rating=rating)
    assert history.counts(store).events == 0


def test_other_words_are_refused(store: Store) -> None:
    with pytest.raises(UsageError, match=r"liked, skipped or hidden, not 'like'. Did you mean 'liked'\?"):
        history.feedback(store, "a", "like")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"Did you mean 'seen'\?"):
        history.record(store, "a", "see")  # type: ignore[arg-type]


@pytest.mark.parametrize("word", ["disliked", "unliked", "loved", "li"])
def test_no_word_is_suggested_that_may_mean_the_opposite(store: Store, word: str) -> None:
    with pytest.raises(UsageError) as raised:
        history.feedback(store, "a", word)  # type: ignore[arg-type]
    assert str(raised.value) == f"Feedback is liked, skipped or hidden, not '{word}'."


TOLD = st.lists(
    st.builds(
        Event,
        st.sampled_from("abcdx"),
        st.sampled_from(history.KINDS),
        st.none() | st.integers(-3, 8),
        st.none() | st.sampled_from([1.0, 3.0, 5.0]),
    ),
    max_size=25,
)


def by_the_words(events: list[Event], least: float | None) -> list[str]:
    """The rule of `history.interactions`, item by item; events are distinct."""
    ordered = sorted(enumerate(events), key=lambda pair: (pair[1].at is not None, pair[1].at or 0, pair[0]))
    found: list[tuple[int, str]] = []
    for item in "abcd":
        own = [(place, event) for place, (_, event) in enumerate(ordered) if event.item == item]
        counting = [
            (place, event)
            for place, event in own
            if event.kind == "liked"
            or (event.kind == "seen" and (event.rating is None or least is None or event.rating >= least))
        ]
        words = [(place, event.kind) for place, event in own if event.kind != "seen"]
        last = words[-1] if words else (-1, "")
        seen_since = any(place > last[0] for place, event in counting)
        if counting and last[1] != "hidden" and (last[1] != "skipped" or seen_since):
            found.append((counting[0][0], item))
    return [item for _, item in sorted(found)]


@settings(max_examples=60, deadline=None)
@given(TOLD, st.none() | st.just(3.0))
def test_positives_and_exclusions_follow_the_words(told: list[Event], least: float | None) -> None:
    events = list({(event.item, event.kind, event.at): event for event in reversed(told)}.values())[::-1]
    with tempfile.TemporaryDirectory() as folder, Store.create(Path(folder) / "store.sqlite") as store:
        add(store, *events)
        if least is not None:
            history.set_min_rating(store, least)
        assert list(positives(store)) == by_the_words(events, least)
        kinds = {item: {event.kind for event in events if event.item == item} for item in "abcdx"}
        met = {item for item, own in kinds.items() if own & {"seen", "liked"}}
        assert met <= history.excluded(store) <= met | {item for item, own in kinds.items() if "hidden" in own}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9), st.sampled_from([1.0, 4.0])), min_size=1))
def test_what_was_only_seen_makes_the_interactions_of_a_simulation(seen: list[tuple[str, int, float]]) -> None:
    rows = list({(item, at): rating for item, at, rating in seen}.items())
    if not any(rating >= 4 for _, rating in rows):
        return
    with tempfile.TemporaryDirectory() as folder, Store.create(Path(folder) / "store.sqlite") as store:
        add(store, *(Event(item, at=at, rating=rating) for (item, at), rating in rows))
        history.set_min_rating(store, 4)
        mine = history.interactions(store, CATALOGUE)
    events = Events(
        np.array([b"me"] * len(rows)),
        np.array([item.encode() for (item, _), _ in rows]),
        np.array([rating for _, rating in rows]),
        np.array([float(at) for (_, at), _ in rows]),
    )
    theirs = build("simulated", events, None, DataConfig(name="x", min_rating=4))
    assert CATALOGUE.ids[mine.items].tolist() == theirs.catalogue.ids[theirs.items].tolist()
    assert mine.times is not None
    assert theirs.times is not None
    assert mine.times.tolist() == theirs.times.tolist()


def test_a_hundred_thousand_events_are_read_at_once(store: Store) -> None:
    draw = np.random.default_rng(0)
    items, at = draw.integers(0, 60_000, 100_000).tolist(), draw.integers(0, 10**9, 100_000).tolist()
    add(store, *(Event(str(item), at=time_) for item, time_ in zip(items, at, strict=True)))
    catalogue = Catalogue(np.arange(60_000).astype(str))

    def seconds() -> float:
        begin = time.process_time()
        assert history.interactions(store, catalogue).n_events == len(set(items))
        return time.process_time() - begin

    assert min(seconds() for _ in range(5)) < 0.5  # of processor time; 0.09 on an idle core
