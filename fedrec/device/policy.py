"""The policy: what its owner lets a device take part in, in a file that the owner edits."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from fedrec.errors import DeviceError, did_you_mean
from fedrec.sections import Section

TEMPLATE = """\
# What this device takes part in. It asks nobody but this file, its own record of charges, and the hook.

# true: take part in training with the server that this device is enrolled with.
opt_in = false

# The models that may be trained. Others need extra packages ("ncf"), or nobody has looked at them here.
models = ["popularity", "gram", "mf"]

# Who may have to be trusted: "distributed" (secure aggregation hides all but the sum, which carries the noise) and
# "local" (what this device sends carries all of the noise). "central" is refused whatever stands here.
trust = ["distributed", "local"]

# The least noise of a round, as a multiple of what it hides, and the fewest devices in a sum.
min_noise_multiplier = 0.5
min_cohort = 20

# The largest epsilon a day (UTC) and in all, over everything that this device ever took part in, at this delta.
# unit = "user": all that is known of you counts as one; "interaction": each interaction alone, a weaker promise.
unit = "user"
epsilon_day = 2.0
epsilon_total = 8.0
delta = 1e-5

# How often one round may be tried with this device; every try is charged.
attempts_per_round = 3

# A round looks at so many of your interactions, the latest; public, and what bounds the time that an answer takes.
most_interactions = 1000

# An answer made from your history takes a multiple of so many seconds (more if the server plans more), so that the
# time it takes says little about the history.
answer_seconds = 1.0

# A command that is asked before each step up to the answer: exit status 0 says yes. It is told of the request as JSON
# on its standard input and in FEDREC_* variables. For example: hook = ["/usr/local/bin/on-wifi-and-charging"]
hook = []
hook_seconds = 10.0
"""
"""The file of a new device: its values are the defaults of `Policy`."""


class Policy(Section):
    """What a device takes part in. The defaults are those of a device whose owner has said nothing: it stays out.

    Attributes:
        opt_in: whether it takes part at all.
        models: those that may be trained.
        trust: who may have to be trusted.
        min_noise_multiplier: the least noise multiplier of a round.
        min_cohort: the fewest users in a sum, by the promise and in any attempt.
        unit: what the budgets are about.
        epsilon_day: largest epsilon a UTC day.
        epsilon_total: largest epsilon ever.
        delta: at which both are counted.
        attempts_per_round: how often this device answers one round; public.
        most_interactions: how many of the latest a round looks at; public.
        answer_seconds: the least of which an answer's time is a multiple.
        hook: a command's words; exit status 0 says yes. Empty: nobody is asked.
        hook_seconds: after which a hook has said no.
    """

    opt_in: bool = False
    models: tuple[str, ...] = ("popularity", "gram", "mf")
    trust: tuple[Literal["distributed", "local"], ...] = ("distributed", "local")
    min_noise_multiplier: float = Field(0.5, gt=0)
    min_cohort: int = Field(20, ge=2)
    unit: Literal["user", "interaction"] = "user"
    epsilon_day: float = Field(2.0, gt=0)
    epsilon_total: float = Field(8.0, gt=0)
    delta: float = Field(1e-5, ge=1e-30, lt=1)
    attempts_per_round: int = Field(3, ge=1)
    most_interactions: int = Field(1000, ge=1, le=1_000_000)
    answer_seconds: float = Field(1.0, ge=0, le=3600)
    hook: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    hook_seconds: float = Field(10.0, gt=0, le=3600)


_NUMBER, _WHOLE, _LIST = "a number", "a whole number", 'a list, as in ["one", "two"]'

_FORMS = {
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "a finite number",
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "tuple_type": _LIST,
    "string_type": "text in quotes",
    "string_too_short": "text that is not empty",
    "literal_error": "{expected}",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "at most {le}",
}
"""What a key takes, by how the check calls what is wrong."""


def load_policy(path: Path) -> Policy:
    """The policy of a file; a key that it leaves out has its default.

    Raises:
        DeviceError: if it cannot be read, if others can change it, or if it does not say what a policy may say; the
            device then takes no part.
    """
    try:
        open_to_others = path.stat().st_mode & 0o022
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeviceError(f"Cannot read the policy '{path}': {error.strerror}; copy it back.") from error
    except ValueError as error:
        raise DeviceError(f"The policy '{path}' is not valid TOML ({error}); correct it.") from error
    if open_to_others:
        raise DeviceError(f"Others on this machine can change the policy '{path}'; run: chmod 600 '{path}'")
    try:
        return Policy.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            hint = did_you_mean(key, Policy.model_fields)
            raise DeviceError(f"The policy '{path}' has an unknown key '{key}'. {hint}") from error
        form = _FORMS.get(first["type"], "something else").format(**first.get("ctx", {}))
        given = json.dumps(first["input"], default=str)
        raise DeviceError(f"The policy '{path}' has {key} = {given}, and it takes {form}; correct it.") from error
