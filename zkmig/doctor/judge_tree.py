"""What is said of this program, the session, the tree, its scope and its quotas. Pure: facts in, findings out."""

from __future__ import annotations

from collections.abc import Iterator

from zkmig.doctor.access import PERMISSIONS, Access, Lacking, RoleAccess, is_masked_id
from zkmig.doctor.finding import NOTE, OK, PROBLEM, UNKNOWN, WARNING, Finding, some
from zkmig.doctor.seen import ScopeSeen, Seen
from zkmig.epoch.control import Roles
from zkmig.epoch.transitions import State
from zkmig.model import path as paths
from zkmig.model.acl import ADMIN, CREATE, DELETE, READ, WORLD, WRITE, Identity
from zkmig.model.quota import UNLIMITED, Quota

QUOTA_SHARE = 0.9
SESSION = "this session"


def judge_tree(seen: Seen) -> Iterator[Finding]:
    """All of it."""
    yield from _backend(seen)
    yield from _auth(seen)
    yield from _acl_checks(seen)
    yield from _kinds(seen)
    yield from _access(seen)
    yield from _scopes(seen)
    yield from _quotas(seen)


def _backend(seen: Seen) -> Iterator[Finding]:
    if seen.backend == "cython":
        yield Finding("backend", OK, "", "the compiled modules are in use (cython)")
    else:
        means = "the same results, several times slower; it matters from some 100,000 znodes on"
        todo = "install with a C compiler (pip install .), or unset ZKMIG_BACKEND"
        yield Finding("backend", NOTE, "", "plain Python is in use", means, todo)


# -- the session ------------------------------------------------------------------------------------------------------


def _auth(seen: Seen) -> Iterator[Finding]:
    hosts = seen.place.hosts_text
    known = [each for each in seen.identities if each.scheme != "ip"]
    if known:
        yield Finding("auth", OK, hosts, f"the session is {some(map(_shown, known))}")
    elif seen.schemes:
        what = f"credentials were given ({', '.join(seen.schemes)}), and the server names no identity for them"
        yield Finding("auth", WARNING, hosts, what, "ACLs may not let it in", "check the scheme and its provider")
    else:
        means = "it may do what everybody may; a scope that it creates is open to everybody"
        yield Finding("auth", NOTE, hosts, "no credentials: the session is world:anyone", means, "give --auth-file")
    if seen.is_super:
        means = "no ACL binds it, so what is said here of access says nothing about others"
        yield Finding("super", NOTE, hosts, "the session is super", means, "migrate as somebody of fewer rights")
    if seen.place.tls:
        yield Finding("encrypted", OK, hosts, "the location is zks://: sessions are encrypted, servers verified")
    elif all(member.is_loopback for member in seen.members):
        yield Finding("clear", OK, hosts, "no TLS; nothing leaves this machine")
    elif "digest" in seen.schemes:
        means = "whoever listens on the way gets the password, and all data"
        yield Finding("clear", WARNING, hosts, "a password is sent without TLS", means, "serve TLS and write zks://")
    else:
        yield Finding("clear", NOTE, hosts, "no TLS", "data can be read and changed on the way", "write zks://")


def _shown(identity: Identity) -> str:
    name = identity.id.partition(":")[0] if identity.scheme == "digest" else identity.id
    return f"{identity.scheme}:{name}" if name else identity.scheme


