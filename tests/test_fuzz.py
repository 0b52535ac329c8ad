"""No decoder does more than refuse what it is given: the fuzzer's targets, shortly.

Method: a fixed number of inputs of a fixed seed for each target; `make fuzz` goes on from there. An input that fails
is kept as a file that replays it.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import msgpack
import pytest

from tests.fuzz.loop import TARGETS, Crash, inputs, run_one
from tests.fuzz.target import Target
from tests.wire_values import pack_reply, pack_welcome
from zkmig.epoch import journal, record
from zkmig.epoch.leases import GuardEntry, Lease
from zkmig.errors import UnknownFormat
from zkmig.model.acl import acl_of_plain
from zkmig.wire.codes import Code
from zkmig.wire.requests import Sync
from zkmig.wire.session import Broken, Session, State

SEED = 1
COUNT = 150


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_holds(name: str, tmp_path: Path) -> None:
    for raw in islice(inputs(name, SEED), COUNT):
        run_one(name, raw, tmp_path)


def test_a_seed_gives_the_same_inputs() -> None:
    for name in TARGETS:
        assert [*islice(inputs(name, 7), 5)] == [*islice(inputs(name, 7), 5)]


def test_an_input_that_fails_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is not documented, and memory beyond what the input accounts for."""

    def check(_: object, raw: bytes) -> None:
        if raw == b"error":
            raise IndexError("oops")
        bytearray(64 << 20)

    monkeypatch.setitem(TARGETS, "some target", Target(lambda _, __: b"", check))
    for raw, complaint in ((b"error", "IndexError: oops"), (b"memory", "bytes of memory, above")):
        with pytest.raises(Crash, match=complaint) as caught:
            run_one("some target", b"12345678" + raw, tmp_path)
        path = Path(str(caught.value).rpartition(" ")[2])
        assert path.read_bytes() == b"12345678" + raw


# -- what it has found ------------------------------------------------------------------------------------------------

BRACKETS = b"[" * 100_000


def test_brackets_without_end_are_no_record_and_no_lease() -> None:
    """json gives up with a RecursionError; a drain must not end because of what somebody wrote into a lease."""
    with pytest.raises(UnknownFormat, match="not an epoch record"):
        record.decode(BRACKETS, "/record")
    with pytest.raises(UnknownFormat, match="not a journal's manifest"):
        journal.Manifest.decode(BRACKETS, "/manifest")
    assert Lease.decode(BRACKETS) is None
    assert GuardEntry.decode(BRACKETS) is None


def test_positions_that_are_no_numbers_are_damaged_undo() -> None:
    items = [["e", 0, "created", "/a", 0], ["e", None, "created", "/b", 0]]
    with pytest.raises(UnknownFormat, match="damaged undo"):
        journal.unpack([b"".join(map(msgpack.packb, items))], "/undo")


@pytest.mark.parametrize("entry", [[31, 5, "x"], [31, "world", None], ["31", "world", "x"], [2**31, "world", "x"], [1]])
def test_an_acl_entry_of_other_types_is_refused(entry: list[object]) -> None:
    """Not only when it is encoded, where it would not be told as damage of the file."""
    with pytest.raises((ValueError, TypeError)):
        acl_of_plain([entry])


def test_nothing_is_read_after_a_fault_of_a_session_that_had_expired() -> None:
    """It stays expired, and bytes from the midst of a frame are not taken for the beginning of another."""
    session = Session(timeout_ms=10_000)
    session.open()
    session.feed(pack_welcome(7, 4_000))
    session.submit(Sync("/"))
    events = session.feed(pack_reply(1, 9, Code.SESSION_EXPIRED, b"") + b"\xff" * 9)
    assert isinstance(events[-1], Broken)
    assert session.state is State.EXPIRED
    assert session.feed(b"\xff" * 9) == []
