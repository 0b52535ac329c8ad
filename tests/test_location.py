"""Locations: what operators write is taken apart exactly, and what cannot be used is refused in one telling line.

Method: tables of good and bad texts, and generated locations that must survive str() and parse().
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.source.location import EnsembleLocation, FileLocation, parse, parse_hosts


@pytest.mark.parametrize(
    ("text", "hosts", "path"),
    [
        ("zk://zk1:2182/app", (("zk1", 2182),), "/app"),
        ("zk://zk1/app", (("zk1", 2181),), "/app"),
        ("zk://zk1", (("zk1", 2181),), "/"),
        ("zk://zk1/", (("zk1", 2181),), "/"),
        ("zk://zk1:2181/app/pools/", (("zk1", 2181),), "/app/pools"),
        ("zk://a:1,b.example.org,10.0.0.7:3/x", (("a", 1), ("b.example.org", 2181), ("10.0.0.7", 3)), "/x"),
        ("zk://[::1]:2182,[fe80::1%eth0],c/x", (("::1", 2182), ("fe80::1%eth0", 2181), ("c", 2181)), "/x"),
        ("ZK://zk1/app", (("zk1", 2181),), "/app"),
        ("zk://zk1/100%25/a b/服务/ünï", (("zk1", 2181),), "/100%25/a b/服务/ünï"),
        ("zk://zk1/app?x#y", (("zk1", 2181),), "/app?x#y"),
        ("zk://zk1/mail/me@example.org", (("zk1", 2181),), "/mail/me@example.org"),
        ("zk://host_1:2181/a:b,c", (("host_1", 2181),), "/a:b,c"),
    ],
)
def test_an_ensemble_is_taken_apart_exactly(text: str, hosts: tuple[tuple[str, int], ...], path: str) -> None:
    location = parse(text)
    assert location == EnsembleLocation(hosts, path)
    assert isinstance(location, EnsembleLocation)
    assert location.text == text
    assert parse(str(location)) == location


@pytest.mark.parametrize("text", ["backup.zks", "/var/zk/app", "./zk:/odd", "no suffix", "日本.plan", "host:2181/app"])
def test_everything_else_is_a_file_whatever_its_suffix(text: str) -> None:
    location = parse(text)
    assert location == FileLocation(Path(text))
    assert parse(str(location)) == location


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("a\0b", "NUL"),
        ("zk://", "no host"),
        ("zk:///app", "no host"),
        ("zk://a,,b/app", "empty"),
        ("zk://a,/app", "empty"),
        ("zk://a:/app", "not a port"),
        ("zk://a..b:2181/app", "not a host name"),
        (f"zk://{'a' * 64}:2181/app", "not a host name"),
        ("zk://a:0/app", "not a port"),
        ("zk://a:65536/app", "not a port"),
        ("zk://a:21x1/app", "not a port"),
        ("zk://a:２１８１/app", "not a port"),
        ("zk://a:-1/app", "not a port"),
        ("zk://a b/app", "host name"),
        ("zk://-a/app", "host name"),
        ("zk://::1/app", "brackets"),
        ("zk://[::1/app", "IPv6"),
        ("zk://[::1]2181/app", "IPv6"),
        ("zk://[zk1]:2181/app", "IPv6"),
        ("zk://a//app", "empty component"),
        ("zk://a/app//", "empty component"),
        ("zk://a/app/../x", "relative"),
        ("zk://a/app\n", "not allowed"),
        ("zk://a/\U0001f600", "not allowed"),
        ("http://a/app", "http://"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "zk://annika:hunter2@zk1:2181/app",
        "zk://hunter2@zk1/app",
        "zk://annika:hunter2/more@zk1:2181/app",
        "zk://annika:0/hunter2//@zk1:2181/app",
        "zk://zk1,annika:hunter2@zk2/app",
        "zks://annika:hunter2@zk1/app",
        "http://annika:hunter2@zk1/app",
    ],
)
def test_credentials_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value)
    assert "annika" not in str(caught.value)


def test_hosts_alone_are_read_as_kazoo_takes_them() -> None:
    hosts = parse_hosts("zk1,[::1]:7")
    assert hosts == (("zk1", 2181), ("::1", 7))
    assert EnsembleLocation(hosts).hosts_text == "zk1:2181,[::1]:7"


def _is_component(text: str) -> bool:
    try:
        paths.validate("/" + text)
    except BadInput:
        return False
    return "/" not in text


_LABELS = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,8}[a-z0-9_])?", fullmatch=True)  # none of them empty, as in "a..b"
_NAMES = st.lists(_LABELS, min_size=1, max_size=3).map(".".join)
_HOSTS = _NAMES | st.sampled_from(["::1", "fe80::2%lo"])
_COMPONENTS = st.text(min_size=1, max_size=8).filter(_is_component)


@given(
    st.lists(st.tuples(_HOSTS, st.integers(1, 65_535)), min_size=1, max_size=4),
    st.lists(_COMPONENTS, max_size=4),
)
def test_every_location_survives_being_written_and_read(hosts: list[tuple[str, int]], components: list[str]) -> None:
    location = EnsembleLocation(tuple(hosts), "/" + "/".join(components))
    assert parse(str(location)) == location


@given(st.text(max_size=40).map("zk://".__add__) | st.text(max_size=40))
def test_any_text_is_a_location_or_bad_input(text: str) -> None:
    try:
        location = parse(text)
    except BadInput:
        return
    assert parse(str(location)) == location
