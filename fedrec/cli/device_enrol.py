"""``fedrec device enrol``: register a device's keys with a server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedrec.cli.device_home import HomeOption, device


def enrol(
    invitation: Annotated[
        str,
        typer.Argument(help="What 'fedrec server token' printed; a file that holds it; or - to read it from stdin."),
    ],
    home: HomeOption = None,
) -> None:
    """Register this device with the server that invites it, and trust that server's keys from now on."""
    from fedrec.device.gateway import enrol as register
    from fedrec.device.policy import load_policy
    from fedrec.device.trust import Invitation

    if invitation == "-":
        line = sys.stdin.readline()
    else:
        line = invitation if invitation.startswith(Invitation.MARK) else _read(Path(invitation))
    enrolled = device(home)
    joins = load_policy(enrolled.policy_path).opt_in
    trust = register(enrolled, Invitation.decoded(line))
    first = "" if joins else f"set opt_in = true in {enrolled.policy_path} to take part, then "
    typer.echo(f"enrolled with {trust.server} as device {trust.number}; {first}start 'fedrec device run'")


def _read(path: Path) -> str:
    from fedrec.errors import UsageError

    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise UsageError(
            "That is neither an invitation nor a file that holds one; copy the line of 'fedrec server token'."
        ) from error
