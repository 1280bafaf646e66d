"""What a device's ClientApp costs beside an empty one: peak memory and wall time of the processes that Flower starts.

    python -m simulations.benchmarks.device_footprint [--repeats 7] [--items 1682] [--json FILE]

The empty one is a `ClientApp` with one function that echoes the message, started by Flower's own command. Ours answers
the masked vector of secure aggregation, the dearest message of a round: it checks the request, charges itself, trains
matrix factorisation in NumPy, clips, noises and masks, through the command that the device's agent puts in the place of
Flower's. Both in turn, the first of each left out; medians. Three devices take part, each with a store of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import RecordDict

from fedrec.agreements.request import RELEASING, Request, mechanism_digest, model_digest, sign_request
from fedrec.agreements.roster import sign_roster
from fedrec.agreements.statement import in_base64
from fedrec.agreements.terms import terms_of
from fedrec.config import parse
from fedrec.data.interactions import Catalogue
from fedrec.device import catalogue, history, preparation, trust
from fedrec.device.answers import Question
from fedrec.device.handler import Handler
from fedrec.device.home import DeviceHome
from fedrec.device.supernode import SuperNode, environment
from fedrec.federation.round import Plan
from fedrec.flower.codec import Value, encode
from fedrec.secagg.messages import NO_ATTEMPT, Attempt, Phase
from fedrec.secagg.server import Server
from simulations.benchmarks.node_runtime import EMPTY, Ended, node_runtime, pack

MOST_BYTES, MOST_SECONDS = 20e6, 0.3
"""What ours may add."""

EXPERIMENT = """
[data]
name = "devices"
catalogue = "{catalogue}"
[model]
name = "mf"
start = "random"
dimension = 8
[federation]
rounds = 1
cohort = 3
min_cohort = 3
attempts = {attempts}
[privacy]
source = "secure"
noise_multiplier = 1.3
epsilon = 100.0
[deployment]
answer_seconds = 0.0
"""

POLICY = """
opt_in = true
min_cohort = 3
attempts_per_round = {attempts}
epsilon_day = 1000.0
epsilon_total = 1000.0
answer_seconds = 0.0
"""


class Devices:
    """Three enrolled devices, and their server: what leads up to the message that is measured."""

    def __init__(self, folder: Path, n_items: int, attempts: int) -> None:
        items = catalogue.to_bytes(Catalogue(np.array([f"item-{i}" for i in range(n_items)])))
        self.text = parse(EXPERIMENT.format(catalogue=catalogue.digest(items), attempts=attempts), "bench").to_toml()
        self._key, registrar = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self.homes = {number: DeviceHome.create(folder / f"device-{number}") for number in (1, 2, 3)}
        self._roster = sign_roster(1, {n: home.identity().member() for n, home in self.homes.items()}, registrar)
        draw = np.random.default_rng(1)
        for number, home in self.homes.items():
            home.policy_path.write_text(POLICY.format(attempts=attempts), encoding="utf-8")
            trusted = trust.Trust(
                server="localhost:1",
                ca="none",
                request_key=in_base64(self._key.public_key().public_bytes_raw()),
                registrar_key=in_base64(registrar.public_key().public_bytes_raw()),
                ledger_key=in_base64(bytes(32)),
                app_key=in_base64(Ed25519PrivateKey.generate().public_key().public_bytes_raw()),
                app_key_id="fpk_1",
                number=number,
                node_id="1",
            )
            trusted.save(home.trust_path)
            SuperNode(home, trusted)  # its folder holds the commands
            with home.open_store() as store:
                store.put(catalogue.DOCUMENT, items)
                for item in draw.choice(n_items, min(100, n_items // 2), replace=False):
                    history.record(store, f"item-{item}")
                preparation.prepare(store, self.text)
        with self.homes[1].open_store() as store:
            self._federation = preparation.federation(store, self.text)
        self._shared = self._federation.start().shared

    def masked(self, attempt: int) -> Question:
        """What device 1 is asked for its masked vector, after the others and it have done all that comes before."""
        plan = self._federation.plan(1, attempt, np.array(sorted(self.homes), np.int64))
        members = {who: self._roster.members[who] for who in self.homes}
        server = Server(
            terms_of(self._federation, plan),
            members,
            Attempt(1, attempt),
            members,
            plan.release.size,
            dtype=plan.mechanism.wire,
            following=NO_ATTEMPT,
        )
        while server.phase < Phase.MASKED:
            for who, message in server.routes.items():
                given = Handler(self.homes[who]).answer(self._question(plan, server.phase.name.lower(), message))
                server.receive(who, given.message)
            server.advance()
        return self._question(plan, "masked", server.routes[1])

    def _question(self, plan: Plan, phase: str, message: bytes) -> Question:
        request = Request(
            experiment=self._federation.experiment.digest(),
            run="1",
            round=1,
            attempt=plan.attempt,
            phase=phase,
            cohort=tuple(sorted(self.homes)),
            roster=self._roster.digest,
            mechanism=mechanism_digest(plan.event()),
            model=model_digest(self._shared) if phase in RELEASING else None,
            expires=int(time.time()) + 600,
        )
        arrays = self._shared if phase in RELEASING else {}
        roster = self._roster.text if phase in ("advert", "shares") else b""
        return Question(phase, self.text, sign_request(request, self._key), message, roster, arrays)


@dataclass(frozen=True)
class Footprint:
    """Medians: bytes, wall seconds, CPU seconds."""

    empty: tuple[float, float, float]
    ours: tuple[float, float, float]

    @property
    def added(self) -> tuple[float, float, float]:
        memory, wall, cpu = (b - a for a, b in zip(self.empty, self.ours, strict=True))
        return memory, wall, cpu

    @property
    def within(self) -> bool:
        """On an idle core wall and CPU seconds are the same; on a busy machine only the second say anything."""
        return self.added[0] <= MOST_BYTES and min(self.added[1:]) <= MOST_SECONDS


def medians(ended: list[Ended]) -> tuple[float, float, float]:
    """Of all but the first."""
    rows = [(float(one.peak), one.seconds, one.cpu) for one in ended[1:]]
    memory, wall, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
    return memory, wall, cpu


def measure(repeats: int, n_items: int, folder: Path) -> Footprint:
    """Run both in turn.

    Raises:
        SystemExit: if one of them does not do what it is measured for.
    """
    devices = Devices(folder, n_items, repeats + 1)
    home, empty, ours = devices.homes[1], list[Ended](), list[Ended]()
    around = environment(home, os.environ)
    flower, launcher = str(Path(sys.executable).parent / "flwr-clientapp"), str(home.flwr / "bin" / "flwr-clientapp")
    with node_runtime() as node:
        for attempt in range(repeats + 1):
            question = devices.masked(attempt)
            content = message_of(question)
            config = {"experiment": devices.text}
            empty.append(node.answer([flower], around, pack({"empty.py": EMPTY}, "empty:app"), content))
            ours.append(node.answer([launcher], around, pack({}), content, "train.masked", config))
            for done in (empty[-1], ours[-1]):
                if done.reply is None or done.reply.has_error():
                    raise SystemExit(f"A process gave no answer:\n{done.output}")
                if "refused" in done.reply.content.config_records["config"]:
                    raise SystemExit(f"The device refused:\n{done.output}")
    return Footprint(medians(empty), medians(ours))


def message_of(question: Question) -> RecordDict:
    """A question as a message's content."""
    config: dict[str, Value] = {"request": question.request, "message": question.message}
    return encode(question.arrays, config | ({"roster": question.roster} if question.roster else {}))


def main() -> None:
    """Print a Markdown table; exit 1 where ours adds too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--items", type=int, default=1682)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(given.repeats, given.items, Path(scratch))
    print("| ClientApp | peak memory, MB | from start to end, s | CPU, s |\n|---|---|---|---|")
    rows = {"empty": found.empty, "a device's, masked vector": found.ours, "added": found.added}
    for name, (memory, wall, cpu) in rows.items():
        print(f"| {name} | {memory / 1e6:.1f} | {wall:.2f} | {cpu:.2f} |")
    if given.json:
        given.json.write_text(json.dumps(vars(found), indent=1) + "\n", encoding="utf-8")
    if not found.within:
        sys.exit(1)


if __name__ == "__main__":
    main()
