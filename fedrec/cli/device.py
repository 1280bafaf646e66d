"""``fedrec device``: a device's folder, and what its owner tells it. More verbs stand in the files beside this one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fedrec.cli.device_enrol import enrol
from fedrec.cli.device_home import HomeOption, device, place
from fedrec.cli.device_run import prepare, run, sync
from fedrec.cli.device_use import budget, recommend, serve

if TYPE_CHECKING:
    from fedrec.device.history import Feedback
    from fedrec.device.home import DeviceHome
    from fedrec.device.policy import Policy
    from fedrec.device.store import Store

app = typer.Typer(no_args_is_help=True, help="A device: its own store, its owner's say, its part in training.")

ItemArgument = Annotated[str, typer.Argument(help="The item's id in the catalogue.")]

_SHOWN = 5
"""Refusals that the status tells; as JSON it tells many more."""


@app.command()
def init(home: HomeOption = None) -> None:
    """Make a device: keys, an empty store, and a policy under which it takes part in nothing yet."""
    from fedrec.device.home import DeviceHome

    made = DeviceHome.create(place(home))
    typer.echo(f"made a device in {made.root}; say what it may take part in: {made.policy_path}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV, JSON Lines, Parquet or SQLite, told by its suffix.")],
    home: HomeOption = None,
    item_column: Annotated[str, typer.Option(help="The column of the item's id.")] = "item_id",
    time_column: Annotated[
        str | None, typer.Option(help="The column of the time: seconds since 1970 or ISO 8601.")
    ] = None,
    rating_column: Annotated[str | None, typer.Option(help="The column of the rating.")] = None,
    min_rating: Annotated[
        float | None, typer.Option(help="From this rating on, something seen is a positive; kept for later imports.")
    ] = None,
    table: Annotated[str | None, typer.Option(help="The table of a SQLite file; by default its only one.")] = None,
    separator: Annotated[str | None, typer.Option(help="Of a CSV file; by default the comma, or the tab.")] = None,
) -> None:
    """Take in what the user has seen elsewhere, all of it or nothing; doing it again adds nothing."""
    from fedrec.device.ingest import Mapping, import_file

    mapping = Mapping(item_column, time_column, rating_column, table, separator)
    with device(home).open_store() as store:
        done = import_file(store, file, mapping, min_rating)
    typer.echo(f"{done.new:,} new, {done.known:,} there already")
    _tell_unknown(done.unknown_items)
    if done.unread and (time_column is None or rating_column is None):
        typer.echo(
            f"not read: {', '.join(done.unread)}; if one holds ratings or times, name it with --rating-column or "
            "--time-column and import the file again"
        )


@app.command()
def record(
    item: ItemArgument,
    home: HomeOption = None,
    at: Annotated[str | None, typer.Option(help="When: seconds since 1970 or ISO 8601; by default now.")] = None,
    rating: Annotated[float | None, typer.Option(help="The user's rating.")] = None,
) -> None:
    """Write down that the user has seen an item."""
    from fedrec.device import history
    from fedrec.device.ingest import seconds

    time = None if at is None else seconds(at)
    with device(home).open_store() as store:
        new = history.record(store, item, "seen", time, rating, source="cli")
        unknown = _unknown(item, store)
    typer.echo(f"{item}: seen" + ("" if new else ", as was known"))
    _tell_unknown(unknown)


@app.command()
def feedback(
    item: ItemArgument,
    word: Annotated[str, typer.Argument(help="liked, skipped or hidden.")],
    home: HomeOption = None,
) -> None:
    """Write down what the user thinks of an item; the latest word counts."""
    from fedrec.device import history

    with device(home).open_store() as store:
        history.feedback(store, item, cast("Feedback", word))
        unknown = _unknown(item, store)
    typer.echo(f"{item}: {word}")
    _tell_unknown(unknown)


@app.command()
def forget(item: ItemArgument, home: HomeOption = None) -> None:
    """Erase everything that the store holds of an item; what models have learned of it stays in them."""
    from fedrec.device import history

    with device(home).open_store() as store:
        erased = history.forget(store, item)
    typer.echo(f"{item}: {erased} event{'' if erased == 1 else 's'} erased")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="A new file; it holds the user's history, so keep it safe.")],
    home: HomeOption = None,
) -> None:
    """Copy the store into a file, while the device goes on."""
    with device(home).open_store() as store:
        store.backup(file)
    typer.echo(f"wrote {file}; keys and policy are files beside the store")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="What 'fedrec device backup' wrote.")], home: HomeOption = None
) -> None:
    """Put a backup in the place of a store that is damaged or gone; stop the device's other programs before."""
    from fedrec.device.restore import restore as put_back

    done = put_back(device(home), file)
    rows = ", ".join(f"{count} {table}" for table, count in done.salvaged.items() if count > 0)
    typer.echo(f"restored from {file}" + (f", and {rows} from the damaged store" if rows else ""))
    if done.kept is not None:
        typer.echo(f"the damaged store is {done.kept}; it holds the user's history, so delete it when it is not needed")
    if done.lost:
        typer.echo(f"not all could be read of: {', '.join(done.lost)}", err=True)


