"""init, and the committed epoch of a scope. Loads nothing that plans or applies: a script asks for it often."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

from zkmig.api.access import Access, SessionOptions, ensemble, open_scope
from zkmig.epoch import control as planes
from zkmig.epoch.control import ControlPaths, InitResult, Roles, default_roles, init_scope
from zkmig.epoch.record import Record
from zkmig.epoch.transitions import State
from zkmig.errors import BadInput, NotStable
from zkmig.model.acl import WORLD, Identity
from zkmig.model.path import CONTROL_ROOT, validate
from zkmig.wire.credential import Credential

_DIGEST_HASH = re.compile(r"[A-Za-z0-9+/]{27}=")  # base64 of a SHA-1


def init(
    location: str,
    scope: str,
    *,
    admins: Sequence[Identity | str] = (),
    readers: Sequence[Identity | str] = (),
    allow_empty: bool = False,
    control: str = CONTROL_ROOT,
    dry_run: bool = False,
    **session: Unpack[SessionOptions],
) -> InitResult:
    """Create a scope's record over the path of `location`: STABLE at epoch 0, EMPTY where there is no tree yet.

    admins: who may migrate; none given: this session's digest identities, else everybody. readers: who may read the
    record and register as a reader; none given: everybody. Over the same root again nothing is done; over another
    root, or one that overlaps another scope, Refused. BadInput if none of the admins is this session, which then could
    not write what it begins.
    """
    access = Access.of(**session)
    place = ensemble(location)
    names = ControlPaths(planes.valid_scope_name(scope), validate(control))
    admin_ids = tuple(_identity(one, access.auth) for one in admins)
    reader_ids = tuple(_identity(one, access.auth) for one in readers)
    with access.client(place) as client:
        roles = default_roles(client.identities)
        roles = Roles(admin_ids or roles.admin, reader_ids or roles.reader)
        _check_is_admin(roles, client.identities)
        return init_scope(client, names, place.path, roles, allow_empty=allow_empty, dry_run=dry_run)


def _identity(given: Identity | str, auth: Sequence[Credential]) -> Identity:
    return given if isinstance(given, Identity) else parse_identity(given, auth)


def parse_identity(text: str, auth: Sequence[Credential] = ()) -> Identity:
    """An identity as ACLs name it: world:anyone, ip:10.0.0.1, digest:user:HASH, or digest:user for one in `auth`.

    A password is never taken, and never repeated in the error.
    """
    scheme, colon, name = text.partition(":")
    if not colon or not scheme or not name:
        raise BadInput("not an identity", text if colon else "", "write world:anyone, ip:10.0.0.1 or digest:user")
    if scheme in ("auth", "super"):
        raise BadInput(f"no ACL can name {scheme}", "", "write world:anyone, ip:10.0.0.1 or digest:user")
    if scheme == "world" and name != "anyone":
        raise BadInput("the only world identity is anyone", text, "write world:anyone")
    if scheme == "digest":
        return _digest_identity(name, auth)
    return Identity(scheme, name)


def _digest_identity(name: str, auth: Sequence[Credential]) -> Identity:
    user, colon, digest = name.partition(":")
    if colon:
        if not _DIGEST_HASH.fullmatch(digest):
            raise BadInput(
                "what follows the user is not the hash that ACLs hold",
                f"digest:{user}",
                "write digest:user, and put digest:user:password into the file of --auth-file",
            )
        return Identity("digest", name)
    known = {c.identity for c in auth if c.identity is not None and c.identity.id.partition(":")[0] == user}
    if len(known) != 1:
        what = "several passwords are known" if known else "no password is known"
        raise BadInput(f"{what} for this user", f"digest:{user}", "check --auth-file, or write digest:user:HASH")
    (identity,) = known
    assert identity is not None
    return identity


def _check_is_admin(roles: Roles, identities: Sequence[Identity]) -> None:
    held = {*identities, WORLD}
    if held & set(roles.admin) or any(one.scheme == "super" for one in identities):
        return
    if any(one.scheme not in ("world", "digest", "ip") or "/" in one.id for one in roles.admin):
        return  # sasl, x509, address ranges: only the server knows
    raise BadInput(
        "none of the admins is this session, so it could not write the scope's record",
        "--admin",
        "give that admin's credential with --auth-file",
    )


@dataclass(frozen=True, slots=True)
class Committed:
    """The committed epoch of a scope, and whether it may be relied on now."""

    scope: str
    record: Record

    @property
    def epoch(self) -> int:
        return self.record.epoch

    @property
    def is_stable(self) -> bool:
        return self.record.state is State.STABLE and self.record.held is None

    def require_stable(self) -> None:
        """Raise NotStable unless the scope is STABLE and not held."""
        if self.is_stable:
            return
        held = self.record.held
        state = held.told() if held is not None else f"{self.record.state.value}"
        raise NotStable(f"the scope is {state}, the committed epoch is {self.epoch}", self.scope, "run zkmig status")


def committed(
    at: str,
    scope: str | None = None,
    *,
    control: str = CONTROL_ROOT,
    **session: Unpack[SessionOptions],
) -> Committed:
    """The committed epoch, read from the record alone."""
    with open_scope(Access.of(**session), at, scope, control) as (client, names):
        record, _ = planes.read_record(client, names)
        return Committed(names.scope, record)
