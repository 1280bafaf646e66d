"""``fedrec device run``, ``sync`` and ``prepare``: a device takes part."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from fedrec.cli.device_home import HomeOption, device


def run(
    home: HomeOption = None,
    sync_seconds: Annotated[
        float, typer.Option(min=1.0, metavar="SECONDS", help="Between two visits to the server.")
    ] = 60.0,
) -> None:
    """Take part in rounds until stopped: keep a SuperNode running, documents fresh and experiments prepared."""
    from fedrec.device.agent import Agent

    os.umask(0o077)  # what this process and its children make is the owner's alone
    Agent(device(home), typer.echo, sync_seconds).run()


def sync(home: HomeOption = None) -> None:
    """Fetch once what the server publishes: catalogue, roster, model, ledger and the proofs of this device's rounds."""
    from fedrec.device.gateway import sync as fetch

    found = fetch(device(home))
    listed = "" if found.on_roster else "; the roster does not hold this device: it is not asked in rounds"
    typer.echo(f"round {found.publication.round}, new here: {', '.join(found.changed) or 'nothing'}{listed}")
    for fault in found.faults:
        typer.echo(f"LEDGER: {fault}", err=True)
    if found.faults:
        raise typer.Exit(1)


def prepare(home: HomeOption = None) -> None:
    """Work out what the experiments cost that the server has asked for, so that the device can answer them."""
    from fedrec.device.preparation import prepare as work_out
    from fedrec.device.preparation import wanted

    with device(home).open_store() as store:
        waiting = wanted(store)
        for text in waiting:
            work_out(store, text)
    typer.echo(f"prepared {len(waiting)} experiment{'' if len(waiting) == 1 else 's'}")
