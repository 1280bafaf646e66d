"""``fedrec device``: a device is made, told things and asked, each in a sentence."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.data.interactions import Catalogue
from fedrec.device import budget, catalogue
from fedrec.device.gateway import TURNED_AWAY
from fedrec.device.home import DeviceHome
from tests.deployment.world import world
from tests.device.fleet import NOW, Fleet

Fedrec = Callable[..., Any]


@pytest.fixture
def made(fedrec: Fedrec, home: Path) -> DeviceHome:
    done = fedrec("device", "init")
    assert done.code == 0, done.err
    return DeviceHome.open(home / "device")


def status(fedrec: Fedrec) -> dict[str, Any]:
    done = fedrec("device", "status", "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_init_makes_a_private_folder_and_says_what_is_next(fedrec: Fedrec, tmp_path: Path) -> None:
    done = fedrec("device", "init", "--home", tmp_path / "phone")
    assert done.code == 0
    assert (
        done.out == f"made a device in {tmp_path}/phone; say what it may take part in: {tmp_path}/phone/policy.toml\n"
    )
    assert stat.S_IMODE((tmp_path / "phone").stat().st_mode) == 0o700
    again = fedrec("device", "init", "--home", tmp_path / "phone")
    assert (again.code, again.out) == (2, "")
    assert (
        again.err == f"fedrec: '{tmp_path}/phone' holds something already; give an empty or new folder with --home.\n"
    )


def test_without_a_device_every_verb_says_how_to_make_one(fedrec: Fedrec) -> None:
    for verb in (["status"], ["record", "a"], ["feedback", "a", "liked"], ["forget", "a"], ["backup", "b"]):
        done = fedrec("device", *verb)
        assert done.code == 2
        assert "make one with 'fedrec device init" in done.err
        assert len(done.err.splitlines()) == 1


@pytest.mark.usefixtures("made")
def test_what_the_owner_tells_is_kept(fedrec: Fedrec, place: Path) -> None:
    (place / "seen.csv").write_text("movie,when,stars\n1,2024-05-01,5\n2,2024-05-02,1\n1,2024-05-01,5\n")
    columns = ("--item-column", "movie", "--time-column", "when", "--rating-column", "stars", "--min-rating", "4")
    assert fedrec("device", "import", "seen.csv", *columns).out == "2 new, 1 there already\n"
    assert fedrec("device", "record", "3", "--at", "1970-01-02", "--rating", "2").out == "3: seen\n"
    assert fedrec("device", "record", "3", "--at", "86400").out == "3: seen, as was known\n"
    assert fedrec("device", "feedback", "4", "hidden").out == "4: hidden\n"
    assert status(fedrec)["history"] == {
        "events": 4,
        "items": 4,
        "kinds": {"seen": 3, "liked": 0, "skipped": 0, "hidden": 1},
        "min_rating": 4.0,
    }
    assert fedrec("device", "forget", "1").out == "1: 1 event erased\n"
    assert fedrec("device", "forget", "1").out == "1: 0 events erased\n"
    assert status(fedrec)["history"]["events"] == 3


@pytest.mark.usefixtures("made")
def test_wrong_words_are_one_sentence(fedrec: Fedrec, place: Path) -> None:
    (place / "seen.csv").write_text("movie\n1\n")
    for arguments, told in (
        (["feedback", "1", "love"], "Feedback is liked, skipped or hidden, not 'love'."),
        (["record", "1", "--at", "noon"], "'noon' is no time;"),
        (["record", ""], "An item's id has 1 to 200 bytes"),
        (["import", "seen.csv"], "seen.csv, line 2: there is no column 'item_id'."),
        (["import", "other.csv"], "There is no file other.csv;"),
        (["import", "seen.csv", "--item-column", "movie", "--min-rating", "nan"], "nan is not a rating"),
        (["restore", "seen.csv"], "is whole; move it away"),
    ):
        done = fedrec("device", *arguments)
        assert (done.code, done.out) == (2, "")
        assert told in done.err
        assert len(done.err.splitlines()) == 1
    assert status(fedrec)["history"]["events"] == 0


def test_a_new_device_s_status(fedrec: Fedrec, made: DeviceHome) -> None:
    facts = status(fedrec)
    assert facts.pop("history")["events"] == 0
    assert facts == {
        "home": str(made.root),
        "opt_in": False,
        "enrolled": None,
        "turned_away": None,
        "catalogue": None,
        "charges": None,
        "ledger_faults": [],
        "refusals": [],
    }
    assert fedrec("device", "status").out.splitlines() == [
        f"device      {made.root}, takes no part (opt_in = false in its policy)",
        "enrolled    nowhere",
        "history     0 events, 0 items",
        "catalogue   none yet",
        "privacy     nothing spent",
    ]


def test_the_status_tells_what_the_server_s_ledger_says_otherwise(fedrec: Fedrec, made: DeviceHome) -> None:
    with made.open_store() as store:
        store.put("ledger", b"{}\n")
        (fault,) = budget.watch(made, store)
    assert status(fedrec)["ledger_faults"] == [fault]
    assert f"LEDGER      {fault}" in fedrec("device", "status").out.splitlines()


def test_the_status_tells_refusals_newest_first(fedrec: Fedrec, made: DeviceHome) -> None:
    with made.open_store() as store:
        store.put(catalogue.DOCUMENT, catalogue.to_bytes(Catalogue(np.array(["a", "b"]))))
        with store.transaction() as connection:
            for number in range(7):
                connection.execute(
                    "INSERT INTO refusals (at, phase, code, detail) VALUES (?, 'masked', 'noise', ?)",
                    (86_400 * number, f"Too little, {number}."),
                )
    lines = fedrec("device", "status").out.splitlines()
    assert lines[3].startswith("catalogue   2 items, ")
    assert lines[5] == "refused     1970-01-07 00:00 UTC masked: Too little, 6. (noise)"
    assert len(lines) == 10
    refusals = status(fedrec)["refusals"]
    assert [refusal["at"] for refusal in refusals] == [86_400 * number for number in reversed(range(7))]


def test_the_status_tells_of_the_last_round_and_its_cost(fedrec: Fedrec, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.round()
    at = ("--home", fleet.homes[2].root)
    facts = json.loads(fedrec("device", "status", *at, "--json").out)
    assert facts["opt_in"]
    assert facts["enrolled"] == {"server": "localhost:1", "number": 2, "node_id": "0"}
    charges = facts["charges"]
    assert charges.pop("epsilon") > 0
    run = fleet.experiment.digest()
    last = {"experiment": run, "round": 1, "attempt": 0, "at": NOW}
    assert charges == {"count": 1, "last": last, "unit": "user", "delta": 1e-5, "epsilon_total": 40.0}
    shown = fedrec("device", "status", *at).out
    assert "enrolled    device 2 of localhost:1\n" in shown
    assert f"of 40, unit user, delta 1e-05; 1 charge, the last for round 1 of {run[:8]} on 2027" in shown


def test_a_chain_of_charges_that_was_edited_does_not_hide_the_rest(fedrec: Fedrec, made: DeviceHome) -> None:
    with made.open_store() as store, store.transaction() as connection:
        connection.execute("INSERT INTO charges VALUES ('e', 1, 0, 5, '2026-01-01', 'r', '{}', '{}', 9, x'00')")
    assert "record of charges was edited" in status(fedrec)["charges"]["error"]
    assert "record of charges was edited" in fedrec("device", "status").out


def test_a_damaged_store_is_restored_from_a_backup(fedrec: Fedrec, made: DeviceHome, place: Path) -> None:
    fedrec("device", "record", "kept", "--at", "1")
    assert fedrec("device", "backup", "copy").code == 0
    assert stat.S_IMODE((place / "copy").stat().st_mode) == 0o600
    fedrec("device", "record", "later", "--at", "2")
    os.truncate(made.store_path, 100)
    done = fedrec("device", "record", "unheard", "--at", "3")
    assert done.code == 2
    assert "is damaged" in done.err
    assert "fedrec device restore FILE" in done.err
    done = fedrec("device", "restore", "copy")
    assert done.code == 0
    assert done.out.startswith("restored from copy\nthe damaged store is ")
    assert "not all could be read of: interactions, charges, answers, refusals" in done.err
    assert status(fedrec)["history"]["events"] == 1


def test_all_verbs_of_a_device_are_there(fedrec: Fedrec) -> None:
    shown = fedrec("device", "--help").out
    verbs = "init enrol import record feedback forget recommend budget serve run sync prepare status backup restore"
    assert [verb for verb in verbs.split() if f" {verb} " not in shown] == []


@pytest.mark.usefixtures("made")
def test_an_import_tells_what_it_has_not_read(fedrec: Fedrec, place: Path) -> None:
    (place / "seen.csv").write_text("item_id,rating\n1,5\n")
    assert fedrec("device", "import", "seen.csv").out.splitlines() == [
        "1 new, 0 there already",
        "not read: rating; if one holds ratings or times, name it with --rating-column or --time-column and import the "
        "file again",
    ]
    assert len(fedrec("device", "import", "seen.csv", "--rating-column", "rating").out.splitlines()) == 1
    done = fedrec("device", "import", ".")
    assert (done.code, done.err) == (2, "fedrec: '.' is a folder; give one file of it.\n")


def test_items_that_the_catalogue_does_not_know_are_told(fedrec: Fedrec, made: DeviceHome, place: Path) -> None:
    with made.open_store() as store:
        store.put(catalogue.DOCUMENT, catalogue.to_bytes(Catalogue(np.array(["a", "b"]))))
    told = "not in the catalogue: kept, and"
    assert fedrec("device", "record", "a").out == "a: seen\n"
    assert f"1 item is {told} it counts once" in fedrec("device", "record", "z").out
    (place / "seen.jsonl").write_text("".join(f'{{"item_id": "{item}"}}\n' for item in ("a", "x", "y")))
    assert f"2 items are {told} they count once" in fedrec("device", "import", "seen.jsonl").out
    assert "; 3 of the history's items are not in it" in fedrec("device", "status").out


def test_a_budget_without_a_server_says_how_a_ledger_comes_here(fedrec: Fedrec, made: DeviceHome) -> None:
    assert made.trust() is None
    done = fedrec("device", "budget", "--check")
    assert done.code == 0
    assert "ledger: none is here yet; run 'fedrec device sync' once this device is enrolled" in done.out


def test_the_status_tells_that_the_server_turns_the_device_away(fedrec: Fedrec, made: DeviceHome) -> None:
    with made.open_store() as store:
        store.put(TURNED_AWAY, b"It knows it no more.")
    assert "SERVER      It knows it no more." in fedrec("device", "status").out.splitlines()


@pytest.mark.parametrize("joins", [False, True])
def test_enrolling_tells_what_the_owner_has_to_do(
    fedrec: Fedrec, made: DeviceHome, tmp_path: Path, joins: bool
) -> None:
    if joins:
        made.policy_path.write_text("opt_in = true\n")
    with world(tmp_path / "world") as here:
        done = fedrec("device", "enrol", here.home.invitation(here.invite()).encoded())
    assert done.code == 0, done.err
    first = "" if joins else f"set opt_in = true in {made.policy_path} to take part, then "
    assert done.out.endswith(f" as device 1; {first}start 'fedrec device run'\n")
