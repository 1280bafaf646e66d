"""The engine over real devices: finds those online, asks them by signed requests, and gathers what they send."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from functools import cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp import Grid

from fedrec.agreements.reply import Reply, verify_reply
from fedrec.agreements.request import Request, mechanism_digest, model_digest, sign_request
from fedrec.agreements.roster import SignedRoster
from fedrec.agreements.terms import terms_of
from fedrec.deployment.journal import Journal
from fedrec.deployment.registry import Registry
from fedrec.engines.base import Collected
from fedrec.errors import AgreementError, ContributionError, NothingAskedError, RoundFailedError, ServerError
from fedrec.federation.robust import readable
from fedrec.federation.round import Federation, Plan
from fedrec.flower.codec import Packet, Value, record, with_config
from fedrec.flower.secure import Content, Exchanged, Group, SecureSums, ask
from fedrec.models.base import Shared
from fedrec.privacy.mechanism import ShardSum
from fedrec.sections import DeploymentConfig

_POLL_S, _SETTLED_S, _TOLD_EVERY_S = 0.5, 3.0, 60.0
_FORGIVEN_S = 600.0
"""A device that did not answer is chosen after all others for this long."""

SHOWN_ROSTER = ("advert", "shares", "train")
"""The phases in which an attempt may begin for a device, so that it sees the roster."""


class DeviceEngine:
    """Drives rounds over the devices of a registry.

    Args:
        grid: Flower's.
        federation: what is run.
        registry: who is enrolled.
        key: signs requests.
        run: Flower's name of the run, for the devices' logs.
        journal: told what happens.
        clock: unix seconds.

    Guarantees:
        Only devices that are enrolled, not revoked and on the roster are asked, each by a request that names the
        attempt, its cohort and its mechanism. A reply counts once, signed by the device that was asked (Flower does
        not say who made one), in the form that the plan wants; a refusal, an error or anything else is a drop. Under
        trust ``distributed`` see `fedrec.flower.secure`; under ``local`` every vector carries all of its own noise.
    """

    name = "devices"

    def __init__(
        self,
        grid: Grid,
        federation: Federation,
        registry: Registry,
        key: Ed25519PrivateKey,
        run: str,
        journal: Journal,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._grid, self._federation, self._registry = grid, federation, registry
        self._key, self._run, self._journal, self._clock = key, run, journal, clock
        self._digest = federation.experiment.digest()
        self._agreed = federation.experiment.deployment or DeploymentConfig()
        self._sums = SecureSums(grid, self._agreed.deadline, self._told, self._check)
        self._attempt = (0, 0)
        self._refused = self._silent = 0
        self._roster: SignedRoster | None = None
        self._nodes: Mapping[int, int] = {}
        self._seen: tuple[frozenset[int], float] = (frozenset(), 0.0)
        self._lapsed: dict[int, float] = {}
        self._hold: dict[int, str] = {}

    def recruit(self, round_: int, attempt: int) -> tuple[int, ...]:
        """The numbers of the devices for an attempt, ascending: as many as the cohort has, of those online.

        It waits until the minimum cohort is there, and then as long as devices are still coming.
        """
        rounds = self._federation.experiment.federation
        least, most = rounds.min_cohort or 1, rounds.cohort or 1
        said = -_TOLD_EVERY_S
        while True:
            online, why = self._online()
            now = time.monotonic()
            if online.keys() != self._seen[0]:
                self._seen = frozenset(online), now
            settled = now - self._seen[1] >= _SETTLED_S
            if len(online) >= most or (len(online) >= least and settled):
                break
            if settled and now - said >= _TOLD_EVERY_S:
                said = now
                where = {"round": round_, "attempt": attempt, "online": len(online), "wanted": least}
                self._journal.note("waiting", {**where, "why": why})
            time.sleep(_POLL_S)
        chosen = self._choose(set(online), most, now)
        self._attempt, self._nodes = (round_, attempt), {who: online[who] for who in chosen}
        self._refused = self._silent = 0
        found = {"round": round_, "attempt": attempt, "cohort": len(chosen), "online": len(online)}
        self._journal.note("recruited", found)
        return chosen

    def collect(self, plan: Plan, shared: Shared) -> Collected:
        """One attempt: the engine's verb; the devices are those that were recruited for it.

        Raises:
            NothingAskedError: if too few devices are left before any was asked for its vector.
            RoundFailedError: if too few are left later; nothing was unmasked then.
        """
        if self._roster is None or (plan.round, plan.attempt) != self._attempt:
            raise RoundFailedError(f"Round {plan.round}, attempt {plan.attempt} has no devices; recruit them first.")
        content = self._contents(plan, shared, self._roster)
        try:
            if plan.mechanism.trust == "local":
                return self._visible(plan, content)
            members = {who: self._roster.members[who] for who in self._nodes}
            group = Group(terms_of(self._federation, plan), members, self._nodes)
            return self._sums.collect(plan, group, content, last=plan.round == self._federation.rounds)
        except NothingAskedError as error:
            raise NothingAskedError(self._why() or str(error)) from error
        except (RoundFailedError, ContributionError) as error:
            self._journal.note("failed", {"round": plan.round, "attempt": plan.attempt, "why": str(error)})
            raise

    def _online(self) -> tuple[dict[int, int], str]:
        """Node ids by number of the devices that can be asked, and why there may be none."""
        try:
            self._roster = self._registry.roster()
        except ServerError as error:  # kept elsewhere, and not signed yet
            return {}, str(error)
        reached = set(self._grid.get_node_ids())
        return {
            device.number: int(device.node_id)
            for device in self._registry.active()
            if device.node_id is not None
            and int(device.node_id) in reached
            and self._roster.members.get(device.number) == device.member
        }, "too few devices are online"

    def _choose(self, online: set[int], most: int, now: float) -> tuple[int, ...]:
        """At random; who has just failed to answer comes last."""
        self._lapsed = {who: since for who, since in self._lapsed.items() if now - since < _FORGIVEN_S}
        draw = secrets.SystemRandom()
        good, late = sorted(online - self._lapsed.keys()), sorted(online & self._lapsed.keys())
        ordered = [*draw.sample(good, len(good)), *draw.sample(late, len(late))]
        return tuple(sorted(ordered[:most]))

    def _contents(self, plan: Plan, shared: Shared, roster: SignedRoster) -> Content:
        """Makes the content of a message to one device: with the roster, unless it has shown that it holds this one."""
        model, nothing, digest = record(shared), ArrayRecord(), model_digest(shared)

        @cache
        def request(phase: str) -> bytes:
            return sign_request(
                Request(
                    experiment=self._digest,
                    run=self._run,
                    round=plan.round,
                    attempt=plan.attempt,
                    phase=phase,
                    cohort=tuple(plan.cohort.users.tolist()),
                    roster=roster.digest,
                    mechanism=mechanism_digest(plan.event()),
                    model=digest if phase in ("masked", "train") else None,
                    expires=int(self._clock()) + self._agreed.request_seconds,
                ),
                self._key,
            )

        def content(who: int, phase: str, text: bytes) -> RecordDict:
            config: dict[str, Value] = {"request": request(phase), "message": text}
            if phase in SHOWN_ROSTER and self._hold.get(who) != roster.digest:
                config["roster"] = roster.text
            return with_config(model if phase in ("masked", "train") else nothing, config)

        return content

    def _why(self) -> str:
        """Why an attempt lost devices before any was asked for its vector."""
        lost = ((self._refused, "refused"), (self._silent, "did not answer"))
        told = [f"{count} of {len(self._nodes)} devices {what}" for count, what in lost if count]
        return ", ".join(told)

    def _check(self, phase: str, who: int, packet: Packet) -> None:
        """Refuse a reply that the device has not signed; who answers a request holds the roster that it names.

        Raises:
            ContributionError: for any other one.
        """
        roster = self._roster
        member = None if roster is None else roster.members.get(who)
        if roster is None or member is None:
            raise ContributionError(f"device {who} is not on the roster")
        round_, attempt = self._attempt
        said = Reply(self._digest, round_, attempt, phase, packet.blob("message"), packet.arrays)
        try:
            verify_reply(said, packet.blob("signature"), member.identity)
        except AgreementError as error:
            raise ContributionError(str(error)) from error
        self._hold[who] = roster.digest

    def _visible(self, plan: Plan, content: Content) -> Collected:
        """Trust ``local``: each device's vector is a shard of its own."""
        shards: dict[int, ShardSum] = {}

        def take(who: int, packet: Packet) -> int:
            self._check("train", who, packet)
            shard = ShardSum(packet.arrays, 1)
            readable(shard, plan.release, plan.mechanism)  # the round reads it once more: here its sender is known
            if who in shards:
                raise ContributionError(f"device {who} answered twice")
            shards[who] = shard
            return sum(array.nbytes for array in packet.arrays.values())

        contents = {who: (node, content(who, "train", b"")) for who, node in self._nodes.items()}
        found = ask(self._grid, "train", contents, take, self._agreed.deadline, str(plan.round))
        self._told(found)
        return Collected(
            tuple(shards[who] for who in sorted(shards)),
            len(found.missing),
            found.up_bytes,
            found.down_bytes,
            found.asked,
            "each device's vector is seen, with all of its own noise in it",
        )

    def _told(self, found: Exchanged) -> None:
        """Keep in mind who did not answer, and say how a phase went."""
        now = time.monotonic()
        self._lapsed |= dict.fromkeys(found.missing, now)
        for who in found.missing:  # it may have lost its roster
            self._hold.pop(who, None)
        self._refused, self._silent = self._refused + found.refused, self._silent + found.silent + found.rejected
        round_, attempt = self._attempt
        self._journal.note(
            "phase",
            {
                "round": round_,
                "attempt": attempt,
                "phase": found.phase,
                "asked": found.asked,
                "answered": found.answered,
                "refused": found.refused,
                "rejected": found.rejected,
                "silent": found.silent,
                "up_bytes": found.up_bytes,
                "down_bytes": found.down_bytes,
                "seconds": round(found.seconds, 3),
            },
        )
