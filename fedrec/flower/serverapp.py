"""The ServerApp: runs the experiment of its run config and leaves a run folder."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from fedrec.config import Experiment, named_or_text
from fedrec.data.home import home
from fedrec.engines import simulate
from fedrec.errors import ConfigError, FedrecError
from fedrec.flower.strategy import FederationStrategy, Loop
from fedrec.reporting.folder import RunFolder

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run; a failure is also written to the file that the run config names, because Flower keeps only its text.

    Run config: ``experiment`` (a packaged name or TOML text), ``output-dir`` (absolute; "" takes the next free folder
    under the fedrec home), ``resume`` (continue what ``output-dir`` holds), ``failure-file`` ("" for none).
    """
    config = context.run_config
    try:
        experiment = named_or_text(str(config["experiment"])).replaced(engine={"name": "flower"})
        loop = _loop(experiment, str(config["output-dir"]), resume=bool(config["resume"]))
        FederationStrategy(loop).start(grid, ArrayRecord())
    except FedrecError as error:
        if config["failure-file"]:
            failure = {"type": type(error).__name__, "message": str(error)}
            Path(str(config["failure-file"])).write_text(json.dumps(failure), encoding="utf-8")
        raise


def _loop(experiment: Experiment, out: str, *, resume: bool) -> Loop:
    if not out:
        return partial(simulate.start, experiment, partial(RunFolder.create_next, experiment.name, home() / "runs"))
    folder = Path(out)
    if not folder.is_absolute():
        raise ConfigError(f"output-dir = '{out}' is not absolute: a ServerApp does not run where you are.")
    if resume:
        return partial(simulate.resume, experiment, RunFolder.open(folder))
    return partial(simulate.start, experiment, partial(RunFolder.create, folder))
