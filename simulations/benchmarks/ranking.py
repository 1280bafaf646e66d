"""Work "ranking": all users' held-out items ranked among the whole catalogue and among 99 negatives, in CPU-ms.

MovieLens-100K (943 by 1,682) and synthetic data of MovieLens-1M's size (6,040 by 3,706), matrix factorisation of
dimension 32 without public features: profiles, scores, ranks and metrics as they are followed from round to round. The
negatives are drawn at the first look, which is the warm-up. *Scoring* is the part of it that the model takes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fedrec.config import resolve
from fedrec.engines.setting import load_setting, scorer
from fedrec.randomness import Key, Lane
from simulations.benchmarks.rows import Row, in_turn, of

DATA: dict[str, dict[str, Any]] = {
    "943 x 1,682": {"name": "ml-100k"},
    "6,040 x 3,706": {"name": "synthetic", "n_users": 6_040, "n_items": 3_706, "mean_events": 165},
}


def rows(repeats: int) -> list[Row]:
    """Two rows a data set."""
    found = []
    for size, data in DATA.items():
        model = {"name": "mf", "dimension": 32, "start": "random", "content_weight": 0.0}
        setting = load_setting(resolve({"data": data, "model": model}))
        shared = setting.federation.start().shared
        table = Key(1).generator(Lane.INIT).standard_normal(shared["table"].shape).astype(np.float32)
        score = scorer(setting.federation.model, {**shared, "table": table})
        evaluator, train = setting.evaluator, setting.split.train
        tasks: list[Callable[[], object]] = [partial(evaluator.validation, score, quick=True), partial(score, train)]
        whole, scoring = in_turn(tasks, repeats)
        note = f"{size}, {train.name}"
        found.append(of("ranking", f"fedrec, {size}", [1e3 * one for one in whole[0]], "CPU-ms", note))
        found.append(of("ranking", f"of it scoring, {size}", [1e3 * one for one in scoring[0]], "CPU-ms", note))
    return found
