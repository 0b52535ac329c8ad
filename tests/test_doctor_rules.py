"""What the doctor makes of facts: releases and their bugs, members that lag, differ or thin out. No servers.

Method: facts as values, one made bad at a time; the same facts unharmed give no such finding.
"""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import zkmig.doctor
from zkmig.doctor.finding import Finding, Severity, ordered
from zkmig.doctor.judge_members import judge_members
from zkmig.doctor.judge_tree import judge_tree
from zkmig.doctor.members import Member, servers_in
from zkmig.doctor.questions import Asked
from zkmig.doctor.seen import Seen
from zkmig.doctor.versions import FLOOR, KNOWN_BUGS, SOUND, Version, foreign_name, known_bugs, version_in
from zkmig.doctor.words import TlsSeen, Told
from zkmig.model.acl import Identity
from zkmig.source.location import EnsembleLocation

DOCS = Path(__file__).parent.parent / "docs"
NOW = 1_700_000_000.0
CONFIG = "".join(f"server.{n}=zk{n}:2888:3888:participant\n" for n in (1, 2, 3)) + "version=0"


def srvr(version: str = "3.9.5", mode: str = "follower", zxid: int = 0x100000020) -> str:
    return f"Zookeeper version: {version}-abc, built on 2026-01-01\nZxid: {zxid:#x}\nMode: {mode}\nNode count: 5\n"


def member(number: int, mode: str = "follower", **srvr_fields: Any) -> Member:
    """A member without fault."""
    words = {
        "srvr": srvr(mode=mode, **srvr_fields),
        "mntr": "zk_server_state\tx\nzk_open_file_descriptor_count\t40\nzk_max_file_descriptor_count\t20000\n",
        "envi": "Environment:\nos.memory.max=4096MB\n",
    }
    one = Member(f"zk{number}:2181", (f"10.0.0.{number}", 2181), "", Told(words))
    one.session_ms, one.frame_bytes, one.has_multi_read, one.config = (4_000, 40_000), 0xFFFFF, True, CONFIG
    one.shares_session = True
    return one


def ensemble(**fields: Any) -> Seen:
    members = [member(1, "leader"), member(2), member(3)]
    place = EnsembleLocation(tuple((f"zk{n}", 2181) for n in (1, 2, 3)), "/app")
    seen = Seen(place, "cython", members, session_ms=30_000, zxid_wanted=0x100000020, control="/zkmig")
    return replace(seen, **fields)


def judged(seen: Seen) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in judge_members(seen, NOW):
        found.setdefault(finding.code, []).append(finding)
    return found


# -- releases ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Zookeeper version: 3.8.0-${mvngit.commit.id}, built on 2024", (3, 8, 0)),
        ("Zookeeper version: 3.9.3-c26634f, built on 2024-10-17", (3, 9, 3)),
        ("Zookeeper version: 3.4.14-4c25d480e66aadd371de8bd2fd8da255ac140bcf, built on 03/06/2019", (3, 4, 14)),
        ("Zookeeper version: 3.10.0-SNAPSHOT", (3, 10, 0)),
        ("ClickHouse Keeper version: v23.3.1", None),
        ("Zookeeper version: unknown", None),
        ("Zookeeper version: 99999999999.1.1", None),
        ("", None),
    ],
)
def test_versions_as_servers_write_them(text: str, expected: tuple[int, int, int] | None) -> None:
    """Known forms are read; what is none is no version, and never a guess."""
    assert version_in(text) == (None if expected is None else Version(*expected))


def test_other_products_are_told_from_silence() -> None:
    """Who names itself otherwise is named; noise and silence are not a name."""
    assert foreign_name("ClickHouse Keeper version: v23.3.1\nx") == "ClickHouse Keeper version: v23.3.1"
    assert not foreign_name("")
    assert not foreign_name("\x1b[2J")
    assert not foreign_name("Zookeeper version: 3.8.0-x")
    assert not foreign_name("Zookeeper version: of a vendor's own")


