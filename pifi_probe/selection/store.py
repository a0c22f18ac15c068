"""`Store`: every trial of a search in one Optuna study, so that a kill loses at most what is running.

A trial is written as running before it starts, and its whole outcome is committed before the next one starts.
Several processes may share a study. Whoever starts a trial looks afterwards whether the same run was begun before
with a lower number, and then gives way, so that no run is made twice. Who runs a trial counts up a number in the
study; who sees it stand still for `grace` seconds of its own monotonic clock takes that process for dead and frees
the trial: no clocks are compared, so they may differ or run backwards. Only a process of the same place (host, start
of the machine, namespace of process numbers) is known to be gone at once.
"""

from __future__ import annotations

import functools
import math
import os
import platform
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pifi_probe.errors import CorruptFileError, SearchError
from pifi_probe.reading import Refused, typed
from pifi_probe.selection.budget import Spent
from pifi_probe.selection.database import Address, database_errors, open_storage
from pifi_probe.selection.space import Candidate, place_of
from pifi_probe.selection.trials import FIDELITIES, Outcome, Proposal, Trial
from pifi_probe.vocabulary import STORED_FIDELITY

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = [
    "CONFIRM",
    "LIVE_SESSIONS",
    "SELECT",
    "Claim",
    "Record",
    "Store",
    "StoredTrial",
    "describe_worker",
    "identity_of",
    "is_gone",
    "read_trial",
    "record_of",
]

SELECT, CONFIRM = "select", "confirm"
MAX_DEATHS = 5  # processes that a trial may kill before it counts as failed


@dataclass(frozen=True)
class Claim:
    """A trial that this process runs."""

    id: int
    number: int
    proposal: Proposal
    phase: str


