"""What a guard learns and what it orders: events and orders as values, and the names of what it can be doing."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple

from zkmig.epoch.leases import Down
from zkmig.epoch.record import Held
from zkmig.epoch.transitions import State


class Phase(Enum):
    """What a guard is doing. The value is what the status file says."""

    LOOKING = "looking"  # what the scope and the registration are is not known
    CONTESTED = "contested"  # the registration is another's, who may well live
    WAITING = "waiting"  # the scope does not admit it
    DOWN = "down"  # the scope does, but it is to stay down
    REGISTERING = "registering"
    HOOK = "hook"  # registered, and the hook runs
    RUNNING = "running"  # registered, and the command runs
    ENDING = "ending"  # told to end, not known to be gone
    ACKNOWLEDGING = "acknowledging"  # gone; that is being written
    LEFT = "left"


PASSING: Final = frozenset({Phase.LOOKING, Phase.REGISTERING, Phase.ACKNOWLEDGING})
RESTING: Final = frozenset({Phase.LOOKING, Phase.CONTESTED, Phase.WAITING, Phase.DOWN})


class AfterCommit(Enum):
    """What becomes of the command once the committed epoch is not the one under which it ran last."""

    RESTART = "restart"
    STAY_DOWN = "stay-down"
    HOOK = "exec"


class Role(Enum):
    """What is run under a registration."""

    COMMAND = auto()
    HOOK = auto()


class Holder(Enum):
    """Whose the registration is, as it was found."""

    NOBODY = auto()  # there is none
    STOPPED = auto()  # it says stopped
    OURS = auto()  # it says running, written by this guard
    GONE = auto()  # it says running, and its guard and all that this had started are known to be gone
    ANOTHER = auto()  # it says running, and its guard may live
    ALIVE = auto()  # it says running, and its guard, or what this has left, is known to live


# -- what comes in ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """The record as it was read. zxid: of its last change. last: how the latest attempt ended; moved by every one."""

    incarnation: str
    version: int
    zxid: int
    state: State
    epoch: int
    held: Held | None = None
    target_epoch: int | None = None
    last: tuple[int, str, str] | None = None

    @property
    def admits(self) -> bool:
        """Whether a guarded process may run."""
        return self.state is State.STABLE and self.held is None


@dataclass(frozen=True, slots=True)
class NoRecord:
    """The servers answered, and there is no record that could be read."""

    why: str


@dataclass(frozen=True, slots=True)
class Silent:
    """The servers do not answer."""

    why: str


@dataclass(frozen=True, slots=True)
class EntrySeen:
    """The registration as it was read. epoch, down: as it has them. who: whose it is, for ANOTHER and ALIVE; instance:
    what tells it from others."""

    holder: Holder
    epoch: int | None = None
    down: Down | None = None
    who: str = ""
    instance: str = ""


@dataclass(frozen=True, slots=True)
class Registered:
    """The registration asked for is in ZooKeeper. remark: what an operator should know of it."""

    remark: str = ""


@dataclass(frozen=True, slots=True)
class NotRegistered:
    """It is not, and will not be. is_forbidden: rights are missing. is_over_budget: an operator has to look first.
    is_usage: nor ever would be as this guard was called."""

    why: str
    is_forbidden: bool = False
    is_over_budget: bool = False
    is_usage: bool = False


@dataclass(frozen=True, slots=True)
class Doubtful:
    """Whether it is, or will be, cannot be told: no answer came."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """ZooKeeper has it that nothing runs, and no registration sent before can land any more."""


@dataclass(frozen=True, slots=True)
class NotAcknowledged:
    """It is not ours any more, or nothing can be written there. is_ours: it may still say that it runs."""

    why: str
    is_forbidden: bool = False
    is_ours: bool = True


@dataclass(frozen=True, slots=True)
class Started:
    """The main process runs."""

    pid: int


@dataclass(frozen=True, slots=True)
class NotStarted:
    """It could not be started; Gone follows. code: 126 or 127."""

    code: int
    why: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The main process has ended; what it started may live on. code: its own, or 128 + signal."""

    code: int


@dataclass(frozen=True, slots=True)
class StillAlive:
    """What was told to end has not."""

    why: str


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing that was started is left."""


@dataclass(frozen=True, slots=True)
class Broken:
    """What watches over the processes has failed; they are being ended, and Gone will follow."""

    why: str


@dataclass(frozen=True, slots=True)
class Signalled:
    """This guard was sent a signal."""

    number: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has gone by."""


@dataclass(frozen=True, slots=True)
class TimeUp:
    """The time of the latest `Arm` is over."""


Event = (
    Seen
    | NoRecord
    | Silent
    | EntrySeen
    | Registered
    | NotRegistered
    | Doubtful
    | Acknowledged
    | NotAcknowledged
    | Started
    | NotStarted
    | Exited
    | StillAlive
    | Gone
    | Broken
    | Signalled
    | Tick
    | TimeUp
)


# -- what goes out ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """Read record and registration now."""


@dataclass(frozen=True, slots=True)
class Register:
    """Write that it runs, on condition that the record is as `under`. epoch: under which the command ran last.

    is_command: else the hook, which no budget keeps from running. override: why the command may run beyond it.
    """

    under: Seen
    epoch: int | None
    why: str
    is_command: bool = True
    override: str | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Start it. epoch_before: for a hook."""

    role: Role
    epoch: int
    epoch_before: int | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """End all that was started."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Hand the signal to the main process."""

    number: int


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Write that nothing runs. epoch: under which the command ran last. taking: another guard's instance, over whose
    registration it is to be written. not_begun: what was registered last was not started."""

    why: str
    epoch: int | None
    down: Down | None
    taking: str = ""
    not_begun: bool = False


@dataclass(frozen=True, slots=True)
class Arm:
    """Give TimeUp after so many seconds, and none that was asked for before."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Leave:
    """The guard is over. error: what to tell beside the code. without_record: it leaves because it may not wait for a
    record, and the servers have none of this scope."""

    code: int
    error: str = ""
    without_record: bool = False


Order = Look | Register | Start | Stop | Pass | Acknowledge | Arm | Leave


@dataclass(frozen=True, slots=True)
class Settings:
    """may_wait: else leave with 75. take_over: the registration found at first, if it is of somebody who may live.
    ends_on: signals that end a guard while nothing runs."""

    after_commit: AfterCommit = AfterCommit.RESTART
    may_wait: bool = True
    take_over: bool = False
    ends_on: frozenset[int] = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})


class Situation(NamedTuple):
    """What is said to the world. since: of the phase, unix time in s."""

    phase: Phase
    since: float
    why: str
    pid: int | None
    epoch: int | None
    held: Held | None
    is_passing: bool  # nothing that somebody would have to know of