@pytest.mark.parametrize(
    ("version", "grave"),
    [
        ((3, 6, 0), {"ZOOKEEPER-4785", "ZOOKEEPER-3911", "ZOOKEEPER-3642"}),
        ((3, 6, 3), {"ZOOKEEPER-4785"}),
        ((3, 7, 2), {"ZOOKEEPER-4785"}),
        ((3, 8, 0), {"ZOOKEEPER-4785"}),
        ((3, 8, 4), {"ZOOKEEPER-4785"}),
        ((3, 8, 5), set()),
        ((3, 9, 1), {"ZOOKEEPER-4785"}),
        ((3, 9, 2), set()),
        ((3, 9, 3), {"ZOOKEEPER-4925"}),
        ((3, 9, 4), set()),
        ((3, 9, 5), set()),
    ],
)
def test_releases_that_lose_transactions(version: tuple[int, int, int], grave: set[str]) -> None:
    """As the release tags of the project have it: the fix for one loss in 3.9.3 brought another."""
    found = {bug.id for bug in known_bugs(Version(*version)) if bug.severity is Severity.WARNING}
    assert found == grave


def test_a_bug_that_came_with_a_fix() -> None:
    """ZOOKEEPER-4846 came in 3.8.4 and 3.9.2; of what is older it is said only for packages that have that fix."""
    told = {}
    for version in ((3, 7, 2), (3, 8, 3), (3, 8, 4), (3, 8, 5), (3, 9, 1), (3, 9, 2), (3, 9, 3), (3, 9, 4)):
        what = [bug.what for bug in known_bugs(Version(*version)) if bug.id == "ZOOKEEPER-4846"]
        assert len(what) <= 1
        told[version] = what[0].startswith("only where a distribution") if what else None
    assert told == {
        (3, 7, 2): True,
        (3, 8, 3): True,
        (3, 8, 4): False,
        (3, 8, 5): None,
        (3, 9, 1): True,
        (3, 9, 2): False,
        (3, 9, 3): False,
        (3, 9, 4): None,
    }


def test_no_bug_leads_to_a_release_that_loses_transactions() -> None:
    """Goal: following the advice never makes it worse. Method: every way out of every bug, from every release in its
    ranges' lines, is a release that neither has the bug nor one that loses transactions; SOUND is what it says."""
    for first in SOUND.values():
        assert not [bug for bug in known_bugs(first) if bug.severity is Severity.WARNING]
    assert [bug.id for bug in known_bugs(Version(3, 9, SOUND[3, 9].patch - 1)) if bug.severity is Severity.WARNING]
    releases = [Version(3, minor, patch) for minor in range(6, 10) for patch in range(12)]
    for bug in KNOWN_BUGS:
        assert list(bug.ranges) == sorted(bug.ranges)
        for version in filter(bug.affects, releases):
            ways = [Version(*map(int, text.split("."))) for text in re.findall(r"\d+\.\d+\.\d+", bug.way_out(version))]
            assert ways
            for way in ways:
                assert way > version
                assert bug not in known_bugs(way)
                assert not [one for one in known_bugs(way) if one.severity is Severity.WARNING]


def test_versions_of_members() -> None:
    """Too old, no more repaired, mixed, and with a bug that a quorum needs: each by one member's release alone."""
    assert set(judged(ensemble())) & {"version-too-old", "version-ended", "version-mixed"} == set()
    for version, codes in (
        ("3.5.9", {"version-too-old", "version-mixed"}),
        ("3.7.2", {"version-ended", "version-mixed", "known-bug"}),
        ("3.9.3", {"version-mixed", "known-bug"}),
    ):
        seen = ensemble()
        seen.members[2] = member(3, version=version)
        found = judged(seen)
        assert codes <= set(found)
        assert all(one.severity is Severity.WARNING for one in found.get("known-bug", [])[:1])
    assert Version(3, 5, 9) < FLOOR


def test_a_version_that_is_not_told() -> None:
    """Without srvr, multiRead tells 3.6 from older; a member that was never reached is not judged."""
    seen = ensemble()
    seen.members[1].told = Told(refused=["srvr"])
    assert judged(seen)["version-unknown"][0].severity is Severity.UNKNOWN
    seen.members[1].has_multi_read = False
    assert judged(seen)["version-too-old"][0].severity is Severity.PROBLEM
    seen.members[1].fault = "connection refused"
    assert "version-unknown" not in judged(seen)


# -- members ----------------------------------------------------------------------------------------------------------


