"""The kazoo client of a Reader: one that was handed in, or one of its own; who it is, and how it is secured."""

from __future__ import annotations

from collections.abc import Iterable

from kazoo.client import KazooClient

from zkmig.errors import BadInput
from zkmig.source.location import EnsembleLocation, parse, parse_hosts
from zkmig.wire.credential import Credential
from zkmig.wire.tls import Tls

Auth = Iterable[Credential | tuple[str, str]]


SESSION_TIMEOUT_S = 10.0
"""As kazoo's own default."""


def client_of(
    client_or_hosts: KazooClient | str,
    auth: Auth | None,
    tls: Tls | None,
    session_timeout_s: float = SESSION_TIMEOUT_S,
) -> KazooClient:
    """The client that was handed in, or a new one of these hosts. BadInput where a Reader could not use it."""
    if not isinstance(client_or_hosts, str):
        if auth is not None:
            raise BadInput("auth= goes with hosts; a client brings its own", hint="use add_auth of the client")
        if tls is not None:
            raise BadInput("tls= goes with hosts; a client brings its own", hint="use use_ssl, ca, ... of the client")
        _refuse_unusable(client_or_hosts)
        return client_or_hosts
    hosts, tls = _hosts_of(client_or_hosts, tls)
    if tls is not None and tls.server_name:
        raise BadInput("a Reader cannot look for another server_name", hosts, "give hosts by the names they show")
    credentials = [_credential(one) for one in auth or ()]
    return KazooClient(
        hosts=hosts,
        timeout=session_timeout_s,
        auth_data=[(one.scheme, one.secret.decode()) for one in credentials],
        # kazoo's own default gives up reconnecting less and less often, up to once an hour.
        connection_retry={"max_tries": -1, "delay": 0.1, "max_delay": 5.0},
        use_ssl=tls is not None,
        ca=tls.ca or None if tls is not None else None,
        certfile=tls.cert or None if tls is not None else None,
        keyfile=tls.key or tls.cert or None if tls is not None else None,
        check_hostname=tls is not None and tls.check_hostname,
    )


def _hosts_of(text: str, tls: Tls | None) -> tuple[str, Tls | None]:
    """Hosts as kazoo takes them, and how they are secured: zks:// before them, or tls=, says that they are."""
    hosts = text
    if text.lower().startswith(("zk://", "zks://")):
        place = parse(text)
        assert isinstance(place, EnsembleLocation)
        if tls is not None and not place.tls:
            raise BadInput("tls= with a location that says zk://", text, "write zks://")
        hosts, tls = text.partition("://")[2].removesuffix("/"), tls or Tls() if place.tls else None
    if "/" in hosts:
        raise BadInput("hosts only, without a path", text, "paths in a view are absolute on the server")
    parse_hosts(hosts)
    return hosts, tls


def _refuse_unusable(client: KazooClient) -> None:
    if client.chroot:
        raise BadInput(
            "this client lives below a chroot, and the control plane does not",
            client.chroot,
            "give the Reader the hosts, or a client without chroot; paths in a view are absolute",
        )
    if client._connection.sasl_options:  # kazoo keeps them nowhere else
        raise BadInput("SASL is not supported yet", hint="use digest, or a client certificate")
    if client.use_ssl and not client.verify_certs:
        raise BadInput("this client does not verify the servers' certificates", hint="leave verify_certs as it is")
    if client.use_ssl and client.keyfile_password:
        raise BadInput("a TLS key with a passphrase is not supported", client.keyfile or "", "use one without")
    credentials_of(client)


def tls_of(client: KazooClient) -> Tls | None:
    """How its connections are secured, None if they are not. BadInput names a file that cannot be used."""
    if not client.use_ssl:
        return None
    tls = Tls(client.ca or "", client.certfile or "", client.keyfile or "", client.check_hostname)
    tls.context()
    return tls


def credentials_of(client: KazooClient) -> tuple[Credential, ...]:
    """What it authenticates with just now."""
    return tuple(_credential(one) for one in sorted(client.auth_data))


def _credential(one: Credential | tuple[str, str]) -> Credential:
    credential = one if isinstance(one, Credential) else Credential(one[0], one[1].encode())
    _ = credential.identity  # a malformed one is refused here, by BadInput, not by a view
    return credential
