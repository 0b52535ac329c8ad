"""Holding: a maintenance hold set and released, in whatever state a scope is, beside whoever owns it.

A hold is a field of the record. It is written by compare-and-set, all else of the record being kept byte for byte of
its meaning, in a multi that checks the incarnation: so it never comes upon a record that was made anew. A migrator at
work adopts it. From the zxid at which it was written nothing is admitted, so what was admitted before is all that may
still act; `wait_until_quiet` waits for that, as a drain does, and ends nothing by itself.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from zkmig.apply.blocking import Admitted, Blocker, Waiting, pause_s
from zkmig.apply.entries import UNREADABLE, named_entries, some
from zkmig.epoch import record as records
from zkmig.epoch.control import ControlPaths, read_record
from zkmig.epoch.guarded import multi_result
from zkmig.epoch.owner import OwnerView, read_owner
from zkmig.epoch.record import Held, Record
from zkmig.epoch.sending import Sending
from zkmig.errors import (
    EXIT_OUTCOME_UNKNOWN,
    EXIT_UNREACHABLE,
    BadInput,
    NotPermitted,
    OtherIncarnation,
    Outcome,
    OutcomeUnknown,
    Refused,
    UnknownFormat,
    ZkmigError,
)
from zkmig.errors import Held as HeldError
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, error_for
from zkmig.wire.faults import ConnectionLost
from zkmig.wire.requests import Check, Multi, SetData, Sync

HOLD_BYTES_MAX: Final = 1024  # of its JSON: it goes along in the record of every transition
TRIES_MAX: Final = 100  # each takes somebody who has written the record since the one before

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Holding:
    """What came of `hold` or `release`. record: as it is now; before: the hold that was found, if there was one.

    changed: whether it was written, or would be on a dry run. blocking: what was admitted before and may still act.
    owner: of a migration, who goes on under the hold if it is alive.
    """

    scope: str
    record: Record
    before: Held | None
    changed: bool
    blocking: tuple[Blocker, ...] = ()
    owner: OwnerView | None = None
    is_dry_run: bool = False


class StillActing(Refused):
    """The hold is in place, and what was admitted before it has not ended in the time given."""


def check_hold(held: Held, now: float) -> None:
    """BadInput unless it has a reason and a holder, fits the record, and ends later than now."""
    if not held.reason.strip():
        raise BadInput("a hold needs a reason", "--reason", "say why: others will ask")
    if not held.holder.strip():
        raise BadInput("a hold needs a holder", "--holder", "say who: others will ask")
    for option, text in (("--reason", held.reason), ("--holder", held.holder)):
        if not text.isprintable():  # neither control characters nor bytes that are no UTF-8
            raise BadInput("this is to be one line of readable text", option, "leave out what cannot be printed")
    if held.deadline is not None and not math.isfinite(held.deadline):
        raise BadInput("this is no time", "--until", "give a time, or none")
    size = len(json.dumps(dataclasses.asdict(held)))
    if size > HOLD_BYTES_MAX:
        raise BadInput(f"this takes {size} bytes of the record, more than {HOLD_BYTES_MAX}", "--reason", "shorten it")
    if held.is_expired(now):
        raise BadInput("this hold would be over before it begins", "--until", "give a time to come")


# -- setting and releasing --------------------------------------------------------------------------------------------


def hold_scope(
    client: Client, names: ControlPaths, held: Held, *, replace: bool, stop: StopRequest, dry_run: bool = False
) -> tuple[Holding, int]:
    """Set the hold, or renew its holder's; the zxid from which nothing is admitted.

    Held, a Refused, when somebody else holds the scope, unless `replace`.
    """

    def wanted(found: Held | None) -> Held:
        if found is None:
            return held
        if found.holder == held.holder:
            return dataclasses.replace(held, since=found.since, deadline=held.deadline or found.deadline)
        if replace:
            return held
        hint = "wait until it is released, or replace it with --replace"
        raise HeldError(f"the scope is {found.told()}", names.record, hint)

    return _write(client, names, wanted, stop, dry_run)


def release_scope(
    client: Client, names: ControlPaths, holder: str, *, stop: StopRequest, dry_run: bool = False
) -> Holding:
    """Clear the hold. Of a scope that is not held nothing is written. Held when it is another's than `holder`."""
    first: list[Held | None] = []

    def wanted(found: Held | None) -> Held | None:
        first[:] = first or [found]
        if found is None or _is_another(found, first[0]):
            return found  # gone, whoever came since
        if found.holder != holder:
            hint = f"have it released by its holder, or name it: --holder {found.holder}"
            raise HeldError(f"the scope is {found.told()}", names.record, hint)
        return None

    return _write(client, names, wanted, stop, dry_run)[0]


