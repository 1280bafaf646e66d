"""``fedrec server up`` and ``status``."""

from __future__ import annotations

from typing import Annotated

import typer

from fedrec.cli.server import HomeOption, server


def up(
    home: HomeOption = None,
    until_done: Annotated[
        bool, typer.Option("--until-done", help="End when training has ended; else go on serving the model.")
    ] = False,
) -> None:
    """Run the server until stopped: SuperLink, gateway, and training on the devices that are enrolled."""
    import signal

    from fedrec.deployment.supervisor import Supervisor

    supervisor = Supervisor(server(home), typer.echo)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop())
    supervisor.up(until_done=until_done)


def status(
    home: HomeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How the server is: training, devices, budget, certificate, the last error; also when nothing runs."""
    from fedrec.deployment import status as look

    found = look.Watcher(server(home)).look()
    typer.echo(look.as_json(found) if as_json else look.words(found))
