"""``fedrec server``: a server's folder, its devices and its certificate. The other verbs stand beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedrec.config import Experiment
    from fedrec.data.interactions import Catalogue
    from fedrec.deployment.certificates import Pair
    from fedrec.deployment.home import ServerHome
    from fedrec.deployment.registry import Device

app = typer.Typer(no_args_is_help=True, help="A server: its folder, its devices, and training on them.")

HomeOption = Annotated[
    Path | None, typer.Option("--home", metavar="DIR", help="The server's folder; by default $FEDREC_HOME/server.")
]
CertOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A certificate of one's own, with those that lead to its authority.")
]
KeyOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key, not encrypted.")]


def place(home: Path | None) -> Path:
    """The server's folder, as given or in fedrec's own."""
    from fedrec.data.home import home as fedrec_home

    return home or fedrec_home() / "server"


def server(home: Path | None) -> ServerHome:
    """The server that is there.

    Raises:
        ServerError: if there is none.
    """
    from fedrec.deployment.home import ServerHome

    return ServerHome.open(place(home))


@app.command()
def init(
    experiment: Annotated[str, typer.Option(metavar="FILE", help="An experiment's TOML file, or a packaged one.")],
    host: Annotated[str, typer.Option(metavar="NAME", help="The host name or IP address that devices connect to.")],
    items: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The public items: CSV, Parquet, JSON Lines or atomic file.")
    ] = None,
    item_column: Annotated[str, typer.Option(help="Its column of the items' ids.")] = "item_id",
    feature: Annotated[list[str] | None, typer.Option(help="A numeric column that becomes a feature.")] = None,
    catalogue_of: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Instead of --items: a data set whose items to take.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="The port that devices connect to.")] = 9443,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST[:PORT]", help="Where to listen, if it is elsewhere.")
    ] = None,
    cert: CertOption = None,
    key: KeyOption = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The authority that devices are to trust for --cert.")
    ] = None,
    registrar_key: Annotated[
        str | None, typer.Option(metavar="PUBLIC", help="The key that signs rosters, if it is kept elsewhere: base64.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the experiment.")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Make a server: keys, certificate, registry, and the experiment that its devices will train."""
    from fedrec.config import load
    from fedrec.deployment.home import ServerConfig, ServerHome
    from fedrec.deployment.needs import lines
    from fedrec.privacy.keys import public_key

    wanted = load(experiment, set_ or [])
    address, at_port = _listen(listen, port)
    config = ServerConfig(public_name=host, public_port=port, host=address, port=at_port)
    catalogue = _catalogue(wanted, items, item_column, feature or [], catalogue_of)
    registrar = None if registrar_key is None else public_key(registrar_key)
    made = ServerHome.create(place(home), config, wanted, catalogue, _given(cert, key, ca), registrar)
    typer.echo(f"made a server in {made.root} for {config.address}")
    for line in lines(made.experiment(), catalogue):
        typer.echo(line)
    typer.echo("invite devices with 'fedrec server token', and start it with 'fedrec server up'")


@app.command()
def token(
    hours: Annotated[float, typer.Option(min=0.01, help="How long it can be used.")] = 24.0,
    note: Annotated[str, typer.Option(help="Whom it is for, as 'nodes' then shows.")] = "",
    home: HomeOption = None,
) -> None:
    """Print an invitation for one device; its owner gives it to 'fedrec device enrol'. It is shown this once."""
    import time

    found = server(home)
    typer.echo(found.invitation(found.registry().new_token(int(time.time()), hours, note)).encoded())


@app.command()
def nodes(
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False, home: HomeOption = None
) -> None:
    """List the devices that have enrolled."""
    import json

    found = server(home).registry().devices()
    if as_json:
        typer.echo(json.dumps([_as_json(device) for device in found]))
        return
    for device in found:
        state = f"revoked {_day(device.revoked)}" if device.revoked is not None else f"node {device.node_id or '-'}"
        line = f"{device.number:6d}  {device.identity.hex()[:16]}  enrolled {_day(device.enrolled)}  {state}"
        typer.echo(f"{line}  {device.note}".rstrip())
    typer.echo(f"{sum(device.revoked is None for device in found)} devices, of {len(found)} that ever enrolled")


@app.command()
def revoke(
    number: Annotated[int, typer.Argument(help="The device's number, of 'fedrec server nodes'.")],
    home: HomeOption = None,
) -> None:
    """Shut a device out for ever, at once; a running server also makes Flower forget it."""
    import time

    found = server(home)
    registry = found.registry()
    registry.revoke(number, int(time.time()))
    sign = "" if found.signs_rosters else "; sign the roster without it: fedrec server roster-export"
    typer.echo(f"revoked device {number}{sign}")


@app.command()
def renew(cert: CertOption = None, key: KeyOption = None, home: HomeOption = None) -> None:
    """Put a new certificate in the place of the server's; a running server takes it up for the connections to come."""
    found = server(home)
    found.renew(_pair(cert, key))
    typer.echo(f"the certificate ends in {found.certificate_days():.0f} days; a running server takes it up at once")


def _listen(listen: str | None, port: int) -> tuple[str, int]:
    from fedrec.errors import UsageError

    if listen is None:
        return "0.0.0.0", port  # noqa: S104 - devices come from elsewhere
    host, colon, given = listen.rpartition(":")
    if not colon or listen.endswith("]"):
        return listen.strip("[]"), port
    if not given.isdigit() or not 0 < int(given) < 65536:
        raise UsageError(f"--listen {listen} is not of the form HOST:PORT, such as 127.0.0.1:9443.")
    return host.strip("[]"), int(given)


def _catalogue(experiment: Experiment, items: Path | None, item: str, features: list[str], of: str | None) -> Catalogue:
    """The items of a file or of a data set; those of the experiment's own data are a simulation's."""
    from fedrec.data.source import load
    from fedrec.deployment.experiment import read_catalogue
    from fedrec.errors import UsageError

    if items is not None and of is None:
        return read_catalogue(items, item, features)
    if of is not None and items is None:
        return load(experiment.replaced(data={"name": of}).data).catalogue
    raise UsageError(
        "Give either --items FILE, the public items that devices may have met, or --catalogue-of DATASET for a trial."
    )


def _given(cert: Path | None, key: Path | None, ca: Path | None) -> tuple[Pair, bytes] | None:
    from fedrec.errors import UsageError

    pair = _pair(cert, key)
    if (pair is None) != (ca is None):
        raise UsageError("--cert, --key and --ca belong together: give all three or none.")
    return None if pair is None or ca is None else (pair, ca.read_bytes())


def _pair(cert: Path | None, key: Path | None) -> Pair | None:
    from fedrec.deployment.certificates import Pair
    from fedrec.errors import UsageError

    if (cert is None) != (key is None):
        raise UsageError("--cert and --key belong together: give both or none.")
    return None if cert is None or key is None else Pair(cert.read_bytes(), key.read_bytes())


def _as_json(device: Device) -> dict[str, int | str | None]:
    return {
        "number": device.number,
        "identity": device.identity.hex(),
        "note": device.note,
        "node_id": device.node_id,
        "enrolled": device.enrolled,
        "revoked": device.revoked,
    }


def _day(seconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _add() -> None:
    """The verbs of the other files."""
    from fedrec.cli.server_roster import registrar_key, roster_export, roster_import, roster_sign
    from fedrec.cli.server_up import status, up

    for verb in (up, status, registrar_key, roster_export, roster_sign, roster_import):
        app.command()(verb)


_add()
