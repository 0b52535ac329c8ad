"""Histories made by hand, for tests of the checker: transactions as servers would log them, and events beside them.

A story is told by the methods in the order of its zxids; `check` gives what the checker finds. `migrate` tells a sound
migration in two batches, from which a test departs at one point.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from tests.torture.checker import check
from tests.torture.foreign_rules import data_digest
from tests.torture.history import History, Row, image_digest, is_apart
from tests.torture.replay import Replay
from tests.torture.tree import Tree, Value
from tests.torture.txnlog import (
    CREATE,
    MULTI,
    SET_ACL,
    AclRow,
    AclRows,
    Check,
    Create,
    Delete,
    Entry,
    Operation,
    SetAcl,
    SetData,
)
from tests.torture.violation import Findings
from tests.torture.wanted_rules import Wanted

ROOT: Final = "/app"
HOME: Final = "/zkmig/scopes/app"
APART: Final = "/app/churn"
ATTEMPT: Final = f"{HOME}/epochs/1-aaaa"
OPEN_ACL: Final = (AclRow(31, "world", "anyone"),)
TIGHT_ACL: Final = (AclRow(1, "world", "anyone"),)
WRITER: Final = ("digest", "migrator")
PLAN: Final = "planhash"
TICK_MS: Final = 100

OPERATOR, FOREIGN, MIGRATOR, RIVAL, READER = 0x11, 0x22, 0x33, 0x44, 0x55


class MadeHistory(History):
    """Events and rows that were never in a file."""

    def __init__(self, events: list[dict[str, Any]], rows: dict[str, dict[str, Row]]) -> None:
        self.run = {"apart": APART}
        self.events = events
        self._rows = rows

    def rows(self, digest: str) -> dict[str, Row]:
        return self._rows[digest]


class Story:
    """What happened so far. time_ms: of the next transaction."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.entries: list[Entry] = []
        self.events: list[dict[str, Any]] = []
        self.rows: dict[str, dict[str, Row]] = {}
        self.time_ms = 1_000_000
        self._cxid = 0
        for path in ("/zkmig", "/zkmig/scopes", "/effects", ROOT, APART):
            self.txn(OPERATOR, self.create(path))
        for path in ("/app/a", "/app/b", "/app/gone", "/app/acl", f"{APART}/n"):
            self.txn(OPERATOR, self.create(path, path.encode()))
        self.begin_scope()

    # -- transactions -------------------------------------------------------------------------------------------------

    def create(self, path: str, data: bytes | None = b"", owner: int = 0, acl: AclRows = OPEN_ACL) -> Create:
        return Create(path, data, acl, owner, -1)

    def write(self, path: str, data: bytes | None) -> SetData:
        return SetData(path, data, self.tree.now[path].version + 1)

    def set_acl(self, path: str, acl: tuple[AclRow, ...] = TIGHT_ACL) -> SetAcl:
        return SetAcl(path, acl, self.tree.now[path].aversion + 1)

    def txn(self, session: int, *operations: Operation, is_guarded: bool = True) -> int:
        """The zxid of a transaction with these operations, which migrators put behind their guard."""
        if is_guarded and session in (MIGRATOR, RIVAL) and not isinstance(operations[0], SetAcl):
            operations = (*self._guard(), *operations)
        kind = MULTI if len(operations) > 1 else SET_ACL if isinstance(operations[0], SetAcl) else CREATE
        self._cxid += 1
        self.time_ms += TICK_MS
        entry = Entry(self.tree.zxid + 1, session, self._cxid, self.time_ms, kind, operations, None)
        assert self.tree.apply(entry)
        self.entries.append(entry)
        return entry.zxid

    def _guard(self) -> list[Check]:
        """As it is when it has passed."""
        there = {path: value for path, value in self.tree.now.items() if path.rpartition("/")[0] == HOME}
        names = ("owner", "epoch", *(path.rpartition("/")[2] for path in there if path.startswith(f"{HOME}/inc-")))
        paths = [f"{HOME}/{name}" for name in names]
        return [Check(path, there[path].version + 1) for path in paths if path in there]

    # -- the control plane --------------------------------------------------------------------------------------------

    def begin_scope(self, incarnation: str = "inc1", state: str = "STABLE") -> None:
        record = {"incarnation": incarnation, "state": state, "epoch": 0, "attempt": None, "pending": None}
        for path in (HOME, f"{HOME}/inc-{incarnation}", f"{HOME}/acting", f"{HOME}/guards", f"{HOME}/epochs"):
            self.txn(OPERATOR, self.create(path))
        self.txn(
            OPERATOR,
            self.create(f"{HOME}/owner"),
            self.create(f"{HOME}/epoch", json.dumps(record).encode()),
        )

    @property
    def record(self) -> dict[str, Any]:
        fields = json.loads(self.tree.now[f"{HOME}/epoch"].data or b"")
        assert isinstance(fields, dict)
        return fields

    def move(self, session: int, *operations: Operation, **fields: Any) -> int:
        """Write the record with these fields changed, and `operations` with it."""
        data = json.dumps({**self.record, **fields}).encode()
        return self.txn(session, self.write(f"{HOME}/epoch", data), *operations)

    def hold(
        self,
        held: dict[str, Any] | None,
        *operations: Operation,
        session: int = OPERATOR,
        checks: bool = True,
        **fields: Any,
    ) -> int:
        """Set a hold, or release it, as an admin does. checks: the incarnation."""
        inside = [Check(f"{HOME}/inc-inc1", 1)] if checks else []
        data = json.dumps({**self.record, "held": held, **fields}).encode()
        return self.txn(session, *inside, self.write(f"{HOME}/epoch", data), *operations, is_guarded=False)

    def take(self, session: int) -> int:
        """Bump the token."""
        token = self.tree.now[f"{HOME}/owner"].version + 1
        return self.txn(session, self.write(f"{HOME}/owner", b"{}"), self.create(f"{HOME}/lock-{token}", owner=session))

    def prepare(self, session: int = MIGRATOR, batches: int = 2) -> int:
        """Token, journal, PREPARING."""
        self.take(session)
        for path in (ATTEMPT, f"{ATTEMPT}/cursor", f"{ATTEMPT}/rcursor"):
            self.txn(session, self.create(path))
        return self.move(
            session, state="PREPARING", attempt="aaaa", target_epoch=1, plan_hash=PLAN, batches_total=batches
        )

    def open(self, session: int = MIGRATOR) -> int:
        return self.move(session, state="OPEN")

    def batch(self, session: int, *operations: Operation, cursor: str = "cursor") -> int:
        """Operations behind the attempt's cursor."""
        return self.txn(session, self.write(f"{ATTEMPT}/{cursor}", None), *operations)

    def first_batch(self, session: int = MIGRATOR) -> int:
        return self.batch(session, self.write("/app/a", b"new"), self.create("/app/new", b"born"))

    def second_batch(self, session: int = MIGRATOR) -> int:
        return self.batch(session, Delete("/app/gone"))

    def commit(self, session: int = MIGRATOR) -> int:
        return self.move(session, state="STABLE", epoch=1, attempt=None)

    def plan(self, acls: dict[str, AclRows] | None = None, **target: str | None) -> None:
        """Say what the plan is that `migrate` carries out. acls: to be changed, or of what is created, by path.

        target: other data than it has, by name of the node.
        """
        wanted = {"/app/a": data_digest(b"new"), "/app/new": data_digest(b"born"), "/app/gone": None}
        wanted.update({f"/app/{name}": digest for name, digest in target.items()})
        batches = [["/app/a", "/app/new"], ["/app/gone"]]
        self.event(
            "plan",
            plan_hash=PLAN,
            zxid=self.tree.zxid,
            epoch=1,
            batches=batches,
            target=wanted,
            wanted={path: one.plain() for path, one in self._wanted(acls or {}).items()},
            writer=list(WRITER),
        )

    def _wanted(self, acls: dict[str, AclRows]) -> dict[str, Wanted]:
        found = {}
        for path, value in self.image().items():
            if path != "/app/gone" and not is_apart(path, APART):
                data = b"new" if path == "/app/a" else value.data
                found[path] = Wanted(data_digest(data), acls.get(path, value.acl), value.owner, value.creates)
        found["/app/new"] = Wanted(data_digest(b"born"), acls.get("/app/new", OPEN_ACL), 0, 0)
        return found

    def migrate(self, session: int = MIGRATOR) -> None:
        """From STABLE to the commit of epoch 1."""
        self.plan()
        self.prepare(session)
        self.open(session)
        self.first_batch(session)
        self.second_batch(session)
        self.commit(session)

    def roll_back(self, session: int = MIGRATOR) -> None:
        """Of the first batch."""
        self.move(session, state="ROLLING_BACK", cursor=1)
        self.batch(session, self.write("/app/a", b"/app/a"), Delete("/app/new"), cursor="rcursor")
        self.move(session, state="STABLE", attempt=None, cursor=None)

    # -- events -------------------------------------------------------------------------------------------------------

    def event(self, kind: str, who: str = "someone", **fields: Any) -> None:
        self.events.append(
            {"t": float(len(self.events)), "wall": self.time_ms / 1000, "who": who, "kind": kind, **fields}
        )

    def began(self, number: int = 1) -> None:
        """A migrator's process began."""
        self.event("migrator", "torture", phase="began", number=number)

    def reported(self, path: str, number: int = 1) -> None:
        """It ended, and its report names a path."""
        self.event("migrator", "torture", phase="ended", number=number, report={"deviations": [path]})

    def image(self, zxid: int | None = None) -> dict[str, Value]:
        """The scope's tree as it was."""
        return self.tree.image(self.tree.below(ROOT), self.tree.zxid if zxid is None else zxid)

    def view(
        self, image: dict[str, Value] | None = None, *, zxid_first: int | None = None, who: str = "reader", **said: Any
    ) -> None:
        """A view of the present, unless another image is given; `said` where it says something else of the record."""
        rows = [
            Row(path, value.data, tuple((a.perms, a.scheme, a.id) for a in value.acl), value.stat)
            for path, value in (self.image() if image is None else image).items()
        ]
        here = [row for row in rows if not is_apart(row.path, APART)]
        digest = image_digest(here)
        self.rows[digest] = {row.path: row for row in here}
        zxid = self.tree.zxid
        fields = {
            "zxid": zxid,
            "zxid_first": zxid if zxid_first is None else zxid_first,
            "epoch": self.record["epoch"],
            "state": self.record["state"],
            "incarnation": self.record["incarnation"],
            "record_version": self.tree.now[f"{HOME}/epoch"].version,
            "fresh": True,
            "digest": digest,
            "apart": {row.path: row.digest for row in rows if is_apart(row.path, APART)},
            **said,
        }
        self.event("view", who, **fields)

    def lease(self, name: str = "l1", max_ms: int = 1_000, released: bool = False) -> int:
        """A reader's lease, made or written again."""
        data = json.dumps({"format": 1, "max_ms": max_ms, "reader": "reader", "released": released}).encode()
        path = f"{HOME}/acting/{name}"
        return self.txn(READER, self.write(path, data) if path in self.tree.now else self.create(path, data))

    def effect(self, epoch: int, token: int, late_ms: int = 0) -> int:
        """An action's effect. late_ms: how long before it the token was asked."""
        data = f"effect-{len(self.events)}"
        path = "/effects/reader"
        zxid = self.txn(
            READER,
            self.write(path, data.encode()) if path in self.tree.now else self.create(path, data.encode()),
        )
        checked = (self.time_ms - late_ms) / 1000
        action: dict[str, Any] = {
            "phase": "effect",
            "epoch": epoch,
            "token": token,
            "effect_path": path,
            "effect_data": data,
        }
        self.event("action", "reader", **action, checked_wall=checked)
        return zxid

    # -- the verdict --------------------------------------------------------------------------------------------------

    def check(self) -> Findings:
        replay = Replay.of_entries(self.entries, self.tree, ROOT, HOME)
        return check(MadeHistory(self.events, self.rows), replay)

    def rules(self) -> set[str]:
        """Names of the rules that were broken."""
        return self.check().rules

    def residues(self) -> set[str]:
        return names(self.check().residues)


def names(found: Iterable[Any]) -> set[str]:
    """Names of rules."""
    return {each.rule for each in found}
