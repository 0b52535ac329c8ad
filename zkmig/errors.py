"""The error tree: every failure says what, where, what to do, and whether a write may have landed.

An exit code belongs to a class, so that there is one place to look up what a script may rely on. The command line
prints ``str(error)`` (one line, no traceback) and exits with ``error.exit_code``; anything outside this tree is a
bug and exits 70.
"""

from __future__ import annotations

from enum import Enum

EXIT_DONE = 0
EXIT_DIFFERENT = 1
EXIT_BAD_INPUT = 2
EXIT_REFUSED = 3
EXIT_CONFLICT = 4
EXIT_OUTCOME_UNKNOWN = 5
EXIT_UNREACHABLE = 6
EXIT_INTERNAL = 70
EXIT_NOT_STABLE = 75


class Outcome(Enum):
    """Whether a write may have landed when an error was raised."""

    NOTHING_WRITTEN = "nothing was written"
    PARTLY_WRITTEN = "earlier steps were written and recorded; run zkmig status"
    HOLD_IN_PLACE = "the hold is in place, and stays until it is released"
    UNKNOWN = "a write may have landed; run zkmig status"


class ZkmigError(Exception):
    """Base of every error raised on purpose.

    what: the failure in a few words, without a full stop. where: path, file or address ("" when there is none).
    hint: what to do about it. outcome: whether a write may have landed. tells_unwritten: whether its text says so, too,
    when nothing was written; where that goes without saying it does not.
    """

    exit_code = EXIT_INTERNAL
    tells_unwritten = False

    def __init__(self, what: str, where: str = "", hint: str = "", outcome: Outcome = Outcome.NOTHING_WRITTEN) -> None:
        super().__init__(what, where, hint, outcome)
        self.what = what
        self.where = where
        self.hint = hint
        self.outcome = outcome

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.hint:
            text += f"; {self.hint}"
        if self.outcome is not Outcome.NOTHING_WRITTEN or self.tells_unwritten:
            text += f" [{self.outcome.value}]"
        return text


# -- 2: usage or bad input --------------------------------------------------------------------------------------------


class BadInput(ZkmigError):
    """Something the caller gave cannot be used: a location, a path, an option, a file."""

    exit_code = EXIT_BAD_INPUT


class DamagedFile(BadInput):
    """A snapshot or plan file is truncated, altered or of an unknown format. offset: bytes from its start."""

    def __init__(self, what: str, where: str, offset: int, hint: str = "make the file again") -> None:
        super().__init__(f"{what} at byte {offset}", where, hint)
        self.offset = offset


class PlanImpossible(BadInput):
    """The change cannot be written safely: a node over the frame limit, an ephemeral in the way, a lock-out."""


# -- 3: refused -------------------------------------------------------------------------------------------------------


class Refused(ZkmigError):
    """The request is sound but the state of the scope does not admit it."""

    exit_code = EXIT_REFUSED


class StalePlan(Refused):
    """The target has moved since the plan was made."""


class RuleViolated(Refused):
    """The tree that a plan leads to is not sound. violations: what a policy's rules say, as values with a text."""

    violations: tuple[object, ...] = ()


class WrongEpoch(Refused):
    """The committed epoch is not the one that the operator means to follow."""


class Held(Refused):
    """The scope carries a maintenance hold."""


class NotOwner(Refused):
    """Another migrator owns the scope, or took it over."""


class OtherIncarnation(Refused):
    """The control plane was deleted and created again since."""


class UnknownFormat(Refused):
    """A record of a format that this version does not know."""


class ActingRefused(Refused):
    """A reader's action is not admitted: migration under way, held, stale view, or an empty scope."""


# -- 4, 5, 6 ----------------------------------------------------------------------------------------------------------


class Conflict(ZkmigError):
    """Somebody else wrote a path of the plan; their value stands.

    may_go_on: whether `resume` can pass once somebody has put right what stands in the way. A node that was written is
    not such: its version has moved, and nothing brings it back.
    """

    exit_code = EXIT_CONFLICT
    may_go_on = False


class NotConsistent(ZkmigError):
    """What was read is not known to be one state of the tree, and that was asked for."""

    exit_code = EXIT_CONFLICT


class NotProven(ZkmigError):
    """A rehearsal did not come to its end: a stage failed, or left another tree than it had to.

    stage: which. The target was only read. exit_code: that of the failure, where it says more than this.
    """

    exit_code = EXIT_CONFLICT
    stage = ""


class OutcomeUnknown(ZkmigError):
    """A write was sent and its answer never came."""

    exit_code = EXIT_OUTCOME_UNKNOWN

    def __init__(self, what: str, where: str = "", hint: str = "") -> None:
        super().__init__(what, where, hint, Outcome.UNKNOWN)


class Unreachable(ZkmigError):
    """No server could be reached, or the session ended while nothing of ours was being written."""

    exit_code = EXIT_UNREACHABLE


class NotPermitted(ZkmigError):
    """An ACL forbids what was asked (server error NoAuth), or authentication failed."""

    exit_code = EXIT_UNREACHABLE


class NotStable(ZkmigError):
    """`zkmig epoch --require-stable` on a scope that is not STABLE, or is held."""

    exit_code = EXIT_NOT_STABLE


class Stopped(ZkmigError):
    """SIGINT, SIGTERM or --timeout ended the work between two steps."""

    exit_code = 130


# -- readers: Reader.view() raises only these -------------------------------------------------------------------------


class ReaderError(ZkmigError):
    """Base of what `Reader.view()` raises."""

    exit_code = EXIT_REFUSED


class NotReady(ReaderError):
    """The scope has no committed image yet (EMPTY, BUILDING), or its record is missing: absence proves nothing."""


class Unavailable(ReaderError):
    """The ensemble cannot be reached, or the view could not be completed in time."""

    exit_code = EXIT_UNREACHABLE


class Forbidden(ReaderError):
    """An ACL keeps this reader from the record, the tree, or the undo it needs for a whole view."""

    exit_code = EXIT_UNREACHABLE
