"""What a device does at its server's gateway: enrol, and fetch what the server publishes, checked before it counts."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedrec.agreements.enrolment import Enrolment, node_key_pem
from fedrec.agreements.publication import Publication, read_publication
from fedrec.device import budget, rosters
from fedrec.device.catalogue import DOCUMENT as CATALOGUE
from fedrec.device.catalogue import digest as sha256
from fedrec.device.catalogue import from_bytes
from fedrec.device.connection import Gateway, TurnedAwayError
from fedrec.device.shared import keep_model, kept_round
from fedrec.device.trust import Invitation, Trust, raw
from fedrec.errors import AgreementError, DataError, DeviceError, Refusal, UsageError
from fedrec.secagg.crypto import signing_public

if TYPE_CHECKING:
    from fedrec.device.home import DeviceHome
    from fedrec.device.store import Store

TURNED_AWAY = "turned-away"
"""The document that says why the server turned this device away when it asked last; missing where it did not."""


def enrol(home: DeviceHome, invitation: Invitation) -> Trust:
    """Enrol this device and keep whom it trusts from now on; a repeated call with the same invitation goes on.

    Raises:
        DeviceError: if it is enrolled already, or the server refuses or cannot be reached.
        UsageError: if the invitation is damaged.
    """
    known = home.trust()
    if known is not None:
        raise DeviceError(
            f"This device is enrolled with '{known.server}' as number {known.number}; make a new one with "
            "'fedrec device init' for another server."
        )
    identity = home.identity()
    try:
        token = base64.urlsafe_b64decode(invitation.token + "=" * (-len(invitation.token) % 4))
    except ValueError as error:
        raise UsageError("The invitation's token is damaged; copy the whole line again.") from error
    enrolment = Enrolment(
        token=token,
        identity=signing_public(identity.signing),
        channel=identity.member().channel,
        alias=home.alias(),
        node_key=node_key_pem(home.node_public_key.read_bytes()),
    )
    with Gateway(invitation, identity.signing) as gateway:
        number, node_id = gateway.enrol(enrolment)
    trust = Trust(**invitation.model_dump(exclude={"token"}), number=number, node_id=node_id)
    trust.save(home.trust_path)
    return trust


@dataclass(frozen=True)
class Synced:
    """What one look at the server gave.

    Attributes:
        publication: in force now.
        on_roster: whether the roster in force holds this device; else it is not asked in rounds.
        changed: names of the documents that are new here.
        faults: a sentence for whatever the server's ledger says otherwise than this device's own charges.
    """

    publication: Publication
    on_roster: bool
    changed: tuple[str, ...]
    faults: tuple[str, ...]


def sync(home: DeviceHome, clock: Callable[[], float] = time.time) -> Synced:
    """Fetch what has changed on the server and keep it in the store.

    Guarantees:
        Nothing is kept that the pinned keys have not signed: the publication by the request key, the roster by the
        registrar's, and experiment, catalogue and model by the hashes in the publication. An earlier round or an older
        roster than the one here is refused. The ledger and the seats are kept as they come, and then checked against
        this device's own charges (`fedrec.device.budget`).

    Raises:
        DeviceError: if this device is not enrolled, or the server cannot be reached.
        AgreementError: if what the server says is not what it signed, or takes a step back.
    """
    trust = home.trust()
    if trust is None:
        raise DeviceError("This device is not enrolled; do so with 'fedrec device enrol INVITATION'.")
    signing = home.identity().signing
    with home.open_store() as store:
        with Gateway(trust, signing, clock) as gateway:
            new = _Sync(trust, signing_public(signing), store, gateway, clock)
            try:
                publication, on_roster = new.run()
            except TurnedAwayError as error:
                store.put(TURNED_AWAY, str(error).encode())
                raise
        store.remove(TURNED_AWAY)
        return Synced(publication, on_roster, tuple(new.changed), budget.watch(home, store))


class _Sync:
    """One pass of `sync`."""

    def __init__(
        self, trust: Trust, identity: bytes, store: Store, gateway: Gateway, clock: Callable[[], float]
    ) -> None:
        self._trust, self._identity, self._store, self._gateway = trust, identity, store, gateway
        self._clock = clock
        self.changed: list[str] = []

    def run(self) -> tuple[Publication, bool]:
        """The publication in force, and whether its roster holds this device."""
        trusted = raw(self._trust.request_key)
        text, held = self._fetch("publication"), self._store.get("publication")
        new = read_publication(text, trusted)
        old = None if held is None else read_publication(held, trusted)
        if old is not None and new.experiment == old.experiment and new.round < old.round:
            raise AgreementError(f"The server's publication is of round {new.round}, and {old.round} was here already.")
        on_roster = self._roster(new.roster)
        self._catalogue(new.catalogue)  # first: an experiment that is here is prepared at once, with its items
        self._experiment(new.experiment)
        self._model(new)
        self._ledger()
        if text != held:
            self._keep("publication", text)  # last: what it names is here
        return new, on_roster

    def _roster(self, digest: str) -> bool:
        """Take the roster in force; whether it holds this device."""
        name = rosters.document(digest)
        held = self._store.get(name)
        text = self._fetch("roster") if held is None else held
        self._check("roster", text, digest, sha256)
        try:
            roster = rosters.accept(self._store, text, raw(self._trust.registrar_key))
        except Refusal as error:
            raise AgreementError(str(error)) from error
        if held is None:
            self.changed.append(name)
        member = roster.members.get(self._trust.number)
        if member is not None and member.identity != self._identity:
            raise AgreementError("The roster has another device under this one's number; tell the server's operator.")
        return member is not None

    def _catalogue(self, digest: str) -> None:
        """The older one stays while the model may still be about it."""
        before = self._store.get(CATALOGUE)
        if before is not None and sha256(before) == digest:
            return
        content = self._fetch("catalogue")
        self._check("catalogue", content, digest, sha256)
        try:
            from_bytes(content)
        except DataError as error:
            raise AgreementError(
                f"The server's catalogue cannot be read, and this device keeps the one that it has: {error}"
            ) from error
        with self._store.transaction():
            self._keep(CATALOGUE, content)
            if before is not None:
                for name in self._store.names(f"{CATALOGUE}-"):
                    self._store.remove(name)
                self._store.put(f"{CATALOGUE}-{sha256(before)}", before)

    def _model(self, new: Publication) -> None:
        """The model, unless a round has brought this one or a later one."""
        if new.model is None or kept_round(self._store, new.experiment) >= new.round:
            return
        from safetensors import SafetensorError
        from safetensors.numpy import load

        content = self._fetch("model")
        self._check("model", content, new.model, sha256)
        try:
            arrays = load(content)
        except SafetensorError as error:
            raise AgreementError(f"The server's model cannot be read ({error}); tell the server's operator.") from error
        keep_model(self._store, arrays, new.experiment, new.round)
        self.changed.append("model")

    def _ledger(self) -> None:
        """The ledger, its checkpoint and this device's seats.

        The checkpoint is fetched first, and kept together with the ledger: a ledger that lags behind its checkpoint
        would look rewritten.
        """
        self._store.put(budget.FETCHED, str(int(self._clock())).encode())  # what was charged before must be in it
        checkpoint, ledger = self._newer("ledger-checkpoint", budget.CHECKPOINT), self._newer("ledger", budget.LEDGER)
        with self._store.transaction():
            for name, content in ((budget.CHECKPOINT, checkpoint), (budget.LEDGER, ledger)):
                if content:
                    self._keep(name, content)
        if proofs := self._newer("seats", budget.PROOFS):
            self._keep(budget.PROOFS, proofs)

    def _experiment(self, digest: str) -> None:
        """The experiment that the publication names, unless it is here."""
        name = f"experiment-{digest}"
        held = self._store.get(name)
        if held is not None and _experiment_digest(held) == digest:
            return
        content = self._fetch("experiment")
        self._check("experiment", content, digest, _experiment_digest)
        self._keep(name, content)

    @staticmethod
    def _check(served: str, content: bytes, digest: str, digest_of: Callable[[bytes], str]) -> None:
        """The publication and what it names are fetched one after the other; in between, the server may go on."""
        if digest_of(content) != digest:
            raise AgreementError(f"The server's {served} is not the one of its publication; it is tried again later.")

    def _newer(self, served: str, name: str) -> bytes | None:
        """What is served, unless it is here already."""
        held = self._store.get(name)
        return self._gateway.fetch(served, self._trust.number, None if held is None else sha256(held))

    def _fetch(self, served: str) -> bytes:
        content = self._gateway.fetch(served, self._trust.number)
        if not content:
            raise AgreementError(f"The server has no {served} to show; it is tried again later.")
        return content

    def _keep(self, name: str, content: bytes) -> None:
        self._store.put(name, content)
        self.changed.append(name)


def _experiment_digest(content: bytes) -> str:
    """What names an experiment: not its text's hash."""
    from fedrec.config import parse

    return parse(content.decode(errors="replace"), "the server's experiment").digest()
