"""What is said of the members: of each alone, and of all together. Pure: facts in, findings out."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from zkmig.doctor.finding import NOTE, OK, PROBLEM, UNKNOWN, WARNING, Finding, some
from zkmig.doctor.members import FRAME_BYTES_ASKED, Member, servers_in
from zkmig.doctor.seen import Seen
from zkmig.doctor.versions import FLOOR, MAINTAINED, foreign_name, known_bugs, version_in
from zkmig.plan.plan import BATCH_FRAME_BYTES_MAX
from zkmig.wire.requests import FRAME_BYTES_MAX_DEFAULT

COMMIT_LOG_COUNT: Final = 500
"""Transactions that a server keeps in its heap unless told otherwise (zookeeper.commitLogCount)."""
HEAP_PER_FRAME: Final = 3
"""Bytes of heap that each byte of such a frame takes, about [zookeeper-facts 37]."""

_MEGABYTES: Final = re.compile(r"([0-9]{1,9})MB")
_COUNT: Final = re.compile(r"[0-9]{1,18}")
DESCRIPTORS_SHARE: Final = 0.9
CERTIFICATE_DAYS: Final = 14
_ALLOW = "allow it on each server: 4lw.commands.whitelist=srvr,mntr,envi"


def judge_members(seen: Seen, now: float) -> Iterator[Finding]:
    """now: Unix seconds."""
    yield from _reached(seen)
    yield from _versions(seen)
    yield from _modes(seen)
    yield from _ensemble(seen)
    yield from _in_sync(seen)
    yield from _frames(seen)
    for member in seen.members:
        yield from _heap(member)
        yield from _health(member)
        yield from _tls(member, seen.place.tls, now)
    yield from _sessions(seen)


def _names(members: Iterable[Member]) -> str:
    return some([member.name for member in members])


def _serving(seen: Seen) -> list[Member]:
    return [member for member in seen.members if not member.fault]


# -- is it there ------------------------------------------------------------------------------------------------------


def _reached(seen: Seen) -> Iterator[Finding]:
    for member in seen.members:
        if member.told.not_serving:
            what = "it says that it serves nobody now" + (f"; a session: {member.fault}" if member.fault else "")
            todo = "look at its log and at the quorum's ports between the members"
            yield Finding("not-serving", PROBLEM, member.name, what, "it has no quorum, or is just joining", todo)
        elif member.fault:
            yield Finding(
                "member-down",
                PROBLEM,
                member.name,
                f"it takes no session: {member.fault}",
                "one member less; a migration's writes stop once half of them are gone",
                "bring it back, and let it catch up, before the window",
            )
    up = _serving(seen)
    if up and len(up) == len(seen.members):
        yield Finding("members-up", OK, _names(up), f"{len(up)} of {len(up)} members take sessions")
    by_words = defaultdict(list)
    for member in seen.members:
        by_words[tuple(member.told.refused)].append(member)
    for words, members in sorted(by_words.items()):
        if words:
            what = f"four-letter words are not allowed: {', '.join(words)}"
            means = f"not known: {'; '.join(_TELLS[word] for word in words)}"
            yield Finding("words-refused", UNKNOWN, _names(members), what, means, _ALLOW)
    for member in up:
        told = member.told
        untold = [] if told.not_serving else [word for word in _TELLS if not told.answers.get(word)]
        untold = [word for word in untold if word not in told.refused]
        if untold:
            what = (
                "it answers no four-letter words" if len(untold) == len(_TELLS) else f"no answer to {', '.join(untold)}"
            )
            what += f": {told.fault or 'it hung up without one'}"
            means = f"not known: {'; '.join(_TELLS[word] for word in untold)}"
            yield Finding("words-silent", UNKNOWN, member.name, what, means, "is a proxy or a firewall in between?")


_TELLS = {
    "srvr": "its version and role, and how far it is",
    "mntr": "open files, followers in sync, digests that differ",
    "envi": "how large its heap is",
}


# -- versions ---------------------------------------------------------------------------------------------------------


def _versions(seen: Seen) -> Iterator[Finding]:
    by_version = defaultdict(list)
    for member in seen.members:
        text = member.told.answers.get("srvr", "")
        version = version_in(text)
        if version is not None:
            by_version[version].append(member)
        elif name := foreign_name(text):
            what = f"it is no Apache ZooKeeper: {name}"
            means = "counters, watches and sessions work in another way there; zkmig is not proven on it"
            yield Finding("not-zookeeper", PROBLEM, member.name, what, means, "do not migrate to it or from it")
        elif not member.fault or member.told.answers:
            yield _version_by_what_it_knows(member)
    for version, members in sorted(by_version.items()):
        where = _names(members)
        if version < FLOOR:
            what = f"ZooKeeper {version} is older than {FLOOR}"
            means = "no snapshot of one state, no persistent watches: zkmig cannot vouch for what it reads"
            yield Finding("version-too-old", PROBLEM, where, what, means, "upgrade it first")
            continue
        if version[:2] < MAINTAINED:
            what = f"ZooKeeper {version}: its project repairs this line no more"
            means = "faults that are found are not mended there"
            yield Finding("version-ended", WARNING, where, what, means, "upgrade to 3.8 or later")
        else:
            yield Finding("version", OK, where, f"ZooKeeper {version}")
        for bug in known_bugs(version):
            is_moot = bug.quorum_only and seen.is_standalone
            yield Finding(
                "known-bug",
                NOTE if is_moot else bug.severity,
                where,
                f"{bug.id} in {version}: {bug.what}" + ("; not met by a server that stands alone" if is_moot else ""),
                bug.means,
                f"upgrade to {bug.way_out(version)} or later (or a package that has the fix)"
                + (f"; {bug.todo}" if bug.todo else ""),
            )
    if len(by_version) > 1:
        what = f"members run different releases: {', '.join(map(str, sorted(by_version)))}"
        means = "what one takes, another may refuse, and the leader may change at any time"
        yield Finding("version-mixed", WARNING, _names(seen.members), what, means, "finish the upgrade first")


def _version_by_what_it_knows(member: Member) -> Finding:
    if member.has_multi_read:
        what, means = "its version is not known, but it is 3.6 or later", "known bugs of its version are not known"
        return Finding("version-unknown", UNKNOWN, member.name, what, means, _ALLOW)
    if member.has_multi_read is False:
        what = f"its version is not known; it knows no multiRead, so it is older than {FLOOR}"
        means = "no snapshot of one state: zkmig cannot vouch for what it reads"
        return Finding("version-too-old", PROBLEM, member.name, what, means, "upgrade it first")
    return Finding("version-unknown", UNKNOWN, member.name, "its version is not known", "", _ALLOW)


# -- the ensemble -----------------------------------------------------------------------------------------------------


def _modes(seen: Seen) -> Iterator[Finding]:
    roles = defaultdict(list)
    for member in seen.members:
        roles[member.mode].append(member)
    if roles["observer"]:
        means = "it does not vote; it shows what was committed, later than followers do"
        yield Finding("observer", NOTE, _names(roles["observer"]), "an observer", means)
    if roles["read-only"]:
        what, means = "it is cut off from the quorum and only reads", "what it shows is old, and nobody can write there"
        yield Finding("read-only", PROBLEM, _names(roles["read-only"]), what, means, "mend the quorum first")
    if len(roles["leader"]) > 1:
        what = "two members call themselves leader"
        means = "they are of different ensembles, or one is just losing its office"
        yield Finding("leaders", PROBLEM, _names(roles["leader"]), what, means, "look again; then check the addresses")
    elif roles["leader"]:
        yield Finding("leader", OK, roles["leader"][0].name, f"it leads; {len(roles['follower'])} named members follow")
    if seen.is_standalone:
        what, means = "a server that stands alone", "no other copy of the data; a restart stops a migration meanwhile"
        yield Finding("standalone", NOTE, seen.members[0].name, what, means, "take a snapshot first: zkmig snapshot")


def _ensemble(seen: Seen) -> Iterator[Finding]:
    configs = {member.name: member.config for member in seen.members if member.config}
    strangers = [member for member in seen.members if member.shares_session is False]
    first = next(iter(_serving(seen)), None)  # the one whose sessions were tried at the others
    for member in strangers:
        if first is not None and member.config and member.config == first.config:
            what = "its sessions are known to itself alone (localSessionsEnabled)"
            means = "a session that loses its connection cannot go on at another member"
            yield Finding("sessions-local", NOTE, member.name, what, means, "name one member if that happens often")
        elif first is not None:
            what = f"it knows nothing of a session of {first.name}: they are not of one ensemble"
            means = "what is read depends on which of them answers; a migration would write now here, now there"
            yield Finding("not-one-ensemble", PROBLEM, member.name, what, means, "check the addresses of the location")
    if first is not None:
        for member in _untried(seen):
            what = f"whether it is of one ensemble with {first.name} could not be tried"
            means = "if it is not, what is read depends on which of them answers"
            yield Finding("ensemble-unknown", UNKNOWN, member.name, what, means, "check the addresses of the location")
    texts = {text.strip() for text in configs.values()}
    if not texts:
        untold = [member for member in _serving(seen) if member.config is None]
        if untold and not seen.is_standalone:
            what = "which members the ensemble has is not known: /zookeeper/config is not there, or may not be read"
            means = "not known: whether the location names all of them, and how many more a quorum can lose"
            todo = "count them yourself, and name all members in the location"
            yield Finding("config-unknown", UNKNOWN, _names(untold), what, means, todo)
        return
    largest = max(texts, key=len)
    servers = dict(servers_in(largest))
    if len(servers) > len(seen.members):
        yield Finding(
            "members-not-named",
            WARNING,
            seen.place.hosts_text,
            f"the ensemble has {len(servers)} members, the location names {len(seen.members)}",
            "of the others neither version nor frame limit is known; a large transaction may throw one of them out",
            "name all members in the location",
        )
    if len(texts) > 1:
        what = "members know different configurations of the ensemble"
        means = "a reconfiguration is under way, or one of them was missed"
        yield Finding("config-differs", WARNING, some(sorted(configs)), what, means, "see /zookeeper/config at each")
    voters = [number for number, role in servers.items() if role == "participant"]
    named = [member for member in seen.members if member.mode != "observer"]
    up = [member for member in named if not member.fault]
    most = len(up) + max(0, len(servers) - len(seen.members))  # those that the location does not name may serve
    if len(voters) > 1 and most <= len(voters) // 2 + 1 and len(up) < min(len(voters), len(named)):
        what = f"{'at most ' if most > len(up) else ''}{most} of {len(voters)} voting members serve"
        means = "one more lost, and nobody can write: a migration would stand still"
        yield Finding("quorum-thin", PROBLEM, seen.place.hosts_text, what, means, "bring the others back first")


def _untried(seen: Seen) -> list[Member]:
    """Members of which nothing tells whether they are of one ensemble with the first that serves."""
    up = _serving(seen)
    return [
        member
        for member in up[1:]
        if member.shares_session is None and not (member.config and member.config == up[0].config)
    ]


def _in_sync(seen: Seen) -> Iterator[Finding]:
    untried = _untried(seen)
    up = [member for member in _serving(seen) if member.shares_session is not False and member not in untried]
    if len(up) < 2:
        return
    behind = [member for member in up if member.lags or (member.zxid or seen.zxid_wanted) < seen.zxid_wanted]
    for member in behind:
        what = f"it takes no session that has seen zxid {seen.zxid_wanted:#x}, committed seconds before"
        if member.zxid is not None and member.zxid < seen.zxid_wanted:
            is_same = member.zxid >> 32 == seen.zxid_wanted >> 32
            distance = f"{seen.zxid_wanted - member.zxid} transactions" if is_same else "a zxid epoch"
            what = f"it is at zxid {member.zxid:#x}, {distance} behind what was committed seconds before"
        means = "readers there see an old tree; it takes no session that has seen more"
        todo = "see its log, disk and network; wait until it is level"
        yield Finding("behind", PROBLEM, member.name, what, means, todo)
    silent = [member for member in up if member.zxid is None]
    if not behind:
        how = "each took a session that had seen it" if silent else "by srvr, and by a session at each"
        yield Finding("in-sync", OK, _names(up), f"all have applied zxid {seen.zxid_wanted:#x}: {how}")
    if silent:
        what = "how far it is without a session is not known: srvr does not tell"
        yield Finding("sync-unknown", UNKNOWN, _names(silent), what, "a session waits for a member that lags", _ALLOW)


# -- frames and heap --------------------------------------------------------------------------------------------------


def _frames(seen: Seen) -> Iterator[Finding]:
    up = _serving(seen)
    for member in up:
        if member.frame_bytes is None and member.frame_fault:
            what = f"its frame limit could not be tried: {member.frame_fault}"
            means = "a larger transaction than it takes would throw it out of the quorum"
            yield Finding("frame-unknown", UNKNOWN, member.name, what, means, "look for jute.maxbuffer in its settings")
    limits = {member.name: member.frame_bytes for member in up if member.frame_bytes is not None}
    by_limit = defaultdict(list)
    for name, limit in limits.items():
        by_limit[limit].append(name)
    for limit, names in sorted(by_limit.items()):
        size = f"{limit} bytes" + (" or more" if limit >= FRAME_BYTES_ASKED else "")
        what = f"it takes frames of {size} (jute.maxbuffer)"
        if limit < BATCH_FRAME_BYTES_MAX:
            means = f"less than a usual batch of {BATCH_FRAME_BYTES_MAX} bytes: apply would be refused or cut off"
            todo = f"raise jute.maxbuffer on every server, or plan with --batch-bytes {max(limit // 2, 1024)}"
            yield Finding("frame-small", PROBLEM, some(names), what, means, todo)
        elif limit < FRAME_BYTES_MAX_DEFAULT:
            means = "nodes that other ensembles hold may not fit, nor a single shot"
            todo = f"raise jute.maxbuffer on every server to its default of {FRAME_BYTES_MAX_DEFAULT}"
            yield Finding("frame-small", WARNING, some(names), what, means, todo)
        else:
            yield Finding("frame-limit", OK, some(names), what)
    if len(by_limit) > 1:
        least = min(by_limit)
        what = f"members take different frames: {least} to {max(by_limit)} bytes"
        means = "a transaction that the leader takes and a follower does not throws the follower out of the quorum"
        todo = "give every server the same jute.maxbuffer; plans keep to the least until then"
        yield Finding("frame-differs", PROBLEM, some(by_limit[least]), what, means, todo)


def _heap(member: Member) -> Iterator[Finding]:
    """Held against the transactions that a server keeps in memory [zookeeper-facts 37]."""
    told = _MEGABYTES.fullmatch(member.told.envi().get("os.memory.max", ""))
    if told is None:
        if not member.fault:
            todo = _ALLOW if "envi" in member.told.refused else "look for -Xmx in its settings"
            means = f"a server keeps its last {COMMIT_LOG_COUNT} transactions in memory; large ones kill a small heap"
            yield Finding("heap-unknown", UNKNOWN, member.name, "how large its heap is, is not told", means, todo)
        return
    heap = int(told[1]) << 20
    usual = _kept(BATCH_FRAME_BYTES_MAX)
    full = _kept(member.frame_bytes or FRAME_BYTES_MAX_DEFAULT)
    what = f"heap {heap >> 20} MB; {COMMIT_LOG_COUNT} usual batches take {usual >> 20} MB of it"
    if usual * 2 > heap:
        means = "a large migration may fill the heap, and the server dies with it"
        todo = f"give it more (-Xmx), or plan with --batch-bytes {_batch_for(heap)}"
        yield Finding("heap-small", WARNING, member.name, what, means, todo)
    elif full * 2 > heap:
        means = f"{COMMIT_LOG_COUNT} frames of the most that it takes would need {full >> 20} MB"
        yield Finding(
            "heap", NOTE, member.name, what, means, "keep --batch-bytes as it is; large nodes in small numbers"
        )
    else:
        yield Finding("heap", OK, member.name, what)


def _kept(frame_bytes: int) -> int:
    return COMMIT_LOG_COUNT * HEAP_PER_FRAME * frame_bytes


def _batch_for(heap: int) -> int:
    return max(1024, 1 << int(math.log2(max(2, heap // (2 * COMMIT_LOG_COUNT * HEAP_PER_FRAME)))))


def _health(member: Member) -> Iterator[Finding]:
    mntr = member.told.mntr()

    def number(name: str) -> int | None:
        return int(mntr[name]) if _COUNT.fullmatch(mntr.get(name, "")) else None

    mismatches = number("zk_digest_mismatches_count")
    if mismatches:
        what = f"its tree differed from the leader's by digest, {mismatches} times since it started"
        means = "members show different trees: what was read at one need not hold at another"
        todo = "take it out, delete its data directory, and let it join anew"
        yield Finding("digest-differs", PROBLEM, member.name, what, means, todo)
    used, most = number("zk_open_file_descriptor_count"), number("zk_max_file_descriptor_count")
    if used is not None and most and used > DESCRIPTORS_SHARE * most:
        what = f"{used} of {most} open files"
        means = "soon it takes no more connections, those of a migration included"
        yield Finding("files", WARNING, member.name, what, means, "raise its limit (ulimit -n), or close clients")
    learners = number("zk_learners") if "zk_learners" in mntr else number("zk_followers")
    synced = number("zk_synced_followers")
    observers = number("zk_synced_observers") or 0
    if learners is not None and synced is not None and synced + observers < learners:
        what = f"of its {learners} learners {synced + observers} are in sync"
        yield Finding("followers-joining", WARNING, member.name, what, "a quorum may be thin", "wait for them")


# -- how one gets there -----------------------------------------------------------------------------------------------


def _tls(member: Member, wanted: bool, now: float) -> Iterator[Finding]:
    seen = member.told.tls
    if not wanted or seen is None:
        return
    what = f"{seen.version}, {seen.cipher}"
    if seen.not_after is not None:
        days = int((seen.not_after - now) // 86_400)
        what += f"; its certificate ends in {days} days"
        if days < CERTIFICATE_DAYS:
            means = "clients that check it are turned away from then on"
            yield Finding("certificate-ends", WARNING, member.name, what, means, "renew it before the window")
            return
    yield Finding("tls", OK, member.name, what)


def _sessions(seen: Seen) -> Iterator[Finding]:
    by_bounds: dict[tuple[int, int], list[Member]] = defaultdict(list)
    for member in seen.members:
        if member.session_ms is not None:
            by_bounds[member.session_ms].append(member)
    for (least, longest), members in sorted(by_bounds.items()):
        asked = seen.session_ms
        what = f"sessions of {least / 1000:g} to {longest / 1000:g} s; zkmig asks for {asked / 1000:g} s"
        if least <= asked <= longest:
            yield Finding("session-limits", OK, _names(members), what)
        else:
            got = min(max(asked, least), longest)
            means = f"it gets {got / 1000:g} s: so long others wait for a migrator that was killed"
            todo = "set it with --session-timeout, or minSessionTimeout and maxSessionTimeout on the servers"
            yield Finding("session-limits", NOTE, _names(members), what, means, todo)
    if len(by_bounds) > 1:
        what, means = "members grant different sessions", "how long a session lasts depends on who answers"
        yield Finding("session-differs", NOTE, _names(seen.members), what, means, "give all the same bounds")


def member_faults(members: Sequence[Member]) -> str:
    """For the error when no member takes a session: what each said without one."""
    told = []
    for member in members:
        if member.told.not_serving:
            told.append(f"{member.name} says that it serves nobody (no quorum?)")
        elif member.told.answers and (mode := member.mode):
            told.append(f"{member.name} says that it is {mode}")
    return ", ".join(told)
