"""A connection in TLS with the manners of a non-blocking socket, for `wire.link`.

What OpenSSL says is turned into an operator's words here, and into an OSError, so that a link knows of one kind of
failure.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
from typing import Final

RECORD_BYTES_MAX: Final = 16_384
"""The most that one TLS record carries (RFC 8446, 5.1)."""


class TlsStream:
    """A connection in TLS with the manners of a non-blocking socket. Every error is an OSError in plain words."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str) -> None:
        """Takes over `sock`, connected and non-blocking. name: the server's, for its certificate."""
        try:
            self._sock = context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
        except ValueError:  # UnicodeError among them
            raise OSError(errno.EINVAL, "has a name that no certificate can hold") from None
        self._unfinished = 0  # bytes of the record that the network took only a part of
        self._end: OSError | None = None  # what was met behind bytes that had to be told first
        self._has_ended = False

    def shake_hands(self) -> int:
        """One step of the handshake: 0 when it is done, else what to wait for (select.POLLIN or POLLOUT)."""
        try:
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            return select.POLLIN
        except ssl.SSLWantWriteError:
            return select.POLLOUT
        except OSError as error:
            raise _in_words(error, during_handshake=True) from error
        return 0

    def send(self, data: bytearray | memoryview) -> int:
        """Send at most one record; the bytes of `data` that were sent. BlockingIOError: none, try again later.

        One record, because OpenSSL does not tell how many it has sent before the one that blocks; and a record that
        is not complete cannot be read, so what was not counted has not been heard. `data` must begin with the same
        bytes when it is tried again.
        """
        with memoryview(data) as view, view[: self._unfinished or RECORD_BYTES_MAX] as part:
            try:
                count = self._sock.send(part)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                self._unfinished = len(part)  # the next try must be of as many, or OpenSSL refuses it
                raise BlockingIOError from None
            except OSError as error:
                raise _in_words(error) from error
        self._unfinished = 0
        return count

    def recv_into(self, buffer: memoryview) -> int:
        """Fill the buffer with all that is there; 0 at the end. BlockingIOError: nothing yet.

        Until nothing is there or the buffer is full: poll does not see what OpenSSL holds already.
        """
        filled = 0
        while filled < len(buffer) and not self._is_over:
            try:
                count = self._sock.recv_into(buffer[filled:])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except OSError as error:
                self._end = _in_words(error)
            else:
                self._has_ended = not count
                filled += count
        if filled:
            return filled
        if self._end is not None:
            raise self._end
        if self._has_ended:
            return 0
        raise BlockingIOError

    @property
    def _is_over(self) -> bool:
        return self._has_ended or self._end is not None

    @property
    def pending(self) -> bool:
        """Whether there is more to be had from recv_into() that poll does not see."""
        return self._is_over or self._sock.pending() > 0

    def fileno(self) -> int:
        """For poll."""
        return self._sock.fileno()

    def close(self) -> None:
        """At once, without taking leave: ZooKeeper closes its sessions inside."""
        self._sock.close()


# -- what OpenSSL says, in an operator's words ------------------------------------------------------------------------


def _in_words(error: OSError, during_handshake: bool = False) -> OSError:
    return OSError(errno.EPROTO, _words(error, during_handshake))


def _words(error: OSError, during_handshake: bool) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _verification(error)
    if isinstance(error, ssl.SSLEOFError | ConnectionResetError | BrokenPipeError) and during_handshake:
        return "closed the connection during the TLS handshake: is this its TLS port?"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if reason in ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"):
            return "answered without TLS: is this its TLS port?"
        alert = reason.partition("_ALERT_")[2].replace("_", " ").lower()
        if alert in _ABOUT_OUR_CERTIFICATE:
            return f"wants another client certificate, or one at all (alert: {alert}): see --tls-cert"
        if alert:
            return f"refused the TLS handshake (alert: {alert})"
        return f"TLS failed: {reason.replace('_', ' ').lower() or 'for a reason not told'}"
    return error.strerror or str(error) or type(error).__name__


# Alerts with which servers turn down a client's certificate, or the lack of one (RFC 8446, 6.2).
_ABOUT_OUR_CERTIFICATE = frozenset(
    {
        "bad certificate",
        "unsupported certificate",
        "certificate revoked",
        "certificate expired",
        "certificate unknown",
        "unknown ca",
        "certificate required",
        "access denied",
        "decrypt error",  # from OpenSSL, for a signature by an authority that only has the right name
    }
)


def _verification(error: ssl.SSLCertVerificationError) -> str:
    told = error.verify_message
    match error.verify_code:
        case 9 | 10:  # X509_V_ERR_CERT_NOT_YET_VALID, _HAS_EXPIRED
            return f"shows a TLS certificate that is out of date: {told}"
        case 62 | 64:  # X509_V_ERR_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH
            return f"shows a TLS certificate made out to another host: {told.partition(', ')[2] or told}"
        case 18 | 19 | 20 | 21:  # self-signed, or its issuer is not known
            return f"shows a TLS certificate of an authority not trusted here ({told}): see --tls-ca"
        case _:
            return f"shows a TLS certificate that cannot be trusted: {told}"
