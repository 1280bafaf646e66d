"""What a round costs a device and a server, and what a million devices would: the figures of docs/scale.md.

    python -m simulations.scale [--cached 100 300 1000] [--signed 100 300] [--coordinates 53824] [--json FILE]

Secure sums run with the server in a process of its own, so that its seconds and its memory are its own, and all devices
in this one, each doing its own work. Nobody drops out. The rest is measured in this process. About three minutes on one
idle core; CPU seconds, so that a busy machine changes them little.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrec.agreements.request import Request, read_request, sign_request
from fedrec.agreements.roster import read_roster, sign_roster
from fedrec.config import Experiment, parse
from fedrec.engines.run import open_ledger
from fedrec.engines.setting import load_setting
from fedrec.federation.round import client_round
from fedrec.privacy.mechanism import ShardSum, add_up
from fedrec.release import Component, Release
from fedrec.reporting.folder import RunFolder
from fedrec.secagg.client import Client
from fedrec.secagg.enrolment import write_channels
from fedrec.secagg.local import answer, enrol
from fedrec.secagg.messages import Attempt, Phase
from fedrec.secagg.server import Server
from fedrec.secagg.session import Roster, Terms, Variant
from fedrec.secagg.store import MemoryStore

Row = dict[str, object]

RUN = bytes(32)
LEAST = 0.8
"""The share of a group that must stay."""

EXPERIMENT = """
[data]
name = "synthetic"
n_users = 50
n_items = {items}
mean_events = 60
[model]
name = "mf"
start = "random"
dimension = 32
[federation]
min_cohort = 40
[privacy]
noise = "skellam"
source = "secure"
noise_multiplier = 8.0
"""


def secure_sum(n: int, variant: Variant, size: int) -> Row:
    """One attempt of n devices: what it takes the server, and what it takes a device on average."""
    terms = terms_of(n, variant)
    identities, roster = enrol(n)
    stores = cached(n) if variant == "cached" else [MemoryStore() for _ in range(n)]
    clients = {who: Client(who, one, roster, stores[who], terms) for who, one in enumerate(identities)}
    vectors = np.random.default_rng(0).integers(0, 2**32, (n, size), np.uint32)
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, roster, variant, size))
    server.start()
    up, down, seconds, work = Counter[int](), Counter[int](), 0.0, 0.0
    while work == 0.0:
        question = ours.recv_bytes()
        if question[:4] == b"done":
            work, memory = np.frombuffer(question[4:])
            break
        phase, who, message = Phase(question[0]), int.from_bytes(question[1:5]), question[5:]
        began = time.process_time()
        reply = answer(clients[who], phase, message, vectors[who])
        seconds += time.process_time() - began
        down[who] += len(message)
        up[who] += len(reply)
        ours.send_bytes(reply)
    total = np.frombuffer(ours.recv_bytes(), np.uint32)
    server.join()
    if not np.array_equal(total, vectors.sum(axis=0, dtype=np.uint32)):
        raise SystemExit("The secure sum is not the plain sum.")
    return {
        "devices": n,
        "variant": variant,
        "server, CPU s": float(work),
        "server, MB": float(memory),
        "device, CPU s": seconds / n,
        "up, kB a device": max(up.values()) / 1000,
        "of plain": max(up.values()) / (4 * size),
        "down, kB a device": max(down.values()) / 1000,
    }


def cached(n: int) -> list[MemoryStore]:
    """What devices keep of their enrolment: a key with each other. How it was made is no part of a round."""
    keys = np.random.default_rng(1).integers(0, 256, (n, n, 32), np.uint8)
    keys = np.maximum(keys, keys.transpose(1, 0, 2))  # the same from both sides
    stores = [MemoryStore() for _ in range(n)]
    for who, store in enumerate(stores):
        peers = [other for other in range(n) if other != who]
        write_channels(store, peers, [keys[who, other].tobytes() for other in peers])
    return stores


def terms_of(n: int, variant: Variant) -> Terms:
    """Eight in ten must stay."""
    return Terms(RUN, int(LEAST * n), variant)


def serve(pipe: Connection, roster: Roster, variant: Variant, size: int) -> None:
    """The server's process: asks each device in turn, and tells its own seconds and memory beside the sum."""
    before, began = peak_mb(), time.process_time()
    server = Server(terms_of(len(roster), variant), roster, Attempt(1, 0), roster, size)
    while True:
        for who, message in server.routes.items():
            pipe.send_bytes(bytes([server.phase]) + who.to_bytes(4) + message)
            server.receive(who, pipe.recv_bytes())
        if server.phase is Phase.UNMASK:
            break
        server.advance()
    total = server.finish().total
    pipe.send_bytes(b"done" + np.array([time.process_time() - began, peak_mb() - before]).tobytes())
    pipe.send_bytes(total.tobytes())


