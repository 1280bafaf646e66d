"""The rosters that a device has accepted: each signed, and never an older one again."""

from __future__ import annotations

import json

from fedrec.agreements.roster import SignedRoster, read_roster
from fedrec.device.refusals import Code, refusing
from fedrec.device.store import Store
from fedrec.errors import AgreementError, Refusal
from fedrec.privacy.proofs import canonical_json

_ACCEPTED = "roster"


def document(digest: str) -> str:
    """Its name in a device's store."""
    return f"roster-{digest}"


def accept(store: Store, text: bytes, registrar_key: bytes) -> SignedRoster:
    """Take a roster in, and remember it as the newest.

    Args:
        store: the device's.
        text: the signed roster.
        registrar_key: the one public key that counts.

    Raises:
        Refusal: if it is not signed by the registrar, is older than one that was accepted, or is another one of the
            same version, as a registrar makes that shows different devices different rosters.
    """
    with refusing(Code.ROSTER, AgreementError):
        roster = read_roster(text, registrar_key)
    with store.transaction():
        accepted = json.loads(store.get(_ACCEPTED) or b'{"accepted":[]}')["accepted"]
        if accepted and accepted[0] == [roster.version, roster.digest]:
            return roster
        if accepted and roster.version <= accepted[0][0]:
            raise Refusal(
                Code.ROSTER_OLD,
                f"The roster has version {roster.version}, and this device has accepted another one of version "
                f"{accepted[0][0]}.",
            )
        store.put(document(roster.digest), text)
        for _, digest in accepted[1:]:  # an attempt under way may need the one before the newest
            store.remove(document(digest))
        store.put(_ACCEPTED, canonical_json({"accepted": [[roster.version, roster.digest], *accepted[:1]]}))
    return roster


def known(store: Store, digest: str, registrar_key: bytes, *, newest: bool) -> SignedRoster:
    """A roster that is in the store, and that if ``newest`` is no older than one that was accepted.

    Raises:
        Refusal: if there is none.
    """
    text = store.get(document(digest))
    if text is None:
        raise Refusal(Code.ROSTER, "The request names a roster that this device has not seen; fedrec device sync.")
    if newest:
        roster = accept(store, text, registrar_key)
    else:
        with refusing(Code.ROSTER, AgreementError):
            roster = read_roster(text, registrar_key)
    if roster.digest != digest:
        raise Refusal(Code.ROSTER, "The stored roster is another than the one that the request names.")
    return roster
