"""`--evict` and `--session-timeout` as an operator meets them: what the program says, and what the servers hold then.

Method: the real program against a scope in which a reader has left entries that block.
"""

from __future__ import annotations

import json

import pytest

from tests.program import Program, location
from tests.scopes import AFTER, BEFORE, ME, Site, assert_is
from tests.test_drain import MINUTE, guard
from zkmig.plan import planfile

AUTH = {"ZKMIG_AUTH": f"digest:{ME.secret.decode()}"}
APPLY = ("apply", "--epoch", 1, "p.zkplan", "--yes", "--single-shot", "never", "--drain-timeout", "0.2")


@pytest.fixture
def where(site: Site, program: Program) -> tuple[str, ...]:
    """How to name the scope; p.zkplan turns its tree into AFTER."""
    site.init(BEFORE)
    planfile.write(site.plan(AFTER).plan, str(program.folder / "p.zkplan"))
    return "--at", location(site.server.hosts), "--scope", site.names.scope


def test_who_blocks_is_named_and_can_be_evicted(site: Site, program: Program, where: tuple[str, ...]) -> None:
    """By status, by the error past the deadline, by the refusal of a wrong name: the name is what --evict takes."""
    site.kazoo.create(site.names.acting + "/scaler-1", MINUTE.encode())
    site.kazoo.create(site.names.guards + "/host.unit", guard(stopped=False))
    status = program("status", *where, env=AUTH).succeeded()
    assert "acting/scaler-1" in status.stdout
    assert "host.unit" in status.stdout
    blocking = program("status", *where, "--json", env=AUTH).document["blocking"]
    assert [entry["name"] for entry in blocking] == ["acting/scaler-1", "guards/host.unit"]
    error = program(*APPLY, env=AUTH).stderr
    assert "--evict" in error
    assert "acting/scaler-1 (action of scaler" in error
    assert error.endswith(" [nothing was written]\n")
    program(*APPLY, "--evict", "acting/scaler", env=AUTH).failed(3, "acting/scaler-1", "guards/host.unit")
    assert_is(site.look(), BEFORE)
    ran = program(*APPLY, "--evict", "scaler-1", "--evict", "guards/host.unit", env=AUTH).succeeded()
    assert "evicted acting/scaler-1" in ran.stderr
    assert_is(site.look(), AFTER)
    attempts = program("history", *where, "--json", env=AUTH).succeeded().document["attempts"]
    assert attempts[-1]["evicted"] == ["acting/scaler-1", "guards/host.unit"]
    shown = program("history", *where, env=AUTH).succeeded().stdout
    assert "acting/scaler-1" in shown
    site.kazoo.set(site.names.guards + "/host.unit", guard(stopped=False))  # it runs again, under the new epoch
    program("remove", *where, "--yes", env=AUTH).failed(3, "guards/host.unit", "--evict")
    program("remove", *where, "--yes", "--evict", "host.unit", env=AUTH).succeeded()
    assert site.kazoo.exists(site.names.home) is None


@pytest.mark.usefixtures("where")
def test_the_session_timeout_is_what_was_asked_for(site: Site, program: Program) -> None:
    """By the option, which wins over the environment, which wins over a profile: as the owner says of itself."""

    def taken_with(*options: object, **env: str) -> int:
        program(*APPLY, *options, env=AUTH | env)
        return int(json.loads(site.kazoo.get(site.names.owner)[0] or b"")["session_timeout_ms"])

    site.kazoo.create(site.names.acting + "/scaler-1", MINUTE.encode())  # so that no epoch comes of it
    (program.folder / "profiles.toml").write_text("[slow]\nsession_timeout = 7\n")
    profile = ("--profiles", "profiles.toml", "--profile", "slow")
    assert taken_with(*profile) == 7_000
    assert taken_with(*profile, ZKMIG_SESSION_TIMEOUT="6") == 6_000
    assert taken_with(*profile, "--session-timeout", "5", ZKMIG_SESSION_TIMEOUT="6") == 5_000
    assert program(*APPLY, "--session-timeout", "0", env=AUTH).code == 2


def test_status_says_when_progress_was_made(site: Site, program: Program, where: tuple[str, ...]) -> None:
    site.leave_open(site.plan(AFTER), 3)
    shown = program("status", *where, env=AUTH).succeeded().stdout
    assert "progress" in shown
    document = program("status", *where, "--json", env=AUTH).document
    assert document["owner_progress_at"] is None or document["owner_progress_at"] > 1e9
