"""A guarded process never acts between the drain of a migration and its commit.

Method: the command writes sequential znodes as fast as it can, and so does a process of its that has left the session
and does not heed TERM; their zxids are held against those of the record's way from OPEN to its commit. Guards and
drains that leave out what is under test must be noticed.
"""

from __future__ import annotations

import pytest

from tests.guards import Guarded, python, until
from tests.interruptions import at
from tests.scopes import AFTER, BEFORE, Site
from zkmig.apply import drain
from zkmig.apply.entries import GUARDS, list_entries
from zkmig.apply.forward import Options
from zkmig.epoch.control import ControlPaths
from zkmig.wire.client import Client

# Writes below argv[2]; first it starts another that does the same, in a session of its own, and does not end on TERM.
WRITER = """
import os, signal, subprocess, sys
from kazoo.client import KazooClient
if len(sys.argv) == 3:
    subprocess.Popen([sys.executable, "-c", open("writer.py").read(), *sys.argv[1:], "-"], start_new_session=True)
else:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
client = KazooClient(sys.argv[1])
client.start()
kind = "leader" if len(sys.argv) == 3 else "daemon"
while True:
    client.create(f"{sys.argv[2]}/{kind}-", sequence=True)
"""

# What is left out of a guard, told to a Python that then is one.
ACKNOWLEDGES_EARLY = """
from zkmig.guard.decision import Decision
end = Decision._end
def early(self, why):
    end(self, why)
    self._acknowledge(why)
Decision._end = early
"""
ACTIONS_MEANWHILE = 100  # of a client that does the same as the writers: for so long the epoch is kept open
GRACE_OF_CONTROLS_S = 30  # what is left out shows only while the daemon, which does not heed TERM, is not killed yet
AS_PROGRAM = "import sys; from zkmig.cli.main import main; sys.argv[0] = 'zkmig'; main()"


def acted_meanwhile(site: Site, guarded: Guarded, without: str = "") -> set[str]:
    """Who has written between OPEN and the commit of an epoch in batches, of those that write before and after."""
    site.init(BEFORE)
    acts = f"{site.root}-acts"
    site.kazoo.create(acts)
    (guarded.folder / "writer.py").write_text(WRITER)
    command = (*python(WRITER), site.server.hosts, acts)
    grace = ("--grace", GRACE_OF_CONTROLS_S) if without else ()
    guarded.start(*grace, command=command, program=python(without + AS_PROGRAM))

    def written(since: int = 0) -> set[str]:
        names = [name.partition("-") for name in site.kazoo.get_children(acts)]
        return {kind for kind, _, number in names if kind != "other" and int(number) >= since}

    until(lambda: written() == {"leader", "daemon"})
    opened: list[int] = []

    def note() -> None:
        stat = site.kazoo.exists(site.names.record)
        assert stat is not None
        opened.append(stat.mzxid)
        sofar = site.kazoo.exists(acts)
        assert sofar is not None
        for _ in range(ACTIONS_MEANWHILE):
            site.kazoo.create(f"{acts}/other-", sequence=True)
        if without:
            until(lambda: "daemon" in written(sofar.cversion), "what is left out does not show")

    site.apply(site.plan(AFTER), options=Options("never", report=at("write", 1, note)))
    committed = site.kazoo.get(site.names.record)[1].mzxid
    stat = site.kazoo.exists(acts)
    assert stat is not None
    if not without:
        until(lambda: written(stat.cversion) == {"leader", "daemon"})  # after the commit it comes back by itself
    asked = [(name, site.kazoo.get_async(f"{acts}/{name}")) for name in site.kazoo.get_children(acts)]
    acted = {name.partition("-")[0] for name, node in asked if opened[0] <= node.get()[1].czxid <= committed}
    assert "other" in acted
    return acted - {"other"}


def test_nothing_acts_between_the_drain_and_the_commit(site: Site, guarded: Guarded) -> None:
    assert acted_meanwhile(site, guarded) == set()


def test_a_guard_that_acknowledges_early_is_noticed(site: Site, guarded: Guarded) -> None:
    assert "daemon" in acted_meanwhile(site, guarded, ACKNOWLEDGES_EARLY)


def test_a_drain_that_does_not_look_for_guards_is_noticed(
    site: Site, guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(client: Client, names: ControlPaths, kind: str) -> list[str]:
        return [] if kind == GUARDS else list_entries(client, names, kind)

    monkeypatch.setattr(drain, "list_entries", listed)
    assert "daemon" in acted_meanwhile(site, guarded, "pass\n")
