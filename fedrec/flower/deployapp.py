"""The ServerApp of a deployment: trains in the folder of the server that started it, on devices that Flower reaches."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrec.deployment.home import ServerHome
from fedrec.deployment.journal import Journal
from fedrec.deployment.registry import Registry
from fedrec.deployment.superlink import HOME
from fedrec.deployment.training import train
from fedrec.errors import ServerError
from fedrec.federation.round import Federation
from fedrec.flower.devices import DeviceEngine

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train in the server's folder; see `fedrec.deployment.training.train`."""
    root = os.environ.get(HOME)
    if not root:
        raise ServerError(f"{HOME} names no folder; start the server with 'fedrec server up'.")
    home = ServerHome.open(Path(root))
    if context.run_config["experiment"] != home.experiment_text():
        raise ServerError(f"The app that was submitted carries another experiment than '{home.experiment_file}'.")
    train(home, partial(_engine, grid, home, str(context.run_id)))


def _engine(
    grid: Grid, home: ServerHome, run: str, federation: Federation, registry: Registry, journal: Journal
) -> DeviceEngine:
    return DeviceEngine(grid, federation, registry, home.key("request"), run, journal)
