"""The control plane: where a scope keeps its record, owner, leases and journals, under which ACLs.

Layout, below the control root (default /zkmig, absolute: never below a client's chroot):

    scopes                              registry of all scopes and their roots, changed only by compare-and-set
    scopes/<scope>/epoch                the record
                   inc-<incarnation>    every write of a migrator checks this node: nothing survives delete + init
                   owner                the writer's token is this node's dataVersion
                   lock-<token>         ephemeral, liveness only
                   acting/ guards/ readers/ budgets/    what readers and guards leave here themselves
                   epochs/<n>-<attempt>/       manifest, undo chunks, cursor, rcursor
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from zkmig.epoch import record as records
from zkmig.epoch.record import Record
from zkmig.epoch.transitions import State, check_transition
from zkmig.errors import BadInput, NotPermitted, Refused, UnknownFormat
from zkmig.model import path as paths
from zkmig.model.acl import ALL, CREATE, READ, WORLD, Acl, AclList, Identity
from zkmig.model.path import CONTROL_ROOT
from zkmig.model.stat import Stat
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, ServerError, error_for
from zkmig.wire.replies import DataResult, MultiResult
from zkmig.wire.requests import (
    Check,
    Create,
    Exists,
    GetAcl,
    GetChildren,
    GetData,
    Multi,
    SetData,
    Sync,
    WriteOp,
    operation_size,
)

SCOPE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
INCARNATION_CHARS = 16
ATTEMPT_CHARS = 8
EPOCH_DIGITS_MAX = 10
REGISTRY_FORMAT = 1
_SEEN = "@seen"


@dataclass(frozen=True, slots=True)
class ControlPaths:
    """Names of the nodes of one scope's control plane."""

    scope: str
    control: str = CONTROL_ROOT

    @property
    def registry(self) -> str:
        return f"{self.control}/scopes"

    @property
    def home(self) -> str:
        return f"{self.registry}/{self.scope}"

    @property
    def record(self) -> str:
        return f"{self.home}/epoch"

    @property
    def owner(self) -> str:
        return f"{self.home}/owner"

    @property
    def acting(self) -> str:
        return f"{self.home}/acting"

    @property
    def guards(self) -> str:
        return f"{self.home}/guards"

    @property
    def readers(self) -> str:
        return f"{self.home}/readers"

    @property
    def budgets(self) -> str:
        return f"{self.home}/budgets"

    def budget(self, reader: str) -> str:
        """What everybody may know of a reader's budget. No reader's name has an "@" in it."""
        return f"{self.budgets}/{reader}"

    def seen(self, reader: str) -> str:
        """What a reader has last acted on. Beside its budget, not below, so that an admin may delete it."""
        return f"{self.budgets}/{reader}{_SEEN}"

    @staticmethod
    def is_seen(name: str) -> bool:
        """Whether a child of budgets is one of these, by its name."""
        return name.endswith(_SEEN)

    @property
    def epochs(self) -> str:
        return f"{self.home}/epochs"

    def incarnation(self, incarnation: str) -> str:
        return f"{self.home}/inc-{incarnation}"

    def lock(self, token: int) -> str:
        return f"{self.home}/lock-{token}"

    def attempt(self, epoch: int, attempt: str) -> AttemptPaths:
        return AttemptPaths(f"{self.epochs}/{epoch}-{attempt}")


@dataclass(frozen=True, slots=True)
class AttemptPaths:
    """Names of the nodes of one attempt's journal."""

    home: str

    @property
    def manifest(self) -> str:
        return f"{self.home}/manifest"

    def manifest_page(self, index: int) -> str:
        return f"{self.home}/manifest-{index}"

    @property
    def undo(self) -> str:
        return f"{self.home}/undo"

    @property
    def cursor(self) -> str:
        return f"{self.home}/cursor"

    @property
    def rcursor(self) -> str:
        return f"{self.home}/rcursor"

    def chunk(self, index: int) -> str:
        return f"{self.undo}/{index}"


