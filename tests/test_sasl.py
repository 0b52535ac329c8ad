"""SASL: refused in words that say so, wherever it is asked for; also by a server that admits nobody without it.

Method: what operators write; and real servers that demand a scheme (enforce.auth.schemes, and the older
sessionRequireClientSASLAuth), which take a session, answer its first request with an error and hang up.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from kazoo.client import KazooClient

import zkmig
from tests.program import Program, location
from zkmig.dev import Server
from zkmig.errors import BadInput, NotPermitted
from zkmig.source import credentials
from zkmig.source.location import parse_hosts
from zkmig.wire.client import Client, Credential

SECRET = "hunter2"
UNSUPPORTED = "SASL is not supported yet"
JAAS = """Server {
    org.apache.zookeeper.server.auth.DigestLoginModule required
    user_ops="hunter2";
};
"""


@pytest.mark.parametrize("scheme", ["sasl", "kerberos", "GSSAPI"])
def test_a_credential_of_sasl_is_refused_by_name(tmp_path: Path, program: Program, scheme: str) -> None:
    """In a file, the environment, Python and the program: what, where, exit code 2; never the secret."""
    file = tmp_path / "auth"
    file.write_text(f"digest:me:1\n{scheme}:ops:{SECRET}\n")
    file.chmod(0o600)
    with pytest.raises(BadInput, match=f"{file}, line 2: {UNSUPPORTED}") as caught:
        credentials.load(str(file), {})
    assert SECRET not in str(caught.value)
    with pytest.raises(BadInput, match=UNSUPPORTED):
        zkmig.read("zk://127.0.0.1:1/", auth=[(scheme, f"ops:{SECRET}")])
    ran = program("snapshot", "zk://127.0.0.1:1/", "-o", "x.zks", "--auth-file", file)
    assert SECRET not in ran.failed(2, f"{file}, line 2", UNSUPPORTED)


def test_other_schemes_are_refused() -> None:
    """x509 comes by TLS; of the rest nothing is repeated, since it may be the secret."""
    with pytest.raises(BadInput, match=r"ZKMIG_AUTH, line 1: an x509 identity is no line here; .* --tls-cert"):
        credentials.load(None, {"ZKMIG_AUTH": "x509:CN=me"})
    with pytest.raises(BadInput, match="not a digest credential, the only kind supported") as caught:
        credentials.load(None, {"ZKMIG_AUTH": f"{SECRET}:x"})
    assert SECRET not in str(caught.value)


def test_a_kazoo_client_with_sasl_is_refused_by_a_reader() -> None:
    client = KazooClient("127.0.0.1:1", sasl_options={"mechanism": "DIGEST-MD5", "username": "ops", "password": SECRET})
    with pytest.raises(BadInput, match=UNSUPPORTED):
        zkmig.Reader(client, "prod")


def test_a_server_that_demands_sasl(tmp_path: Path, program: Program) -> None:
    """With and without a digest credential: NotPermitted at once, naming the server and the reason; exit code 6."""
    jaas = tmp_path / "jaas.conf"
    jaas.write_text(JAAS)
    with Server(
        config={
            "sessionRequireClientSASLAuth": "true",
            "authProvider.sasl": "org.apache.zookeeper.server.auth.SASLAuthenticationProvider",
        },
        java_options=[f"-Djava.security.auth.login.config={jaas}"],
    ) as server:
        for auth in ((), (Credential("digest", b"me:1"),)):
            with pytest.raises(NotPermitted, match=f"{server.address}: .*by SASL as a rule.*{UNSUPPORTED}"):
                Client(parse_hosts(server.hosts), auth=auth).connect()
        there = location(server.hosts, "/")
        program("snapshot", there, "-o", "x.zks").failed(6, server.address, UNSUPPORTED)


def test_a_server_that_demands_digest(program: Program) -> None:
    """The same refusal says what else there is; with a digest credential the server is content."""
    with Server(config={"enforce.auth.enabled": "true", "enforce.auth.schemes": "digest"}) as server:
        there = location(server.hosts, "/")
        program("snapshot", there, "-o", "x.zks").failed(6, "do not authenticate as it demands", "--auth-file")
        program("snapshot", there, "-o", "x.zks", env={"ZKMIG_AUTH": "digest:me:1"}).succeeded()
