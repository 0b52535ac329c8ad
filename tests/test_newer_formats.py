"""What a newer zkmig has left is never taken for nothing.

Method: entries and a record with a higher format number, as a newer version would write them, on a real server.
"""

from __future__ import annotations

import json

import pytest

from tests.scopes import AFTER, BEFORE, Site
from zkmig.epoch.leases import LEASE_MAX_MS, GuardEntry, Lease
from zkmig.errors import UnknownFormat


def test_leases_and_guards_of_a_newer_format_block_a_drain() -> None:
    """Goal: fail closed. Method: decode a format that is not known yet, and one that is no number at all."""
    newer = json.dumps({"format": 2, "whatever": True}).encode()
    assert Lease.decode(newer) == Lease("of a newer zkmig", LEASE_MAX_MS, released=False)
    assert GuardEntry.decode(newer) == GuardEntry("of a newer zkmig", stopped=False, is_newer=True)
    malformed = json.dumps({"format": "2"}).encode()
    assert Lease.decode(malformed) is None
    assert GuardEntry.decode(malformed) is None


def test_a_record_that_may_be_read_but_not_written_is_not_written(site: Site) -> None:
    """Goal: an older migrator keeps off. Method: raise the record's format by kazoo; min_reader stays."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    data, _ = site.kazoo.get(site.names.record)
    assert data is not None
    newer = json.dumps({**json.loads(data), "format": 2}).encode()
    site.kazoo.set(site.names.record, newer)
    with pytest.raises(UnknownFormat, match="upgrade"):
        site.apply(sealed)
    assert site.kazoo.get(site.names.record)[0] == newer
