"""An ensemble of ZooKeeper servers, each in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self, Unpack

from zkmig.dev.ports import LOOPBACK, pick_ports
from zkmig.dev.server import (
    PROBE_INTERVAL_S,
    START_TIMEOUT_S,
    START_TRIES_MAX,
    PortTaken,
    Server,
    ServerOptions,
)
from zkmig.errors import BadInput, Unreachable

MEMBERS_MAX = 9


class Member(Server):
    """One server of an ensemble. Its Ensemble starts it first; then it may be stopped, hurt and restarted alone."""

    def join(self, number: int, port: int, quorum: Mapping[str, str], tls_port: int = 0) -> None:
        """Start as server `number` of `quorum` (lines server.N=... of zoo.cfg); returns at once."""
        self._config.update(quorum)
        self.data_dir.mkdir(exist_ok=True)
        (self.data_dir / "myid").write_text(f"{number}\n")
        self._launch(port, tls_port)


class Ensemble:
    """Servers that elect a leader among themselves: three unless told otherwise.

    A context manager, entered when a leader and all its followers serve. `options` are those of `Server`, and go to
    each member. Sessions through any member see one tree; a quorum is more than half of `members`.
    """

    def __init__(self, servers: int = 3, **options: Unpack[ServerOptions]) -> None:
        if not 2 <= servers <= MEMBERS_MAX:
            raise BadInput(f"an ensemble has 2 to {MEMBERS_MAX} servers", str(servers), "for one, use Server")
        self.members: list[Member] = []
        try:
            for _ in range(servers):
                self.members.append(Member(**options))
                if self.members[0].certificates is not None:
                    options["tls"] = self.members[0].certificates  # one authority for all
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def hosts(self) -> str:
        """The connect string of all members, down or not: `127.0.0.1:port,127.0.0.1:port,...`."""
        return ",".join(member.hosts for member in self.members)

    @property
    def tls_hosts(self) -> str:
        """The same for TLS; "" where it is not served."""
        return ",".join(filter(None, (member.tls_hosts for member in self.members)))

    def leader(self) -> Member:
        """The member that leads just now; Unreachable when none does."""
        for member in self.members:
            if member.is_running and member.mode() == "leader":
                return member
        raise Unreachable("no member leads", self.hosts, "a quorum is more than half of the members")

    def followers(self) -> list[Member]:
        """The members that follow a leader just now."""
        return [member for member in self.members if member.is_running and member.mode() == "follower"]

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start all members on fresh ports and wait until they serve. A clash of ports leads to other ports."""
        for tries_left in reversed(range(START_TRIES_MAX)):
            try:
                self._launch()
                self.wait_ready(timeout_s)
            except PortTaken:
                self._kill()
                if not tries_left:
                    raise
            else:
                return

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until one member leads and all others follow; Unreachable after `timeout_s`, or if one dies on its own.

        Members that were stopped, killed or paused are left out, so after a killed leader this waits for its successor.
        """
        deadline = time.monotonic() + timeout_s
        running = [member for member in self.members if member.is_meant_to_run]
        while sorted(member.mode() for member in running) != ["follower"] * (len(running) - 1) + ["leader"]:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                modes = ", ".join(member.mode() or "not serving" for member in running)
                raise Unreachable(f"no quorum within {timeout_s:g} s ({modes})", self.hosts)
            for member in running:
                member.raise_if_failed()
            time.sleep(PROBE_INTERVAL_S)
        for member in running:
            member.wait_ready(timeout_s)

    def close(self) -> None:
        """End all members and remove their folders. Again: nothing."""
        self._kill()
        for member in self.members:
            member.close()

    def _launch(self) -> None:
        count = len(self.members)
        ports = pick_ports(4 * count)
        quorum = {
            f"server.{number}": f"{LOOPBACK}:{ports[count + number - 1]}:{ports[2 * count + number - 1]}"
            for number in range(1, count + 1)
        }
        for number, member in enumerate(self.members, 1):
            tls_port = ports[3 * count + number - 1] if member.certificates is not None else 0
            member.join(number, ports[number - 1], quorum, tls_port)

    def _kill(self) -> None:
        for member in self.members:
            member.kill()
