"""A whole run: from an experiment to a finished run folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from fedrec.config import Experiment
from fedrec.data.home import home
from fedrec.engines.base import Engine
from fedrec.engines.fleet import Fleet
from fedrec.engines.outcome import summarise
from fedrec.engines.run import model_file, open_ledger, run_rounds
from fedrec.engines.setting import Setting, prepare
from fedrec.errors import RunFolderError
from fedrec.privacy.keys import signing_key
from fedrec.reporting import folder as names
from fedrec.reporting.folder import RunFolder
from fedrec.reporting.progress import Progress
from fedrec.reporting.report import write_report

EngineFor = Callable[[Setting], Engine]


def fleet(setting: Setting) -> Engine:
    """The engine of `fedrec.engines.fleet` for an experiment."""
    return Fleet(setting.federation.model, setting.split.train)


def start(experiment: Experiment, place: Callable[[], RunFolder], engine_for: EngineFor = fleet) -> dict[str, Any]:
    """Run an experiment in a new folder and return its summary.

    Args:
        experiment: what to run.
        place: makes the folder; called only when everything has been checked.
        engine_for: where the clients run.
    """
    began = time.perf_counter()
    setting = prepare(experiment)
    folder = place()
    try:
        folder.write_text(names.EXPERIMENT, experiment.to_toml())
    except RunFolderError:
        with contextlib.suppress(OSError):
            folder.root.rmdir()  # without its experiment it could not be resumed
        raise
    return _finish(setting, folder, engine_for, began)


def resume(experiment: Experiment, folder: RunFolder, engine_for: EngineFor = fleet) -> dict[str, Any]:
    """Continue an interrupted run to the result that it would have had.

    Raises:
        RunFolderError: if the run is finished, or its checkpoint is damaged or another experiment's.
    """
    began = time.perf_counter()
    if folder.finished:
        raise RunFolderError(f"The run in '{folder.root}' is finished; there is nothing to resume.")
    return _finish(prepare(experiment), folder, engine_for, began)


def _finish(setting: Setting, folder: RunFolder, engine_for: EngineFor, began: float) -> dict[str, Any]:
    engine = engine_for(setting)
    ledger = open_ledger(setting.federation, folder)
    with Progress() as progress:
        state = run_rounds(setting.federation, engine, folder, ledger, progress, setting.quickly)
        progress.finish()
    folder.write_bytes(names.MODEL, model_file(state.shared))
    folder.write_text(names.LEDGER_CHECKPOINT, ledger.checkpoint(signing_key(home())))
    summary = summarise(setting, engine.name, state, ledger, folder.rounds(), time.perf_counter() - began)
    folder.write_summary(summary)
    write_report(folder)
    folder.remove(names.CHECKPOINT)
    return summary
