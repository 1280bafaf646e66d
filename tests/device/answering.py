"""A process of its own that answers one question: ``python answering.py HOME FOLDER``; prints what it loaded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.numpy import load, save

from fedrec.device.answers import Answer, Question
from fedrec.device.handler import Handler
from fedrec.device.home import DeviceHome

HEAVY = (
    "torch",
    "flwr",
    "matplotlib",
    "scipy",
    "dp_accounting",
    "opacus",
    "fastapi",
    "uvicorn",
    "httpx",
    "typer",
    "rich",
)
FILES = ("request", "message", "roster")


def write(question: Question, folder: Path) -> None:
    """Put a question where `main` finds it."""
    folder.mkdir()
    (folder / "question.json").write_text(json.dumps({"phase": question.phase, "experiment": question.experiment}))
    for name in FILES:
        (folder / name).write_bytes(getattr(question, name))
    (folder / "arrays").write_bytes(save(dict(question.arrays)))


def read(folder: Path) -> Question:
    values = json.loads((folder / "question.json").read_text())
    request, message, roster = ((folder / name).read_bytes() for name in FILES)
    arrays = load((folder / "arrays").read_bytes())
    return Question(values["phase"], values["experiment"], request, message, roster, arrays)


def answer(home: Path, folder: Path, now: float) -> Answer:
    return Handler(DeviceHome.open(home), clock=lambda: now).answer(read(folder))


if __name__ == "__main__":
    given = answer(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
    Path(sys.argv[4]).write_bytes(given.message)
    print([name for name in HEAVY if name in sys.modules])
