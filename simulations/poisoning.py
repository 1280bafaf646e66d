"""Clients that lie: what they do to a sum, to robust means, and under masks, on MovieLens-100K.

    python -m simulations.poisoning [--share 0.05] [--json FILE]

Three lies. *flip*: a client trains honestly and sends minus ten times the result. *push*: it sends nothing but a cold
item, at the length of its own honest vector. *set*: its vector is honest and noised, but the cold item gets as much as
the checks let through. HR@10 is on validation, over the whole catalogue, for everybody; *shown* is the share of honest
users who find the cold item among their first ten. A minute on one core.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fedrec.config import Experiment, load
from fedrec.engines.base import Collected
from fedrec.engines.run import train_quietly
from fedrec.engines.setting import Setting, load_setting, scorer
from fedrec.errors import FedrecError
from fedrec.evaluation.ranking import block_of_scores
from fedrec.federation.round import Plan, client_round
from fedrec.models.base import Shared
from fedrec.privacy.grid import to_ring
from fedrec.privacy.mechanism import ShardSum

Lie = Literal["none", "flip", "push", "set"]
Ints = npt.NDArray[np.int64]
Row = dict[str, object]

PLAIN = ("privacy.epsilon=none", "evaluation.sampled=0", "evaluation.baselines=false")
POPULARITY = ("model=popularity", *PLAIN)
MF = (
    *("model=mf", "model.start=random", "model.dimension=16", "training.batch_size=2048"),
    *("federation.rounds=4", "federation.cohort=300", "federation.server_learning_rate=80", *PLAIN),
)
LOCAL = (*POPULARITY, "privacy.epsilon=8", "privacy.trust=local", "privacy.noise=skellam")
MASKED = (*POPULARITY, "privacy.epsilon=8", "privacy.noise=skellam")


@dataclass(frozen=True, eq=False)
class Liars:
    """Every client a shard of its own, and some of them lie: an engine.

    Attributes:
        setting: the experiment with its data.
        lie: what they do.
        users: who they are, by number.
        target: the item that they push.
        size: what the item is set to, in the release's scaled units.
    """

    setting: Setting
    lie: Lie
    users: Ints
    target: int
    size: float = 0.0
    name: str = "liars"

    def collect(self, plan: Plan, shared: Shared) -> Collected:
        model, train, users = self.setting.federation.model, self.setting.split.train, plan.cohort.users
        shards = [
            client_round(model, shared, train.take(one), plan, int(one[0])) for one in np.split(users, len(users))
        ]
        lying = np.isin(users, self.users)
        sent = [self._sent(plan, shard) if lies else shard for shard, lies in zip(shards, lying, strict=True)]
        return Collected(tuple(sent), 0, 0, 0, len(users), "each vector is looked at")

    def _sent(self, plan: Plan, honest: ShardSum) -> ShardSum:
        arrays = {name: array.copy() for name, array in honest.arrays.items()}
        if self.lie == "flip":
            arrays = {name: -10 * array for name, array in arrays.items()}
        elif self.lie == "push":
            norm = np.linalg.norm(plan.release.flatten(arrays))
            arrays = {name: np.zeros(array.shape) for name, array in arrays.items()}
            self._item(arrays)[:] = norm
        elif self.lie == "set" and plan.mechanism.grid is not None:
            units = np.array([self.size * plan.mechanism.grid.scale]).astype(np.int64)
            self._item(arrays)[:] = to_ring(units, plan.mechanism.bits)
        return replace(honest, arrays=arrays)

    def _item(self, arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """The target's coordinate, of the array that moves its score alone."""
        return arrays["bias" if "bias" in arrays else "popularity"][self.target : self.target + 1]


@dataclass(frozen=True)
class Outcome:
    """What is left of a model.

    Attributes:
        hr: HR@10 on validation.
        shown: the share of honest users who find the target among their first ten.
    """

    hr: float
    shown: float


def experiment(overrides: Sequence[str], rule: str = "sum") -> Experiment:
    """The default experiment, changed."""
    return load("default", [*overrides, f"federation.aggregation={rule}"])


def coldest(setting: Setting) -> int:
    """The first of the items that the fewest have met."""
    return int(np.argmin(np.bincount(setting.split.train.items, minlength=setting.split.train.n_items)))


def played(setting: Setting, lie: Lie, liars: int, size: float = 0.0) -> Outcome:
    """Train with so many liars, spread over the users evenly.

    Raises:
        FedrecError: where a round does not accept what it is sent.
    """
    users = setting.split.train.users
    lying = users[np.linspace(0, len(users) - 1, liars).astype(np.int64)]
    target = coldest(setting)
    state = train_quietly(setting.federation, Liars(setting, lie, lying, target, size))
    honest = setting.split.train.take(np.setdiff1d(users, lying))
    scores = block_of_scores(scorer(setting.federation.model, state.shared), honest)
    first = np.argpartition(-scores, 10, axis=1)[:, :10]
    hr = setting.quickly(state.shared)["full"]["hr@10"]
    return Outcome(float(hr), float((first == target).any(axis=1).mean()))


def visible(name: str, overrides: Sequence[str], share: float) -> Iterator[Row]:
    """A model under every rule and lie, where vectors are seen and not noised."""
    for rule in ("sum", "trimmed-mean", "median", "krum"):
        setting = load_setting(experiment(overrides, rule))
        lies: tuple[Lie, ...] = ("none", "flip", "push")
        for lie in lies:
            found = played(setting, lie, round(share * setting.split.train.n_users))
            yield {"clients": name, "rule": rule, "lie": lie, "hr@10": found.hr, "shown": found.shown}


def noised(share: float) -> Iterator[Row]:
    """Popularity under local noise: as much on one item as the check of a single vector lets through."""
    for rule in ("sum", "trimmed-mean", "median", "krum"):
        setting = load_setting(experiment(LOCAL, rule))
        mechanism = setting.federation.mechanisms[0]
        reach = mechanism.clip_norm + 11.9 * mechanism.share_std(1)
        cases: tuple[tuple[Lie, str], ...] = (("none", "none"), ("set", "set to 12 deviations"))
        for lie, text in cases:
            found = played(setting, lie, round(share * setting.split.train.n_users), reach)
            yield {"clients": "popularity, local", "rule": rule, "lie": text, "hr@10": found.hr, "shown": found.shown}


def masked() -> Iterator[Row]:
    """Popularity under masks, where the server sees the sum alone: one liar among all users."""
    setting = load_setting(experiment(MASKED))
    for part in (0.01, 0.1, 0.9, 1.5):
        size = part * setting.split.train.n_users
        row: Row = {"clients": "popularity, masked", "rule": "sum", "lie": f"one sets {size:.0f} norms"}
        try:
            found = played(setting, "set", 1, size)
            yield {**row, "hr@10": found.hr, "shown": found.shown}
        except FedrecError:
            yield {**row, "hr@10": None, "shown": None}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.05, help="share of clients that lie (default: 0.05)")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    given = parser.parse_args()
    print("| clients | rule | lie | HR@10 | shown |\n|---|---|---|---|---|")
    found = list[Row]()
    parts = (
        visible("popularity", POPULARITY, given.share),
        visible("mf from random, 300 a round", MF, given.share),
        noised(given.share),
        masked(),
    )
    for row in itertools.chain.from_iterable(parts):
        found.append(row)
        cells = ("refused" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values())
        print("| " + " | ".join(cells) + " |", flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
