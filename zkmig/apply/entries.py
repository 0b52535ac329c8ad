"""Entries: what readers and guards have left below acting/ and guards/, and for how long each can block a drain.

Anybody who may read the scope may create there, and owns what he creates. So nothing is expected of an entry: it may be
unreadable, malformed, huge, have children, and there may be a million. Only direct children are looked at, a few at a
time, and their sizes before their data: to answer for a few dozen of a megabyte each would take a small server's heap.
Each kind of entry either blocks for a bounded time, or until its holder or an operator ends it:

- a lease: until released, else its own maximum (never more than LEASE_MAX_MS) and a margin;
- one below acting/ that may not be read: as long as any lease might;
- a guard's registration: until its guard has stopped the process; one below guards/ that may not be read, likewise;
- what is neither, is too large for either, or is older than any format: not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from typing import Final

from zkmig.epoch.control import ControlPaths
from zkmig.epoch.leases import (
    ENTRY_BYTES_MAX,
    LEASE_MAX_MS,
    NAME_BYTES_MAX,
    GuardEntry,
    Lease,
    blocks_at_most_ms,
)
from zkmig.errors import BadInput, Refused
from zkmig.model.stat import Stat
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, error_for
from zkmig.wire.jute import utf8_size
from zkmig.wire.replies import DataResult, MultiReadResult, StatResult, SubError
from zkmig.wire.requests import Exists, GetChildren, GetData, MultiRead

ACTING: Final = "acting"
GUARDS: Final = "guards"
LOOK_DEPTH: Final = 64
LOOK_GROUP: Final = 64
"""Requests under way, and entries asked for by one of them: replies of half a megabyte at most."""

NAMED_MAX: Final = 5
PID_MAX: Final = 2**31

UNREADABLE: Final = "unreadable"
"""What `--evict` takes instead of a name: all that may not be read. An entry of that name is acting/unreadable."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One direct child of acting/ or guards/. content: None for one that may not be read, or is not well-formed.

    is_readable: False for one of plausible size that may not be read.
    """

    path: str
    stat: Stat
    content: Lease | GuardEntry | None
    is_readable: bool

    @property
    def kind(self) -> str:
        """ACTING or GUARDS."""
        return self.path.split("/")[-2]

    @property
    def name(self) -> str:
        """As `--evict` takes it: acting/NAME or guards/NAME."""
        return "/".join(self.path.split("/")[-2:])

    @property
    def blocks_ms(self) -> int | None:
        """0: it does not block. None: until somebody ends it. Else for so long at most, from the first sight of it."""
        match self.content:
            case Lease() as lease:
                return lease.blocks_ms
            case GuardEntry(stopped=stopped):
                return 0 if stopped else None
        if self.is_readable:
            return 0
        return blocks_at_most_ms(LEASE_MAX_MS) if self.kind == ACTING else None

    @property
    def what(self) -> str:
        """What it is, in a few words, without what its holder wrote into it beside a name."""
        match self.content:
            case Lease(reader=reader, max_ms=max_ms, released=released):
                how_long = "released" if released else f"of up to {max_ms / 1000:g} s"
                return f"action of {_shown(reader)}, {how_long}"
            case GuardEntry(unit=unit, stopped=stopped):
                # Said as what it is: a guard that was killed cannot take "running" back.
                state = "stopped" if stopped else f"registered as running{on_host(self.content)}"
                return f"guarded process {_shown(unit)}, {state}"
        return "malformed" if self.is_readable else "not readable"


def on_host(entry: GuardEntry) -> str:
    """Where its guard runs, or ran, as in " on web1 (guard's pid 4711)"; "" where it does not say."""
    process = entry.process or {}
    host, pid = process.get("host"), process.get("pid")
    if not isinstance(host, str) or not host:
        return ""
    return f" on {_shown(host)}" + (f" (guard's pid {pid})" if type(pid) is int and 0 < pid <= PID_MAX else "")


def _shown(name: str) -> str:
    return name if len(name) <= 64 else f"{name[:60]}..."


def directory(names: ControlPaths, kind: str) -> str:
    """Path of acting/ or guards/."""
    return names.acting if kind == ACTING else names.guards


def list_entries(client: Client, names: ControlPaths, kind: str) -> list[str]:
    """Paths of the direct children of acting/ or guards/, sorted, but for those with names too long for either."""
    above = directory(names, kind)
    found = client.call(GetChildren(above)).children
    return [f"{above}/{name}" for name in sorted(found) if utf8_size(name) <= NAME_BYTES_MAX]


def read_entries(client: Client, paths: Sequence[str]) -> Iterator[Entry]:
    """Each entry that is there, in the order given."""
    for start in range(0, len(paths), LOOK_GROUP):
        yield from _read_group(client, paths[start : start + LOOK_GROUP])


def _read_group(client: Client, paths: Sequence[str]) -> Iterator[Entry]:
    stats = _stats(client, paths)
    small = [path for path, stat in stats.items() if stat.data_length <= ENTRY_BYTES_MAX]
    found = dict(zip(small, _data(client, small), strict=True))
    for path, stat in stats.items():
        if path not in found:
            yield Entry(path, stat, None, is_readable=True)
            continue
        data, error = found[path]
        if data is not None:
            content = (Lease if path.split("/")[-2] == ACTING else GuardEntry).decode(data.data)
            yield Entry(path, data.stat, content, is_readable=True)
        elif error == Code.NO_AUTH:
            yield Entry(path, stat, None, is_readable=False)
        elif error != Code.NO_NODE:
            raise error_for(error, path, GetData.operation)


def _stats(client: Client, paths: Sequence[str]) -> dict[str, Stat]:
    """Of each that is there; that takes no permission."""
    found: dict[str, Stat] = {}
    for path, reply in zip(paths, client.pipeline(map(Exists, paths), LOOK_DEPTH), strict=True):
        if isinstance(reply.result, StatResult):
            found[path] = reply.result.stat
        elif reply.error != Code.NO_NODE:
            raise error_for(reply.error, path, Exists.operation)
    return found


def _data(client: Client, paths: Sequence[str]) -> Iterator[tuple[DataResult | None, int]]:
    """Of each path its data and Stat, or the error."""
    if not client.has_multi_read:
        for reply in client.pipeline(map(GetData, paths), LOOK_DEPTH):
            yield (reply.result if isinstance(reply.result, DataResult) else None), reply.error
        return
    for reply in client.pipeline([MultiRead(tuple(map(GetData, paths)))] if paths else [], 1):
        if not isinstance(reply.result, MultiReadResult):
            raise error_for(reply.error, paths[0], MultiRead.operation)
        for part in reply.result.results:
            yield (part, 0) if isinstance(part, DataResult) else (None, part.code if isinstance(part, SubError) else -1)


def blocking_entries(client: Client, names: ControlPaths) -> Iterator[Entry]:
    """All that a drain which began now would wait for."""
    for kind in (ACTING, GUARDS):
        for entry in read_entries(client, list_entries(client, names, kind)):
            if entry.blocks_ms != 0:
                yield entry


def some(shown: Collection[object]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(shown) - NAMED_MAX} more" if len(shown) > NAMED_MAX else ""
    return ", ".join(map(str, islice(shown, NAMED_MAX))) + more


def named_entries(client: Client, names: ControlPaths, wanted: Sequence[str]) -> list[str]:
    """Paths of the entries that an operator names: NAME, acting/NAME, guards/NAME or the whole path, each exactly.

    Refused, with the names of those that block, when there is no such entry; BadInput when a name is in both.
    UNREADABLE is no name: it is passed over.
    """
    there: set[str] = set()
    for kind in (ACTING, GUARDS) if wanted else ():
        there.update(list_entries(client, names, kind))
    found: list[str] = []
    for name in dict.fromkeys(wanted):
        if name == UNREADABLE:
            continue
        matches = matching(names, name, there)
        if len(matches) > 1:
            raise BadInput("a lease and a guard have this name", name, f"say {ACTING}/{name} or {GUARDS}/{name}")
        if not matches:
            blocking = [entry.name for entry in blocking_entries(client, names)]
            what = f"those that block: {some(blocking)}" if blocking else "none blocks"
            raise Refused(f"there is no lease or guard {name!r} to evict", names.home, what)
        found += matches
    return found


def matching(names: ControlPaths, name: str, there: Set[str]) -> list[str]:
    """Those of the paths `there` that an operator's name means: none, one, or a lease and a guard."""
    if name.startswith("/"):
        candidates = [name]
    elif name.startswith((f"{ACTING}/", f"{GUARDS}/")):
        candidates = [f"{names.home}/{name}"]
    else:
        candidates = [f"{directory(names, kind)}/{name}" for kind in (ACTING, GUARDS)]
    return [path for path in candidates if path in there]
