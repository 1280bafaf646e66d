"""The protocol: validation as often as one likes, test once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fedrec.config import EvaluationConfig
from fedrec.data.interactions import Interactions, Ints
from fedrec.data.splits import Split
from fedrec.errors import DataError, FedrecError
from fedrec.evaluation import candidates, ranking
from fedrec.evaluation.metrics import HeldOutRanks, ListMetrics, self_information
from fedrec.evaluation.ranking import Scorer
from fedrec.randomness import Key, Lane, bits

__all__ = ["Evaluator", "Ranking", "Scorer"]

LIST = 10
"""Length of the lists for coverage, novelty and diversity, and of the comparison of light and heavy users."""

_KEPT = 1 << 23  # sampled negatives of a view that are kept from round to round; more are drawn anew

_REMEMBERED = 1 << 25  # scores of a view whose blocks are kept from round to round, with what models remember of them

_TEST_DRAWS = 1 << 32  # validation and test draw their negatives from different counters of a user's stream


@dataclass(frozen=True, eq=False)
class Ranking:
    """Where one view of the held-out items stands, before any metric.

    Attributes:
        positions: the evaluated users' positions in the split, ``[n]``.
        full: ranks among the whole catalogue without what the user met.
        n_full: candidates of each user in that view, held-out items included, ``[n]``.
        sampled: ranks among held-out items and sampled negatives, or None without that view.
        n_sampled: candidates of each user in that view, held-out items included, ``[n]``.
        lists: coverage, novelty and diversity by name; empty where not asked for.
    """

    positions: Ints
    full: HeldOutRanks
    n_full: Ints
    sampled: HeldOutRanks | None
    n_sampled: Ints
    lists: dict[str, float]


@dataclass(frozen=True, eq=False)
class _View:
    """Either validation or test: what is known and held out of the evaluated users, and which draws belong to it."""

    known: Interactions
    held: Interactions
    positions: Ints
    published: Ints | None
    first: int
    drawn: dict[int, npt.NDArray[np.int32]] = field(default_factory=dict)  # sampled negatives, by a block's first user
    blocks: dict[int, tuple[Interactions, Interactions]] = field(default_factory=dict)  # known and held, likewise


class Evaluator:
    """Ranks held-out items for any scorer. The same users, negatives and tie draws for every scorer.

    Users without held-out items, or without any history before them, are not evaluated.
    """

    def __init__(
        self,
        split: Split,
        config: EvaluationConfig,
        key: Key,
        published: npt.NDArray[np.integer] | None = None,
    ) -> None:
        """Prepare both views.

        Args:
            split: the data.
            config: list lengths, negatives a user, sample of users.
            key: the experiment's key.
            published: negatives ``[n_users, n]`` for the test view, -1 where one is missing; used where
                ``config.sampled`` is n. A user without any gets drawn ones.

        Raises:
            DataError: no user can be evaluated, or the published negatives do not fit the data.
        """
        self._split, self._config, self._key = split, config, key
        if published is not None:
            published = candidates.check_published(published, split.train.n_users, split.train.n_items)
            published = published if published.shape[1] == config.sampled else None
        self._validation = self._view("validation", None)
        self._test = self._view("test", published)
        self._read: set[str] = set()

    @property
    def negatives(self) -> str:
        """Where the test view's negatives come from: ``published``, ``drawn`` or ``none``."""
        if not self._config.sampled:
            return "none"
        return "drawn" if self._test.published is None else "published"

    def validation(self, scorer: Scorer, *, quick: bool = False) -> dict[str, Any]:
        """Metrics on validation; the test item stays among the candidates, as any unseen item does.

        Args:
            scorer: scores training histories.
            quick: leave out coverage, novelty and diversity.

        Returns:
            Plain values, ready for JSON: ``{"full": {"hr@10": …}, "sampled99": {…}, "groups": {"light": {"users": …,
            "hr@10": …, "ndcg@10": …}, "heavy": {…}}, "users": …}``. The groups part the users at the median of their
            training histories' length, the median itself being light; an empty group has None for its metrics.

        Raises:
            FedrecError: scores of a wrong shape or not finite.
        """
        return self._report(self._rank(self._validation, scorer, lists=not quick))

    def test(self, scorer: Scorer, label: str = "model") -> dict[str, Any]:
        """Metrics on test, in the form of ``validation``: once for each label.

        Args:
            scorer: scores histories of train and validation together.
            label: whose result this is; each baseline has its own.

        Raises:
            FedrecError: test was already read for this label; scores of a wrong shape or not finite.
        """
        return self._report(self.rank_test(scorer, label, lists=True))

    def rank_test(self, scorer: Scorer, label: str = "model", *, lists: bool = False) -> Ranking:
        """The ranks behind ``test``: reading them is reading test.

        Raises:
            FedrecError: as ``test``.
        """
        if label in self._read:
            raise FedrecError(
                f"Test was already read for '{label}'; choose on validation, and read test once, at the end."
            )
        self._read.add(label)
        return self._rank(self._test, scorer, lists=lists)

    def _view(self, name: Literal["validation", "test"], published: Ints | None) -> _View:
        split, last = self._split, name == "test"
        held = split.test if last else split.validation
        known = split.train.counts + split.validation.counts if last else split.train.counts
        positions = np.flatnonzero((held.counts > 0) & (known > 0))
        if not len(positions):
            raise DataError(
                f"'{held.name}': no user has both a history and a held-out item for {name}; "
                "choose another [split] or a weaker filter in [data]."
            )
        wanted = self._config.users
        if wanted is not None and wanted < len(positions):
            streams = self._key.streams(held.users[positions], Lane.SAMPLE_USERS)
            drawn = np.argsort(bits(streams, np.zeros(1, np.int64)), kind="stable")[:wanted]
            positions = positions[np.sort(drawn)]
        return _View(
            known=split.history_for_test(positions) if last else split.train.take(positions),
            held=held.take(positions),
            positions=positions,
            published=None if published is None else published[positions],
            first=_TEST_DRAWS if last else 0,
        )

    def _blocks(self, view: _View) -> Iterator[tuple[Ints, Interactions, Interactions]]:
        """A view block by block: positions in it, what is known and what is held out.

        Validation, which every round looks at, keeps them where it is small: models remember with a block what the data
        alone give (`Interactions.remembered`).
        """
        n_users, n_items = len(view.positions), self._split.train.n_items
        size = max(1, ranking.BLOCK // max(n_items, 1))
        for start in range(0, n_users, size):
            block = np.arange(start, min(start + size, n_users))
            known, held = view.blocks.get(start) or (view.known.take(block), view.held.take(block))
            if view is self._validation and n_users * n_items <= _REMEMBERED:
                view.blocks[start] = known, held
            yield block, known, held

    def _rank(self, view: _View, scorer: Scorer, *, lists: bool) -> Ranking:
        full, sampled, n_sampled = [], [], []
        gathered = ListMetrics(self_information(self._split.train), self._split.train.catalogue) if lists else None
        for block, profiles, held in self._blocks(view):
            scores = ranking.block_of_scores(scorer, profiles)
            ties = self._key.streams(profiles.users, Lane.TIES)
            ranks = ranking.full_ranks(scores, held, ties)
            full.append(ranks)
            if self._config.sampled:
                negatives = self._negatives(view, block, profiles, held)
                sampled.append(ranking.sampled_ranks(scores, held, negatives, ranks, ties))
                n_sampled.append((negatives >= 0).sum(axis=1) + held.counts)
            if gathered is not None:
                gathered.add(ranking.top_lists(scores, LIST, ties))
        counts = view.held.counts
        return Ranking(
            positions=view.positions,
            full=HeldOutRanks(np.concatenate(full), counts),
            n_full=view.known.n_items - view.known.counts,
            sampled=HeldOutRanks(np.concatenate(sampled), counts) if sampled else None,
            n_sampled=np.concatenate(n_sampled) if n_sampled else counts,
            lists={} if gathered is None else gathered.means(LIST),
        )

    def _negatives(self, view: _View, block: Ints, profiles: Interactions, held: Interactions) -> Ints:
        """Sampled negatives of a block of users, ``[C, n]``, -1 where one is missing; the same in every round."""
        kept = view.drawn.get(int(block[0]))
        if kept is None:
            kept = self._draw_negatives(view, block, profiles, held).astype(np.int32)
            if len(view.positions) * self._config.sampled <= _KEPT:
                view.drawn[int(block[0])] = kept
        return kept.astype(np.int64)

    def _draw_negatives(self, view: _View, block: Ints, profiles: Interactions, held: Interactions) -> Ints:
        wanted = np.full(len(block), self._config.sampled, np.int64)
        table = None
        if view.published is not None:
            table = candidates.only_negatives(view.published[block], profiles, held)
            wanted[(table >= 0).any(axis=1)] = 0
            if not wanted.any():
                return table
        split, users = self._split, view.positions[block]
        unseen = candidates.Unseen.beside(*(part.take(users) for part in (split.train, split.validation, split.test)))
        streams = self._key.streams(profiles.users, Lane.CANDIDATES)
        drawn = candidates.draw_unseen(unseen, streams, wanted, view.first)
        return drawn if table is None else np.where(wanted[:, None] > 0, drawn, table)

    def _report(self, result: Ranking) -> dict[str, Any]:
        ks = self._config.k
        report: dict[str, Any] = {"full": {**result.full.means(ks), **result.lists}}
        if result.sampled is not None:
            report[f"sampled{self._config.sampled}"] = result.sampled.means(ks)
        lengths = self._split.train.counts[result.positions]
        light = lengths <= np.median(lengths)
        report["groups"] = {"light": _group(result.full, light), "heavy": _group(result.full, ~light)}
        report["users"] = len(result.positions)
        return report


def _group(ranks: HeldOutRanks, members: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Headline metrics of some of the users; None where there are none."""
    group: dict[str, Any] = {"users": int(members.sum())}
    for metric in ("hr", "ndcg"):
        group[f"{metric}@{LIST}"] = float(ranks.per_user(metric, LIST)[members].mean()) if members.any() else None
    return group
