"""Damaged files, full disks, wrong clocks: training goes on, or stops with one sentence, and nothing is forgotten."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedrec.reporting.folder import CHECKPOINT
from tests.device.damage import change
from tests.faults.running import run
from tests.faults.training import Weather
from tests.faults.world import NUMBERS, World

Copy = Callable[[World], World]
Act = Callable[[World], object]

DAY = 86_400.0


def nothing(_: World) -> None:
    """Leaves all files as they are."""


@dataclass(frozen=True)
class Trouble:
    """What happens after round 1, and how round 2 goes.

    Attributes:
        name: of it.
        act: what is done to the files.
        weather: what else is wrong while round 2 is tried.
        says: the sentence with which training stops, a regular expression; empty if it goes on.
        refuses: by device, the code with which it refuses; "" where it cannot be written, `BROKEN` without a store.
    """

    name: str
    act: Act = nothing
    weather: Weather = field(default_factory=Weather)
    says: str = ""
    refuses: dict[int, str] = field(default_factory=dict)


BROKEN = "no store"


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def drop_line(path: Path) -> None:
    """Cut off the last line."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))


def flip(path: Path, at: int) -> None:
    """Change one byte, counted from the end where it is negative."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def in_run(name: str, act: Callable[[Path], object]) -> Act:
    """Done to a file of the server's run folder."""
    return lambda world: act(world.server.run / name)


def sql(number: int, text: str) -> Act:
    """Done to a device's store, behind fedrec's back."""

    def act(world: World) -> None:
        with closing(sqlite3.connect(world.device(number).store_path)) as connection:
            connection.execute(text)
            connection.commit()

    return act


TROUBLES = (
    # The server's files
    Trouble("a torn line at the ledger's end", in_run("ledger.jsonl", lambda path: append(path, b'{"attempt":0,'))),
    Trouble("a line of the ledger overwritten", in_run("ledger.jsonl", lambda path: flip(path, 200)), says="ledger"),
    Trouble(
        "the ledger's last line gone", in_run("ledger.jsonl", drop_line), says="events are missing, so this run cannot"
    ),
    Trouble("the ledger gone", in_run("ledger.jsonl", Path.unlink), says="events are missing, so this run cannot"),
    Trouble("the checkpoint cut", in_run(CHECKPOINT, lambda path: os.truncate(path, 100)), says="checkpoint"),
    Trouble("a byte of the checkpoint changed", in_run(CHECKPOINT, lambda path: flip(path, -9)), says="checkpoint"),
    Trouble("the checkpoint empty", in_run(CHECKPOINT, lambda path: os.truncate(path, 0)), says="checkpoint"),
    Trouble("the checkpoint gone", in_run(CHECKPOINT, Path.unlink), says="has lost its checkpoint"),
    Trouble("a torn line of a round", in_run("rounds.jsonl", lambda path: append(path, b'{"round": 2'))),
    Trouble("the rounds gone", in_run("rounds.jsonl", Path.unlink), says="is damaged: it has 0 of the 1 rounds"),
    Trouble("a torn line of a cohort", in_run("cohorts.jsonl", lambda path: append(path, b'{"round": 2, "att'))),
    Trouble(
        "the published model overwritten", in_run("published.safetensors", lambda path: change(path, 0, b"x" * 64))
    ),
    Trouble(
        "the registry overwritten", lambda world: change(world.server.state, 0, os.urandom(4096)), says="state.sqlite"
    ),
    Trouble(
        "the ledger's key cut",
        lambda world: os.truncate(world.server.keys / "ledger.key", 9),
        says="32-byte Ed25519 key",
    ),
    # A device's files: it alone refuses
    Trouble(
        "a device's store overwritten",
        lambda world: change(world.device(1).store_path, 0, os.urandom(4096)),
        refuses={1: BROKEN},
    ),
    Trouble("a device's store cut", lambda world: os.truncate(world.device(1).store_path, 5000), refuses={1: BROKEN}),
    Trouble("a device's charge edited", sql(1, "UPDATE charges SET cohort = 99"), refuses={1: "charges"}),
    Trouble("a device's charge removed", sql(1, "DELETE FROM charges"), refuses={1: "charges"}),
    Trouble("a device's keys gone", lambda world: (world.device(1).keys / "identity").unlink(), refuses={1: "failed"}),
    # Full disks
    Trouble("the server's disk full before it charges", weather=Weather(full="recruit 2"), says="Cannot write"),
    Trouble("the server's disk full with a sum", weather=Weather(full="collect 2"), says="Cannot write"),
    Trouble("a device's disk full", weather=Weather(full_devices=(1,)), refuses={1: ""}),
    # Clocks
    Trouble("a device's clock a day behind", weather=Weather({"1": -DAY}), refuses={1: "clock"}),
    Trouble("a device's clock a day ahead", weather=Weather({"1": DAY}), refuses={1: "expired"}),
    Trouble(
        "the server's clock a day behind",
        weather=Weather({"0": -DAY}),
        refuses=dict.fromkeys(NUMBERS, "expired"),
        says="Round 2 failed 5 times",
    ),
    Trouble(
        "the server's clock a day ahead",
        weather=Weather({"0": DAY}),
        refuses=dict.fromkeys(NUMBERS, "clock"),
        says="Round 2 failed 5 times",
    ),
)


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
def test_training_goes_on_or_stops_with_a_sentence(trained: World, copied: Copy, trouble: Trouble) -> None:
    world = copied(trained)
    trouble.act(world)
    before = len(world.replies())
    done = run("training", str(world.root), "2", "", trouble.weather.to_json())
    left = [reply["device"] for reply in world.replies()[before:] if reply["phase"] == "masked"]
    assert "Traceback" not in done.stderr
    assert done.returncode == bool(trouble.says), done.stderr
    if trouble.says:
        assert re.search(trouble.says, done.stderr), done.stderr
        assert done.stderr.rstrip().endswith("."), "a sentence"
    else:
        assert left == [number for number in NUMBERS if number not in trouble.refuses]
        world.check(without=[number for number, code in trouble.refuses.items() if code in (BROKEN, "charges")])
    for number, code in trouble.refuses.items():
        assert number not in left
        assert code == BROKEN or set(world.codes(number)) == ({code} if code else set())