def test_a_sound_ensemble() -> None:
    """The control of all below: nothing but what is in order."""
    found = judged(ensemble())
    graver = {code for code, all_of in found.items() for one in all_of if one.severity is not Severity.OK}
    assert graver == {"heap"} - {"heap"}
    assert {"in-sync", "leader", "members-up", "frame-limit", "session-limits", "heap"} <= set(found)


def test_a_member_that_lags() -> None:
    """Behind by transactions, or by a zxid epoch; not told is unknown, and level is fine."""
    seen = ensemble()
    seen.members[2] = member(3, zxid=0x100000003)
    (behind,) = judged(seen)["behind"]
    assert behind.severity is Severity.PROBLEM
    assert "29 transactions behind" in behind.what
    assert "in-sync" not in judged(seen)
    seen.members[2] = member(3, zxid=0x3)
    assert "a zxid epoch behind" in judged(seen)["behind"][0].what
    seen.members[2] = replace(member(3), lags=True)
    assert "takes no session" in judged(seen)["behind"][0].what
    seen.members[2] = replace(member(3, zxid=0x3), shares_session=False, config=None)
    assert "behind" not in judged(seen)  # of another ensemble: zxids do not compare
    seen.members[2] = member(3)
    seen.members[2].told.answers["srvr"] = "Zxid: not a number\nMode: follower\n"
    assert {"sync-unknown"} <= set(judged(seen))
    assert "behind" not in judged(seen)


def test_roles_and_quorum() -> None:
    """Two leaders, an observer, a read-only member, one that says it serves nobody; a quorum without reserve."""
    seen = ensemble()
    seen.members[1] = member(2, "leader")
    assert judged(seen)["leaders"][0].severity is Severity.PROBLEM
    seen.members[1] = member(2, "observer")
    assert judged(seen)["observer"][0].severity is Severity.NOTE
    seen.members[1] = member(2, "read-only")
    assert judged(seen)["read-only"][0].severity is Severity.PROBLEM
    seen.members[1] = replace(member(2), told=Told(not_serving=True), fault="closed the connection")
    found = judged(seen)
    assert found["not-serving"][0].severity is found["quorum-thin"][0].severity is Severity.PROBLEM
    assert "2 of 3 voting members" in found["quorum-thin"][0].what
    assert "members-up" not in found


def test_voters_that_are_not_named_may_serve() -> None:
    """A voter that the location leaves out is not said to be down: two voters and an observer named of three and one,
    then one down of three named of five. With all named, the same is a thin quorum."""
    with_observer = CONFIG.replace("version=0", "server.4=zk4:2888:3888:observer\nversion=0")
    seen = ensemble(members=[member(1, "leader"), member(2), member(3, "observer")])
    for one in seen.members:
        one.config = with_observer
    found = judged(seen)
    assert "quorum-thin" not in found
    assert "members-not-named" in found

    seen = ensemble()
    for one in seen.members:
        one.config = "".join(f"server.{n}=zk{n}:2888:3888:participant\n" for n in range(1, 6))
    seen.members[2].fault = "connection refused"
    assert "quorum-thin" not in judged(seen)
    seen.members[1].fault = "connection refused"
    assert "at most 3 of 5" in judged(seen)["quorum-thin"][0].what


def test_members_of_other_ensembles_and_local_sessions() -> None:
    """A session that is not taken up: another ensemble, or the same one with sessions that are local."""
    seen = ensemble()
    seen.members[1].shares_session = False
    assert judged(seen)["sessions-local"][0].severity is Severity.NOTE
    seen.members[1].config = None
    found = judged(seen)
    assert found["not-one-ensemble"][0].severity is Severity.PROBLEM
    assert "sessions-local" not in found
    seen = ensemble()  # sessions are tried at the first that serves, whatever the location names first
    seen.members[0] = replace(member(1), fault="connection refused", config=None)
    seen.members[2].shares_session = False
    found = judged(seen)
    assert "not-one-ensemble" not in found
    assert found["sessions-local"][0].where == "zk3:2181"
    seen.members[2].config = None
    assert "a session of zk2:2181" in judged(seen)["not-one-ensemble"][0].what


