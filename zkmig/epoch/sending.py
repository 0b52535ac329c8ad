"""Sending: a guarded multi goes out until an answer comes, also over lost connections.

A lost answer leaves open whether the multi has landed, so the same bytes are sent again: being conditional on something
that only their sender changes, they land once at most, and the second answer tells of the first [zookeeper-facts 13].
From the first unanswered sending on, whatever keeps that from being told is an error of unknown outcome.
"""

from __future__ import annotations

from zkmig.errors import Outcome, OutcomeUnknown, Unreachable, ZkmigError
from zkmig.stop import StopRequest
from zkmig.wire.client import Client, probe_frame_limit
from zkmig.wire.codes import Code, error_for
from zkmig.wire.faults import ConnectionLost
from zkmig.wire.replies import DataResult, Reply
from zkmig.wire.requests import GetData, Multi, frame_size

SENDS_MAX = 3  # of the same frame; before the last the server is asked whether it takes frames of its size


class Sending:
    """Sends over one client, which reconnects when it has to. stop: writes under way still get their answer."""

    def __init__(self, client: Client, stop: StopRequest) -> None:
        self._client = client
        self._stop = stop

    def send(self, multi: Multi, in_doubt: bool = False) -> tuple[Reply, bool]:
        """Send until an answer comes. The flag says whether an earlier sending may have landed.

        in_doubt: one may have before this call, of the same operations under the head of an older hold.
        """
        lost = 0
        for _ in range(SENDS_MAX):
            try:
                with self._stop.patiently():
                    self.take_up(lost, multi, in_doubt)
                    return self._client.call_reply(multi), in_doubt or lost > 0
            except OutcomeUnknown as error:
                lost += 1
                failure: Unreachable | OutcomeUnknown = error
            except ConnectionLost as error:  # nothing of this multi was sent
                failure = error
        raise _unknown(failure) if lost or in_doubt else failure

    def take_up(self, lost: int, multi: Multi, in_doubt: bool = False) -> None:
        """Have a connection before sending a multi, of which `lost` sendings were not answered; in_doubt as above."""
        try:
            if not self._client.is_connected:
                self._client.reconnect()
            server, size = [self._client.server], frame_size(multi)
            if lost == SENDS_MAX - 1 and not probe_frame_limit(server, size, self._client.tls):
                # Such a server only drops the connection, which looks like any other loss [zookeeper-facts 11]; and so
                # does any other loss look here. Nor was it this server, perhaps, to which it was sent before.
                raise OutcomeUnknown(
                    f"sent without an answer, and then this server took no frame of {size} bytes",
                    multi.operations[-1].path,
                    "run zkmig status, then zkmig resume; if that ends here too, raise jute.maxbuffer on every server "
                    "of the target, or roll back and plan smaller batches",
                )
        except Unreachable as error:
            raise _unknown(error) if lost or in_doubt else error from error

    def read_back(self, path: str, in_doubt: bool = True) -> DataResult | None:
        """What a node holds, None if it is gone: to tell whether a multi that was sent again had landed before.

        in_doubt False: nothing of it has landed, and it is to be told why.
        """
        try:
            reply = self._ask(GetData(path))
        except Unreachable as error:
            raise _unknown(error) if in_doubt else error from error
        except ZkmigError as error:
            error.outcome = Outcome.UNKNOWN if in_doubt else error.outcome
            raise
        if isinstance(reply.result, DataResult):
            return reply.result
        if reply.error == Code.NO_NODE:
            return None
        refusal = error_for(reply.error, path, GetData.operation)
        refusal.outcome = Outcome.UNKNOWN if in_doubt else refusal.outcome
        raise refusal

    def _ask(self, question: GetData) -> Reply:
        """Ask until an answer comes: over as many connections as a multi is sent over."""
        failure: ConnectionLost
        for _ in range(SENDS_MAX):
            try:
                with self._stop.patiently():
                    if not self._client.is_connected:
                        self._client.reconnect()
                    return self._client.call_reply(question)
            except ConnectionLost as error:
                failure = error
        raise failure


def _unknown(error: ZkmigError) -> OutcomeUnknown:
    hint = error.hint if isinstance(error, OutcomeUnknown) else ""
    return OutcomeUnknown(error.what, error.where, hint or "run zkmig status, then zkmig resume")