@pytest.mark.parametrize(
    ("weather", "attempt"),
    [
        (Weather(full="recruit 2"), 0),
        (Weather(full="collect 2"), 1),
        (Weather(full_devices=(1,)), 0),
        (Weather({"1": -DAY}), 0),
        (Weather({"1": DAY}), 0),
    ],
    ids=["server full", "server full with a sum", "device full", "clock behind", "clock ahead"],
)
def test_all_is_well_again_with_space_on_the_disk_or_the_right_time(
    trained: World, copied: Copy, weather: Weather, attempt: int
) -> None:
    world = copied(trained)
    run("training", str(world.root), "2", "", weather.to_json())
    world.check()
    done = run("training", str(world.root), "3")
    assert done.returncode == 0, done.stderr
    world.check()
    assert all((3, 0) in world.charges(number) for number in NUMBERS)
    assert max(world.charged()) == (3, 0)
    assert (2, attempt) in world.charged()
    assert (2, attempt + 1) not in world.charged()


def test_a_clock_that_was_set_back_after_a_charge_opens_no_day_twice(trained: World, copied: Copy) -> None:
    world = copied(trained)
    tomorrow = Weather({str(number): DAY for number in (0, *NUMBERS)})
    assert run("training", str(world.root), "2", "", tomorrow.to_json()).returncode == 0
    done = run("training", str(world.root), "3")
    assert done.returncode == 1
    assert "Round 3 failed 5 times" in done.stderr
    assert all(set(world.codes(number)) == {"clock"} for number in NUMBERS)
    assert all(list(world.charges(number)) == [(1, 0), (2, 0)] for number in NUMBERS)
    world.check()
