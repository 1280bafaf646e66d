"""A device answers, or refuses: every check stands before every answer, and the charge before the answer leaves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from fedrec.agreements.reply import Reply, sign_reply
from fedrec.agreements.request import (
    PURPOSE,
    RELEASING,
    Request,
    check_expiry,
    check_protocol,
    request_of,
)
from fedrec.agreements.roster import SignedRoster
from fedrec.agreements.statement import opened
from fedrec.agreements.terms import terms_of
from fedrec.device import answers, history, hook, preparation, rosters, rounds, shared, trust
from fedrec.device.answers import Answer, Question
from fedrec.device.charges import Charges
from fedrec.device.checks import check_experiment, check_fresh, deployment, plan_of
from fedrec.device.home import DeviceHome
from fedrec.device.policy import Policy, load_policy
from fedrec.device.refusals import Code, log, refusing
from fedrec.device.store import Store
from fedrec.device.trust import Trust
from fedrec.errors import (
    AgreementError,
    ConfigError,
    ContributionError,
    FedrecError,
    PrivacyError,
    Refusal,
    UnknownNameError,
)
from fedrec.faults import reach
from fedrec.federation.round import Federation, Plan
from fedrec.privacy.mechanism import ShardSum
from fedrec.secagg.client import Client
from fedrec.secagg.store import FolderStore

__all__ = ["Answer", "Handler", "Question"]

_PINNING = ("advert", "shares", "train")
"""The phases that look at a roster anew; the others go on with the one under which the attempt began."""


@dataclass
class _Case:
    """A question under way, with what is known of it so far: for the log, and for how long the answer takes."""

    question: Question
    seconds: float
    request: Request | None = None


@dataclass(frozen=True, eq=False)
class _Round:
    """A checked request with all that answers it."""

    request: Request
    question: Question
    roster: SignedRoster
    federation: Federation
    plan: Plan


class Handler:
    """Answers the messages of one server for one device. Nothing lives in it: each message may find a new process.

    Args:
        home: the device's folder.
        clock: unix seconds.
        sleep: waits so many seconds.
        timer: seconds that only ever grow.

    Guarantees:
        - Only a request that the trusted server has signed is answered, by its experiment, cohort, roster, mechanism
          and model, and only as the policy and this device's own charges allow.
        - Whatever is made from the history is clipped, carries its noise from the operating system's generator, and
          is masked wherever it carries only a share of the noise.
        - The charge is on the disk before the history is looked at, and the bytes of the answer before they leave: one
          answer an attempt, to the byte, and none without a charge. Whatever the history makes go wrong then, noise
          alone is answered, so that nobody learns from a failure; only a crash leaves a charge without an answer.
        - A message that is none is refused before the charge.
        - Every answer carries this device's signature over what it answers and says.
        - Such an answer, and every refusal of one, takes a multiple of a public number of seconds.
    """

    def __init__(
        self,
        home: DeviceHome,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home, self._clock, self._sleep, self._timer = home, clock, sleep, timer

    def answer(self, question: Question) -> Answer:
        """The answer to a question; nothing of a refusal may go to the server but that it was refused.

        Raises:
            Refusal: with a code and a sentence, both kept in the store for the owner.
        """
        began, case = self._timer(), _Case(question, Policy().answer_seconds)
        try:
            with self._opened() as store:
                try:
                    return self._answer(store, case)
                except Refusal as refusal:
                    self._log(store, refusal, case)
                    raise
                except Exception as error:  # its words may depend on the history
                    words = str(error) if isinstance(error, FedrecError) else f"{error!r}."
                    failure = Refusal(Code.FAILED, f"The step failed here: {words}")
                    self._log(store, failure, case)
                    raise failure from error
        finally:
            if question.phase in RELEASING:
                self._wait(began, case.seconds)

    def _opened(self) -> Store:
        try:
            return self._home.open_store()
        except FedrecError as error:
            raise Refusal(Code.FAILED, str(error)) from error

    def _log(self, store: Store, refusal: Refusal, case: _Case) -> None:
        with suppress(FedrecError):  # a full disk does not turn a refusal into something else
            log(store, refusal, self._clock(), case.question.phase, case.request)

    def _wait(self, began: float, seconds: float) -> None:
        if seconds > 0:
            spent = self._timer() - began
            self._sleep(max(math.ceil(spent / seconds), 1) * seconds - spent)

    def _answer(self, store: Store, case: _Case) -> Answer:
        trusted, policy = self._home.trust(), load_policy(self._home.policy_path)
        case.seconds = policy.answer_seconds
        if not policy.opt_in:
            raise Refusal(Code.OPTED_OUT, "The policy does not take part in training (opt_in = false).")
        if trusted is None:
            raise Refusal(Code.NOT_ENROLLED, "This device is enrolled with no server.")
        request = case.request = self._request(case.question, trusted)
        digest = case.question.digest()
        given = answers.find(store, request, digest) or self._new_answer(store, case, request, digest, trusted, policy)
        said = Reply(request.experiment, request.round, request.attempt, request.phase, given.message, given.arrays)
        return replace(given, signature=sign_reply(said, self._home.identity().signing))

    def _new_answer(
        self, store: Store, case: _Case, request: Request, digest: bytes, trusted: Trust, policy: Policy
    ) -> Answer:
        """The answer to a question that was not asked before."""
        charges = Charges(store, policy, self._clock, FolderStore(self._home.secagg))
        checked = self._check(store, case, request, trusted, policy)
        if request.phase in ("agree", "unmask"):
            if not charges.has(request):
                raise Refusal(Code.STEP, "This device has sent no vector in this attempt.")
        else:
            charges.check(request, checked.plan)
            hook.ask(policy, request, checked.plan)
        if request.phase in ("masked", "agree", "unmask"):
            rounds.check_same(store, request)
        reach("device.checked")
        if request.phase in RELEASING:
            return self._release(store, case, checked, charges, trusted, policy)
        return self._step(store, checked, digest, trusted)

    def _request(self, question: Question, trusted: Trust) -> Request:
        """The signed request, of which nothing but its signature, form, phase, time and arrays are checked."""
        with refusing(Code.SIGNATURE, AgreementError):
            value = opened(question.request, PURPOSE, trust.raw(trusted.request_key))
        with refusing(Code.PROTOCOL, AgreementError):
            check_protocol(value)
        with refusing(Code.FORM, AgreementError):
            request = request_of(value)
        if request.phase != question.phase:
            raise Refusal(Code.PHASE, f"A request of phase '{request.phase}' came in a message of another.")
        with refusing(Code.EXPIRED, AgreementError):
            check_expiry(request, self._clock())
        found = question.model if request.phase in RELEASING or question.arrays else None
        if found != request.model:
            raise Refusal(Code.ARRAYS, "The shared model that came is not the one that the request names.")
        return request

    def _check(self, store: Store, case: _Case, request: Request, trusted: Trust, policy: Policy) -> _Round:
        """Everything that does not hang on what was spent."""
        question = case.question
        with refusing(Code.EXPERIMENT, ConfigError, UnknownNameError):
            experiment = preparation.experiment_of(question.experiment)
        check_experiment(experiment, request, policy)
        case.seconds = max(policy.answer_seconds, deployment(experiment).answer_seconds)
        check_fresh(experiment, request, self._clock())
        registrar = trust.raw(trusted.registrar_key)
        if question.roster and request.phase in _PINNING:
            roster = rosters.accept(store, question.roster, registrar)
            if roster.digest != request.roster:
                raise Refusal(Code.ROSTER, "The roster that came is not the one that the request names.")
        else:
            roster = rosters.known(store, request.roster, registrar, newest=request.phase in _PINNING)
        rounds.check_seats(request, roster, trusted.number, self._home.identity().member())
        with refusing(Code.EXPERIMENT, ConfigError, PrivacyError):
            federation = preparation.federation(store, question.experiment)
        plan = plan_of(federation, request, policy)
        if request.phase in RELEASING:
            with refusing(Code.ARRAYS, ContributionError):
                shared.check_model(federation, request.round, question.arrays)
        return _Round(request, question, roster, federation, plan)

    def _step(self, store: Store, checked: _Round, digest: bytes, trusted: Trust) -> Answer:
        """A step of secure aggregation that knows nothing of the history."""
        request, question = checked.request, checked.question
        answer = Answer(rounds.secure_step(self._client(checked, trusted), request, question.message))
        if request.phase == "advert":
            return answer  # the same for every asking, until it is used
        with store.transaction():
            if request.phase == "shares":
                rounds.begin(store, request)
            answers.keep(store, request, digest, answer)
        return answer

    def _release(
        self, store: Store, case: _Case, checked: _Round, charges: Charges, trusted: Trust, policy: Policy
    ) -> Answer:
        """The one kind of answer that is made from the history."""
        request, question, plan = checked.request, checked.question, checked.plan
        shared.keep_model(store, question.arrays, request.experiment, request.round - 1)
        client = None if request.phase == "train" else self._client(checked, trusted)
        if client is not None:
            rounds.check_masked(client, request, question.message)
        charges.charge(request, plan)
        reach("device.charged")
        charges.mark()
        reach("device.marked")
        shard = self._contribution(store, case, checked, trusted.number, policy.most_interactions)
        if client is None:
            answer = Answer(arrays=shard.arrays)
        else:
            vector = plan.release.flatten(shard.arrays)
            answer = Answer(rounds.secure_step(client, request, question.message, vector))
        reach("device.contributed")
        answers.keep(store, request, question.digest(), answer)
        reach("device.kept")
        return answer

    def _contribution(self, store: Store, case: _Case, checked: _Round, number: int, most: int) -> ShardSum:
        """What the history says under the noise; the noise alone where that fails, which only the owner is told."""
        federation, secret = checked.federation, self._home.secret()
        arrays = checked.question.arrays
        try:
            user = history.interactions(store, federation.catalogue, number, most)
            return rounds.contribution(federation, checked.plan, arrays, user, store, secret)
        except Exception as error:
            self._log(store, Refusal(Code.FAILED, f"Noise alone was sent, since the step failed: {error!r}."), case)
            user = history.nobody(federation.catalogue, number)
            return rounds.contribution(federation, checked.plan, arrays, user, store, secret)

    def _client(self, checked: _Round, trusted: Trust) -> Client:
        asked = {who: checked.roster.members[who] for who in checked.request.cohort}
        terms = terms_of(checked.federation, checked.plan)
        return Client(trusted.number, self._home.identity(), asked, FolderStore(self._home.secagg), terms)