class Store:
    """The study on disk.

    Parameters
    ----------
    address : Address
    create : bool
        Make it when it is missing.
    grace : float
        Seconds without a sign of life after which another process counts as dead.
    lock_seconds : float
        How long to wait for a locked file.

    Attributes
    ----------
    storage : optuna.storages.BaseStorage
        For Optuna's own tools, such as its dashboard.

    Raises
    ------
    SearchError, CorruptFileError, SaveError
        If it is missing, locked, damaged or cannot be written.
    """

    def __init__(
        self, address: Address, *, create: bool = True, grace: float = 90.0, lock_seconds: float = 30.0
    ) -> None:
        self.address, self.grace = address, grace
        self._signs: dict[int, tuple[int, float]] = {}  # trial id -> last count, when it was first seen
        self.storage = open_storage(address, create=create, lock_seconds=lock_seconds)
        with database_errors(address):
            self._study = self._find(create)

    @classmethod
    def open(cls, study: str | Path | None, *, create: bool = True) -> Store:
        """Open a file, a database URL, or (None) a study in memory."""
        return cls(Address.parse(study), create=create)

    def _find(self, create: bool) -> int:
        from optuna import logging
        from optuna.exceptions import DuplicatedStudyError
        from optuna.study import StudyDirection

        names = {study.study_name: study._study_id for study in self.storage.get_all_studies()}
        if self.address.name in names:
            return names[self.address.name]
        if not create:
            known = f"it holds {', '.join(names)}" if names else "it is empty"
            raise SearchError(
                f"there is no study {self.address.name!r}: {known}",
                where=str(self.address),
                next="pick one with #name" if names else "start the search again",
            )
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.WARNING)
        try:
            return self.storage.create_new_study([StudyDirection.MINIMIZE], self.address.name)
        except DuplicatedStudyError:  # made by another process in this moment
            return self.storage.get_study_id_from_name(self.address.name)
        finally:
            logging.set_verbosity(verbosity)

    # What belongs to the study as a whole

    def note(self, name: str, value: Any) -> None:
        """Store a JSON value under a name."""
        with database_errors(self.address):
            self.storage.set_study_user_attr(self._study, name, value)

    def noted(self, name: str, default: Any = None) -> Any:
        """Return what `note` stored."""
        with database_errors(self.address):
            return self.storage.get_study_user_attrs(self._study).get(name, default)

    # Trials

    def records(self) -> list[Record]:
        """Return complete, failed and running trials in the order of their numbers."""
        stored = self._stored()
        deaths = Counter(identity_of(trial) for trial in stored if trial.user_attrs.get("died"))
        records: dict[tuple[str, str, int], Record] = {}
        for trial in stored:
            record = record_of(trial)
            if record is None and deaths[identity_of(trial)] >= MAX_DEATHS:
                record = record_of(trial, f"it killed its process {MAX_DEATHS} times (out of memory?)")
            if record is None:
                continue
            known = records.get(identity_of(trial))
            if known is None or known.trial.state == "running" != record.trial.state:
                records[identity_of(trial)] = record
        return sorted(records.values(), key=lambda record: record.trial.number)

    def spent(self, *, confirmed: bool = False) -> Spent:
        """Return what selection has taken; with `confirmed`, what the confirmation took, too."""
        phases = (SELECT, CONFIRM) if confirmed else (SELECT,)
        records = [r for r in self.records() if r.phase in phases and r.trial.outcome is not None]
        sessions: dict[str, float] = {}
        for record in records:
            sessions[record.session] = max(sessions.get(record.session, 0.0), record.elapsed)
        cost = math.fsum(record.trial.outcome.cost for record in records if record.trial.outcome)
        return Spent(cost, len(records), math.fsum(sessions.values()))

    def claim(self, proposal: Proposal, phase: str, session: str) -> Claim | None:
        """Write a trial as running; None when another process has begun or finished the same run."""
        import optuna

        params, distributions = _parameters(proposal)
        template = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            params=params,
            distributions=distributions,
            user_attrs={
                "candidate": proposal.candidate.to_dict(),
                "label": proposal.candidate.label,
                "why": proposal.why,
                "phase": phase,
                "worker": describe_worker(session),
            },
        )
        with database_errors(self.address):
            trial_id = self.storage.create_new_trial(self._study, template)
            number = self.storage.get_trial_number_from_id(trial_id)
        claim = Claim(trial_id, number, proposal, phase)
        identity = (proposal.candidate.key, proposal.fidelity, proposal.seed)
        if any(identity_of(t) == identity and t.number < number and record_of(t) for t in self._stored()):
            self.release(claim)
            return None
        return claim

    def finish(self, claim: Claim, outcome: Outcome, elapsed: float) -> Trial:
        """Commit an outcome; a failure is an outcome with a message."""
        from optuna.exceptions import UpdateFinishedTrialError

        values = {"outcome": outcome.to_dict(), "elapsed": elapsed}  # together: a commit takes long on some disks
        with database_errors(self.address):
            try:
                self.storage.set_trial_user_attr(claim.id, "done", values)
                self._end(claim.id, outcome)
            except UpdateFinishedTrialError:  # we had been taken for dead: the outcome is good all the same
                again = self.claim(claim.proposal, claim.phase, self._session_of(claim))
                if again is not None:
                    self.storage.set_trial_user_attr(again.id, "done", values)
                    self._end(again.id, outcome)
        state = "failed" if outcome.message else "complete"
        proposal = claim.proposal
        return Trial(proposal.candidate, proposal.fidelity, proposal.seed, state, outcome, claim.number, proposal.why)

    def _end(self, trial_id: int, outcome: Outcome) -> None:
        from optuna.trial import TrialState

        if outcome.message:
            self.storage.set_trial_state_values(trial_id, TrialState.FAIL)
        else:
            self.storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [outcome.value])

    def _session_of(self, claim: Claim) -> str:
        return str(self.storage.get_trial(claim.id).user_attrs["worker"]["session"])

    def release(self, claim: Claim, *, died: bool = False) -> None:
        """Give a running trial back, as if it had never begun; `died`: it ended the process that ran it."""
        self._free(claim.id, died=died)

    def beat(self, claims: Iterable[Claim], count: int) -> None:
        """Show that the process that runs these trials is alive; `count` grows from call to call."""
        from optuna.exceptions import UpdateFinishedTrialError

        with database_errors(self.address):
            for claim in claims:
                try:
                    self.storage.set_trial_user_attr(claim.id, "beat", count)
                except UpdateFinishedTrialError:
                    continue

    def free_the_dead(self) -> int:
        """Free the running trials of processes that are gone; return how many there were."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        dead = [t for t in self._stored() if t.state == TrialState.RUNNING and self._is_dead(t)]
        for trial in dead:
            outcome = read_trial(trial).outcome
            if outcome is None:
                self._free(trial._trial_id, died=True)
                continue
            with database_errors(self.address), suppress(UpdateFinishedTrialError):
                self._end(trial._trial_id, outcome)  # killed before its last commit
        return len(dead)

    def _is_dead(self, trial: FrozenTrial) -> bool:
        values = read_trial(trial).values
        if is_gone(values.worker):
            return True
        count = values.beat
        now = time.monotonic()
        last, since = self._signs.setdefault(trial._trial_id, (count, now))
        if last != count:
            self._signs[trial._trial_id] = (count, now)
            return False
        return now - since > self.grace

    def _free(self, trial_id: int, *, died: bool = False) -> None:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        with database_errors(self.address):
            try:
                if died:
                    self.storage.set_trial_user_attr(trial_id, "died", True)
                self.storage.set_trial_state_values(trial_id, TrialState.FAIL)
            except UpdateFinishedTrialError:  # freed or finished by another process
                return

    def _stored(self) -> list[FrozenTrial]:
        with database_errors(self.address):
            return self.storage.get_all_trials(self._study, deepcopy=False)


def _parameters(proposal: Proposal) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what optuna-dashboard plots: fidelity, seed, design, and the index of every layer."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    params: dict[str, Any] = {STORED_FIDELITY: proposal.fidelity, "seed": proposal.seed}
    distributions: dict[str, Any] = {
        STORED_FIDELITY: CategoricalDistribution(FIDELITIES),
        "seed": IntDistribution(0, 2**31),
    }
    for place, layer in enumerate(proposal.candidate.layers if not proposal.candidate.surveys else (), 1):
        params[f"layer {place}"] = place_of(layer)[1]
        distributions[f"layer {place}"] = IntDistribution(0, 1023)
    return params, distributions


# What the database holds of a trial, read as what a search writes or refused


@dataclass(frozen=True)
class Record:
    """A stored trial, with what only the search itself needs to know.

    Parameters
    ----------
    trial : Trial
    phase : {"select", "confirm"}
    session : str
        Of the process that ran it.
    elapsed : float
        Seconds from the start of that session to the end of the trial, by the session's monotonic clock.
    """

    trial: Trial
    phase: str
    session: str
    elapsed: float


@dataclass(frozen=True)
class _Done:
    """What a trial says when it has ended."""

    outcome: dict[str, Any]
    elapsed: float


@dataclass(frozen=True)
class _Attributes:
    """What a trial says of itself, as the database holds it."""

    candidate: dict[str, Any]
    phase: Literal["select", "confirm"]
    worker: dict[str, str | int]
    why: str = ""
    done: _Done | None = None
    died: bool = False
    beat: int = 0


@dataclass(frozen=True)
class StoredTrial:
    """The same with its parts."""

    candidate: Candidate
    fidelity: str
    seed: int
    outcome: Outcome | None
    values: _Attributes


def read_trial(trial: FrozenTrial) -> StoredTrial:
    """Read what a trial says of itself.

    Raises
    ------
    CorruptFileError
        If it was not written by a search, or was altered since.
    """
    try:
        values = typed(_Attributes, trial.user_attrs)
        if not isinstance(values.worker.get("session"), str) or not isinstance(values.worker.get("pid"), int):
            raise Refused("it does not say who runs it")
        outcome = None if values.done is None else Outcome.from_dict(values.done.outcome)
        if values.done is not None and not 0 <= values.done.elapsed < math.inf:
            raise Refused(f"it took {values.done.elapsed} seconds")
        fidelity, seed = trial.params.get(STORED_FIDELITY), trial.params.get("seed")
        if fidelity not in FIDELITIES or not isinstance(seed, int) or seed < 0:
            raise Refused(f"fidelity {fidelity!r:.40}, seed {seed!r:.40}")
        return StoredTrial(Candidate.from_dict(values.candidate), str(fidelity), seed, outcome, values)
    except ValueError as error:
        raise CorruptFileError(
            f"trial {trial.number} was not written by a search, or was altered: {error}",
            next="name a study file that pifi-probe made, or restore it from a copy",
        ) from error


def identity_of(trial: FrozenTrial) -> tuple[str, str, int]:
    """Return candidate, fidelity and seed of a stored trial."""
    read = read_trial(trial)
    return read.candidate.key, read.fidelity, read.seed


def record_of(trial: FrozenTrial, message: str = "") -> Record | None:
    """Return a stored trial, or None for one that was given back; with a `message`, count it as failed."""
    read = read_trial(trial)
    outcome = read.outcome if trial.state.is_finished() else None
    if outcome is None and message:
        outcome = Outcome(math.nan, message=message)
    if outcome is None and trial.state.is_finished():
        return None
    state = "running" if outcome is None else "failed" if outcome.message else "complete"
    found = Trial(read.candidate, read.fidelity, read.seed, state, outcome, trial.number, read.values.why)
    elapsed = read.values.done.elapsed if read.values.done is not None and trial.state.is_finished() else 0.0
    return Record(found, read.values.phase, str(read.values.worker["session"]), elapsed)


# Who runs a trial: enough to tell from another process whether it is still there, or that one cannot tell


LIVE_SESSIONS: set[str] = set()  # of this process
_PROC = Path("/proc")


def describe_worker(session: str) -> dict[str, Any]:
    """Return what a trial says of the process that runs it.

    A number of a process means something in one place only: one host, since one start of it, and one namespace of
    process numbers, of which every container has its own.
    """
    pid = os.getpid()
    return {"host": platform.node(), "place": _place(), "pid": pid, "started": _started(pid), "session": session}


def is_gone(worker: Mapping[str, Any]) -> bool:
    """Return whether that process has certainly ended; False where it lives, or where one cannot tell from here."""
    import psutil

    place = _place()
    if not place or worker.get("place") != place or worker.get("host") != platform.node():
        return False
    pid, started = worker["pid"], _started(worker["pid"])
    if pid == os.getpid() and worker.get("started") == started:
        return worker["session"] not in LIVE_SESSIONS
    if not psutil.pid_exists(pid):
        return True
    return bool(started and worker.get("started")) and started != worker["started"]


@functools.cache
def _place() -> str:
    """Return start of the machine and namespace of process numbers; empty where they are not known."""
    if platform.system() != "Linux":
        import psutil

        return f"{platform.system()} {round(psutil.boot_time())}"
    try:
        if os.readlink(_PROC / "self") != str(os.getpid()):
            return ""  # these are the processes of another namespace
        return f"{(_PROC / 'sys/kernel/random/boot_id').read_text().strip()} {os.readlink(_PROC / 'self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a process was started, in words of this machine; empty where it is gone, ended or unknown."""
    import psutil

    if platform.system() != "Linux":
        try:
            return str(psutil.Process(pid).create_time())
        except psutil.Error:
            return ""
    try:
        state, *fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "ended" if state in "ZX" else fields[18]  # field 22: clock ticks since the machine was started
