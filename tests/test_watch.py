"""`zkmig watch`: what the program says, in words and as JSON, and what its exit code tells.

Method: the real program at a real server, kazoo as the configuration management that knows better.
"""

from __future__ import annotations

import json
import signal

import pytest

from tests.program import Program
from tests.scopes import ALICE, BEFORE, ME, Site, settled
from tests.test_history import NEXT
from tests.trees import Node
from tests.watches import WAIT_S, committed


def arguments(site: Site) -> tuple[str, ...]:
    return ("watch", "--at", f"zk://{site.server.hosts}", "--scope", site.names.scope)


AUTH = {"ZKMIG_AUTH": f"digest:{ME.secret.decode()}\ndigest:{ALICE.secret.decode()}"}


def test_the_program_says_what_it_saw_and_its_code_tells(site: Site, program: Program) -> None:
    site.init(BEFORE)
    assert program(*arguments(site), "--once", env=AUTH).code == 3
    site.apply(site.plan(NEXT))
    clean = program(*arguments(site), "--for", "1", env=AUTH).succeeded()
    assert "epoch 1: 0 paths put back, 0 times" in clean.stdout
    site.kazoo.set(site.path("/change/14"), b"of others")
    assert program(*arguments(site), "--once", env=AUTH).code == 0
    site.kazoo.set(site.path("/change/15"), BEFORE["/change/15"].data or b"")
    ran = program(*arguments(site), "--once", env=AUTH)
    assert ran.code == 4
    assert f"put back  {site.path('/change/15')}: its old data again" in ran.stdout
    assert f"changed   {site.path('/change/14')}: written" in ran.stdout
    assert "1 path put back, 1 time, 1 changed by others" in ran.stdout
    assert "oldold" not in ran.stdout + ran.stderr
    assert program(*arguments(site), "--exit-on-first", env=AUTH).code == 4


def test_the_end_at_the_first_sums_up_too(site: Site, program: Program) -> None:
    committed(site)
    site.kazoo.set(site.path("/change/15"), BEFORE["/change/15"].data or b"")
    ran = program(*arguments(site), "--exit-on-first", "--json", env=AUTH)
    assert ran.code == 4
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [one["event"] for one in events] == ["following", "put_back", "ended"]
    assert {name: events[-1][name] for name in ("put_back", "times", "now", "changed")} == {
        "put_back": 1,
        "times": 1,
        "now": 1,
        "changed": 0,
    }
    assert events[-1]["paths"] == events[0]["paths"]


def test_open_at_the_end_is_6_and_at_the_only_look_3(site: Site, program: Program) -> None:
    committed(site)
    site.leave_open(site.plan(BEFORE), 4, 2)
    assert program(*arguments(site), "--for", "1", env=AUTH).code == 6
    # Nothing on stdout: "0 paths put back" would be a false all-clear.
    once = program(*arguments(site), "--once", env=AUTH)
    assert (once.code, once.stdout) == (3, "")
    assert "nothing can be looked at" in once.stderr


def test_names_cannot_move_the_cursor(site: Site, program: Program) -> None:
    tree = settled({"": Node(b""), "/a\u202eb": Node(b"1")})
    site.init(tree)
    site.apply(site.plan({path: node._replace(data=b"2") for path, node in tree.items()}))
    site.kazoo.set(site.path("/a\u202eb"), b"1")
    ran = program(*arguments(site), "--once", env=AUTH)
    assert ran.code == 4
    assert "/a\\u202eb: its old data" in ran.stdout
    assert "\u202e" not in ran.stdout + ran.stderr


@pytest.mark.parametrize("is_put_back", [False, True])
def test_the_stream_is_told_at_once_and_a_signal_ends_it(site: Site, program: Program, is_put_back: bool) -> None:
    """One object a line, while it runs. Stopped by a signal: 143, or 4 if something was put back."""
    committed(site)
    process = program.start(*arguments(site), "--json", env=AUTH)
    assert process.stdout is not None
    try:
        events = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert [one["event"] for one in events] == ["following", "heartbeat"]
        assert events[1]["put_back"] == 0
        if is_put_back:
            site.kazoo.set(site.path("/change/15"), BEFORE["/change/15"].data or b"")
            one = json.loads(process.stdout.readline())
            assert (one["event"], one["kind"], one["count"]) == ("put_back", "data", 1)
            assert {"path", "first_seen", "last_seen", "data_hash", "at", "epoch"} <= one.keys()
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=WAIT_S)
        (ended,) = map(json.loads, rest.splitlines())
        assert ended["event"] == "ended"
        sums = (ended["put_back"], ended["times"], ended["now"], ended["changed"])
        assert sums == ((1, 1, 1, 0) if is_put_back else (0, 0, 0, 0))
        assert ended["paths"] == events[0]["paths"]
        assert process.returncode == (4 if is_put_back else 143)
    finally:
        process.kill()
        process.wait()