def head_size_max(scope: str | None, control: str = CONTROL_ROOT) -> int:
    """Bytes that the guarded head of a batch can take at most: check(inc), check(record), check(owner), set(cursor).

    scope None: not known yet, the longest name a scope can have is assumed.
    """
    names = ControlPaths(scope or "x" * 64, control)
    attempt = AttemptPaths(f"{names.epochs}/{'9' * EPOCH_DIGITS_MAX}-{'f' * ATTEMPT_CHARS}")
    head: tuple[WriteOp, ...] = (
        Check(names.incarnation("f" * INCARNATION_CHARS), 0),
        Check(names.record, 0),
        Check(names.owner, 0),
        SetData(attempt.rcursor, None, 0),
    )
    return sum(operation_size(operation) for operation in head)


@dataclass(frozen=True, slots=True)
class Roles:
    """Who may do what in a control plane. `admin` writes it; `reader` reads it and leaves leases there."""

    admin: tuple[Identity, ...]
    reader: tuple[Identity, ...]

    @property
    def read_acl(self) -> AclList:
        """For the record, owner and journals: written by the admin alone."""
        return self._acl(READ)

    @property
    def join_acl(self) -> AclList:
        """For acting, guards, readers and budgets: a reader creates its own node there and touches nothing else."""
        return self._acl(READ | CREATE)

    def _acl(self, reader_perms: int) -> AclList:
        entries = [Acl(ALL, *identity) for identity in self.admin]
        entries += [Acl(reader_perms, *identity) for identity in self.reader if identity not in self.admin]
        return tuple(entries)

    @classmethod
    def of_record(cls, acl: AclList) -> Roles:
        """The roles that the record's own ACL expresses, so that they are kept in one place only."""
        admin = tuple(Identity(a.scheme, a.id) for a in acl if a.perms == ALL)
        return cls(admin, tuple(Identity(a.scheme, a.id) for a in acl if a.perms != ALL and a.perms & READ))


def default_roles(identities: tuple[Identity, ...]) -> Roles:
    """Without a word from the operator: whoever runs init is the admin, everybody reads.

    A session without credentials cannot be told apart from any other, so the control plane is then open to all.
    """
    own = tuple(identity for identity in identities if identity.scheme in ("digest", "x509"))
    return Roles(own or (WORLD,), (WORLD,))


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Registration:
    """A scope as the registry names it."""

    scope: str
    root: str


def read_registry(client: Client, control: str = CONTROL_ROOT) -> tuple[tuple[Registration, ...], int]:
    """All scopes of the ensemble and the registry's version; version -1 when there is no control plane yet."""
    path = f"{control}/scopes"
    try:
        result = client.call(GetData(path))
    except ServerError as error:
        if error.code == Code.NO_NODE:
            return (), -1
        raise
    assert isinstance(result, DataResult)
    try:
        fields = json.loads((result.data or b"").decode())
        if fields["format"] != REGISTRY_FORMAT:
            raise UnknownFormat(f"scope registry of format {fields['format']}", path, "upgrade zkmig")
        entries = tuple(Registration(scope, root) for scope, root in sorted(fields["scopes"].items()))
        if not all(isinstance(entry.root, str) for entry in entries):
            raise ValueError("a root is no path")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnknownFormat("this is not a scope registry", path, "restore it or ask who wrote it") from error
    return entries, result.stat.version


def read_record(client: Client, names: ControlPaths) -> tuple[Record, Stat]:
    """The record and its Stat. Refused when the scope does not exist."""
    try:
        result = client.call(GetData(names.record))
    except ServerError as error:
        if error.code == Code.NO_NODE:
            registrations, _ = read_registry(client, names.control)
            raise no_scope(f"there is no scope {names.scope!r}", names.record, registrations) from error
        raise
    assert isinstance(result, DataResult)
    return records.decode(result.data, names.record), result.stat


