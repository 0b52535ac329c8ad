"""The night itself: a registry is migrated in batches while a service manager insists that the autoscaler runs."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from bisect import bisect_right
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import zkmig
from zkmig.demo import registry
from zkmig.demo.decision import digest, surplus
from zkmig.demo.lifeline import end_children, start_child
from zkmig.demo.lines import Tail
from zkmig.demo.observations import Observation, Span, count
from zkmig.demo.plain import connected, read_tree, write_tree
from zkmig.demo.replay import Throttle
from zkmig.demo.service_manager import STARTED, Event
from zkmig.dev import Server
from zkmig.dev.folder import KeptFolder

SCOPE = "registry"
SERVICE = "autoscaler"
GRACE_S = 2.0

BUDGET = "65%"
GUARD_OPTIONS = ("--name", SERVICE, "--grace", f"{GRACE_S:g}", "--budget", f"{registry.HOSTS}/*={BUDGET}")
"""What the owner of the service adds to `zkmig guard --at ... --scope ...`.

The night gives a third of the hosts new names, so that some 60 % of the entries differ, and no more is meant.
"""

WAITING = ": waiting since "  # said by a guard that may not start its command
DOWN = ": down since "  # and by one that does not start it although it might
WAIT_MAX_S = 60.0
ROUNDS = 2  # of the autoscaler, wherever it is to be seen at work


@dataclass(frozen=True, slots=True)
class Settings:
    """servers: in the registry. retired: of these, which the new registry does not list any more: they are to go.
    write_s: that a throttle spreads the batches over. patience_s: that the manager leaves a service down. lost: whether
    the new registry, by a mistake, is without every second host: whole, committed, and wrong."""

    guarded: bool = True
    lost: bool = False
    servers: int = 1_200
    retired: int = 3
    batch_bytes: int = 5 * 1024
    write_s: float = 15.0
    patience_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """terminated: ids of servers whose end the autoscaler ordered. wanted: those that it should have. starts: of the
    service, by the manager, from when the operator stopped it to the commit. views_while_open, torn: of the autoscaler.
    stays_down: after the commit, since the registry is too far from the one that it knew.
    """

    guarded: bool
    stays_down: bool
    servers: int
    terminated: tuple[str, ...]
    wanted: tuple[str, ...]
    terminated_before_the_commit: int
    starts: int
    views: int
    views_while_open: int
    views_after_the_commit: int
    torn: int
    batches: int

    @property
    def is_well(self) -> bool:
        """Whether it came back, and did what the new registry asks for, and no more."""
        return self.terminated == self.wanted and not self.terminated_before_the_commit and not self.torn

    @property
    def conclusion(self) -> str:
        """A sentence or two."""
        gone = f"{len(self.terminated)} of {self.servers} servers were to be terminated, {len(self.wanted)} rightly."
        if self.stays_down:
            gone += " After the commit it stays down: more hosts differ than its budget allows."
        return (
            f"{'With' if self.guarded else 'Without'} the guard: the service manager started the service {self.starts} "
            f"times during the migration; {self.views_while_open} views were taken in it, and {self.torn} of "
            f"{self.views} were torn. {gone}"
        )


class Night:
    """One telling. say: gets sentences as things happen."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._running = registry.servers_running(settings.servers)
        self._rounds: list[Observation] = []
        self._events: list[Event] = []

    def run(self) -> Outcome:
        """All of it; whatever was started has ended then."""
        with ExitStack() as stack:
            old, new = stack.enter_context(Server()), stack.enter_context(Server())
            kept = KeptFolder()
            stack.callback(kept.close)
            self._folder = kept.path
            self._rounds_tail, self._events_tail = Tail(self._folder / "rounds"), Tail(self._folder / "events")
            return self._tell(old, new, stack)

    def _tell(self, old: Server, new: Server, stack: ExitStack) -> Outcome:
        settings = self._settings
        before, after = registry.image(0, settings.servers), retiring(settings)
        for server, image in ((new, before), (old, after)):
            with connected(server.hosts) as client:
                write_tree(client, image, registry.ROOT, registry.ROOT)
        at = f"zk://{new.hosts}{registry.ROOT}"
        zkmig.init(at, SCOPE, auth=())
        self._say("The service manager starts the autoscaler.")
        self._start_manager(new.hosts, stack)
        self._wait(lambda: len(self._rounds) >= ROUNDS, "read the registry")

        limits = zkmig.Limits(batch_bytes_max=settings.batch_bytes)
        plan = zkmig.make_plan(f"zk://{old.hosts}{registry.ROOT}", at, limits=limits, scope=SCOPE, auth=())
        pools = [number for number, each in enumerate(plan.operations) if each.path.endswith(registry.POOL_SUFFIX)]
        halves = [bisect_right(plan.batch_ends, pools[len(pools) * part // 4]) for part in (1, 2, 3)]
        self._say(f"The operator stops the autoscaler by hand, and migrates in {len(plan.batch_ends)} batches.")
        os.kill(self._pid(), signal.SIGTERM)
        stopped_s = time.monotonic()
        throttle = Throttle("write", settings.write_s, self._look, [(at_batch, self._insist) for at_batch in halves])
        applied = zkmig.apply(plan, epoch=1, single_shot="never", auth=(), report=throttle)
        committed_s = time.monotonic()
        night = Span(stopped_s, committed_s)
        self._say("Epoch 1 is committed. Nobody starts anything by hand.")
        if settings.guarded and settings.lost:
            self._wait(lambda: DOWN in self._log(), "say that it stays down")
        else:
            self._wait(lambda: sum(each.begun_s > committed_s for each in self._rounds) >= ROUNDS, "come back")
        with connected(new.hosts) as client:
            tree = read_tree(client, registry.ROOT)
        counts = count(self._rounds, {0: digest(before), 1: digest(tree)}, [Span(throttle.begun_s, throttle.ended_s)])
        early = {server for each in self._rounds if each.begun_s < committed_s for server in each.ordered}
        return Outcome(
            guarded=settings.guarded,
            stays_down=DOWN in self._log(),
            servers=settings.servers,
            terminated=tuple(sorted({server for each in self._rounds for server in each.ordered})),
            wanted=() if settings.lost else tuple(sorted(surplus(tree, self._running))),
            terminated_before_the_commit=len(early),
            starts=sum(night.begun_s <= event.at_s <= night.ended_s for event in self._starts()),
            views=len(self._rounds),
            views_while_open=counts.views_while_open,
            views_after_the_commit=sum(each.begun_s > committed_s for each in self._rounds),
            torn=counts.torn,
            batches=applied.batches,
        )

    # -- the service --------------------------------------------------------------------------------------------------

    def _start_manager(self, hosts: str, stack: ExitStack) -> None:
        running = self._folder / "running.json"
        running.write_text(json.dumps(self._running))
        command = [sys.executable, "-m", "zkmig.demo.autoscaler", "--reader", "plain", "--hosts", hosts]
        command += ["--scope", SCOPE, "--running", str(running), "--record", str(self._folder / "rounds")]
        if self._settings.guarded:
            program = str(Path(sys.executable).with_name("zkmig"))
            guard = [program, "guard", "--at", f"zk://{hosts}", "--scope", SCOPE, *GUARD_OPTIONS]
            command = [*guard, "--state-dir", str(self._folder / "guard"), "--", *command]
        services = self._folder / "services.json"
        services.write_text(json.dumps({SERVICE: command}))
        argv = [sys.executable, "-m", "zkmig.demo.service_manager", "--services", str(services)]
        argv += ["--events", str(self._folder / "events"), "--patience", str(self._settings.patience_s)]
        stack.callback(end_children, [start_child(argv, self._folder / "manager.log")])

    def _insist(self, _: object) -> None:
        """The service is up, or comes up; the operator stops it again, and so on."""
        seen, said = len(self._rounds), self._log().count(WAITING)
        starts = len(self._starts())
        if self._settings.guarded:
            self._say("The autoscaler is to run, says the manager. The guard is up, and waits. The operator ends it.")
            self._wait(lambda: self._log().count(WAITING) > 0, "say that it waits")
            said = self._log().count(WAITING)
            os.kill(self._pid(), signal.SIGTERM)
            self._wait(lambda: len(self._starts()) > starts and self._log().count(WAITING) > said, "be started again")
        else:
            self._say("The autoscaler is to run, says the manager. It reads what is there.")
            self._wait(lambda: len(self._rounds) >= seen + ROUNDS, "be started again")

    def _starts(self) -> list[Event]:
        return [event for event in self._events if event.what == STARTED]

    def _pid(self) -> int:
        return self._starts()[-1].pid

    def _log(self) -> str:
        log = self._folder / f"{SERVICE}.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def _look(self) -> None:
        self._events += [Event(**fields) for fields in self._events_tail.new()]
        for fields in self._rounds_tail.new():
            self._rounds.append(Observation.of(fields))
            if self._rounds[-1].ordered:
                self._tell_of_orders(self._rounds[-1])

    def _tell_of_orders(self, observation: Observation) -> None:
        earlier = {server for each in self._rounds[:-1] for server in each.ordered}
        if not earlier.issuperset(observation.ordered):
            self._say(f"The autoscaler orders {len(observation.ordered)} servers to be terminated.")

    def _wait(self, is_done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_MAX_S
        self._look()
        while not is_done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the service did not {what} within {WAIT_MAX_S:g} s: {self._log()[-2000:]}")
            time.sleep(0.05)
            self._look()


def retiring(settings: Settings) -> dict[str, bytes]:
    """The new registry: many servers have moved or been renamed, and a few are in no pool any more."""
    image = registry.image(1, settings.servers)
    names = names_of(image)
    retired = set(names[::2] if settings.lost else names[: settings.retired])
    for path in list(image):
        if path.endswith(registry.POOL_SUFFIX):
            hosts = [name for name in json.loads(image[path])["hosts"] if name not in retired]
            image[path] = json.dumps({"hosts": hosts}).encode()
        elif path.rpartition("/")[2] in retired:
            del image[path]
    return image


def names_of(image: dict[str, bytes]) -> list[str]:
    """Of all hosts."""
    return [path.removeprefix(f"{registry.HOSTS}/") for path in image if path.startswith(f"{registry.HOSTS}/")]
