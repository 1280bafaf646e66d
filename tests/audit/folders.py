"""Run folders to be changed, and what verifying says of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrec.audit.verify import verify
from fedrec.config import Experiment
from fedrec.engines import simulate
from fedrec.privacy.proofs import GENESIS, canonical_json, sign_checkpoint
from fedrec.reporting.folder import RunFolder

Tiny = Callable[..., Experiment]
Record = dict[str, Any]

SETTINGS = ("privacy.noise=skellam", "federation.min_cohort=70", "privacy.colluders=2")


def run_of(experiment: Experiment, path: Path, **engine: Any) -> Path:
    simulate.start(experiment, lambda: RunFolder.create(path), **engine)
    return path


def faults(folder: Path, checkpoint: str | None = None, key: bytes | None = None) -> list[str]:
    return [f"{check.name}: {check.detail}" for check in verify(folder, checkpoint, key).faults]


def published(folder: Path) -> str:
    return (folder / "ledger.checkpoint").read_text()


def records(folder: Path) -> list[Record]:
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_bytes().splitlines()]


def forge(folder: Path, changed: list[Record]) -> None:
    """Rewrite the whole ledger with valid links, and sign it with a fresh key."""
    lines: list[bytes] = []
    for record in changed:
        prev = hashlib.sha256(lines[-1]).hexdigest() if lines else GENESIS
        lines.append(canonical_json({**record, "prev": prev}))
    (folder / "ledger.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    text = sign_checkpoint(lines, str(changed[0].get("run")), Ed25519PrivateKey.generate())
    (folder / "ledger.checkpoint").write_text(text)
