"""Work "ledger": events appended a second, alone and in a batch; and the time to verify 100,000 of them.

An event is one line: half of them reserve an attempt (with its cost at both units, checked against a budget), half say
how it ended. *Alone*, each line is flushed to the disk before the call returns, as a round of training does it: that is
the speed of the disk. *In a batch*, many lines share one flush, as where a server reserves many attempts at once.
Verifying is `fedrec.audit.verify` on a whole run folder, Opacus's accountant included where it is installed; what
loading that library takes is told apart. One thread; the kind of noise is Gaussian and Skellam in turn.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from fedrec.audit.verify import verify
from fedrec.config import parse
from fedrec.engines.run import open_ledger
from fedrec.engines.setting import load_setting
from fedrec.federation.round import Federation
from fedrec.privacy.accounting import second_epsilon
from fedrec.privacy.events import GaussianEvent
from fedrec.privacy.keys import signing_key
from fedrec.privacy.ledger import Ledger
from fedrec.reporting import folder as names
from fedrec.reporting.folder import RunFolder
from simulations.benchmarks.rows import Row, of

EXPERIMENT = """
[data]
name = "synthetic"
n_users = 100
n_items = 80
[model]
name = "mf"
start = "random"
[privacy]
noise = "{noise}"
noise_multiplier = {sigma}
"""

EVENTS = 100_000

ALONE = 200
"""Lines that are flushed one by one; each waits for the disk."""


def rows(repeats: int) -> list[Row]:  # noqa: ARG001 - the events are many enough
    """Events a second and seconds, by kind of noise; on the disk of the working folder."""
    began = time.perf_counter()
    second_epsilon([GaussianEvent(1.0)], 1e-5)
    found = [of("ledger", "load the accountants, once", [time.perf_counter() - began], "s")]
    for noise in ("gaussian", "skellam"):
        with tempfile.TemporaryDirectory(prefix="ledger-", dir=Path()) as scratch:
            measured = measure(Path(scratch), noise, EVENTS)
        found += [of("ledger", f"{noise}: {name}", [value], unit) for (name, unit), value in measured.items()]
    return found


def measure(scratch: Path, noise: str, n: int) -> dict[tuple[str, str], float]:
    """Events a second, and seconds for ``n`` of them."""
    setting = load_setting(parse(EXPERIMENT.format(noise=noise, sigma=n), overrides=(f"federation.rounds={n // 2}",)))
    run = RunFolder.create(scratch / "run")
    run.write_text(names.EXPERIMENT, setting.experiment.to_toml())
    ledger = open_ledger(setting.federation, run)
    began = time.perf_counter()
    charge(ledger, setting.federation, 1, ALONE // 2)
    alone = ALONE / (time.perf_counter() - began)
    # Reservations cost more than ends: each is priced, and checked against the budget.
    began = time.perf_counter()
    with ledger.batch():
        charge(ledger, setting.federation, ALONE // 2, n // 2)
    batch = (n - ALONE) / (time.perf_counter() - began)
    finish(run, ledger, setting.federation, n // 2)
    began = time.perf_counter()
    verdict = verify(run.root)
    verifying = time.perf_counter() - began
    began = time.perf_counter()
    open_ledger(setting.federation, run)
    reopening = time.perf_counter() - began
    if not verdict.sound:
        raise SystemExit("\n".join(check.detail for check in verdict.faults))
    return {
        ("appended, each flushed", "events/s"): round(alone),
        ("appended in a batch", "events/s"): round(batch),
        (f"verify {n:,} events", "s"): verifying,
        (f"open a ledger of {n:,} events", "s"): reopening,
    }


def charge(ledger: Ledger, federation: Federation, first: int, last: int) -> None:
    """Reserve and commit rounds."""
    plan = federation.plan(1)
    description, events = plan.event(), plan.mechanism.events()
    for round_ in range(first, last + 1):
        ledger.reserve(round_, 0, description, events)
        ledger.close(round_, 0, "commit", federation.population)


def finish(run: RunFolder, ledger: Ledger, federation: Federation, rounds: int) -> None:
    """What a finished run leaves beside its ledger, as far as it is compared."""
    plan, privacy = federation.plan(1), federation.experiment.privacy
    described = plan.event()
    line = {"attempt": 0, "survivors": federation.population, "epsilon": ledger.spent()}
    line |= {key: described[key] for key in ("release", "cohort", "noise_multiplier")}
    run.write_text(names.ROUNDS, "".join(json.dumps({"round": n, **line}) + "\n" for n in range(1, rounds + 1)))
    run.write_bytes(names.MODEL, b"")
    run.write_text(names.LEDGER_CHECKPOINT, ledger.checkpoint(signing_key(run.root)))
    opening = json.loads(ledger.lines[0])
    promise: dict[str, Any] = {"epsilon": ledger.epsilon(), "delta": privacy.delta, "target_epsilon": privacy.epsilon}
    promise |= {"noise_source": opening["noise"], "noise_multipliers": ledger.noise_multipliers()}
    dataset = {"name": "synthetic", "users": federation.population, "items": 80, "interactions": 1}
    summary = {"dataset": dataset, "model": "mf", "engine": "fleet", "rounds": rounds, "seed": 1}
    run.write_summary({**summary, "privacy": promise, "metrics": {}})