def _is_another(found: Held, known: Held | None) -> bool:
    """Whether it is not the same hold, perhaps renewed since."""
    return known is None or (found.holder, found.since) != (known.holder, known.since)


def _write(
    client: Client,
    names: ControlPaths,
    wanted: Callable[[Held | None], Held | None],
    stop: StopRequest,
    dry_run: bool,
) -> tuple[Holding, int]:
    """Compare-and-set the record's hold to what is wanted instead of the one found, and the zxid of that.

    A lost answer is told by sending again: the record's version has moved, and holds what was sent, or it has not.
    """
    sending = Sending(client, stop)
    client.call(Sync(names.home))
    before: list[Held | None] = []
    in_doubt, sent = False, None
    for _ in range(TRIES_MAX):
        node = sending.read_back(names.record, in_doubt)
        if node is None:
            raise Refused("the scope is gone", names.record, "check --at and --scope")
        record = records.decode(node.data, names.record)
        if record.format > records.FORMAT:
            what = f"record format {record.format}: this zkmig may read it, not write it"
            raise UnknownFormat(what, names.record, "upgrade")
        if in_doubt and record.held == sent:
            return Holding(names.scope, record, before[0], changed=True), node.stat.mzxid
        before = before or [record.held]
        held = _decided(wanted, record.held, in_doubt)
        if held == record.held or dry_run:
            changed = held != record.held or in_doubt
            now = record.updated(held=held)
            # Were it set now, whatever is there by now would have been admitted before.
            zxid = client.last_zxid if dry_run else node.stat.mzxid
            return Holding(names.scope, now, before[0], changed, is_dry_run=dry_run), zxid
        # The check has no version: the name of the incarnation's node is its identity.
        multi = Multi(
            (
                Check(names.incarnation(record.incarnation), -1),
                SetData(names.record, records.with_hold(node.data or b"", held), node.stat.version),
            )
        )
        try:
            reply, in_doubt = sending.send(multi, in_doubt)
        except OutcomeUnknown as error:
            error.hint = "run zkmig status, and then the same command again"
            raise
        if reply.error == 0:
            return Holding(names.scope, record.updated(held=held), before[0], changed=True), reply.zxid
        sent = held
        _raise_unless_moved(names, multi_result(reply).code, in_doubt)
    raise Refused("others write the record again and again", names.record, "try again")


def _decided(wanted: Callable[[Held | None], Held | None], found: Held | None, in_doubt: bool) -> Held | None:
    try:
        return wanted(found)
    except ZkmigError as error:
        error.outcome = Outcome.UNKNOWN if in_doubt else error.outcome
        raise


def _raise_unless_moved(names: ControlPaths, code: int, in_doubt: bool) -> None:
    if code == Code.BAD_VERSION:
        return
    error: ZkmigError
    if code == Code.NO_NODE:
        error = OtherIncarnation("the scope was deleted or created again", names.home, "run zkmig status")
    elif code == Code.NO_AUTH:
        error = NotPermitted("not permitted to hold this scope", names.record, "authenticate as its admin: --auth-file")
    else:
        error = error_for(code, names.record, "hold")
    error.outcome = Outcome.UNKNOWN if in_doubt else error.outcome
    raise error


