"""The exception tree: every error that fedrec raises on purpose stands here.

Each message is one sentence that says what is wrong, where (file, line, key) and what to do.
The command line prints it without a traceback and exits with the class's ``exit_code``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FedrecError(ValueError):
    """Base of every fedrec error."""

    exit_code = 1


class UsageError(FedrecError):
    """A wrong argument, key or name."""

    exit_code = 2


class ConfigError(UsageError):
    """An experiment that cannot be run as written."""


class UnknownNameError(UsageError):
    """A model, data set or key that does not exist."""


class DataError(FedrecError):
    """A data file that is missing, damaged or not what it says."""

    exit_code = 2


class MissingExtraError(FedrecError):
    """A feature whose optional packages are not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the extra '{extra}': pip install 'fedrec[{extra}]'.")


class PrivacyError(FedrecError):
    """A request that has no proved guarantee."""

    exit_code = 2


class BudgetExceededError(FedrecError):
    """A round that the privacy budget does not allow."""

    exit_code = 3


class PrivacyWarning(UserWarning):
    """A setting that is allowed but weakens the guarantee."""


class LedgerError(FedrecError):
    """A ledger that is damaged or does not belong to this run."""


class RunFolderError(FedrecError):
    """A run folder that cannot be written, resumed or read."""

    exit_code = 2


class ContributionError(FedrecError):
    """A client's reply with wrong names, shapes or values."""


class RoundFailedError(FedrecError):
    """A round that too few clients answered."""


class NothingAskedError(RoundFailedError):
    """A round that failed before any client was asked for its vector, so that it costs nothing."""


class AgreementError(FedrecError):
    """A signed statement that is not what it must be: another signer, another form, or out of date."""


class DeviceError(FedrecError):
    """A device's folder or store that is missing, damaged or not its owner's alone."""

    exit_code = 2


class ServerError(FedrecError):
    """A server's folder, process or registry that does not do what it must."""


class Refusal(FedrecError):  # noqa: N818 - not a fault, but a no
    """A request that a device does not answer, or a server's registry does not grant.

    Attributes:
        code: why, in one of a few words that can be searched for.
        detail: the same as a sentence, which stays with whoever refuses.
    """

    exit_code = 3

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """A hint such as ``Did you mean 'gram'?``, or the list of known names."""
    names = sorted(known)
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(names)}."
