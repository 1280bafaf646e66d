"""What a finished run says of itself: baselines, sample recommendations, costs, and what was not protected."""

from __future__ import annotations

import math
import platform
import resource
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

import fedrec
from fedrec.config import Experiment
from fedrec.data.interactions import Interactions
from fedrec.engines.fleet import IN_PROCESS, Fleet, model_bytes
from fedrec.engines.run import noise_source, train_quietly
from fedrec.engines.setting import Setting, scorer
from fedrec.evaluation.ranking import block_of_scores
from fedrec.federation.planning import make_federation
from fedrec.federation.round import State
from fedrec.models.base import Recommender, Shared
from fedrec.privacy.accounting import accountant_of, rdp_epsilon, report_epsilon, useful_epsilon
from fedrec.privacy.grid import Grid
from fedrec.privacy.ledger import Ledger
from fedrec.randomness import Lane

_SAMPLE_USERS, _SAMPLE_TITLES, _SAMPLE_HISTORY = 5, 10, 5


def baselines(setting: Setting, epsilon: float | None) -> dict[str, Any]:
    """Popularity under the same promise, and the same model without one; each reads the test split once, at the end.

    Args:
        setting: the run's.
        epsilon: what the run spent; None without privacy.
    """
    experiment = setting.experiment
    chosen: dict[str, Experiment] = {}
    if experiment.model.name != "popularity":
        chosen["popularity"] = experiment.replaced(
            model={"name": "popularity", **_POPULARITY[experiment.privacy.unit]},
            training={"backend": "auto", "sample": "interaction"},
            privacy={"epsilon": epsilon, "noise_multiplier": None, "noise": "auto", "source": "seeded"},
        )
    if epsilon is not None:
        chosen["non_private"] = experiment.replaced(privacy={"epsilon": None, "noise_multiplier": None})
    results = {}
    for name, other in chosen.items():
        federation = make_federation(other, setting.split.train.catalogue, setting.split.train.n_users)
        state = train_quietly(federation, Fleet(federation.model, setting.split.train))
        measured = measure(setting, federation.model, state.shared, name)
        events = [mechanism.events()[mechanism.unit] for mechanism in federation.mechanisms if mechanism.private]
        results[name] = {"epsilon": report_epsilon(events, other.privacy.delta) if events else None, **measured}
    return results


_POPULARITY: dict[str, dict[str, int]] = {"user": {}, "interaction": {"least": 50}}
"""What popularity needs for a promise at a level."""


def measure(setting: Setting, model: Recommender, shared: Shared, label: str) -> dict[str, Any]:
    """Validation and test metrics of a finished model."""
    score = scorer(model, shared)
    return {"validation": setting.evaluator.validation(score), "test": setting.evaluator.test(score, label)}


def samples(setting: Setting, model: Recommender, shared: Shared) -> list[dict[str, Any]]:
    """What a few users are recommended, with titles; the same users in every run of a data set and seed."""
    test, catalogue = setting.split.test, setting.split.test.catalogue
    tested = np.flatnonzero(test.counts)
    generator = setting.federation.key.generator(Lane.SAMPLE_USERS)
    chosen = np.sort(generator.choice(tested, min(_SAMPLE_USERS, len(tested)), replace=False))
    users = setting.split.history_for_test(chosen)
    lists = np.argsort(-block_of_scores(scorer(model, shared), users), axis=1, kind="stable")[:, :_SAMPLE_TITLES]
    return [
        {
            "user": _name_of(users, row),
            "history": [catalogue.title(item) for item in users.user(row)[-_SAMPLE_HISTORY:]],
            "recommended": [catalogue.title(item) for item in lists[row]],
            "held_out": catalogue.title(test.user(position)[-1]),
        }
        for row, position in enumerate(chosen)
    ]


def summarise(
    setting: Setting, engine: str, state: State, ledger: Ledger, lines: Sequence[dict[str, Any]], wall_s: float
) -> dict[str, Any]:
    """The content of ``summary.json``."""
    experiment, federation, data = setting.experiment, setting.federation, setting.split.train
    measured = measure(setting, federation.model, state.shared, "run")
    train_s = sum(line["seconds"] for line in lines)
    clients = sum(line["cohort"] for line in lines)
    senders = sum(line["senders"] for line in lines)
    final = model_bytes(state.shared)
    privacy = _privacy(setting, ledger, str(lines[-1]["aggregation"]))
    up, down = sum(line["up_bytes"] for line in lines), sum(line["down_bytes"] for line in lines)
    return {
        "experiment": experiment.name,
        "dataset": {
            "name": data.name,
            "users": data.n_users,
            "items": data.n_items,
            "interactions": setting.split.n_events,
        },
        "model": experiment.model.name,
        "engine": engine,
        "rounds": len(lines),
        "seed": experiment.seed,
        "privacy": privacy,
        "metrics": measured,
        "baselines": baselines(setting, privacy["epsilon"]) if experiment.evaluation.baselines else {},
        "communication": {
            # Of a sender (a user, or on Flower a node) that takes part in every round and fetches the final model.
            "up_bytes_per_client": round(up / senders * len(lines)),
            "down_bytes_per_client": round(down / senders * len(lines)) + final,
            "total_bytes": up + down + final * data.n_users,
        },
        "time": {"wall_s": wall_s, "train_s": train_s, "clients_per_s": clients / train_s if train_s else None},
        "memory": {"peak_rss_mb": _peak_rss_mb()},
        "versions": versions(),
        "rejected": sum(line["rejected"] for line in lines),
        "samples": samples(setting, federation.model, state.shared),
    }