def _acl_checks(seen: Seen) -> Iterator[Finding]:
    """skipACL is a setting of each server: the leader's counts for writes, each member's own for reads."""
    means = "ACLs are kept and not obeyed: anybody may {}, and what zkmig says of access does not hold"
    todo = "start the servers without zookeeper.skipACL=yes; ACLs carried over bind again from then on"
    lenient = [member for member in seen.members if member.lets_read]
    if seen.may_be_super and not seen.is_super and (lenient or (seen.asked and seen.asked.writes_unchecked)):
        what = "the session may do what ACLs keep from it: skipACL is set, or it is super"
        means_either = "a server before 3.7 does not tell who a session is"
        yield Finding(
            "acl-unknown", UNKNOWN, seen.place.hosts_text, what, means_either, "ask as somebody of fewer rights"
        )
        return
    if lenient and not seen.is_super:
        what = f"it lets the session read what its ACL keeps from it, {lenient[0].lets_read[0]} first (skipACL)"
        yield Finding("acl-skipped", PROBLEM, some(m.name for m in lenient), what, means.format("read there"), todo)
        strict = [member for member in seen.members if not member.lets_read and not member.fault]
        if strict:
            what = "some members look at ACLs and some do not"
            yield Finding("acl-differs", PROBLEM, some(m.name for m in strict), what, "access depends on who answers")
    if seen.asked is None:
        why = seen.asked_fault or "not asked (--reads-only)"
        yield Finding("acl-unknown", UNKNOWN, "", f"whether writes are held against ACLs: {why}")
    elif seen.asked.writes_unchecked:
        what = "the leader does not look at ACLs when somebody writes (skipACL)"
        yield Finding("acl-skipped", PROBLEM, seen.place.hosts_text, what, means.format("write"), todo)
    elif seen.asked.writes_unchecked is None:
        what = "whether writes are held against ACLs could not be asked"
        means = "the session is super, or may write /zookeeper/config"
        yield Finding("acl-unknown", UNKNOWN, seen.place.hosts_text, what, means, "ask as somebody of fewer rights")
    else:
        yield Finding("acl-checked", OK, seen.place.hosts_text, "writes are held against ACLs")


def _kinds(seen: Seen) -> Iterator[Finding]:
    asked = seen.asked
    if asked is None:
        why = seen.asked_fault or "not asked (--reads-only)"
        yield Finding("kinds-unknown", UNKNOWN, "", f"whether TTL and container nodes are admitted: {why}")
        return
    where = seen.place.hosts_text
    if asked.ttl:
        means = "" if seen.is_standalone else "the leader was asked; every server needs the setting"
        yield Finding("ttl", OK, where, "TTL nodes are admitted", means)
    elif asked.ttl is False:
        means = "a plan with rules that make TTL nodes is refused"
        todo = "start every server with zookeeper.extendedTypesEnabled=true, if TTL nodes are wanted"
        yield Finding("ttl-off", NOTE, where, "TTL nodes are not admitted", means, todo)
    else:
        yield Finding("kinds-unknown", UNKNOWN, where, "whether TTL nodes are admitted did not come out")
    if asked.containers is False:
        what, means = "container nodes are not admitted", "a plan with rules that make containers is refused"
        yield Finding("containers-off", NOTE, where, what, means)


# -- the tree ---------------------------------------------------------------------------------------------------------

_NEEDED = {
    READ: (PROBLEM, "snapshot, diff, plan and verify are refused there: nothing is left out in silence"),
    WRITE: (WARNING, "a plan that changes their data is refused"),
    CREATE: (WARNING, "a plan that creates below them, or raises their counters, is refused"),
    DELETE: (WARNING, "a plan that deletes below them is refused"),
    ADMIN: (WARNING, "a plan that changes their ACLs is refused, and their digest ids are shown masked"),
}
_VERBS = {CREATE: "create children of", DELETE: "delete children of", ADMIN: "set ACLs of"}
_GIVE = "give credentials that may (--auth-file), or leave them out with --exclude"


def _access(seen: Seen) -> Iterator[Finding]:
    access, path = seen.access, seen.place.path
    if access is None:
        return
    if not access.is_there:
        what, means = "there is no such znode", "nothing can be read there; a plan may create it"
        yield Finding("path-absent", NOTE, path, what, means, "check the path, a chroot included")
        return
    if seen.is_super:
        yield Finding("access", OK, path, f"super may do everything with its {access.nodes} znodes")
    elif access.closed.count:
        what = f"{_nodes(access.closed)} may not be read or listed: {some_of(access.closed)}"
        yield Finding("access-read", PROBLEM, path, what, f"what lies below is unknown; {_NEEDED[READ][1]}", _GIVE)
    session, *others = access.roles
    if not seen.is_super:
        yield from _session_access(session, access, path)
    for role in others:
        yield from _role_access(role, path)
    for each in seen.scopes:
        masked = [] if each.roles is None else [one for one in _all_of(each.roles) if is_masked_id(one)]
        if masked:
            what = f"what {some(map(_shown, masked))} of scope {each.registration.scope} may do was not looked at"
            means = "without ADMIN the servers mask who that is"
            todo = "ask again with an admin's credentials"
            yield Finding("access-role", UNKNOWN, path, what, means, todo)


