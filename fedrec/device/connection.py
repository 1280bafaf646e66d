"""A device's connection to its server's gateway, and to nobody else."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self

from fedrec.agreements.access import WINDOW, access_headers
from fedrec.agreements.enrolment import Enrolment, sign_enrolment
from fedrec.device.trust import Server, raw
from fedrec.errors import DeviceError

OWN = "/fedrec/v1/"
_MOST = 2**29
"""Bytes of a document; a larger one is not read to its end."""
_TIMEOUT = 30.0

_REFUSED = {
    "unknown": "The server does not know this invitation; ask its operator for another one.",
    "used": "This invitation has enrolled another device; ask the server's operator for one of your own.",
    "expired": "This invitation has expired; ask the server's operator for another one.",
    "keys": "Some keys of this device are enrolled under another number; make a new one with 'fedrec device init'.",
    "revoked": "The server has revoked this device; make a new one with 'fedrec device init' to enrol again.",
    "busy": "Too many enrolments from this address have failed; wait a minute and do it again.",
    "malformed": "The server cannot read the enrolment; it may run another version of fedrec.",
}


class TurnedAwayError(DeviceError):
    """The server does not take this device for one of its own."""


class Gateway:
    """A connection to a server's gateway.

    Guarantees:
        It talks only to a TLS server that the one pinned authority has certified for the server's name, whatever
        other authorities, proxies or redirects the system knows.

    Args:
        server: whom to talk to.
        signing: this device's identity key, 32 private bytes.
        clock: unix seconds.
    """

    def __init__(self, server: Server, signing: bytes, clock: Callable[[], float] = time.time) -> None:
        import httpx

        self._server, self._signing, self._clock = server, signing, clock
        try:
            trust = ssl.create_default_context(cadata=server.ca)
        except (ssl.SSLError, ValueError) as error:
            raise DeviceError("The server's authority is no PEM certificate; enrol with a fresh invitation.") from error
        trust.minimum_version = ssl.TLSVersion.TLSv1_2
        self._http = httpx.Client(
            base_url=f"https://{server.server}", verify=trust, timeout=_TIMEOUT, trust_env=False, follow_redirects=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def enrol(self, enrolment: Enrolment) -> tuple[int, str]:
        """The number that the server gives this device, and what Flower calls it there.

        Raises:
            DeviceError: with the reason, where the server refuses or cannot be reached.
        """
        status, body, _ = self._send("POST", "enrol", {}, sign_enrolment(enrolment, self._signing))
        if status == 503:
            raise DeviceError("The server is not ready to enrol devices; do it again in a minute.")
        try:
            answer = json.loads(body)
            if status == 200 and type(answer["number"]) is int:
                return answer["number"], str(answer["node_id"])
            raise DeviceError(_REFUSED[answer["refused"]])
        except DeviceError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise DeviceError(
                f"'{self._server.server}' does not answer as a fedrec server (status {status})."
            ) from error

    def fetch(self, name: str, number: int, known: str | None = None) -> bytes | None:
        """A document, unchecked; None if there is none.

        Args:
            name: one of what the server publishes.
            number: this device's.
            known: digest of the document that is here already; that one is returned as b"".

        Raises:
            TurnedAwayError: if the server does not take this device for one of its own.
            DeviceError: if it cannot be reached.
        """
        headers = access_headers(self._signing, raw(self._server.request_key), number, OWN + name, self._clock())
        if known is not None:
            headers["if-none-match"] = f'"{known}"'
        status, body, date = self._send("GET", name, headers, None)
        if status in {200, 304}:
            return body if status == 200 else b""
        if status == 404:
            return None
        if status == 401:
            raise TurnedAwayError(_turned_away(date, self._clock()))
        raise DeviceError(f"The server does not answer for '{name}' (status {status}); it is tried again later.")

    def _send(self, method: str, name: str, headers: dict[str, str], content: bytes | None) -> tuple[int, bytes, str]:
        """Status, body and the server's own time, as HTTP has it."""
        import httpx

        try:
            with self._http.stream(method, OWN + name, headers=headers, content=content) as answer:
                body = bytearray()
                for part in answer.iter_raw():
                    body += part
                    if len(body) > _MOST:
                        raise DeviceError(f"The server's '{name}' has more than {_MOST} bytes; it is not read.")
                return answer.status_code, bytes(body), answer.headers.get("date", "")
        except httpx.HTTPError as error:
            raise DeviceError(_unreachable(self._server.server, error)) from error


def _turned_away(date: str, now: float) -> str:
    """Why, by what a clock that runs right leaves as the reason."""
    try:
        apart = now - parsedate_to_datetime(date).timestamp()
    except ValueError:  # it names no time
        apart = 0.0
    if abs(apart) > WINDOW:
        return f"The server turns this device away: the clocks differ by {abs(apart):.0f} s; set the one that is wrong."
    return (
        "The server turns this device away: it knows it no more, most likely since it was revoked; ask its operator, "
        "who can invite a new device ('fedrec device init')."
    )


def _unreachable(server: str, error: BaseException) -> str:
    """Why there was no answer, in one sentence."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        if "expired" in cause.verify_message:
            return f"The certificate of '{server}' has expired; its operator renews it with 'fedrec server renew'."
        return (
            f"'{server}' is not the server of the invitation: its certificate is not accepted ({cause.verify_message})."
        )
    return f"'{server}' cannot be reached ({error}); check the network, and that the server is up."
