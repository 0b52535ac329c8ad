"""Four-letter words: what a server tells of itself to whoever asks, without a session and without a write.

A server answers those in `4lw.commands.whitelist` alone, and `srvr` in any case, which its own scripts need. Over TLS
they are asked inside of it, by the same certificate as a session.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from zkmig.wire.link import Host
from zkmig.wire.tls import Tls

if TYPE_CHECKING:
    import ssl

WORDS: Final = ("srvr", "mntr", "envi")
ANSWER_TIMEOUT_S: Final = 3.0
ANSWER_BYTES_MAX: Final = 1 << 20
_REFUSED: Final = "is not executed because it is not in the whitelist"
_NOT_SERVING: Final = "is not currently serving requests"


@dataclass(frozen=True, slots=True)
class TlsSeen:
    """How a connection was secured. not_after: when the server's certificate ends, Unix seconds; None: not told."""

    version: str
    cipher: str
    not_after: float | None = None


@dataclass(slots=True)
class Told:
    """What one server told. answers: by word, "" where none came in time. refused: words that it does not admit.

    fault: why nothing at all was told; "". not_serving: it says itself that it serves nobody (no quorum, as a rule).
    """

    answers: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    fault: str = ""
    not_serving: bool = False
    tls: TlsSeen | None = None

    def srvr(self) -> dict[str, str]:
        """The lines `name: value` of srvr."""
        return _pairs(self.answers.get("srvr", ""), ":")

    def mntr(self) -> dict[str, str]:
        """The lines `name<TAB>value` of mntr."""
        return _pairs(self.answers.get("mntr", ""), "\t")

    def envi(self) -> dict[str, str]:
        """The lines `name=value` of envi."""
        return _pairs(self.answers.get("envi", ""), "=")


def _pairs(text: str, separator: str) -> dict[str, str]:
    split = (line.partition(separator) for line in text.splitlines())
    return {name.strip(): value.strip() for name, found, value in split if found}


def ask(
    host: Host,
    tls: Tls | None = None,
    server_name: str = "",
    words: Sequence[str] = WORDS,
    check_stop: Callable[[], None] = lambda: None,
) -> Told:
    """Ask one server each of `words`, a connection each. A server that is down or silent is no error here.

    server_name: what its certificate must hold. Raises BadInput for TLS files that cannot be used.
    """
    told = Told()
    context = None if tls is None else tls.context()
    for word in words:
        check_stop()
        try:
            answer = _answer(host, word, context, server_name, told)
        except (OSError, ValueError) as error:  # ValueError: a name that no certificate can hold
            told.fault = told.fault or getattr(error, "strerror", "") or str(error) or type(error).__name__
            break  # it would be so with each word, and each would cost the time again
        if _REFUSED in answer:
            told.refused.append(word)
        elif _NOT_SERVING in answer:
            told.not_serving = True
        else:
            told.answers[word] = answer
    return told


def _answer(host: Host, word: str, context: ssl.SSLContext | None, server_name: str, told: Told) -> str:
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    with contextlib.ExitStack() as stack:
        sock: socket.socket = stack.enter_context(socket.create_connection(host, timeout=ANSWER_TIMEOUT_S))
        if context is not None:
            secured = stack.enter_context(context.wrap_socket(sock, server_hostname=server_name))
            told.tls = told.tls or _seen(secured)
            sock = secured
        sock.sendall(word.encode())
        received = bytearray()
        while len(received) < ANSWER_BYTES_MAX:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no answer within {ANSWER_TIMEOUT_S:g} s")
            sock.settimeout(left)
            try:
                part = sock.recv(1 << 16)
            except TimeoutError:
                raise TimeoutError(f"no answer within {ANSWER_TIMEOUT_S:g} s") from None
            except ConnectionResetError:
                break  # some releases end so, after the answer
            if not part:
                break
            received += part
    return received.decode(errors="replace")


def _seen(secured: ssl.SSLSocket) -> TlsSeen:
    import ssl

    shown = secured.getpeercert() or {}
    until = shown.get("notAfter")
    cipher = secured.cipher()
    not_after = float(ssl.cert_time_to_seconds(until)) if isinstance(until, str) else None
    return TlsSeen(secured.version() or "unknown", cipher[0] if cipher else "unknown", not_after)