def no_scope(what: str, where: str, registrations: Sequence[Registration], root: str = "/PATH") -> Refused:
    """The refusal for a scope that is not there, naming those that are."""
    here = f"scopes here: {', '.join(r.scope for r in registrations)}; " if registrations else ""
    return Refused(what, where, f"{here}{'or ' if here else ''}run zkmig init zk://HOST{root} --scope NAME first")


def read_roles(client: Client, names: ControlPaths) -> Roles:
    """Who is admin and who reads, from the ACL of the record."""
    return Roles.of_record(client.call(GetAcl(names.record)).acl)


def find_scope(client: Client, path: str, scope: str | None, control: str = CONTROL_ROOT) -> ControlPaths:
    """The scope named, or the only one whose root covers `path`. Refused when there is none."""
    registrations, _ = read_registry(client, control)
    covering = [r for r in registrations if paths.contains(r.root, path) and scope in (None, r.scope)]
    if covering:
        return ControlPaths(covering[0].scope, control)  # roots never overlap, so there is one at most
    named = next((r for r in registrations if r.scope == scope), None)
    if named:
        raise Refused(f"scope {named.scope!r} covers {named.root}, not this path", path, "name another scope")
    what = f"no scope {scope!r} here" if scope else "no scope covers this path"
    raise no_scope(what, path, registrations, path)


def only_scope(client: Client, scope: str | None, control: str = CONTROL_ROOT) -> ControlPaths:
    """The scope named, or the ensemble's only one when no name is given."""
    if scope is not None:
        return ControlPaths(valid_scope_name(scope), control)
    registrations, _ = read_registry(client, control)
    if len(registrations) == 1:
        return ControlPaths(registrations[0].scope, control)
    if not registrations:
        raise Refused("there is no scope here", control, "run zkmig init zk://HOST/PATH --scope NAME first")
    names = ", ".join(r.scope for r in registrations)
    raise BadInput(f"several scopes: {names}", control, "name one with --scope")


def valid_scope_name(scope: str) -> str:
    """The name unchanged, or BadInput."""
    if not SCOPE_NAME.fullmatch(scope):
        raise BadInput("not a scope name", repr(scope), "use up to 64 letters, digits, dots, dashes, underscores")
    return scope


# -- creating ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InitResult:
    """record: as it is now. created: False when the scope was there already, over the same root."""

    record: Record
    created: bool
    ancestors: tuple[str, ...] = ()