def peak_mb() -> float:
    """The most memory that this process has had, in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def device(items: int) -> Row:
    """What a device does before it masks: train on its own history, clip, round, draw its share of the noise."""
    setting = load_setting(experiment(items))
    federation, train = setting.federation, setting.split.train
    state, plan = federation.start(), federation.plan(1)

    def one(user: int) -> None:
        client_round(federation.model, state.shared, train.take(np.array([user])), plan, 0)

    one(0)  # the table of the noise is made once a process
    seconds = min(timed(lambda user=user: one(user)) for user in range(1, 6))  # type: ignore[misc] # a default for lambda
    return {
        "items": items,
        "coordinates": plan.release.size,
        "device, CPU s": seconds,
        "vector, MB": plan.release.size * federation.mechanisms[0].bits / 8e6,
        "model, MB": sum(array.nbytes for array in state.shared.values()) / 1e6,
    }


def experiment(items: int) -> Experiment:
    """Matrix factorisation as real devices train it."""
    return parse(EXPERIMENT.format(items=items))


def timed(work: Callable[[], object]) -> float:
    """CPU seconds."""
    began = time.process_time()
    work()
    return time.process_time() - began


def tree(groups: int, size: int) -> Row:
    """Add the open sums of groups, and apply the result."""
    release = Release("r", (Component("a", (size,)),), share=1.0)
    rng = np.random.default_rng(1)
    sums = [ShardSum({"a": rng.integers(0, 2**32, size, np.uint32)}, 1000) for _ in range(groups)]
    return {"groups": groups, "coordinates": size, "CPU s": timed(lambda: add_up(sums, release, np.uint32))}


def signed(n: int) -> Row:
    """The roster that a device is sent when it has changed, and the request that comes with every message."""
    key, (_, roster) = Ed25519PrivateKey.generate(), enrol(n)
    trusted, name = key.public_key().public_bytes_raw(), RUN.hex()
    book = sign_roster(1, roster, key)
    request = Request(name, name, 1, 0, "shares", tuple(range(n)), book.digest, name, None, 2**31, 1)
    asked = sign_request(request, key)
    return {
        "devices": n,
        "roster, kB": len(book.text) / 1000,
        "read it, CPU s": timed(lambda: read_roster(book.text, trusted)),
        "request, kB": len(asked) / 1000,
        "read it, CPU ms": 1000 * timed(lambda: read_request(asked, trusted, 0)),
    }


def ledger(rounds: int) -> Row:
    """Charge and close rounds, each line on the disk before the next."""
    setting = load_setting(experiment(100))
    plan = setting.federation.plan(1)
    with tempfile.TemporaryDirectory(prefix="fedrec-scale-", dir=".") as scratch:
        book = open_ledger(setting.federation, RunFolder.create(Path(scratch) / "run"))
        first = sum(len(line) + 1 for line in book.lines)
        began = time.perf_counter()
        for number in range(1, rounds + 1):
            book.reserve(number, 0, plan.event(), plan.mechanism.events())
            book.close(number, 0, "commit", 1000, {"model": RUN.hex()})
        seconds = time.perf_counter() - began
        size = sum(len(line) + 1 for line in book.lines) - first
    return {"rounds": rounds, "bytes a round": size / rounds, "wall s a round": seconds / rounds}


def plan(cost: Row, population: int) -> Iterator[Row]:
    """Rounds over a population in groups, from what one group was measured to cost."""
    for groups in (1, 10, 100, 1000):
        asked = groups * int(str(cost["devices"]))
        yield {
            "variant": cost["variant"],
            "groups": groups,
            "devices a round": asked,
            "noise in the mean, of one group's": float(groups**-0.5),
            "up, GB": asked * number(cost, "up, kB a device") / 1e6,
            "server, CPU min": groups * number(cost, "server, CPU s") / 60,
            "server, GB if all at once": groups * number(cost, "server, MB") / 1e3,
            "rounds until each was asked": population / asked,
        }


def number(row: Row, name: str) -> float:
    """A measured figure."""
    value = row[name]
    return value if isinstance(value, float) else 0.0


def show(title: str, rows: Iterator[Row], found: dict[str, list[Row]]) -> None:
    """Print a Markdown table as its rows come, and keep them."""
    print(f"\n{title}\n")
    kept = found.setdefault(title, [])
    for row in rows:
        if not kept:
            print("| " + " | ".join(row) + " |\n" + "|---" * len(row) + "|")
        kept.append(row)
        print("| " + " | ".join(cell(value) for value in row.values()) + " |", flush=True)


def cell(value: object) -> str:
    """Three figures that count, and no exponent."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    """Print the tables of docs/scale.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cached", type=int, nargs="*", default=[100, 300, 1000], help="semi-honest server")
    parser.add_argument("--signed", type=int, nargs="*", default=[100, 300], help="malicious server")
    parser.add_argument("--coordinates", type=int, default=53_824)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    given = parser.parse_args()
    found: dict[str, list[Row]] = {}
    size, kinds = given.coordinates, (("cached", given.cached), ("signed", given.signed))
    sums = (secure_sum(n, variant, size) for variant, counts in kinds for n in counts)  # type: ignore[arg-type] # literals
    show(f"Secure aggregation of {size:,} coordinates", sums, found)
    show("A device before it masks", (device(items) for items in (1_682, 20_000)), found)
    show("Sums of groups", (tree(groups, size) for groups in (10, 100, 1000)), found)
    show("What is signed", (signed(n) for n in (100, 1000)), found)
    show("The ledger", (ledger(rounds) for rounds in (100,)), found)
    largest = {row["variant"]: row for row in next(iter(found.values()))}  # the last of each
    plans = (row for cost in largest.values() for row in plan(cost, 1_000_000))
    show("A million devices, in groups of the largest size measured", plans, found)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
