"""A census: how many znodes the server counts below a root, so that those nobody is told of do not go unnoticed.

A watch does not tell of a znode that its session may not READ [zookeeper-facts 9]. One that is created so, below a
parent that was read before, would be missing from a snapshot without a trace. The server counts it all the same
(getAllChildrenNumber, since 3.6), at the cost of one look at each of its znodes.
"""

from __future__ import annotations

from collections.abc import Sequence

from zkmig.model import path as paths
from zkmig.model.scope import Scope
from zkmig.wire.codes import Code, error_for
from zkmig.wire.replies import CountResult, Reply
from zkmig.wire.requests import GetAllChildrenNumber


class Census:
    """requests: what to ask, at the state that is to be counted. applies: whether the answer can tell anything.

    A scope of several subtrees is not counted, nor one from which a subtree is left out that may not be read.
    """

    def __init__(self, scope: Scope, is_known_to_server: bool) -> None:
        inside = [path for path in scope.excludes if path != scope.root and paths.contains(scope.root, path)]
        left_out = [one for one in inside if not any(other != one and paths.contains(other, one) for other in inside)]
        self.applies = is_known_to_server and not scope.includes
        self.requests = tuple(map(GetAllChildrenNumber, (scope.root, *left_out))) if self.applies else ()

    def total(self, replies: Sequence[Reply], stamp: int) -> int | None:
        """Znodes of the scope in the state `stamp`, the root included; None if the answers are of another state."""
        below: list[int] = []
        for request, reply in zip(self.requests, replies, strict=True):
            if isinstance(reply.result, CountResult):
                below.append(reply.result.number)
            elif reply.error == Code.NO_NODE:
                below.append(-1)  # nor is the znode itself there
            elif reply.error == Code.NO_AUTH:
                self.applies, self.requests = False, ()
                return None
            else:
                raise error_for(reply.error, request.path, request.operation)
        if any(reply.zxid != stamp for reply in replies):
            return None
        root, *left_out = below
        return root + 1 - sum(count + 1 for count in left_out)
