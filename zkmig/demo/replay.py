"""The story, told as it happens: calm, a migration that a service manager breaks into, a commit, a rollback.

Nothing of it is scripted but what the operator does; what the autoscalers see and decide is what they find on real
servers. Migrations are throttled, so that there is something to see.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zkmig.api.migrate import apply, make_plan, rollback
from zkmig.api.scopes import init
from zkmig.api.status import status
from zkmig.api.trees import read
from zkmig.apply.forward import Progress
from zkmig.apply.tempo import IN_FLIGHT_FIRST
from zkmig.demo import registry
from zkmig.demo.decision import digest, surplus
from zkmig.demo.observations import Observation, Span, count
from zkmig.demo.plain import connected, read_tree, write_tree
from zkmig.demo.results import Results
from zkmig.demo.service_manager import STARTED, Event
from zkmig.demo.stage import AWARE, KINDS, PLAIN, SCOPE, Stage
from zkmig.errors import Stopped
from zkmig.plan.plan import Limits, Plan
from zkmig.stop import EXIT_SIGINT, StopRequest

NEXT_ROOT = registry.ROOT  # on the source: the state that epoch 1 leads to
LATER_ROOT = "/later/registry"  # on the source: the state that epoch 2 would lead to
BATCHES_AHEAD = int(IN_FLIGHT_FIRST)  # by which the servers are ahead of a report: those in flight
NAMES = {PLAIN: "plain kazoo", AWARE: "zkmig.Reader"}


@dataclass(frozen=True, slots=True)
class Settings:
    """How large, and how slow.

    servers: in the registry. batch_bytes: of a batch's frame. write_s: what the throttle makes of the writes of epoch
    1; interrupted_s: of the writes and of the undoing of epoch 2. patience_s: how long the service manager lets a
    service be down. views_min: what each autoscaler is given time for in each phase.
    """

    servers: int = 1_200
    batch_bytes: int = 5 * 1024
    write_s: float = 15.0
    interrupted_s: float = 4.0
    patience_s: float = 6.0
    views_min: int = 2


class Throttle:
    """A `report` callback that spreads one phase of a migration over `seconds`, evenly over its batches.

    tick is called at each batch; each of `milestones`, (batches done, what to call then), once, in order.
    span: from the first report to the last; in all of it nodes of two images may be on the servers.
    """

    def __init__(
        self,
        phase: str,
        seconds: float,
        tick: Callable[[], None],
        milestones: Sequence[tuple[int, Callable[[Progress], None]]] = (),
    ) -> None:
        self._phase = phase
        self._seconds = seconds
        self._tick = tick
        self._milestones = list(milestones)
        self._last: tuple[float, int] | None = None
        self.begun_s = 0.0
        self.ended_s = 0.0

    def __call__(self, progress: Progress) -> None:
        if progress.phase != self._phase:
            return
        if self._last is None:
            self.begun_s = time.monotonic()
            self._last = self.begun_s, progress.done
        due_s = self._last[0] + self._seconds * (progress.done - self._last[1]) / progress.total
        time.sleep(max(0.0, due_s - time.monotonic()))
        self._tick()
        while self._milestones and progress.done >= self._milestones[0][0]:
            _, reached = self._milestones.pop(0)
            reached(progress)
        self.ended_s = time.monotonic()
        self._last = self.ended_s, progress.done


class Replay:
    """One telling. say: gets sentences as things happen."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._running = registry.servers_running(settings.servers)
        self._stage: Stage
        self._at = ""  # location of the registry on the target
        self._znodes = 0
        self._images: dict[int, str] = {}  # epoch -> digest of its whole image
        self._spans: list[Span] = []
        self._batches = 0
        self._has_ordered: set[str] = set()  # kinds of autoscalers that have been told of

    def run(self) -> Results:
        """All of it. Raises what servers, processes and migrations raise; whatever was started has ended then."""
        begun_s = time.monotonic()
        self._say("Two ZooKeeper servers start: an old ensemble and a new one.")
        with Stage(self._tell_event, self._tell_round) as self._stage:
            self._set_up()
            self._calm()
            plan = self._plan("epoch 1", NEXT_ROOT)
            self._migrate(plan)
            hash_committed = read(self._at, auth=()).tree_hash
            is_whole = self._tree_now() == self._images[1] and hash_committed == plan.source.tree_hash
            undone = self._interrupt_and_roll_back()
            hash_last = read(self._at, auth=()).tree_hash
            is_restored = self._tree_now() == self._images[1] and hash_last == hash_committed
            same = "the image of epoch 1 again" if is_restored else "NOT the image of epoch 1"
            self._say(f"The tree, read with plain kazoo, is {same}; tree hash {hash_last}.")
            self._stage.look()
        counts = {kind: count(self._stage.observations[kind], self._images, self._spans) for kind in KINDS}
        return Results(
            plain=counts[PLAIN],
            aware=counts[AWARE],
            servers_running=len(self._running),
            znodes=self._znodes,
            changes=len(plan.operations),
            batches=self._batches,
            batches_undone=undone,
            epochs_committed=1,
            epochs_rolled_back=1,
            is_committed_image_whole=is_whole,
            is_rolled_back_exactly=is_restored,
            tree_hash=hash_last,
            seconds=round(time.monotonic() - begun_s, 1),
        )

    # -- scenes -------------------------------------------------------------------------------------------------------

    def _set_up(self) -> None:
        servers = self._settings.servers
        self._at = f"zk://{self._stage.target.hosts}{registry.ROOT}"
        with connected(self._stage.target.hosts) as client:
            write_tree(client, registry.image(0, servers), registry.ROOT, registry.ROOT)
            tree = read_tree(client, registry.ROOT)
        with connected(self._stage.source.hosts) as client:
            write_tree(client, registry.image(1, servers), registry.ROOT, NEXT_ROOT)
            write_tree(client, registry.image(2, servers), registry.ROOT, LATER_ROOT)
            next_tree = read_tree(client, NEXT_ROOT)
        self._images = {0: digest(tree), 1: digest(next_tree)}
        self._znodes = len(tree)
        gone = [len(surplus(each, self._running)) for each in (tree, next_tree)]
        init(self._at, SCOPE, auth=())
        self._say(
            f"The new one serves a registry of {len(tree)} znodes; the old one holds the state that it is to have. "
            f"Of {servers} running servers, the autoscalers' rule would terminate {gone[0]} by the first, {gone[1]} by "
            "the second."
        )

    def _calm(self) -> None:
        self._say("A service manager starts two autoscalers.")
        self._stage.start_service_manager(self._running, self._settings.patience_s)
        self._stage.wait_for_views(self._settings.views_min, time.monotonic())
        self._say(f"Both read the registry again and again. Orders so far: {self._orders()}.")

    def _migrate(self, plan: Plan) -> None:
        pids = " and ".join(str(self._stage.pid(kind)) for kind in KINDS)
        self._say(f"The operator stops both autoscalers by hand (pids {pids}), and begins to migrate.")
        self._stage.stop_autoscalers_by_hand()
        milestones = ((0, self._tell_open), (_batches_to_half_of_the_pools(plan), self._hold))
        throttle = Throttle("write", self._settings.write_s, self._stage.look, milestones)
        applied = apply(plan, epoch=1, single_shot="never", auth=(), report=throttle)
        committed_s = time.monotonic()
        self._spans.append(Span(throttle.begun_s, throttle.ended_s))
        self._batches += applied.batches
        self._say(
            f"Epoch {applied.epoch} is committed after {applied.batches} batches. Orders so far: {self._orders()}."
        )
        self._stage.wait_for_views(self._settings.views_min, committed_s)

    def _tell_open(self, progress: Progress) -> None:
        self._say(f"The migration is open; a throttle spreads its {progress.total} batches over some time.")

    def _hold(self, progress: Progress) -> None:
        self._say(
            f"After {progress.done} of {progress.total} batches about half of the pools are rewritten. Here the "
            "throttle holds the rest until both autoscalers are back and have read the registry a few times."
        )
        self._stage.wait_for_views(self._settings.views_min, time.monotonic())

    def _interrupt_and_roll_back(self) -> int:
        """The second epoch; how many of its batches were undone."""
        plan = self._plan("epoch 2", LATER_ROOT)
        stop = StopRequest()
        writing = Throttle(
            "write",
            2 * self._settings.interrupted_s,
            self._stage.look,
            [(len(plan.batch_ends) // 2, lambda _: stop.request("the operator changes their mind", EXIT_SIGINT))],
        )
        try:
            apply(plan, epoch=2, single_shot="never", auth=(), report=writing, stop=stop)
        except Stopped:
            found = status(self._at, SCOPE, auth=())
        else:
            raise AssertionError("a migration that was asked to stop half-way went on to its commit")
        self._batches += found.batches_applied
        self._say(
            f"Half-way the operator stops it: {found.record.state.value}, {found.batches_applied} of "
            f"{len(plan.batch_ends)} batches applied, and nobody at work. The autoscalers read on."
        )
        self._stage.wait_for_views(self._settings.views_min, time.monotonic())
        undoing = Throttle("undo", self._settings.interrupted_s, self._stage.look)
        undone = rollback(self._at, scope=SCOPE, auth=(), report=undoing)
        rolled_back_s = time.monotonic()
        self._spans.append(Span(writing.begun_s, undoing.ended_s))
        self._say(f"The operator rolls back: {undone.batches_undone} batches undone, epoch {undone.epoch} stands.")
        self._stage.wait_for_views(self._settings.views_min, rolled_back_s)
        return undone.batches_undone

    def _plan(self, what: str, source_root: str) -> Plan:
        limits = Limits(batch_bytes_max=self._settings.batch_bytes)
        plan = make_plan(f"zk://{self._stage.source.hosts}{source_root}", self._at, limits=limits, scope=SCOPE, auth=())
        kinds = ", ".join(f"{number} {name}s" for name, number in plan.counts.items() if number)
        self._say(
            f"The plan for {what}: {len(plan.operations)} operations ({kinds}) in {len(plan.batch_ends)} batches."
        )
        return plan

    # -- what is told while it happens --------------------------------------------------------------------------------

    def _tell_event(self, event: Event) -> None:
        if event.what == STARTED:
            self._say(f"The service manager starts the autoscaler with {NAMES[event.service]} (pid {event.pid}).")
        else:
            self._say(f"The service manager finds the autoscaler with {NAMES[event.service]} down (pid {event.pid}).")

    def _tell_round(self, kind: str, observation: Observation) -> None:
        if observation.ordered and kind not in self._has_ordered:
            self._has_ordered.add(kind)
            self._say(
                f"The autoscaler with {NAMES[kind]} sees {len(observation.ordered)} servers that no pool lists, and "
                "orders their termination."
            )

    def _orders(self) -> str:
        ordered = {kind: {i for each in self._stage.observations[kind] for i in each.ordered} for kind in KINDS}
        return ", ".join(f"{len(ordered[kind])} terminations with {NAMES[kind]}" for kind in KINDS)

    def _tree_now(self) -> str:
        with connected(self._stage.target.hosts) as client:
            return digest(read_tree(client, registry.ROOT))


def _batches_to_half_of_the_pools(plan: Plan) -> int:
    """How many batches are to be reported until half of the pools are rewritten: where an outage waits to happen.

    The servers are ahead of the report: the next batches are on their way.
    """
    pools = [index for index, each in enumerate(plan.operations) if each.path.endswith(registry.POOL_SUFFIX)]
    return max(1, bisect_right(plan.batch_ends, pools[len(pools) // 2]) + 1 - BATCHES_AHEAD)