def _all_of(roles: Roles) -> tuple[Identity, ...]:
    return tuple(dict.fromkeys((*roles.admin, *roles.reader)))


def _session_access(role: RoleAccess, access: Access, path: str) -> Iterator[Finding]:
    for bit, name in PERMISSIONS.items():
        severity, means = _NEEDED[bit]
        lacking, unsure = role.lacking[bit], role.unsure[bit]
        code = "access-" + ("acl" if bit == ADMIN else name)
        verb = _VERBS.get(bit, name)
        if lacking.count:
            what = f"{SESSION} may not {verb} {_nodes(lacking)} of {access.nodes}: {some_of(lacking)}"
            yield Finding(code, severity, path, what, means, _GIVE)
        if unsure.count:
            what = f"whether {SESSION} may {verb} {_nodes(unsure)} only the server knows: {some_of(unsure)}"
            yield Finding(
                "access-unknown", UNKNOWN, path, what, "their ACLs name schemes or masked ids", "zkmig plan asks"
            )
        if not lacking.count and not unsure.count and not access.closed.count:
            yield Finding(code, OK, path, f"{SESSION} may {verb} all {access.nodes} znodes")


def _role_access(role: RoleAccess, path: str) -> Iterator[Finding]:
    """Readers have to read; admins have to do all of it."""
    is_reader = role.name.startswith("reader")
    needed = {bit: _VERBS.get(bit, name) for bit, name in PERMISSIONS.items() if bit == READ or not is_reader}
    for bit, verb in needed.items():
        lacking, unsure = role.lacking[bit], role.unsure[bit]
        if lacking.count:
            what = f"{role.name} may not {verb} {_nodes(lacking)} of {role.nodes}: {some_of(lacking)}"
            means = "a Reader of that identity gets no whole view" if is_reader else _NEEDED[bit][1]
            todo = "widen their ACLs, or name other identities with zkmig init"
            yield Finding("access-role", WARNING if is_reader else NOTE, path, what, means, todo)
        if unsure.count:
            what = f"whether {role.name} may {verb} {_nodes(unsure)} only the server knows: {some_of(unsure)}"
            means = "their ACLs name schemes or masked ids"
            yield Finding("access-role", UNKNOWN, path, what, means, "try it with that identity's credentials")
    if role.unseen.count:
        what = f"what {role.name} may do is not known at {_nodes(role.unseen)} and below: {some_of(role.unseen)}"
        means = f"they are closed to {SESSION}"
        yield Finding("access-role", UNKNOWN, path, what, means, "ask again with credentials that may read them")
    if role.nodes and not role.unseen.count and not any(role.lacking[b].count + role.unsure[b].count for b in needed):
        what = f"{role.name}: nothing is kept from it here that it needs, as far as ACLs tell"
        yield Finding("access-role", OK, path, what)


def _nodes(lacking: Lacking) -> str:
    return f"{lacking.count} znode{'s' if lacking.count != 1 else ''}"


def some_of(lacking: Lacking) -> str:
    """The first paths, and how many more."""
    more = lacking.count - len(lacking.paths)
    return ", ".join(lacking.paths) + (f" and {more} more" if more else "")


# -- scopes -----------------------------------------------------------------------------------------------------------


def _scopes(seen: Seen) -> Iterator[Finding]:
    where = seen.place.path
    if seen.scopes_fault:
        yield Finding("scope-unknown", UNKNOWN, seen.control, f"the scopes cannot be told: {seen.scopes_fault}")
        return
    if not seen.scopes:
        means = "nothing guards its readers, and a plan for it cannot be applied"
        todo = f"zkmig init {seen.place} --scope NAME" if where != "/" else "zkmig init LOCATION --scope NAME"
        yield Finding("scope-none", NOTE, where, f"no scope under {seen.control} covers it", means, todo)
    for each in seen.scopes:
        yield from _scope(each, seen)


