"""A world to torture: one server or three, a tree and its scope, readers, churn, and migrations to and fro.

Two trees take turns, so that epochs follow one another without end. What a fault leaves behind (somebody else's values
in the tree, a scope in OPEN) is settled by resume or rollback, as the seed decides, before the next one begins.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss, KazooException, NodeExistsError, NoNodeError, SessionExpiredError
from kazoo.security import ACL, Id

import zkmig
from tests.proxy import Proxy
from tests.scopes import MINE, MINE_BUT_READABLE, MY_IDENTITY, settled
from tests.torture.foreign_rules import data_digest
from tests.torture.history import Log
from tests.torture.processes import Child, Migrator, ReaderChild
from tests.torture.reader_process import EFFECTS, SECRET
from tests.torture.txnlog import CONTAINER_OWNER, TTL_MASK, AclRow
from tests.torture.wanted_rules import Wanted
from tests.trees import Node, Tree, snapshot_of
from zkmig.dev import Ensemble, Server
from zkmig.model.acl import OPEN_ACL, READ, Acl
from zkmig.model.znode import Kind as NodeKind
from zkmig.plan.operations import CreateNode, RaiseCounter, WriteData
from zkmig.wire.requests import OP_SET_ACL

Kind = Literal["one", "three", "frames", "heap"]  # the last two: of one server with limits

MINE_BUT_ONE_MAY_READ: Final = (*MINE, Acl(READ, "ip", "10.9.8.7"))
ROOT: Final = "/app"
GROUPS: Final = 6
SCOPE: Final = "app"
HOME: Final = f"/zkmig/scopes/{SCOPE}"
APART: Final = f"{ROOT}/churn"
LIMITS: Final = zkmig.Limits(batch_bytes_max=1_300)
WRITES_PER_S: Final = 250.0
AT_REST: Final = ("STABLE", "EMPTY")
POLL_S: Final = 0.02
SETTLE_TRIES_MAX: Final = 12
CONFLICT: Final = 4
STALE: Final = "since the plan was made"  # how the program says that a plan fits no more
MIGRATING: Final = ("PREPARING", "OPEN", "ROLLING_BACK")


def is_migrators(frame: bytes) -> bool:
    """Whether a request is a migrator's own: a guarded multi, or a setACL. Its probe's multis are not."""
    return f"{HOME}/owner".encode() in frame or int.from_bytes(frame[8:12], "big") == OP_SET_ACL


class NoWayOn(Exception):
    """P5 is broken: the scope could be neither finished nor taken back."""


def make_trees(rng: random.Random) -> tuple[Tree, Tree]:
    """Two trees of some two hundred nodes each: a third alike, a third changed, a third in one of them only."""
    base: Tree = {"": Node(b"root")}
    for group in range(GROUPS):
        base[f"/g{group}"] = Node(b"group %d" % group)
        for leaf in range(12):
            base[f"/g{group}/same{leaf:02}"] = Node(rng.randbytes(rng.randrange(40)))
    trees = (dict(base), dict(base))
    for which, tree in enumerate(trees):
        for group in range(GROUPS):
            tree[f"/g{group}"] = Node(b"group %d" % group)
            for leaf in range(8):
                tree[f"/g{group}/both{leaf}"] = Node(b"%d: " % which + rng.randbytes(rng.randrange(60)))
                tree[f"/g{group}/only-{which}-{leaf}"] = Node(rng.randbytes(rng.randrange(60)))
            tree[f"/g{group}/only-{which}-0/below"] = Node(None)
            tree[f"/g{group}/only-{which}-0/below/deep"] = Node(b"%d" % group)
        tree["/queue"] = Node(b"", counter=10)
        tree["/queue/q-0000000009"] = Node(b"job %d" % which)
        tree["/tight"] = Node(b"", MINE_BUT_READABLE if which else OPEN_ACL)
        tree["/loose"] = Node(b"", OPEN_ACL if which else MINE_BUT_READABLE)
        tree["/turned"] = Node(b"%d" % which, MINE if which else MINE_BUT_READABLE)
        tree["/swapped"] = Node(b"", MINE_BUT_READABLE if which else MINE_BUT_ONE_MAY_READ)  # narrowed, then widened
        tree[f"/g0/only-{which}-1"] = Node(b"born narrow", MINE)
    return settled(trees[0]), settled(trees[1])


def wanted_of(tree: Tree) -> dict[str, list[Any]]:
    """The tree as a plan's event tells it: what was handed to the planner, not what it has made of it."""
    owners = {NodeKind.CONTAINER: CONTAINER_OWNER, NodeKind.TTL: TTL_MASK}
    found = {}
    for relative, node in tree.items():
        acl = tuple(AclRow(*entry) for entry in node.acl)
        owner = owners.get(node.kind, 0) | node.ttl_ms
        found[ROOT + relative] = Wanted(data_digest(node.data), acl, owner, node.counter).plain()
    return found


