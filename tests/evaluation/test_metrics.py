"""Metrics by hand, and against ranx."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from fedrec.data.interactions import Catalogue, Interactions
from fedrec.evaluation.metrics import HeldOutRanks, ListMetrics, self_information


def test_accuracy_by_hand() -> None:
    # the first user has held-out items at places 1 and 4, the second at place 3, the third below the list
    ranks = HeldOutRanks(np.array([3, 0, 2, 9]), np.array([2, 1, 1]))
    means = ranks.means((3,))
    assert means["hr@3"] == pytest.approx(2 / 3)
    assert means["recall@3"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert means["mrr@3"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    first = 1 / (1 + 1 / math.log2(3))
    assert means["ndcg@3"] == pytest.approx((first + 1 / math.log2(4) + 0) / 3)


def test_a_list_shorter_than_the_held_out_items_can_be_perfect() -> None:
    assert HeldOutRanks(np.arange(5), np.array([5])).means((2,))["ndcg@2"] == pytest.approx(1.0)


RANX = """
import json, sys
from ranx import Qrels, Run, evaluate
given = json.load(sys.stdin)
found = evaluate(Qrels(given["qrels"]), Run(given["run"]), given["metrics"])
print(json.dumps({name: float(value) for name, value in found.items()}))
"""


def ranx(qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]], metrics: list[str]) -> dict[str, float]:
    """In a process of its own, where its kernels are Python: compiling them takes a minute, running them a moment."""
    told = json.dumps({"qrels": qrels, "run": run, "metrics": metrics})
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RANX], input=told, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_accuracy_agrees_with_ranx() -> None:
    rng = np.random.default_rng(4)
    n_users, n_items = 150, 60
    counts = rng.integers(1, 9, n_users)
    scores = rng.permuted(np.tile(np.arange(n_items, dtype=float), (n_users, 1)), axis=1)
    held = [rng.choice(n_items, count, replace=False) for count in counts]
    qrels = {f"u{u}": {f"i{item}": 1 for item in items} for u, items in enumerate(held)}
    run = {f"u{u}": {f"i{item}": float(row[item]) for item in range(n_items)} for u, row in enumerate(scores)}
    names = {"hr": "hit_rate", "ndcg": "ndcg", "recall": "recall", "mrr": "mrr"}
    ks = (1, 5, 10, 20)
    theirs = ranx(qrels, run, [f"{name}@{k}" for name in names.values() for k in ks])
    ranks = np.concatenate([n_items - 1 - row[items] for row, items in zip(scores, held, strict=True)]).astype(np.int64)
    ours = HeldOutRanks(ranks, counts).means(ks)
    for metric, name in names.items():
        for k in ks:
            assert ours[f"{metric}@{k}"] == pytest.approx(theirs[f"{name}@{k}"], abs=1e-9)


def catalogue(genres: list[list[float]] | None) -> Catalogue:
    table = None if genres is None else np.array(genres, np.float32)
    names = () if table is None else tuple(f"g{column}" for column in range(table.shape[1]))
    return Catalogue(np.arange(4).astype(str), genre_names=names, genres=table)


def test_self_information_by_hand() -> None:
    train = Interactions("tiny", np.array([0, 2, 3, 4, 4]), np.array([0, 1, 0, 1], np.int32), catalogue(None))
    # four users, two met items 0 and 1; items 2 and 3 count as met by one
    assert self_information(train).tolist() == [1.0, 1.0, 2.0, 2.0]


def test_list_metrics_by_hand() -> None:
    genres = [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]
    gathered = ListMetrics(np.array([1.0, 2.0, 4.0, 8.0]), catalogue(genres))
    gathered.add(np.array([[0, 1, 2], [1, 0, -1]]))
    gathered.add(np.array([[1, -1, -1]]))
    means = gathered.means(3)
    assert means["coverage@3"] == 3 / 4
    assert means["novelty@3"] == pytest.approx((7 / 3 + 3 / 2 + 2) / 3)
    cosine = 1 / math.sqrt(2)
    assert means["diversity@3"] == pytest.approx(((1 - cosine / 3) + (1 - cosine)) / 2)


def test_list_metrics_agree_with_plain_loops() -> None:
    rng = np.random.default_rng(0)
    genres = rng.random((4, 5)).astype(np.float32)
    lists = np.array([rng.permutation(4)[:3] for _ in range(20)])
    gathered = ListMetrics(np.ones(4), catalogue(genres.tolist()))
    gathered.add(lists)
    unit = genres / np.linalg.norm(genres, axis=1, keepdims=True)
    alike = [unit[a] @ unit[b] for row in lists for at, a in enumerate(row) for b in row[at + 1 :]]
    assert gathered.means(3)["diversity@3"] == pytest.approx(1 - np.mean(alike), abs=1e-6)


def test_without_genres_there_is_no_diversity() -> None:
    gathered = ListMetrics(np.ones(4), catalogue(None))
    gathered.add(np.array([[0, 1]]))
    assert set(gathered.means(2)) == {"coverage@2", "novelty@2"}