def test_what_was_not_tried_is_not_in_order() -> None:
    """A session that could be tried at neither: unknown, and its zxid is held against none; one configuration tells."""
    seen = ensemble()
    seen.members[2].shares_session = None
    assert "ensemble-unknown" not in judged(seen)
    seen.members[2].config = ""
    found = judged(seen)
    assert found["ensemble-unknown"][0].where == "zk3:2181"
    assert found["in-sync"][0].where == "zk1:2181, zk2:2181"


def test_a_configuration_that_nobody_tells() -> None:
    """Then neither the quorum nor members that are not named are known, and that is said; one that tells is enough."""
    seen = ensemble()
    assert "config-unknown" not in judged(seen)
    for each in seen.members:
        each.config = None
    assert judged(seen)["config-unknown"][0].severity is Severity.UNKNOWN
    seen.members[1].config = CONFIG
    assert "config-unknown" not in judged(seen)


def test_words_that_are_answered_in_part() -> None:
    """Only what was not told is unknown; who says that it serves nobody has answered."""
    seen = ensemble()
    told = seen.members[0].told
    told.answers["mntr"] = ""
    (silent,) = judged(seen)["words-silent"]
    assert silent.what.startswith("no answer to mntr")
    assert "heap" not in silent.means
    seen.members[0].told = Told(fault="no answer within 3 s")
    assert judged(seen)["words-silent"][0].what.startswith("it answers no four-letter words: no answer")
    seen.members[0].told = Told({"srvr": told.answers["srvr"]}, not_serving=True)
    assert "words-silent" not in judged(seen)
    seen.members[0].told = Told({"srvr": told.answers["srvr"]}, refused=["mntr", "envi"])
    assert "words-silent" not in judged(seen)


def test_a_server_that_does_not_tell_who_a_session_is() -> None:
    """Before 3.7 a digest may be super's: what it may do against ACLs is then no proof of skipACL."""
    bob = Identity("digest", "bob:hash")
    for identities, schemes, severity in (
        ((bob,), ("digest",), Severity.UNKNOWN),
        ((bob, Identity("ip", "10.0.0.9")), ("digest",), Severity.PROBLEM),
        ((), (), Severity.PROBLEM),
    ):
        seen = ensemble(identities=identities, schemes=schemes, asked=Asked(writes_unchecked=True))
        found = [one for one in judge_tree(seen) if one.code in ("acl-skipped", "acl-unknown")]
        assert [one.severity for one in found] == [severity]


def test_configurations() -> None:
    """More members than are named; members that know different ones; roles as the node has them."""
    assert dict(servers_in("server.1=a:1:2:participant;0.0.0.0:2181\nserver.2=b:1:2:observer\nversion=1")) == {
        "1": "participant",
        "2": "observer",
    }
    assert dict(servers_in("\x00garbage=\nserver.")) == {}
    seen = ensemble()
    del seen.members[2]
    assert "3 members, the location names 2" in judged(seen)["members-not-named"][0].what
    seen = ensemble()
    seen.members[0].config = CONFIG.replace("version=0", "version=1")
    assert judged(seen)["config-differs"][0].severity is Severity.WARNING


def test_health_as_mntr_tells_it() -> None:
    """Digests that differ, files that run out, followers that are just joining; nonsense is not taken for a number."""
    for line, code, severity in (
        ("zk_digest_mismatches_count\t2", "digest-differs", Severity.PROBLEM),
        ("zk_open_file_descriptor_count\t19000", "files", Severity.WARNING),
        ("zk_learners\t2\nzk_synced_followers\t1", "followers-joining", Severity.WARNING),
    ):
        seen = ensemble()
        seen.members[0].told.answers["mntr"] += line
        assert judged(seen)[code][0].severity is severity
    seen = ensemble()
    seen.members[0].told.answers["mntr"] += "zk_digest_mismatches_count\tmany\nzk_learners\t2\nzk_synced_followers\t2"
    assert not {"digest-differs", "followers-joining"} & set(judged(seen))