def _scope(each: ScopeSeen, seen: Seen) -> Iterator[Finding]:
    name, root = each.registration.scope, each.registration.root
    record = each.record
    if record is None:
        what = f"scope {name}: its record cannot be read: {each.fault}"
        yield Finding("scope-unknown", UNKNOWN, root, what, "its readers and guards stand still", "zkmig status")
        return
    what = f"scope {name}: {record.state.value} at epoch {record.epoch}"
    if record.held is not None:
        means = "nothing begins and nobody acts until it is released"
        yield Finding("scope-held", NOTE, root, f"{what}, {record.held.told()}", means, "zkmig release")
    if record.state in (State.STABLE, State.EMPTY):
        yield Finding("scope", OK, root, what)
    else:
        alive = each.owner is not None and each.owner.alive
        means = "a migrator is at work" if alive else "a migration was left unfinished, and nobody works on it"
        yield Finding("scope-open", NOTE if alive else WARNING, root, what, means, "zkmig status says what can follow")
    yield from _role_of_session(each, seen)


def _role_of_session(each: ScopeSeen, seen: Seen) -> Iterator[Finding]:
    if each.roles is None:
        return
    held = {*seen.identities, WORLD}
    name, root = each.registration.scope, each.registration.root
    if seen.is_super or held & set(each.roles.admin):
        yield Finding("role", OK, root, f"scope {name}: {SESSION} is an admin, and may migrate it")
    else:  # it has read the record
        what = f"scope {name}: {SESSION} is a reader and, as far as can be told, no admin"
        todo = "give an admin's credentials with --auth-file"
        yield Finding("role", NOTE, root, what, "it may look, and not migrate", todo)


# -- quotas -----------------------------------------------------------------------------------------------------------


def _quotas(seen: Seen) -> Iterator[Finding]:
    if seen.quotas_fault:
        yield Finding("quota-unknown", UNKNOWN, seen.place.path, f"quotas cannot be read: {seen.quotas_fault}")
        return
    if not seen.quotas:
        yield Finding("quota-none", OK, seen.place.path, "no quota on it, above it or below it")
    for quota in seen.quotas:
        yield _quota(quota, seen.usage.get(quota.path), seen.place.path)


def _quota(quota: Quota, usage: tuple[int, int] | None, root: str) -> Finding:
    if not quota.is_readable:
        what = "quota: it is not made of numbers"
        means = "servers that enforce quotas (enforceQuota) refuse each create and write below it"
        return Finding("quota", WARNING, quota.path, what, means, "set it anew (zkCli: setquota), or delete it")
    nodes, size = usage or (0, 0)
    parts, worst = [], OK
    for kind, limit, used, unit in (
        ("hard", quota.count_hard, nodes, "nodes"),
        ("hard", quota.bytes_hard, size, "bytes"),
        ("soft", quota.count_soft, nodes, "nodes"),
        ("soft", quota.bytes_soft, size, "bytes"),
    ):
        if limit == UNLIMITED:
            continue
        parts.append(f"{used if usage else '?'} of {limit} {unit} ({kind})")
        if used > limit or (kind == "hard" and used > QUOTA_SHARE * limit):
            worst = PROBLEM if kind == "hard" and used >= limit else WARNING if worst is OK else worst
    what = f"quota: {', '.join(parts) or 'of no known kind'}" + (
        "" if usage else "; how much is used, no server counts"
    )
    if quota.path != root and paths.contains(quota.path, root):
        what += "; it lies above, and others use it up as well"
    means = "hard limits refuse creates and writes where the servers enforce them (enforceQuota); soft ones are logged"
    severity = NOTE if worst is OK else worst
    todo = "raise it before the window (zkCli: setquota)" if severity is not NOTE else "plan reckons with it"
    return Finding("quota", severity, quota.path, what, means, todo)