@dataclass
class Planned:
    """A plan on disk, and what the world knows of it. paths: that it writes, creates or deletes, in its order."""

    file: Path
    epoch: int
    batches: list[list[str]]
    created: list[str]
    written: list[str]
    deleted: list[str]

    @property
    def paths(self) -> list[str]:
        return [path for batch in self.batches for path in batch]


class World:
    """Servers, tree, scope, and all processes around them, which end with it.

    hosts: the servers themselves; proxied: behind one proxy each, for migrators. rng: chances of the fault at hand.
    migrators: all that were started. off: what those of `order` do without, for negative controls.
    """

    def __init__(self, kind: Kind, seed: int, folder: Path, off: Sequence[str] = (), **server_options: Any) -> None:
        self.kind: Kind = kind
        self.folder = folder
        self.rng = random.Random(f"{seed}/{kind}")
        self.migrators: list[Migrator] = []
        self.off = list(off)
        self._options = server_options
        self._stack = ExitStack()
        self._numbers = 0
        self.readers: list[ReaderChild] = []
        self.trees = make_trees(self.rng)
        self.notes: dict[str, Any] = {}  # what faults have found out about this world
        self._seed = seed

    def begin_fault(self, name: str, number: int, tries: int) -> None:
        """Chances of its own for each fault, so that what came before does not decide them."""
        self.rng = random.Random(f"{self._seed}/{self.kind}/{name}/{number}/{tries}")

    # -- its life -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _begin(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ensemble = Ensemble(**self._options) if self.kind == "three" else None
        self._server = None if self.ensemble is not None else Server(**self._options)
        self._stack.enter_context(self.ensemble or self._server)  # type: ignore[arg-type]  # one of them is there
        self.proxies = [self._stack.enter_context(Proxy(member.port)) for member in self.members]
        for proxy in self.proxies:
            proxy.concerns = is_migrators
        self.log = self._stack.enter_context(Log(self.folder, "torture"))
        run = {
            "seed": self._seed,
            "kind": self.kind,
            "root": ROOT,
            "home": HOME,
            "apart": APART,
            "members": [f"member{number}" for number in range(len(self.members))],
        }
        (self.folder / "run.json").write_text(json.dumps(run))
        self.kazoo = KazooClient(self.hosts, timeout=4.0, auth_data=[("digest", SECRET)])
        self._stack.callback(self.kazoo.close)
        self._stack.callback(self.kazoo.stop)
        self.kazoo.start()
        self._grow(self.trees[0])
        self.kazoo.ensure_path(EFFECTS)
        self.init()

    @property
    def members(self) -> list[Server]:
        """The servers, whatever they are doing."""
        if self.ensemble is not None:
            return list(self.ensemble.members)
        assert self._server is not None
        return [self._server]

    @property
    def hosts(self) -> str:
        return ",".join(member.hosts for member in self.members)

    @property
    def proxied(self) -> str:
        return ",".join(proxy.hosts for proxy in self.proxies)

    def location(self, hosts: str | None = None) -> str:
        return f"zk://{hosts or self.hosts}{ROOT}"

    def _grow(self, tree: Tree) -> None:
        for relative, node in tree.items():
            self.kazoo.create(ROOT + relative, node.data)
        for _ in range(tree["/queue"].counter - 1):
            self.kazoo.delete(self.kazoo.create(f"{ROOT}/queue/x-", b"", sequence=True))
        self.kazoo.create(APART, b"")
        for relative, node in tree.items():
            if node.acl != OPEN_ACL:
                self.kazoo.set_acls(ROOT + relative, [ACL(a.perms, Id(a.scheme, a.id)) for a in node.acl])

    def init(self) -> None:
        """Create the scope's control plane."""
        zkmig.init(self.location(), SCOPE, auth=[("digest", SECRET)])

    # -- processes ----------------------------------------------------------------------------------------------------

    def start_readers(self, fresh: int, kept: int, pause_s: float, further: tuple[str, ...] = ()) -> None:
        """Readers of both sorts; the first is the one that acts."""
        for number in range(fresh + kept):
            name = f"reader{number}-{'fresh' if number < fresh else 'kept'}"
            options = ["--pause", str(pause_s), *further, *(["--kept"] if number >= fresh else [])]
            self.readers.append(ReaderChild(self.folder, name, self.hosts, SCOPE, APART, *options))
            self._stack.callback(self.readers[-1].end)

    def start_churn(self, pause_s: float = 0.05) -> None:
        """Somebody who writes beside the plans all the time."""
        errors = self.folder / "stderr-churn"
        churn = Child("churn_process", "churn", self.hosts, APART, self._seed, "--pause", pause_s, errors=errors)
        self._stack.callback(churn.end)

    def program(self, *arguments: object) -> Migrator:
        """Start the real program."""
        self._numbers += 1
        self.migrators.append(Migrator.of_program(self.log, self._numbers, list(arguments), self.folder))
        return self.migrators[-1]

    def order(self, **order: Any) -> Migrator:
        """Start a migrator that can stand still; see its module."""
        self._numbers += 1
        order = {"at": self.location(self.proxied), "scope": SCOPE, "off": self.off, **order}
        self.migrators.append(Migrator.of_order(self.log, self._numbers, order, self.folder))
        return self.migrators[-1]

    @contextmanager
    def ended(self, *migrators: Migrator) -> Iterator[None]:
        """Whatever happens, these are over afterwards."""
        try:
            yield
        finally:
            for migrator in migrators:
                migrator.kill()

    # -- plans and migrations -----------------------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """The epoch record now; {} while there is none."""
        with suppress(NoNodeError):
            self.patiently(self.kazoo.sync, HOME)
            return dict(json.loads(self.patiently(self.kazoo.get, f"{HOME}/epoch")[0]))
        return {}

    def patiently(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """A call of kazoo, again and again through lost connections."""
        deadline = time.monotonic() + 60
        while True:
            try:
                return call(*arguments)
            except (ConnectionLoss, SessionExpiredError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def plan(self, tree: Tree | None = None, limits: zkmig.Limits = LIMITS) -> Planned:
        """A plan to `tree`, else to the tree that is not the present one."""
        epoch = self.record()["epoch"] + 1
        wanted = tree if tree is not None else self.next_tree()
        self._numbers += 1
        file = self.folder / f"plan-{self._numbers}.zkplan"
        zxid = self.kazoo.last_zxid
        plan = zkmig.make_plan(
            snapshot_of(wanted, ROOT),
            self.location(),
            scope=SCOPE,
            limits=limits,
            excludes=[APART],
            auth=[("digest", SECRET)],
        )
        sealed = zkmig.SealedPlan(plan, "")
        sealed = _save(plan, file)
        batches = [[op.path for op in batch if not isinstance(op, RaiseCounter)] for batch in plan.batches()]
        ops = [op for batch in plan.batches() for op in batch]
        target = {
            op.path: data_digest(op.data) if isinstance(op, CreateNode | WriteData) else None
            for op in ops
            if not isinstance(op, RaiseCounter)
        }
        raises = sorted({op.path for op in ops if isinstance(op, RaiseCounter)})
        self.log.write(
            "plan",
            raises=raises,
            plan_hash=sealed.hash,
            zxid=plan.target.zxid_last or zxid,
            epoch=epoch,
            batches=batches,
            target=target,
            wanted=wanted_of(wanted),
            writer=list(MY_IDENTITY),
        )
        created = [op.path for op in ops if isinstance(op, CreateNode)]
        written = [op.path for op in ops if isinstance(op, WriteData)]
        deleted = [path for path, data in target.items() if data is None]
        return Planned(file, epoch, batches, created, written, deleted)

    def next_tree(self) -> Tree:
        """Whichever is not there: told by a node that both have, with other data."""
        data = self.patiently(self.kazoo.get, f"{ROOT}/turned")[0]
        return self.trees[0] if data == b"1" else self.trees[1]

    def apply(self, planned: Planned, **order: Any) -> Migrator:
        """Begin to apply it, in batches and slowly unless told otherwise, by way of the proxies."""
        return self.order(
            command="apply", plan=str(planned.file), epoch=planned.epoch, **{"throttle": WRITES_PER_S, **order}
        )

    def apply_by_program(self, planned: Planned, *options: object) -> Migrator:
        """The same with the real program."""
        arguments = ("apply", planned.file, "--epoch", planned.epoch, "--yes", "--at", self.location(self.proxied))
        return self.program(*arguments, *(options or ("--single-shot", "never", "--throttle", WRITES_PER_S)))

    def take_over(self, planned: Planned, way: str, *, steal: bool = True, hosts: str | None = None) -> Migrator:
        """Start resume or rollback from a fresh process, straight to the servers."""
        options = ("--at", self.location(hosts), "--scope", SCOPE, "--yes", *(["--steal"] if steal else ["--wait"]))
        plan = [str(planned.file)] if way == "resume" else []
        single = ["--single-shot", "never"] if way == "resume" else []
        return self.program(way, *plan, *options, *single)

    def any_way(self) -> str:
        """resume or rollback, as the seed decides."""
        return self.rng.choice(("resume", "rollback"))

    def await_state(self, *states: str, timeout_s: float = 30.0, migrator: Migrator | None = None) -> str:
        """The record's state, once it is one of these, or the migrator has ended, or the time is over."""
        deadline = time.monotonic() + timeout_s
        while True:
            state = str(self.record().get("state", ""))
            if state in states or time.monotonic() > deadline or (migrator is not None and not migrator.is_alive):
                return state
            time.sleep(POLL_S)

    def await_batches(self, count: int, migrator: Migrator, timeout_s: float = 30.0) -> int:
        """Batches applied, once they are so many, or the migrator has ended, or the time is over."""
        deadline = time.monotonic() + timeout_s
        while True:
            done = self.batches_applied()
            if done >= count or time.monotonic() > deadline or not migrator.is_alive:
                return done
            time.sleep(POLL_S)

    def batches_applied(self) -> int:
        record = self.record()
        if not record.get("attempt") or record["state"] not in ("OPEN", "ROLLING_BACK"):
            return 0
        path = f"{HOME}/epochs/{record['target_epoch']}-{record['attempt']}/cursor"
        with suppress(NoNodeError):
            return int(self.patiently(self.kazoo.get, path)[1].version)
        return 0

    def settle(self, planned: Planned | None, way: str = "") -> str:
        """Bring the scope to rest: resume or rollback until it is. Returns how it ended: epoch and outcome."""
        way = way or self.any_way()
        for _ in range(SETTLE_TRIES_MAX):
            record = self.record()
            if record["state"] in AT_REST and not record.get("pending"):
                break
            if record["state"] in AT_REST:
                way = "resume"  # only ACLs are pending
            elif planned is None or record.get("conflict"):
                way = "rollback"
            migrator = self.program(
                way,
                *([planned.file] if way == "resume" and planned is not None else []),
                *("--at", self.location(), "--scope", SCOPE, "--yes", "--steal"),
            )
            code = migrator.wait()
            if code == CONFLICT or STALE in migrator.said:
                way = "rollback"  # else what has failed has to go better the next time
        else:
            raise NoWayOn(f"after {SETTLE_TRIES_MAX} tries the record says {self.record()}")
        last = record.get("last") or {}
        return f"epoch {record['epoch']}, {last.get('outcome')}, {last.get('deviations', 0)} deviations"

    # -- somebody else's writes ---------------------------------------------------------------------------------------

    def foreign(self, op: str, path: str, data: bytes = b"", version: int = -1) -> bool:
        """A write on a path of the tree that is no migration's; whether it was done."""
        try:
            if op == "set":
                zxid = self.kazoo.set(path, data, version).mzxid
            elif op == "create":
                zxid = self.kazoo.create(path, data, include_data=True)[1].czxid
            else:
                self.kazoo.delete(path, version)
                zxid = None
        except KazooException as error:
            self.log.write("foreign", path=path, op=op, version=version, result=type(error).__name__, zxid=None)
            return False
        self.log.write("foreign", path=path, op=op, version=version, result="done", zxid=zxid)
        return True

    def forget(self) -> None:
        """Delete the control plane as an operator would who wants to begin anew."""
        registry, stat = self.kazoo.get("/zkmig/scopes")
        fields = json.loads(registry or b"")
        fields["scopes"].pop(SCOPE, None)
        names = self.kazoo.get_children(HOME)
        transaction = self.kazoo.transaction()
        for name in names:
            if name in ("epoch", "owner") or name.startswith("inc-"):
                transaction.delete(f"{HOME}/{name}")
        transaction.commit()
        while self.kazoo.exists(HOME):
            with suppress(NoNodeError, NodeExistsError, KazooException):
                self.kazoo.delete(HOME, recursive=True)  # readers come and go in it
        self.kazoo.set("/zkmig/scopes", json.dumps(fields).encode(), version=stat.version)

    # -- the end ------------------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Copy the servers' logs into the run's folder. Only when nobody writes any more."""
        self.patiently(self.kazoo.sync, "/")
        for number, member in enumerate(self.members):
            place = self.folder / "txnlog" / f"member{number}" / "version-2"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            for file in sorted((member.data_dir / "version-2").glob("log.*")):
                (place / file.name).write_bytes(file.read_bytes().rstrip(b"\0") + bytes(64))

    def end_processes(self) -> None:
        """End readers, churn and servers' visitors, and copy the logs."""
        for reader in self.readers:
            reader.end()
        self.readers = []


def _save(plan: zkmig.Plan, file: Path) -> zkmig.SealedPlan:
    return zkmig.save_plan(plan, str(file))
