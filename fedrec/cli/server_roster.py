"""``fedrec server registrar-key`` and ``roster-…``: rosters that are signed on another machine than the server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from fedrec.cli.server import HomeOption, server

OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")]


def registrar_key(out: OutArgument) -> None:
    """Make a registrar's key (mode 0600) and print its public half, for 'fedrec server init --registrar-key'."""
    import base64

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key.private_bytes_raw())
    typer.echo(base64.b64encode(key.public_key().public_bytes_raw()).decode("ascii"))


def roster_export(out: OutArgument, home: HomeOption = None) -> None:
    """Write the roster that is due, for the registrar to look at and sign."""
    from fedrec.agreements.roster import sign_roster

    found = server(home)
    version, members = found.registry().proposed()
    out.write_bytes(sign_roster(version, members, found.key("request")).text)  # this key makes no roster of it
    typer.echo(f"version {version} with {len(members)} devices is in {out}; sign it with 'fedrec server roster-sign'")


def roster_sign(
    draft: Annotated[Path, typer.Argument(metavar="DRAFT", help="What roster-export wrote.")],
    out: OutArgument,
    key: Annotated[Path, typer.Option(metavar="FILE", help="The registrar's key.")],
) -> None:
    """Sign a roster, where the registrar's key is; the server takes it with 'fedrec server roster-import'."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from fedrec.agreements.enrolment import signer
    from fedrec.agreements.roster import read_roster, sign_roster
    from fedrec.errors import UsageError

    raw = key.read_bytes()
    if len(raw) != 32:
        raise UsageError(f"'{key}' is not a registrar's key: 32 bytes, as 'fedrec server registrar-key' makes it.")
    text = draft.read_bytes()
    found = read_roster(text, signer(text))
    for number, member in found.members.items():
        typer.echo(f"{number:6d}  {member.identity.hex()}")
    out.write_bytes(sign_roster(found.version, found.members, Ed25519PrivateKey.from_private_bytes(raw)).text)
    typer.echo(f"signed version {found.version} with {len(found.members)} devices")


def roster_import(
    roster: Annotated[Path, typer.Argument(metavar="ROSTER", help="What roster-sign wrote.")], home: HomeOption = None
) -> None:
    """Put a signed roster in force."""
    found = server(home).registry().import_roster(roster.read_bytes())
    typer.echo(f"version {found.version} with {len(found.members)} devices is in force")