# -- what still acts --------------------------------------------------------------------------------------------------


def passed_over(client: Client, names: ControlPaths, evict: Sequence[str]) -> set[str]:
    """What an operator has named not to be waited for; Refused where there is no such entry."""
    return {*named_entries(client, names, evict), *(name for name in evict if name == UNREADABLE)}


def look_once(client: Client, names: ControlPaths, holding: Holding, zxid: int, ignored: set[str]) -> Holding:
    """With what was admitted before the hold and may still act, and with whom it finds at work."""
    admitted = Admitted(names, zxid, ignored)
    with _saying_that_it_stays(holding):
        _through_losses(client, lambda: admitted.look_at_all(client))
        owner = _through_losses(client, lambda: read_owner(client, names))
    return dataclasses.replace(holding, blocking=tuple(admitted.blocking.values()), owner=owner)


def wait_until_quiet(
    client: Client,
    names: ControlPaths,
    holding: Holding,
    zxid: int,
    *,
    ignored: set[str],
    timeout_s: float,
    stop: StopRequest,
    say: Callable[[str], None],
) -> Holding:
    """Return once nothing that was admitted before the hold can act any more.

    StillActing past timeout_s; Refused when somebody has released or replaced the hold meanwhile. Whatever ends it
    says that the hold is in place, as long as it is.
    """
    admitted = Admitted(names, zxid, ignored)
    mine = holding.record.held
    assert mine is not None
    with _saying_that_it_stays(holding):
        record = _wait(client, admitted, mine, timeout_s, stop, say)
        return dataclasses.replace(
            holding, record=record, owner=_through_losses(client, lambda: read_owner(client, names))
        )


@contextmanager
def _saying_that_it_stays(holding: Holding) -> Iterator[None]:
    """An error inside says that the hold is in place."""
    try:
        yield
    except _Lifted:
        raise
    except ZkmigError as error:
        if not holding.is_dry_run:
            error.outcome = Outcome.HOLD_IN_PLACE
            if error.exit_code == EXIT_UNREACHABLE:
                error.exit_code = EXIT_OUTCOME_UNKNOWN  # to a script, the code of Unreachable says: nothing was written
        raise


class _Lifted(Refused):
    """Somebody else has taken the hold off, or has put another in its place."""


def _wait(
    client: Client,
    admitted: Admitted,
    mine: Held,
    timeout_s: float,
    stop: StopRequest,
    say: Callable[[str], None],
) -> Record:
    deadline = time.monotonic() + timeout_s
    _through_losses(client, lambda: admitted.look_at_all(client))
    waiting = Waiting(say)
    waiting.begin(admitted.blocking)
    while True:
        stop.check()
        # After the look: what was over then has ended under the hold.
        record = _through_losses(client, lambda: _still_held(client, admitted.names, mine))
        if not admitted.blocking:
            return record
        begun = time.monotonic()
        if begun > deadline:
            raise StillActing(
                f"still at work after {timeout_s:.0f} s: {some(admitted.blocking.values())}",
                admitted.names.home,
                "run the same command again to go on waiting; start a guard that was killed again where it ran; or do "
                "without: --evict NAME",
            )
        waiting.go_on(admitted.blocking)
        _through_losses(client, lambda: admitted.look_again(client))
        time.sleep(pause_s(begun))


def _through_losses(client: Client, look: Callable[[], Result]) -> Result:
    """Look; once more on another connection where the first was lost."""
    try:
        return look()
    except ConnectionLost:
        client.reconnect()
        return look()


def _still_held(client: Client, names: ControlPaths, mine: Held) -> Record:
    """The record, if it carries this very hold, which may have been renewed."""
    record, _ = read_record(client, names)
    if record.held is None:
        raise _Lifted("the hold was released by somebody else meanwhile", names.record, "run zkmig status")
    if _is_another(record.held, mine):
        what = f"the hold was replaced meanwhile: the scope is {record.held.told()}"
        raise _Lifted(what, names.record, "run zkmig status")
    return record