def test_numbers_that_make_no_sense() -> None:
    """Goal: whatever a server tells, nothing fails. Method: thousands of digits, and digits that are none."""
    for number in ("9" * 5_000, "\u00b2", "-1", "0x", "\x1b[2J", ""):
        seen = ensemble()
        words = seen.members[0].told.answers
        words["srvr"] = f"Zookeeper version: {number}.{number}.{number}\nZxid: 0x{number}\nMode: {number}\n"
        words["mntr"] = f"zk_digest_mismatches_count\t{number}\nzk_open_file_descriptor_count\t{number}\n"
        words["envi"] = f"os.memory.max={number}MB\n"
        found = judged(seen)
        assert found["heap-unknown"]
        assert found["version-unknown"]
        assert not {"digest-differs", "files"} & set(found)


def test_what_is_the_same_of_several_members_is_said_once() -> None:
    """Equal but for the place: merged, with all places; another text stays apart."""
    one = Finding("heap", Severity.NOTE, "zk1:2181", "heap 1 MB")
    found = ordered([one, replace(one, where="zk2:2181"), replace(one, what="heap 2 MB"), replace(one)])
    assert [(finding.where, finding.what) for finding in found] == [
        ("zk1:2181, zk2:2181", "heap 1 MB"),
        ("zk1:2181", "heap 2 MB"),
    ]
    assert [severity.counted(2) for severity in Severity] == [
        "2 problems",
        "2 warnings",
        "2 unknown",
        "2 notes",
        "2 ok",
    ]


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ("os.memory.max=128MB", "heap-small"),
        ("os.memory.max=1024MB", "heap"),
        ("os.memory.max=lots", "heap-unknown"),
        ("", "heap-unknown"),
    ],
)
def test_heaps(told: str, code: str) -> None:
    """Against 500 usual batches at three times their size; what is not told is unknown."""
    seen = ensemble()
    seen.members[0].told.answers["envi"] = told
    assert seen.members[0].name in [one.where for one in judged(seen)[code]]


def test_frames_that_differ_and_sessions_that_do() -> None:
    """One member that takes less, one that could not be asked; bounds that leave out what zkmig asks for."""
    seen = ensemble()
    seen.members[2].frame_bytes = 500_000
    found = judged(seen)
    assert found["frame-differs"][0].severity is Severity.PROBLEM
    assert found["frame-differs"][0].where == "zk3:2181"
    seen.members[2].frame_bytes, seen.members[2].frame_fault = None, "it hung up"
    assert judged(seen)["frame-unknown"][0].severity is Severity.UNKNOWN
    seen = ensemble()
    seen.members[1].session_ms = (1_000, 8_000)
    found = judged(seen)
    assert found["session-differs"]
    assert [one.severity for one in found["session-limits"]] == [Severity.NOTE, Severity.OK]


def test_certificates_that_end() -> None:
    """Far off, near, past, and not told."""
    for days, code in ((400, "tls"), (3, "certificate-ends"), (-1, "certificate-ends"), (None, "tls")):
        seen = ensemble(place=EnsembleLocation((("zk1", 2281),), "/app", tls=True))
        until = None if days is None else NOW + days * 86_400
        seen.members[0].told.tls = TlsSeen("TLSv1.3", "TLS_AES_256_GCM_SHA384", until)
        assert code in judged(seen)


def test_passwords_in_the_clear() -> None:
    """A digest to servers elsewhere without TLS is a warning; without one, or with TLS, it is not."""

    def severity(seen: Seen) -> Severity:
        return next(one.severity for one in judge_tree(seen) if one.code in ("clear", "encrypted"))

    assert severity(ensemble(schemes=("digest",))) is Severity.WARNING
    assert severity(ensemble()) is Severity.NOTE
    assert severity(ensemble(schemes=("digest",), place=EnsembleLocation((("zk1", 1),), "/", tls=True))) is Severity.OK


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_names_every_finding() -> None:
    """Goal: no code without an explanation. Method: every code in a call of Finding, found in the sources, has its row
    in docs/doctor.md, and no row is left over."""
    codes = set()
    for source in Path(zkmig.doctor.__path__[0]).glob("judge_*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
                code = node.args[0]
                codes |= {code.value} if isinstance(code, ast.Constant) else set()
    codes |= {"access-read", "access-write", "access-create", "access-delete", "access-acl"}
    page = (DOCS / "doctor.md").read_text()
    rows = set(re.findall(r"^\| `([a-z-]+)`", page.partition("## Findings")[2], re.MULTILINE))
    assert len(codes) > 40
    assert rows == codes