def init_scope(
    client: Client,
    names: ControlPaths,
    root: str,
    roles: Roles,
    *,
    allow_empty: bool = False,
    dry_run: bool = False,
) -> InitResult:
    """Create the scope's record over `root`: STABLE at epoch 0, or EMPTY when the root is absent or childless.

    Missing ancestors of an absent root are created too (never the root itself), with the ACL of the nearest one that
    exists, because the first epoch writes only inside the root. Over a scope that is there already, what an older zkmig
    has not made yet is added. Refused for another root of the same name, or a root that overlaps another scope's.
    """
    valid_scope_name(names.scope)
    paths.validate(root)
    for reserved in (names.control, paths.SYSTEM_ROOT):
        if paths.contains(reserved, root):
            raise BadInput("a scope cannot lie here", root, f"{reserved} is never part of a migration")
    client.call(Sync(names.control))
    registrations, version = read_registry(client, names.control)
    existing = next((r for r in registrations if r.scope == names.scope), None)
    if existing:
        if existing.root != root:
            raise Refused(f"scope {names.scope!r} covers {existing.root} already", root, "choose another name")
        if not dry_run:
            _add_budgets(client, names)
        return InitResult(read_record(client, names)[0], created=False)
    for other in registrations:
        if paths.overlap(other.root, root):
            raise Refused(f"this root overlaps scope {other.scope!r} over {other.root}", root, "roots never overlap")
    state, missing = _first_state(client, root, allow_empty)
    record = Record(secrets.token_hex(INCARNATION_CHARS // 2), state, 0, root, base=state)
    check_transition("init_empty" if state is State.EMPTY else "init_stable", None, state)
    if not dry_run:
        _create_ancestors(client, missing)
        _create_control_root(client, names, roles, version)
        _create_scope(client, names, roles, registrations, max(version, 0), record)
    return InitResult(record, created=True, ancestors=missing)


def _add_budgets(client: Client, names: ControlPaths) -> None:
    """The directory that a scope made by an older zkmig lacks. Who may not create it is told by those who need it."""
    if not _exists(client, names.budgets):
        record, _ = read_record(client, names)
        create = Create(names.budgets, b"", read_roles(client, names).join_acl)
        client.call_reply(Multi((Check(names.incarnation(record.incarnation), -1), create)))


def _first_state(client: Client, root: str, allow_empty: bool) -> tuple[State, tuple[str, ...]]:
    """State to begin in, and the ancestors of the root that are missing, outermost first."""
    missing: list[str] = []
    ancestor = root
    while ancestor != "/":
        ancestor = paths.parent(ancestor)
        if _exists(client, ancestor):
            break
        missing.append(ancestor)
    children: list[str] = []
    if not missing and _exists(client, root):
        children = [name for name in client.call(GetChildren(root)).children if _counts(paths.join(root, "/" + name))]
    state = State.STABLE if children or allow_empty else State.EMPTY
    return state, tuple(reversed(missing))


def _counts(path: str) -> bool:
    return path not in (paths.SYSTEM_ROOT, paths.CONTROL_ROOT)


def _exists(client: Client, path: str) -> bool:
    reply = client.call_reply(Exists(path))
    if reply.error not in (0, Code.NO_NODE):
        raise error_for(reply.error, path, "exists")
    return reply.error == 0


def _create_ancestors(client: Client, missing: tuple[str, ...]) -> None:
    if not missing:
        return
    acl = client.call(GetAcl(paths.parent(missing[0]))).acl
    client.call(Multi(tuple(Create(path, b"", acl) for path in missing)))


def _create_control_root(client: Client, names: ControlPaths, roles: Roles, version: int) -> None:
    if version >= 0:
        return
    empty = json.dumps({"format": REGISTRY_FORMAT, "scopes": {}}).encode()
    missing = [path for path in _lineage(names.control) if not _exists(client, path)]
    nodes = [Create(path, b"", roles.read_acl) for path in missing]
    try:
        client.call(Multi((*nodes, Create(names.registry, empty, roles.read_acl))))
    except ServerError as error:
        if error.code != Code.NODE_EXISTS:  # somebody else's init came first: just as good
            raise


def _lineage(path: str) -> list[str]:
    """The path and its ancestors, outermost first, without "/"."""
    line: list[str] = []
    while path != "/":
        line.append(path)
        path = paths.parent(path)
    return line[::-1]


def _create_scope(
    client: Client,
    names: ControlPaths,
    roles: Roles,
    registrations: tuple[Registration, ...],
    registry_version: int,
    record: Record,
) -> None:
    scopes = {r.scope: r.root for r in registrations} | {names.scope: record.root}
    registry = json.dumps({"format": REGISTRY_FORMAT, "scopes": scopes}, sort_keys=True).encode()
    result = client.call_reply(
        Multi(
            (
                SetData(names.registry, registry, registry_version),
                Create(names.home, b"", roles.read_acl),
                Create(names.incarnation(record.incarnation), b"", roles.read_acl),
                Create(names.owner, b"", roles.read_acl),
                Create(names.acting, b"", roles.join_acl),
                Create(names.guards, b"", roles.join_acl),
                Create(names.readers, b"", roles.join_acl),
                Create(names.budgets, b"", roles.join_acl),
                Create(names.epochs, b"", roles.read_acl),
                Create(names.record, records.encode(record), roles.read_acl),
            )
        )
    )
    if result.error == 0:
        return
    assert isinstance(result.result, MultiResult)
    if result.result.code == Code.NO_AUTH:
        raise NotPermitted("not permitted to add a scope", names.registry, "authenticate as its admin: --auth-file")
    raise Refused("another init changed the scopes at the same time", names.registry, "run zkmig init again")