def _privacy(setting: Setting, ledger: Ledger, aggregation: str) -> dict[str, Any]:
    mechanism, privacy = setting.federation.mechanisms[0], setting.experiment.privacy
    promise = {"unit": mechanism.unit, "adjacency": mechanism.adjacency, "trust": mechanism.trust}
    if not mechanism.private:
        nothing = ("epsilon", "noise_multiplier", "clip_norm", "accountant", "target_epsilon", "noise_source")
        return {
            **promise,
            **dict.fromkeys(nothing),
            "delta": privacy.delta,
            "noise_multipliers": [],
            "unprotected": ["everything: this run is without privacy"],
        }
    sigmas = ledger.noise_multipliers()
    levels = {unit: useful_epsilon(ledger.events(unit), ledger.delta) for unit in mechanism.events()}
    return {
        **promise,
        "epsilon": levels[mechanism.unit],
        "delta": privacy.delta,
        "levels": levels,
        # Of equal rounds; where shares differ, that of as many equal rounds at the same cost.
        "noise_multiplier": math.sqrt(len(sigmas) / math.fsum(sigma**-2 for sigma in sigmas)),
        "noise_multipliers": sigmas,
        "clip_norm": setting.federation.mechanisms[-1].clip_norm,
        "accountant": accountant_of(ledger.events()),
        "integers": _integers(setting),
        "target_epsilon": privacy.epsilon,
        "noise": setting.experiment.noise,
        "noise_source": noise_source(setting.experiment),
        "aggregation": aggregation,
        "unprotected": unprotected(setting, aggregation),
    }


def _integers(setting: Setting) -> dict[str, Any] | None:
    """The planned rounds with Skellam noise on integers beside the same in Gaussian noise, by one conversion.

    None where the noise is inside of local training, which is floating point on devices too.
    """
    federation, privacy = setting.federation, setting.experiment.privacy
    if setting.experiment.noise_inside:
        return None
    integers, floats = [], []
    for release, mechanism in zip(federation.releases, federation.mechanisms, strict=True):
        grid = Grid.fine(release.size, mechanism.clip_norm, mechanism.sensitivity, privacy.resolution)
        integers.append(replace(mechanism, grid=grid).events()[mechanism.unit])
        floats.append(replace(mechanism, grid=None).events()[mechanism.unit])
    return {
        "epsilon": rdp_epsilon(integers, privacy.delta),
        "gaussian_epsilon": rdp_epsilon(floats, privacy.delta),
        "accountant": accountant_of(integers),
    }


def unprotected(setting: Setting, aggregation: str = IN_PROCESS) -> list[str]:
    """What the run shows that its epsilon does not cover, in plain words.

    Args:
        setting: the run's.
        aggregation: how single vectors were kept from the server, as the engine said.
    """
    listed = [
        *_of_noise(setting),
        *_of_trust(setting.federation.mechanisms[0].trust, aggregation),
        "participation: who was asked and how many answered is public",
        "the item catalogue with its titles, years and genres, and the number of users",
        "metrics of this report (every round's validation, the final test): computed on the users' own held-out items",
        "the sample recommendations of this report: they show real users' histories",
    ]
    if setting.experiment.evaluation.baselines:
        listed.append("the baselines: private popularity is a release of its own, the model without privacy has none")
    listed += [f"what was derived from the interactions beforehand: {text}" for text in setting.split.train.filters]
    listed.append(
        "hyperparameters: the defaults were chosen on MovieLens-100K; that tuning and any of yours is not accounted"
    )
    return listed


def _of_noise(setting: Setting) -> list[str]:
    """What the source of the noise and its arithmetic leave open."""
    listed = []
    if setting.experiment.privacy.source == "seeded":
        listed.append("noise: it is seeded, so whoever knows the seed can subtract it; this is a simulation")
    if setting.experiment.noise == "gaussian":
        listed.append("noise in floating point: its last bits may give values away (Mironov 2012); integers do not")
    return listed


def _of_trust(trust: str, aggregation: str) -> list[str]:
    """What a trust model takes for granted that this run did not enforce."""
    if trust != "distributed" or aggregation.startswith("secure"):
        return []
    if aggregation == IN_PROCESS:
        return ["single updates: in one process nothing has to hide them; on devices, secure aggregation does"]
    return [f"sums of single nodes: {aggregation}"]


def versions() -> dict[str, str]:
    """Versions of what a run depends on."""
    found = {"python": platform.python_version(), "fedrec": fedrec.__version__}
    for package in ("numpy", "scipy", "dp-accounting", "flwr", "numba", "torch", "opacus"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _name_of(users: Interactions, row: int) -> str:
    return str(users.users[row]) if users.user_ids is None else str(users.user_ids[row])


def _peak_rss_mb() -> float:
    """Peak resident memory of this process in MB (ru_maxrss is in KiB, on macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
