"""What the server does with the shares that come back: open one secret of each participant, take off the masks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from fedrec.errors import RoundFailedError
from fedrec.secagg import crypto, pairs, shamir
from fedrec.secagg.graph import Bools
from fedrec.secagg.pairs import PAIR, SELF, Deal
from fedrec.secagg.session import Session


@dataclass(frozen=True, eq=False)
class Opening:
    """The end of an attempt whose survivors have agreed.

    Attributes:
        session: the attempt.
        table: everybody's neighbours.
        deals: what those who shared their secrets have dealt out.
        mask_keys: their public mask keys; used in the signed variant only.
        survivors: bitmap ``[n]``.
        kept: the shares so far, by owner and number.
        wrong: (holder, owner) of each share that its owner had not committed to.
    """

    session: Session
    table: Sequence[Sequence[int]]
    deals: Mapping[int, Deal]
    mask_keys: Mapping[int, bytes]
    survivors: Bools
    kept: dict[int, dict[int, bytes]] = field(default_factory=dict)
    wrong: list[tuple[int, int]] = field(default_factory=list)

    def take(self, owner: int, holder: int, share: bytes) -> None:
        """Keep a share if it is still needed and the right one; a wrong one costs only itself."""
        kept = self.kept.setdefault(owner, {})
        if len(kept) == self.session.parameters.t:
            return
        which = self._asked(owner)
        number = bisect_left(self.table[owner], holder)
        if pairs.share_tags(self.session, owner, which, [holder], [share]) == [self.deals[owner].tags[which][number]]:
            kept[number] = share
        else:
            self.wrong.append((self.session.cohort[holder], self.session.cohort[owner]))

    def unmask(self, total: npt.NDArray[Any]) -> None:
        """Take the masks off the survivors' masked vectors, added up; in place.

        Raises:
            RoundFailedError: if too few shares came, or a participant has shared something else than its secrets.
        """
        secrets = {owner: self._secret(owner) for owner in sorted(self.deals)}
        minus = [secret for owner, secret in secrets.items() if self.survivors[owner]]
        plus: list[bytes] = []
        for owner, secret in secrets.items():
            if not self.survivors[owner]:
                for v, seed in self._pair_seeds(owner, secret):
                    # The survivor has added the mask if it is the lower of the two, and subtracted it if not.
                    (minus if v < owner else plus).append(seed)
        crypto.add_masks(total, plus, minus)

    def _asked(self, owner: int) -> int:
        """Which secret the survivors were asked for: never both."""
        return SELF if self.survivors[owner] else PAIR

    def _secret(self, owner: int) -> bytes:
        kept, which, least = self.kept.get(owner, {}), self._asked(owner), self.session.parameters.t
        who = self.session.cohort[owner]
        if len(kept) < least:
            raise self._failed(f"{len(kept)} valid shares of participant {who} came back, and {least} are needed")
        numbers = sorted(kept)
        try:
            secret = shamir.combine(numbers, [kept[i] for i in numbers])
        except ValueError as error:
            raise self._failed(f"participant {who} has not shared a secret") from error
        if pairs.commitment(self.session, owner, which, secret) != self.deals[owner].commitments[which]:
            raise self._failed(f"participant {who} has shared another secret than it committed to")
        return secret

    def _pair_seeds(self, owner: int, secret: bytes) -> list[tuple[int, bytes]]:
        """The seeds that one who dropped out has with its surviving neighbours."""
        now, who = self.session, self.session.cohort[owner]
        near = [(i, v) for i, v in enumerate(self.table[owner]) if self.survivors[v]]
        if not now.terms.signed:
            seeds = pairs.open_escrow(secret, now.context, self.deals[owner].escrow)
            if seeds is None:
                raise self._failed(f"participant {who} has put no pair seeds in escrow")
            return [(v, seeds[i]) for i, v in near]
        exchange = crypto.Exchange(secret)
        if exchange.public != self.mask_keys[owner]:
            raise self._failed(f"participant {who} has shared another mask key than it advertised")
        roots = [(v, crypto.extract(now.context, exchange.shared(self.mask_keys[v]))) for _, v in near]
        return [(v, pairs.pair_seed(root, now.context, owner, v)) for v, root in roots]

    def _failed(self, why: str) -> RoundFailedError:
        return RoundFailedError(f"Secure aggregation, {self.session.attempt}: {why}; the sum stays closed, try again.")
