"""The evaluator: what is a candidate when, what is read once, and whatever odd users there are."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fedrec.config import EvaluationConfig, SplitConfig
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.data.splits import Split, split
from fedrec.errors import DataError, FedrecError
from fedrec.evaluation import ranking
from fedrec.evaluation.protocol import Evaluator, Scorer
from fedrec.randomness import Key

KEY = Key(3)


def build(histories: Sequence[Sequence[int]], n_items: int, genres: Any = None) -> Interactions:
    names = () if genres is None else tuple(f"g{column}" for column in range(genres.shape[1]))
    counts = [len(history) for history in histories]
    return Interactions(
        name="tiny",
        indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        items=np.array([item for history in histories for item in history], np.int32),
        catalogue=Catalogue(np.arange(n_items).astype(str), genre_names=names, genres=genres),
        times=np.concatenate([np.arange(count) for count in counts]).astype(np.int64),
    )


def random_split(n_users: int = 300, n_items: int = 200, seed: int = 0, name: Any = "leave-one-out") -> Split:
    rng = np.random.default_rng(seed)
    histories = [rng.choice(n_items, rng.integers(1, 40), replace=False).tolist() for _ in range(n_users)]
    genres = rng.integers(0, 2, (n_items, 6)).astype(np.float32)
    return split(build(histories, n_items, genres), SplitConfig(name=name), KEY)


def knows(*parts: Interactions) -> Scorer:
    """Scores 1 for the items of these parts, by the users' own numbers, else 0."""

    def score(profiles: Interactions) -> Any:
        scores = np.zeros((profiles.n_users, profiles.n_items), np.float32)
        for part in parts:
            mine = part.take(profiles.users)
            scores[mine.user_of_event, mine.items] = 1
        return scores

    return score


def noise(profiles: Interactions) -> Any:
    table = np.random.default_rng(1).standard_normal((1000, profiles.n_items)).astype(np.float32)
    return table[profiles.users]


def test_the_report_by_hand() -> None:
    parts = split(build([[0, 1, 2, 3], [4, 0, 1], [2, 3, 4, 5], [5]], 6), SplitConfig(), KEY)
    evaluator = Evaluator(parts, EvaluationConfig(k=(1, 2), sampled=0), KEY)
    descending = np.arange(6, 0, -1.0)
    report = evaluator.test(lambda profiles: np.tile(descending, (profiles.n_users, 1)))
    # Test items 3, 1, 5 among the candidates {3, 4, 5}, {1, 2, 3, 5} and {0, 1, 5}: ranks 0, 0 and 2.
    assert report["full"]["hr@1"] == pytest.approx(2 / 3)
    assert report["full"]["hr@2"] == pytest.approx(2 / 3)
    assert report["users"] == 3
    assert report["groups"]["light"] == {"users": 3, "hr@10": 1.0, "ndcg@10": pytest.approx((1 + 1 + 0.5) / 3)}
    # training histories hold 2, 1 and 2 items: none is longer than the median
    assert report["groups"]["heavy"] == {"users": 0, "hr@10": None, "ndcg@10": None}


def test_the_report_has_every_figure_and_is_plain_json() -> None:
    evaluator = Evaluator(random_split(), EvaluationConfig(k=(5, 10)), KEY)
    report = evaluator.test(noise)
    accuracy = {f"{metric}@{k}" for metric in ("hr", "ndcg", "recall", "mrr") for k in (5, 10)}
    assert set(report) == {"full", "sampled99", "groups", "users"}
    assert set(report["sampled99"]) == accuracy
    assert set(report["full"]) == accuracy | {"coverage@10", "novelty@10", "diversity@10"}
    assert json.loads(json.dumps(report)) == report
    assert set(evaluator.validation(noise, quick=True)["full"]) == accuracy
    groups = report["groups"]
    assert groups["light"]["users"] + groups["heavy"]["users"] == report["users"]
    whole = sum(group["users"] * group["hr@10"] for group in groups.values()) / report["users"]
    assert whole == pytest.approx(report["full"]["hr@10"])


@pytest.mark.parametrize("name", ["leave-one-out", "random", "time"])
def test_a_scorer_that_knows_the_answers_gets_one(name: Any) -> None:
    parts = random_split(name=name)
    evaluator = Evaluator(parts, EvaluationConfig(k=(50,)), KEY)
    for report in (evaluator.validation(knows(parts.validation)), evaluator.test(knows(parts.test))):
        for view in ("full", "sampled99"):
            assert all(report[view][f"{metric}@50"] == pytest.approx(1.0) for metric in ("hr", "ndcg", "recall", "mrr"))


def test_items_already_met_are_no_candidates() -> None:
    parts = random_split()
    evaluator = Evaluator(parts, EvaluationConfig(k=(1,)), KEY)
    # Scoring history as high as the answer costs nothing: it is not among the candidates.
    report = evaluator.test(knows(parts.train, parts.validation, parts.test), label="all")
    assert report["full"]["hr@1"] == report["sampled99"]["hr@1"] == 1.0


def test_the_test_item_stays_a_candidate_of_validation() -> None:
    parts = random_split()
    evaluator = Evaluator(parts, EvaluationConfig(k=(1, 2)), KEY)
    test_first = knows(parts.test)
    report = evaluator.validation(lambda p: 2 * test_first(p) + knows(parts.validation)(p))
    assert (report["full"]["hr@1"], report["full"]["hr@2"]) == (0.0, 1.0)
    # the sampled negatives lie outside the whole history, the test item included
    assert report["sampled99"]["hr@1"] == 1.0