def _unknown(item: str, store: Store) -> int | None:
    """How many items of this id the catalogue does not hold; None without a catalogue."""
    from fedrec.device import catalogue

    known = catalogue.load(store)
    return None if known is None else int(item not in known[0].ids)


def _tell_unknown(items: int | None) -> None:
    """Say how many items count for nothing yet, since the catalogue does not hold them; None without a catalogue."""
    if items:
        some, them = ("1 item is", "it counts") if items == 1 else (f"{items:,} items are", "they count")
        typer.echo(f"{some} not in the catalogue: kept, and {them} once the catalogue has such an id")


@app.command()
def status(
    home: HomeOption = None, as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False
) -> None:
    """Say what the device holds, where it is enrolled, what it has spent, and what it has refused."""
    import json

    with (opened := device(home)).open_store() as store:
        facts = _facts(opened, store)
    typer.echo(json.dumps(facts, allow_nan=False) if as_json else "\n".join(_lines(facts)))


def _facts(home: DeviceHome, store: Store) -> dict[str, Any]:
    from dataclasses import asdict

    from fedrec.device import catalogue, history
    from fedrec.device.budget import known_faults
    from fedrec.device.gateway import TURNED_AWAY
    from fedrec.device.policy import load_policy

    trust, known, policy = home.trust(), catalogue.load(store), load_policy(home.policy_path)
    turned_away = store.get(TURNED_AWAY)
    columns = ("at", "experiment", "round", "attempt", "phase", "code", "detail")
    refusals = store.query(f"SELECT {', '.join(columns)} FROM refusals ORDER BY id DESC LIMIT 100")  # noqa: S608
    return {
        "home": str(home.root),
        "opt_in": policy.opt_in,
        "enrolled": None if trust is None else trust.model_dump(include={"server", "number", "node_id"}),
        "turned_away": None if turned_away is None else turned_away.decode(),
        "history": {**asdict(history.counts(store)), "min_rating": history.min_rating(store)},
        "catalogue": None
        if known is None
        else {"items": len(known[0]), "sha256": known[1], "unknown_items": history.unknown(store, known[0])},
        "charges": _charges(policy, store),
        "ledger_faults": list(known_faults(store)),
        "refusals": [dict(zip(columns, row, strict=True)) for row in refusals],
    }


def _charges(policy: Policy, store: Store) -> dict[str, Any] | None:
    """The last round and what all of them have cost; None before the first."""
    from fedrec.device.charges import Charges, spent
    from fedrec.errors import Refusal

    try:
        every = Charges(store, policy).all()
        if not every:
            return None
        last = {"experiment": every[-1].experiment, "round": every[-1].round, "attempt": every[-1].attempt}
        promise = {"unit": policy.unit, "delta": policy.delta, "epsilon_total": policy.epsilon_total}
        return {"count": len(every), "last": {**last, "at": every[-1].at}, "epsilon": spent(every, policy), **promise}
    except Refusal as refusal:  # the owner wants to see the rest all the same
        return {"error": refusal.detail}


def _lines(facts: dict[str, Any]) -> list[str]:
    history, trust, known = facts["history"], facts["enrolled"], facts["catalogue"]
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in history["kinds"].items() if count)
    least = "" if history["min_rating"] is None else f"; positive from rating {history['min_rating']:g} on"
    joined = "takes part" if facts["opt_in"] else "takes no part (opt_in = false in its policy)"
    return [
        f"device      {facts['home']}, {joined}",
        "enrolled    " + (f"device {trust['number']} of {trust['server']}" if trust else "nowhere"),
        *([f"SERVER      {facts['turned_away']}"] if facts["turned_away"] else []),
        f"history     {history['events']:,} events, {history['items']:,} items"
        + (f" ({kinds})" if kinds else "")
        + least,
        "catalogue   " + (_items(known) if known else "none yet"),
        f"privacy     {_spent(facts['charges'])}",
        *(f"LEDGER      {fault}" for fault in facts["ledger_faults"]),
        *(
            f"refused     {_day(refusal['at'])} {refusal['phase']}: {refusal['detail']} ({refusal['code']})"
            for refusal in facts["refusals"][:_SHOWN]
        ),
    ]


def _items(known: dict[str, Any]) -> str:
    unknown = known["unknown_items"]
    lacking = f"; {unknown:,} of the history's items are not in it" if unknown else ""
    return f"{known['items']:,} items, {known['sha256'][:12]}{lacking}"


def _spent(charges: dict[str, Any] | None) -> str:
    if charges is None:
        return "nothing spent"
    if "error" in charges:
        return str(charges["error"])
    last, count = charges["last"], f"{charges['count']} charge{'' if charges['count'] == 1 else 's'}"
    promise = f"of {charges['epsilon_total']:g}, unit {charges['unit']}, delta {charges['delta']:g}"
    where = f"round {last['round']} of {last['experiment'][:8]} on {_day(last['at'])}"
    return f"epsilon {charges['epsilon']:.4g} {promise}; {count}, the last for {where}"


def _day(at: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


for _verb in (enrol, run, sync, prepare, recommend, budget, serve):
    app.command()(_verb)
