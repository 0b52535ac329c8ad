"""An action that begins while a prune is at work keeps its lease, so that a migration still waits for it.

Method: a reader takes up its released lease again between the prune's look at it and the multi that removes it. Readers
use their lease nodes again, since only a migrator can delete them.
"""

from __future__ import annotations

import pytest

from tests.scopes import AFTER, BEFORE, Site
from zkmig.apply.drain import DrainTimeout
from zkmig.apply.options import Options
from zkmig.apply.prune import prune
from zkmig.epoch.owner import TakeOver
from zkmig.reader import Reader
from zkmig.stop import StopRequest
from zkmig.wire.requests import Delete, Multi, Read, Write


def test_a_lease_taken_up_again_amid_a_prune_still_holds_a_migration_back(site: Site) -> None:
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    client = site.client()
    with Reader(site.kazoo, site.names.scope) as reader:
        with reader.acting(reader.view()) as token:
            lease = token.lease
        action = reader.acting(reader.view())

        def act(request: Read | Write) -> None:
            if isinstance(request, Multi) and any(
                isinstance(o, Delete) and o.path == lease for o in request.operations
            ):
                assert action.__enter__().lease == lease

        client.before = act
        prune(client, site.names, 1, options=Options(), take_over=TakeOver(), stop=StopRequest())
        with pytest.raises(DrainTimeout, match=lease.removeprefix(site.names.home)[1:]):
            site.apply(sealed, options=Options("never", drain_timeout_s=0.2))
        action.__exit__(None, None, None)
    site.apply(sealed)