def test_test_is_read_once_for_each_label() -> None:
    evaluator = Evaluator(random_split(), EvaluationConfig(), KEY)
    evaluator.test(noise)
    evaluator.test(noise, label="popularity")
    with pytest.raises(FedrecError, match="Test was already read for 'model'"):
        evaluator.test(noise)
    evaluator.validation(noise)
    evaluator.validation(noise)


def test_the_profile_is_what_is_known_at_the_time() -> None:
    parts = random_split()
    seen: list[Interactions] = []

    def watch(profiles: Interactions) -> Any:
        seen.append(profiles)
        return noise(profiles)

    evaluator = Evaluator(parts, EvaluationConfig(), KEY)
    evaluator.validation(watch)
    evaluator.test(watch)
    evaluated = parts.test.counts > 0
    np.testing.assert_array_equal(seen[0].counts, parts.train.counts[evaluated])
    np.testing.assert_array_equal(seen[1].counts, parts.train.counts[evaluated] + 1)
    np.testing.assert_array_equal(seen[0].items, parts.train.take(np.flatnonzero(evaluated)).items)


@pytest.mark.parametrize("name", ["leave-one-out", "random"])
def test_the_size_of_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
    parts = random_split(name=name)
    whole = Evaluator(parts, EvaluationConfig(), KEY).test(noise)
    monkeypatch.setattr(ranking, "BLOCK", 700)
    monkeypatch.setattr(ranking, "_PART", 400)
    blocks = Evaluator(parts, EvaluationConfig(), KEY).test(noise)
    for view in ("full", "sampled99"):
        assert whole[view] == pytest.approx(blocks[view], abs=1e-12)


def test_a_sample_of_users_is_the_same_for_every_scorer() -> None:
    sizes: list[list[int]] = []

    def watch(profiles: Interactions) -> Any:
        sizes.append(profiles.users.tolist())
        return noise(profiles)

    evaluator = Evaluator(random_split(), EvaluationConfig(users=40), KEY)
    assert evaluator.validation(watch)["users"] == evaluator.test(watch)["users"] == 40
    assert sizes[0] == sizes[1] == sorted(sizes[0])


def test_published_negatives_are_used_for_test_and_drawn_ones_where_a_user_has_none() -> None:
    parts = random_split(n_users=60)
    n_users = parts.train.n_users
    # Two negatives each: the best item of all, and one below the held-out item; some are the held-out item itself.
    published = np.tile(np.array([[150, 151]]), (n_users, 1))
    published[0] = -1

    def score(profiles: Interactions) -> Any:
        scores = 2 * knows(parts.test)(profiles)
        scores[:, 150] = 3
        return scores

    evaluator = Evaluator(parts, EvaluationConfig(k=(1, 2), sampled=2), KEY, published)
    assert evaluator.negatives == "published"
    ranked = evaluator.rank_test(score)
    assert ranked.sampled is not None
    history = parts.history_for_test(ranked.positions)
    met = [set(history.user(row).tolist()) for row in range(len(ranked.positions))]
    held = [parts.test.user(user)[0] for user in ranked.positions]
    for at, user in enumerate(ranked.positions):
        left = {150, 151} - met[at] - {held[at]}
        if user == 0 or not left:
            assert ranked.n_sampled[at] == 3
        else:
            assert ranked.sampled.ranks[at] == (150 in left)
            assert ranked.n_sampled[at] == 1 + len(left)
    assert Evaluator(parts, EvaluationConfig(sampled=5), KEY, published).negatives == "drawn"
    assert Evaluator(parts, EvaluationConfig(sampled=0), KEY, published).negatives == "none"


def test_users_without_history_or_held_out_items_are_left_out() -> None:
    catalogue_of = build([[0]], 10).catalogue

    def part(indptr: list[int], items: list[int]) -> Interactions:
        return Interactions("tiny", np.array(indptr), np.array(items, np.int32), catalogue_of)

    # user 0 is whole, user 1 has no history, user 2 one interaction, user 3 nothing, user 4 items nobody trained on
    parts = Split(
        part([0, 2, 2, 3, 3, 4], [0, 1, 2, 3]),
        part([0, 1, 1, 1, 1, 2], [4, 8]),
        part([0, 1, 2, 2, 2, 3], [5, 6, 9]),
    )
    evaluator = Evaluator(parts, EvaluationConfig(), KEY)
    report = evaluator.test(lambda profiles: np.zeros((profiles.n_users, 10)))
    assert report["users"] == 2
    assert report["full"]["hr@10"] == 1.0  # fewer than ten candidates
    assert np.isfinite(report["full"]["novelty@10"])


def test_a_user_who_met_almost_everything_has_fewer_negatives() -> None:
    parts = split(build([list(range(10)), list(range(12))], 12), SplitConfig(), KEY)
    ranked = Evaluator(parts, EvaluationConfig(), KEY).rank_test(noise)
    assert ranked.n_sampled.tolist() == [3, 1]
    assert ranked.n_full.tolist() == [3, 1]


def test_nobody_to_evaluate_is_refused() -> None:
    data = build([[0], [1]], 3)
    nothing = data.where(np.zeros(2, np.bool_))
    with pytest.raises(DataError, match="no user has both a history and a held-out item for validation"):
        Evaluator(Split(data, nothing, nothing), EvaluationConfig(), KEY)
