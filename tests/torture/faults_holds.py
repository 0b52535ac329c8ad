"""Holds at the wrong moment: set and released all the time, in whatever state, beside every owner."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

import zkmig
from tests.torture.faults import NotInjected, Unexpected, came_of, fault, random_moment
from tests.torture.history import Log
from tests.torture.processes import Migrator
from tests.torture.reader_process import EFFECTS, SECRET
from tests.torture.world import HOME, POLL_S, SCOPE, World
from zkmig.errors import EXIT_REFUSED

AUTH = [("digest", SECRET)]
HOLDER = "whoever tortures"
PAUSES_S = (0.0, 0.15)
WAIT_S = 2.0
FEW_HOLDS = 2


class Holder:
    """Holds and releases until its end, now and then waiting for what acts; in the end nothing is held."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="holder", daemon=True)
        self.states: list[str] = []
        self.quiet = 0
        self.trouble = ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        zkmig.release(self._world.location(), SCOPE, auth=AUTH, holder=HOLDER)

    def _run(self) -> None:
        with Log(self._world.folder, f"holder-{time.monotonic_ns()}") as log:
            try:
                while not self._over.wait(self._rng.uniform(*PAUSES_S)):
                    self._hold_once(log)
            except zkmig.ZkmigError as error:
                self.trouble = str(error)

    def _hold_once(self, log: Log) -> None:
        place, waits = self._world.location(), self._rng.random() < 0.3
        with suppress(zkmig.StillActing):  # it is held all the same
            held = zkmig.hold(
                place, SCOPE, auth=AUTH, reason="torture", holder=HOLDER, wait=waits, drain_timeout_s=WAIT_S
            )
            self.states.append(held.record.state.value)
            if waits:
                zxid = self._world.kazoo.set(EFFECTS, b"quiet").mzxid  # later than all that the wait has seen
                log.write("hold", phase="quiet", zxid=zxid)
                self.quiet += 1
        self._over.wait(self._rng.uniform(*PAUSES_S))
        zkmig.release(place, SCOPE, auth=AUTH, holder=HOLDER)


def _await_token(world: World, token: int, migrator: Migrator) -> None:
    """Until the migrator owns the scope: before that a hold would turn it away."""
    while migrator.is_alive:
        if world.patiently(world.kazoo.get, f"{HOME}/owner")[1].version > token:
            return
        time.sleep(POLL_S)
    raise NotInjected(came_of(migrator))


@fault("held-and-released")
def held_and_released(world: World) -> str:
    """From the migrator's first write to the end of whoever goes on; it is killed now and then, too."""
    planned = world.plan()
    token = world.patiently(world.kazoo.get, f"{HOME}/owner")[1].version
    is_killed = world.rng.random() < 0.4
    migrator = world.apply(planned, single_shot=world.rng.choice(("auto", "never", "never")))
    with world.ended(migrator):
        _await_token(world, token, migrator)
        with Holder(world, random.Random(world.rng.random())) as holder:
            when = random_moment(world, migrator) if is_killed else ""
            is_killed = is_killed and migrator.kill()
            migrator.wait()
            settled = world.settle(planned)
    if holder.trouble:
        raise Unexpected(f"a hold has failed: {holder.trouble}")
    if len(holder.states) < FEW_HOLDS:
        raise NotInjected("too few holds")
    # Refused is who had not begun; nobody else writes on its paths, so that a conflict would be of its own making.
    is_refused = migrator.exit == EXIT_REFUSED and "Held" in came_of(migrator)
    if not is_killed and migrator.exit != 0 and not is_refused:
        raise Unexpected(f"a hold has ended a migration: {came_of(migrator)}")
    counts = ", ".join(f"{holder.states.count(state)} in {state}" for state in sorted(set(holder.states)))
    ending = f"killed in {when}" if is_killed else came_of(migrator)
    return f"held {counts}, {holder.quiet} of them waited for; {ending}; then {settled}"
