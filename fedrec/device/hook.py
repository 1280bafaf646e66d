"""The hook: a command of the owner's that says yes or no to a step (battery, metered network, quiet hours)."""

from __future__ import annotations

import contextlib
import json
import os
import signal

from fedrec.agreements.request import Request
from fedrec.device.policy import Policy
from fedrec.device.refusals import Code
from fedrec.errors import Refusal
from fedrec.federation.round import Plan


def ask(policy: Policy, request: Request, plan: Plan) -> None:
    """Run the owner's command, without a shell; exit status 0 says yes, and so does having no command.

    It reads the request's facts as JSON on its standard input, and in its environment as ``FEDREC_ROUND`` and so on.

    Raises:
        Refusal: if it says no, takes longer than ``hook_seconds``, or cannot be started.
    """
    if not policy.hook:
        return
    import subprocess

    facts = {
        "experiment": request.experiment,
        "round": request.round,
        "attempt": request.attempt,
        "phase": request.phase,
        "cohort": len(request.cohort),
        "release": plan.release.name,
        "coordinates": plan.release.size,
        "noise_multiplier": plan.mechanism.noise_multiplier,
        "trust": plan.mechanism.trust,
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")}
    environment |= {f"FEDREC_{name.upper()}": str(value) for name, value in facts.items()}
    try:
        process = subprocess.Popen(  # noqa: S603 - the owner's own command
            policy.hook,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except PermissionError as error:
        raise Refusal(
            Code.HOOK,
            f"The hook '{policy.hook[0]}' may not be run: set its mode (chmod +x), and keep it where programs may run "
            "(no file system that is mounted noexec).",
        ) from error
    except (OSError, ValueError) as error:
        raise Refusal(
            Code.HOOK, f"The hook '{policy.hook[0]}' cannot be started ({error}); correct the policy."
        ) from error
    with process:
        try:
            process.communicate(json.dumps(facts).encode(), timeout=policy.hook_seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with whatever it has started
            raise Refusal(Code.HOOK, f"The hook said nothing for {policy.hook_seconds:g} s, which is a no.") from None
    if process.returncode != 0:
        raise Refusal(Code.HOOK, f"The hook said no (exit status {process.returncode}).")
