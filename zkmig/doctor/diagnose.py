"""The examination: look at the members, at the tree, at the members again; then judge. Nothing is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from zkmig import backend
from zkmig.doctor import access as looking
from zkmig.doctor.access import RoleAccess, is_masked_id
from zkmig.doctor.finding import Diagnosis, ordered
from zkmig.doctor.judge_members import judge_members, member_faults
from zkmig.doctor.judge_tree import SESSION, judge_tree
from zkmig.doctor.members import Asking, Member, catch_up, examine, look_again, members_of, share_session
from zkmig.doctor.questions import ask_leader
from zkmig.doctor.seen import ScopeSeen, Seen
from zkmig.epoch.control import ControlPaths, Registration, read_record, read_registry, read_roles
from zkmig.epoch.owner import read_owner
from zkmig.errors import BadInput, Stopped, Unreachable, ZkmigError
from zkmig.model import path as paths
from zkmig.model.scope import Scope
from zkmig.source.location import EnsembleLocation
from zkmig.source.quotas import read_quotas_around, read_usage
from zkmig.wire.client import Client

LEVEL_TIMEOUT_S: Final = 3.0
LEVEL_PAUSE_S: Final = 0.1
"""How long a member may take to apply what was committed, and between two looks."""


def diagnose(
    place: EnsembleLocation,
    client: Client,
    asking: Asking,
    *,
    session_ms: int,
    control: str,
    reads_only: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Diagnosis:
    """Everything that can be found out about one location.

    client: of the whole ensemble, not opened yet. session_ms: as it asks for. reads_only: ask nothing that takes a
    zxid but sessions; what only an attempt could tell is then "unknown". progress: called now and then with the number
    of znodes looked at. Raises Unreachable where no member takes a session, NotPermitted for a refused credential,
    Stopped.
    """
    members = members_of(place.hosts, asking)
    try:
        client.connect()
    except Unreachable as error:
        # As it is now, since what was heard before may be over; who said nothing then is not waited for again.
        heard = any(not member.told.fault for member in members)
        if heard and (told := member_faults(members_of(place.hosts, asking))):
            error.what += f"; {told}"
        raise
    seen = Seen(place, backend.name(), members, session_ms=session_ms, control=control)
    seen.schemes = tuple(dict.fromkeys(each.scheme for each in asking.auth))
    _look_at_tree(seen, client, reads_only, progress)
    closed = seen.access.unreadable if seen.access is not None and not seen.is_super else ()
    seen.zxid_wanted = catch_up(client, place.path)
    for member in members:
        examine(member, asking, seen.zxid_wanted, closed)
    up = [member for member in members if not member.fault]
    for other in up[1:]:
        share_session(up[0], other, asking)
    _wait_until_level(seen, up, asking)
    return Diagnosis(str(place), ordered([*judge_members(seen, time.time()), *judge_tree(seen)]))


def _look_at_tree(seen: Seen, client: Client, reads_only: bool, progress: Callable[[int], None] | None) -> None:
    seen.identities = client.identities
    _look_at_scopes(seen, client)
    scope = Scope(seen.place.path, tuple(dict.fromkeys((paths.SYSTEM_ROOT, paths.CONTROL_ROOT, seen.control))))
    if not scope.covers(scope.root):
        raise BadInput("neither the server's own tree nor a control plane is migrated", scope.root, "name another path")
    roles = [RoleAccess(SESSION, seen.identities)]
    for each in seen.scopes:
        if each.roles is not None:
            for what, identities in (("admin", each.roles.admin), ("reader", each.roles.reader)):
                for one in identities:
                    if is_masked_id(one):
                        continue  # the real id is kept from this session, and judge_tree says so
                    id_shown = one.id.partition(":")[0] if one.scheme == "digest" else one.id
                    name = f"{what} {one.scheme}:{id_shown} of scope {each.registration.scope}"
                    roles.append(RoleAccess(name, (one,), each.registration.root))
    seen.access = looking.look(client, scope, roles, progress)
    _look_at_quotas(seen, client)
    if not reads_only:
        try:
            seen.asked = ask_leader(client, seen.place.path, seen.identities)
        except Stopped:
            raise
        except ZkmigError as error:
            seen.asked_fault = str(error)


def _look_at_quotas(seen: Seen, client: Client) -> None:
    try:
        quotas = read_quotas_around(client, seen.place.path)
        usage = read_usage(client, quotas)
    except Stopped:
        raise
    except ZkmigError as error:
        seen.quotas_fault = str(error)
    else:
        seen.quotas, seen.usage = quotas, usage


def _look_at_scopes(seen: Seen, client: Client) -> None:
    try:
        registrations, _ = read_registry(client, seen.control)
    except Stopped:
        raise
    except ZkmigError as error:
        seen.scopes_fault = str(error)
        return
    for one in registrations:
        if paths.overlap(one.root, seen.place.path):
            seen.scopes.append(_scope(client, one, seen.control))


def _scope(client: Client, one: Registration, control: str) -> ScopeSeen:
    names = ControlPaths(one.scope, control)
    try:
        record, _ = read_record(client, names)
        return ScopeSeen(one, record, read_owner(client, names), read_roles(client, names))
    except Stopped:
        raise
    except ZkmigError as error:
        return ScopeSeen(one, fault=str(error))


def _wait_until_level(seen: Seen, members: list[Member], asking: Asking) -> None:
    """Members that srvr shows behind get a moment: what is committed takes its time to arrive."""
    deadline = time.monotonic() + LEVEL_TIMEOUT_S
    behind = members
    while True:
        for member in behind:
            look_again(member, asking)
        behind = [member for member in behind if member.zxid is not None and member.zxid < seen.zxid_wanted]
        if not behind or time.monotonic() > deadline:
            return
        time.sleep(LEVEL_PAUSE_S)
        asking.check_stop()
