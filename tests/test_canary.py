"""No data of a znode, and no credential, is ever shown: not in plans as they are shown, not in status, history, errors
and logs at their most talkative, not in what is kept in the control plane beside undo.

Method: trees whose data hold canaries, through everything that the program prints (-vv, with and without --json) and
all that the control plane holds, as its admin reads it, in states that are reached by conflicts and evictions.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from tests.interruptions import Interrupted, at, interrupt, when_said
from tests.program import Program, Ran, location
from tests.scopes import ME, MINE, MINE_BUT_READABLE, MY_IDENTITY, Site, assert_is, settled
from tests.test_drain import MINUTE, guard
from tests.trees import Node, Tree
from zkmig.apply.engine import SealedPlan
from zkmig.apply.forward import Options
from zkmig.epoch.control import Roles
from zkmig.errors import ZkmigError
from zkmig.model.acl import WORLD
from zkmig.plan import planfile
from zkmig.reader import Budget, Reader

CANARIES = (b"canary-old", b"canary-new", b"canary-theirs", b"canary-deleted", b"hunter2")
BEFORE: Tree = settled(
    {
        "": Node(b"canary-old root"),
        **{f"/d{number}": Node(b"canary-deleted %d" % number) for number in range(9)},
        "/open": Node(b"canary-old open"),
        "/mine": Node(b"canary-old mine", MINE),
        "/shown": Node(b"canary-old shown", MINE_BUT_READABLE),
        "/tightened": Node(b"canary-old tightened"),
    }
)
AFTER: Tree = settled(
    {
        "": Node(b"canary-new root"),
        **{f"/n{number}": Node(b"canary-new %d" % number, MINE) for number in range(9)},
        "/open": Node(b"canary-new open"),
        "/mine": Node(b"canary-new mine", MINE),
        "/shown": Node(b"canary-new shown", MINE_BUT_READABLE),
        "/tightened": Node(b"canary-new tightened", MINE),
    }
)


class Listener(logging.Handler):
    """Everything that the logger says, as it would be written."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(logging.Formatter().format(record))


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    logger = logging.getLogger("zkmig")
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    yield listener
    logger.setLevel(level)
    logger.removeHandler(listener)


@pytest.fixture
def sealed(site: Site) -> SealedPlan:
    site.init(BEFORE, Roles((MY_IDENTITY,), (WORLD,)))
    return site.plan(AFTER)


def assert_clean(*texts: str | bytes) -> None:
    for text in texts:
        data = text if isinstance(text, bytes) else text.encode()
        for canary in CANARIES:
            for shape in (canary, canary.hex().encode(), canary.decode().encode("utf-16-le")):
                assert shape not in data, text


def kept(site: Site, kazoo: KazooClient) -> Iterator[tuple[str, bytes]]:
    """All of the scope's control plane, but for undo chunks."""
    stack = [site.names.home]
    while stack:
        path = stack.pop()
        yield path, kazoo.get(path)[0] or b""
        stack += [f"{path}/{name}" for name in kazoo.get_children(path) if not path.endswith("/undo")]


class Programs:
    """Runs the program as ME with -vv, and holds what it says against the canaries."""

    def __init__(self, program: Program, site: Site) -> None:
        self._program = program
        self._auth = {"ZKMIG_AUTH": f"digest:{ME.secret.decode()}"}
        self._at = ("--at", location(site.server.hosts), "--scope", site.names.scope)

    def __call__(self, *arguments: object, at: bool = True) -> Ran:
        ran = self._program(*arguments, "-vv", *(self._at if at else ()), env=self._auth)
        assert_clean(ran.stdout, ran.stderr)
        assert "Traceback" not in ran.stderr
        return ran


@pytest.fixture
def run(program: Program, site: Site) -> Programs:
    return Programs(program, site)


def test_reading_comparing_and_planning_show_none(
    run: Programs, program: Program, site: Site, sealed: SealedPlan, tree_root: str
) -> None:
    """Also where the trees differ, where the plan is stale, and where files are damaged."""
    here = location(site.server.hosts, tree_root)
    for name in ("before.zks", "again.zks"):
        run("snapshot", here, "-o", name, at=False).succeeded()
    planfile.write(sealed.plan, str(program.folder / "p.zkplan"))
    site.kazoo.set(site.path("/open"), b"canary-theirs")
    site.kazoo.create(site.path("/more"), b"canary-theirs")
    for json_too in ((), ("--json",)):
        assert run("diff", "before.zks", here, *json_too, at=False).code == 1
        assert run("verify", "before.zks", here, *json_too, at=False).code == 1
        assert run("apply", "--epoch", 1, "p.zkplan", "--dry-run", *json_too, at=False).code == 3
        assert run("apply", "--epoch", 1, "p.zkplan", "--yes", *json_too, at=False).code == 3
        run("plan", "--from", "before.zks", "--to", here, "-o", f"{len(json_too)}.zkplan", *json_too, at=False)
        run("apply", "--epoch", 1, f"{len(json_too)}.zkplan", "--dry-run", *json_too, at=False).succeeded()
    for name in ("before.zks", "p.zkplan"):
        damage(program.folder / name)
        assert run("diff" if name.endswith("zks") else "apply", *(
            (name, here) if name.endswith("zks") else ("--epoch", 1, name, "--yes")
        ), at=False).code == 2  # fmt: skip


def damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(bytes(data))


def leave_conflict(site: Site, sealed: SealedPlan) -> None:
    def interfere() -> None:
        for relative in ("/open", "/mine", "/shown", "/tightened"):
            site.kazoo.set(site.path(relative), b"canary-theirs")

    site.apply(sealed, options=Options("never", report=at("write", 1, interfere)))


def leave_deviations(site: Site, sealed: SealedPlan) -> None:
    site.leave_open(sealed, len(sealed.plan.batch_ends))
    for relative in ("/open", "/mine", "/n1", "/n2"):
        site.kazoo.set(site.path(relative), b"canary-theirs")
    site.kazoo.create(site.path("/n3/child"), b"canary-theirs")
    site.rollback()


def leave_evictions(site: Site, sealed: SealedPlan) -> None:
    site.kazoo.create(site.names.acting + "/one", MINUTE.encode())
    site.kazoo.create(site.names.guards + "/two", guard(stopped=False))
    options = Options("never", evict=("one", "two"), say=when_said("verifying", interrupt))
    try:
        site.apply(sealed, options=options)
    except Interrupted:
        return


def leave_pending(site: Site, sealed: SealedPlan) -> None:
    try:
        site.apply(sealed, options=Options("never", report=at("ACLs", 1, interrupt)))
    except Interrupted:
        return


def leave_stale_single_shot(site: Site, sealed: SealedPlan) -> None:
    def interfere(_: str) -> None:
        site.kazoo.set(site.path("/mine"), b"canary-theirs")

    site.apply(site.plan({**BEFORE, "/mine": AFTER["/mine"]}), options=Options("require", say=interfere))
    del sealed


def leave_budget(site: Site, sealed: SealedPlan) -> None:
    """An action within a budget, one beyond, and one that is overridden."""
    budget = Budget(f"{site.root}/**", count=1)
    control = site.names.control
    with Reader(
        site.server.hosts, site.names.scope, auth=[ME], name="canary", budget=budget, control=control
    ) as reader:
        with reader.acting(reader.view()):
            pass
        site.apply(sealed)
        with reader.acting(reader.view(fresh=True), override="the epoch was meant"):
            pass
        site.kazoo.set(site.path("/open"), b"canary-old open")
        site.kazoo.set(site.path("/mine"), b"canary-theirs")
        with reader.acting(reader.view(fresh=True)):
            pass


STATES: dict[str, Callable[[Site, SealedPlan], None]] = {
    "a conflict": leave_conflict,
    "a budget": leave_budget,
    "deviations": leave_deviations,
    "evictions": leave_evictions,
    "pending ACLs": leave_pending,
    "a single shot that did not fit": leave_stale_single_shot,
}


@pytest.mark.parametrize("leave", STATES.values(), ids=STATES)
def test_no_state_of_a_scope_holds_or_shows_any(
    site: Site, run: Programs, sealed: SealedPlan, leave: Callable[[Site, SealedPlan], None], listener: Listener
) -> None:
    """Neither the errors and logs on the way there, nor what is kept, nor what the program says of it and does next."""
    try:
        leave(site, sealed)
    except ZkmigError as error:
        assert_clean(str(error), repr(error), *getattr(error, "__notes__", ()))
    assert_clean(*listener.said)
    eyes = site.open_kazoo(ME)
    found = dict(kept(site, eyes))
    assert_clean(*found, *found.values())
    for command in ("status", "history"):
        run(command).succeeded()
        run(command, "--json").succeeded()
    state = json.loads(found[site.names.record])["state"]
    if state == "OPEN":
        run("rollback", "--dry-run").succeeded()
        run("rollback", "--dry-run", "--json").succeeded()
        run("rollback", "--yes", "--steal").succeeded()
    else:
        assert run("resume", "--yes").code in (0, 3)
        for json_too in ((), ("--json",)):
            assert run("watch", "--once", *json_too).code in (0, 3, 4)
    run("history").succeeded()
    found = dict(kept(site, eyes))
    assert_clean(*found, *found.values())


def test_the_canaries_would_be_noticed(site: Site, sealed: SealedPlan) -> None:
    """Negative control: they are in the plan's file, in a snapshot, and in undo, where they have to be."""
    assert any(b"canary-new" in (getattr(operation, "data", None) or b"") for operation in sealed.plan.operations)
    site.leave_open(sealed, 1)
    undo = site.names.attempt(1, str(site.record().attempt)).undo
    eyes = site.open_kazoo(ME)
    held = b"".join(eyes.get(f"{undo}/{name}")[0] or b"" for name in eyes.get_children(undo))
    with pytest.raises(AssertionError):
        assert_clean(held)
    site.rollback()
    assert_is(site.look(), BEFORE)
