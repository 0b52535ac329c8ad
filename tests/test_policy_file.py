"""policy.toml: every field arrives, every fault is named with its line and field, and the page's examples are true."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

import zkmig
from tests.trees import Node, snapshot_of
from zkmig.changes import ComparePolicy
from zkmig.errors import BadInput
from zkmig.model.acl import WORLD, Identity
from zkmig.model.patterns import Pattern
from zkmig.model.znode import Kind
from zkmig.policy.captures import CapturePattern, Template
from zkmig.policy.file import LIMITS, _File
from zkmig.policy.identities import AclRule
from zkmig.policy.kinds import KindRule
from zkmig.policy.lines import Lines
from zkmig.policy.packed import packed, unpacked
from zkmig.policy.policy import Policy
from zkmig.policy.relocation import PathRule
from zkmig.policy.rules import (
    JsonData,
    MaxDeletions,
    MaxSize,
    MinChildren,
    NeverEmpty,
    Reference,
    SameCount,
    Together,
    Unchanged,
)
from zkmig.rules.judge import judge

PAGE = (Path(__file__).parent.parent / "docs" / "policy.md").read_text()
pattern = CapturePattern.parse


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZKMIG_AUTH", raising=False)
    return tmp_path


def load(text: str) -> Policy:
    Path("policy.toml").write_text(text)
    return zkmig.load_policy("policy.toml")


ALL = """\
format = 1
existing = "report"
quotas = true
mask = ["/a/secret/**"]

[compare]
data = false
acl = true
kind = false
counter = true

[[include]]
path = "/a/b/"
reason = "ours"

[[exclude]]
path = "/a/b/c"
reason = "theirs"

[[map.paths]]
from = "/a/x"
to = "/a/y"
reason = "r"

[[map.acls]]
from = "world:anyone"
to = "ip:10.0.0.1"
reason = "r"

[[map.acls]]
from = "ip:10.0.0.2"
drop = true

[[kinds]]
pattern = "/a/*"
kind = "container"

[[kinds]]
pattern = "/a/**"
kind = "ttl"
ttl_ms = 5
reason = "r"

[[references]]
name = "n1"
from = "/a/{x}"
to = "/b/{x}-{value}"
json = "$.p"
required = false
strip = true
reason = "r1"

[[references]]
from = "/a/{x}"
to = "/b/{value}"

[[guardrails]]
name = "many"
pattern = "/g/*"
max_deletions = "12.5 %"
min_children = 2
never_empty = true
unchanged = true
max_size = "2 KiB"
json = true
schema = {type = "object"}
same_count = true
reason = "r2"

[[guardrails]]
name = "one"
pattern = "/g/{x}"
max_deletions = 0

[[guardrails]]
pattern = "/g"
max_size = 7

[[together]]
name = "t"
paths = ["/t/{x}", "/u/{x}"]
reason = "r3"

[[checks]]
name = "c"
call = "ours.py:check"
reason = "r4"
"""


def test_every_field_arrives(folder: Path) -> None:
    """Method: a file that uses all fields there are, which is held against the tables of the code."""
    (folder / "ours.py").write_text("def check(tree): return []\n")
    policy = load(ALL)
    assert policy.compare == ComparePolicy(data=False, acl=True, kind=False, counter=True)
    assert (policy.includes, policy.excludes, policy.quotas) == (("/a/b",), ("/a/b/c",), True)
    assert policy.map_paths == (PathRule("/a/x", "/a/y"),)
    assert policy.map_acls == (AclRule(WORLD, Identity("ip", "10.0.0.1")), AclRule(Identity("ip", "10.0.0.2"), None))
    assert policy.kinds == (
        KindRule(Kind.CONTAINER, Pattern.parse("/a/*")), KindRule(Kind.TTL, Pattern.parse("/a/**"), 5),
    )  # fmt: skip
    assert policy.masks == (pattern("/a/secret/**"),)
    assert policy.reasons == {"/a/b": "ours", "/a/b/c": "theirs"}
    rules, g = policy.rules, pattern("/g/*")
    captured = frozenset({"x"})
    assert rules.report_existing
    assert rules.references == (
        Reference("n1", pattern("/a/{x}"), Template.parse("/b/{x}-{value}", captured), "$.p", False, True, "r1"),
        Reference("/a/{x} names /b/{value}", pattern("/a/{x}"), Template.parse("/b/{value}", captured)),
    )
    assert rules.guardrails == (
        MaxDeletions("many: max_deletions", g, None, 0.125, "r2"),
        MinChildren("many: min_children", g, 2, "r2"),
        NeverEmpty("many: never_empty", g, "r2"),
        Unchanged("many: unchanged", g, "r2"),
        MaxSize("many: max_size", g, 2048, "r2"),
        JsonData("many: json", g, None, "r2"),
        JsonData("many: schema", g, {"type": "object"}, "r2"),
        SameCount("many: same_count", g, "r2"),
        MaxDeletions("one", pattern("/g/{x}"), 0, None),
        MaxSize("max_size of /g", pattern("/g"), 7),
    )
    assert rules.together == (Together("t", (pattern("/t/{x}"), pattern("/u/{x}")), "r3"),)
    (check,) = rules.checks
    assert (check.name, check.call, check.file, check.reason) == ("c", "ours.py:check", str(folder / "ours.py"), "r4")
    assert unpacked(packed(rules)) == rules
    for name in fields_of(_File):
        assert re.search(rf"\b{name}\b", ALL), f"{name} is not tried"
        assert re.search(rf"\b{name}\b", PAGE), f"{name} is not explained"
    assert all(limit in PAGE for limit in LIMITS)


def fields_of(table: Any) -> set[str]:
    """Names as a file has them, of all tables."""
    found: set[str] = set()
    for name, field in table.model_fields.items():
        found.add(field.alias or name)
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if hasattr(inner, "model_fields"):
                found |= fields_of(inner)
    return found


G = 'format = 1\n[[guardrails]]\npattern = "/x"\n'
R = 'format = 1\n[[references]]\n\nfrom = "/x/{a}"\n'
FAULTS = [
    ("", 1, "format: it has to be given"),
    ("format = 2", 1, "format: this version"),
    ("format = true", 1, "format: this version"),
    ("format = 1.0", 1, "format: this version"),
    ('format = "1"', 1, "format: this version"),
    ("format = 1\n\nguardrail = 1", 3, "guardrail: there is no such field; did you mean guardrails?"),
    ("format = 1\n[[reference]]\nname = 'x'", 2, "reference: there is no such field; did you mean references?"),
    ("format = 1\n[xyzzy]", 2, "xyzzy: there is no such field; docs/"),
    ('format = 1\nexisting = "yes"', 2, "existing: it can only be"),
    ('format = 1\nquotas = "yes"', 2, "quotas: it wants true or false"),
    ("format = 1\ncompare = 1", 2, "compare: it wants a table"),
    ("format = 1\n[compare]\n# here\ndata = 1", 4, "compare.data: it wants true or false"),
    ("format = 1\n[compare]\nacls = true", 3, "compare.acls: there is no such field"),
    ('format = 1\n[[include]]\nreason = "x"', 2, "include[1].path: it has to be given"),
    ('format = 1\n[[include]]\npath = "x"', 3, "include[1].path: 'x': this wants an absolute path"),
    ('format = 1\nexclude = "/x"', 2, "exclude: it wants a list"),
    ('format = 1\n[[exclude]]\npath = "/a"\n[[exclude]]\npath = "/a/../b"', 5, "exclude[2].path: '/a/../b'"),
    ('format = 1\nexclude = [{path = "/a"},\n{path = 3}]', 2, "exclude[2].path: it wants a text"),
    ('format = 1\n[map]\npath = []', 3, "map.path: there is no such field"),
    ('format = 1\n[[map.paths]]\nfrom = "/a"', 2, "map.paths[1].to: it has to be given"),
    ('format = 1\n[[map.paths]]\nbefore = "/a"\nfrom = "/a"\nto = "/b"', 3, "map.paths[1].before: there is no such"),
    ('format = 1\n[[map.acls]]\nfrom = "ip:1.2.3.4"', 2, "map.acls[1]: give either to, or drop = true"),
    ('format = 1\n[[map.acls]]\nfrom = "anyone"\ndrop = true', 2, "map.acls[1]: not an identity"),
    ('format = 1\n[[map.acls]]\nfrom = "ip:1.2.3.4"\nto = "world:anyone"', 2, "map.acls[1]: ip:1.2.3.4: a rule"),
    ("format = 1" + 2 * '\n[[map.acls]]\nfrom = "ip:1"\ndrop = true', 2, "map.acls: ip:1: two rules"),
    ('format = 1\n[[kinds]]\npattern = "/a"\nkind = "persistent"', 4, "kinds[1].kind: it can only be"),
    ('format = 1\n[[kinds]]\npattern = "/a"\nkind = "ttl"', 2, "kinds[1].ttl_ms: /a: a time to live of 0 ms"),
    ('format = 1\n[[kinds]]\npattern = "/a"\nkind = "container"\nttl_ms = 5', 5, "kinds[1].ttl_ms: only ttl nodes"),
    (R, 2, "references[1].to: it has to be given"),
    (R + 'to = "/y/{b}"', 5, "references[1].to: /y/{b}: {b} is not captured"),
    (R + 'to = "/y/{a}"', 5, "references[1].to: /y/{a}: it does not say where {value} stands"),
    (R + 'to = "/y/{value}"\njson = "hosts"', 6, "references[1].json: hosts: no JSONPath"),
    (R + 'to = "/y/{value}"\njson = "$[?@.a==1e400]"', 6, "references[1].json: $[?@.a==1e400]: no JSONPath"),
    (R + 'to = "/y/{value}"\nrequired = "no"', 6, "references[1].required: it wants true or false"),
    (R.replace("{a}", "{value}") + 'to = "/y/{value}"', 4, "references[1].from: /x/{value}: {value} stands for"),
    (G, 2, "guardrails[1]: it limits nothing: give at least one of max_deletions"),
    (G + 'max_deletions = "110%"', 4, "guardrails[1].max_deletions: write a number of nodes"),
    (G + 'max_deletions = "10"', 4, "guardrails[1].max_deletions: write a number of nodes"),
    (G + 'max_deletions = "-1%"', 4, "guardrails[1].max_deletions: write a number of nodes"),
    (G + 'max_deletions = "nan%"', 4, "guardrails[1].max_deletions: write a number of nodes"),
    (G + "max_deletions = 0.1", 4, "guardrails[1].max_deletions: write a number of nodes"),
    (G + "max_deletions = [0.1]", 4, "guardrails[1].max_deletions: write a number of nodes"),
    (G + "max_deletions = true", 4, "guardrails[1].max_deletions: write a number of nodes"),
    (G + "min_children = 0", 4, "guardrails[1].min_children: "),
    (G + "min_children = true", 4, "guardrails[1].min_children: it wants a whole number"),
    (G + "min_children = 99999999999999999999", 4, "guardrails[1].min_children: "),
    (G + "never_empty = false", 4, "guardrails[1].never_empty: it can only be true"),
    (G + "unchanged = 1", 4, "guardrails[1].unchanged: it can only be true"),
    (G + 'max_size = "1 GB"', 4, "guardrails[1].max_size: write a number of bytes"),
    (G + "max_size = -1", 4, "guardrails[1].max_size: write a number of bytes"),
    (G + 'schema = "none.json"', 4, "guardrails[1].schema: "),
    (G + 'schema = {type = "objekt"}', 4, "guardrails[1].schema: "),
    (G + "schema = {const = 2020-01-01}", 4, "guardrails[1].schema: the schema holds what JSON does not know"),
    (G + 'schema = {pattern = "("}', 4, "guardrails[1].schema: "),
    (G + 'schema = {"$ref" = "http://127.0.0.1/x"}', 4, "guardrails[1].schema: the schema refers to http://127.0.0.1/x"),
    (G + 'schema = {"$ref" = "#/$defs/x"}', 4, "guardrails[1].schema: the schema refers to #/$defs/x, which"),
    (G + 'schema = {"$schema" = "urn:x"}', 4, "guardrails[1].schema: a $schema that is not known"),
    (G + 'json_schema = "x"\njson = true', 4, "guardrails[1].json_schema: there is no such field"),
    (G + "json = true\n" + G.removeprefix("format = 1\n") + "json = true", 5, "guardrails[2].name: two rules"),
    ("format = 1\n[[together]]\npaths = []", 3, "together[1].paths: "),
    ('format = 1\n[[together]]\npaths = ["/a/{x}", "b"]', 3, "together[1].paths[2]: 'b': a pattern wants an absolute"),
    ('format = 1\n[[checks]]\ncall = ""', 3, "checks[1].call: "),
    ('format = 1\n[[checks]]\ncall = "none.py:f"', 3, "checks[1].call: "),
    ('format = 1\n[[checks]]\ncall = "nothing"', 3, "checks[1].call: nothing"),
    ('format = 1\nmask = ["a"]', 2, "mask[1]: 'a': a pattern wants an absolute path"),
    ('format = 1\nmask = ["/a/{x}{y}"]', 2, "mask[1]: /a/{x}{y}: two captures side by side"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "words"), FAULTS)
def test_a_fault_is_named_with_its_line_and_field(text: str, line: int, words: str) -> None:
    with pytest.raises(BadInput) as raised:
        load(text)
    assert str(raised.value).startswith(f"policy.toml line {line}: {words}")
    assert "\n" not in str(raised.value)
    assert not getattr(raised.value, "__notes__", None)


def test_all_faults_are_named_in_the_order_of_their_lines() -> None:
    with pytest.raises(BadInput) as raised:
        load("foo = 1\n[[guardrails]]\nmax_size = 3\n[[checks]]\n[compare]\r\ndata = 3\n")
    said = [str(raised.value), *raised.value.__notes__]
    assert [int(re.findall(r"line (\d+)", each)[0]) for each in said] == [1, 1, 2, 4, 6]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"format = 1\nformat = 1", "Cannot overwrite"),
        (b"format = ", "this is no TOML"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"x = " + b"[" * 100_000, "this is no TOML"),
        (b"x = " + b"9" * 5_000, "this is no TOML"),
        (b"# " + b"x" * (1 << 20), "more than 1048576 bytes"),
    ],
)
def test_what_is_no_toml_is_said_to_be_none(raw: bytes, words: str) -> None:
    Path("policy.toml").write_bytes(raw)
    with pytest.raises(BadInput, match=words):
        zkmig.load_policy("policy.toml")


@pytest.mark.parametrize(("name", "words"), [("none.toml", "No such file"), (".", "directory"), ("a\0b", "NUL")])
def test_a_file_that_is_not_there(name: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        zkmig.load_policy(name)


def test_a_large_file_with_many_faults_is_told_of_soon() -> None:
    """Goal: lines are found in one pass. Method: tens of thousands of faults, of which the first are named."""
    begun = time.monotonic()
    with pytest.raises(BadInput) as raised:
        load("format = 1\n" + "[[exclude]]\npath = 1\n" * 20_000)
    assert raised.value.__notes__[-1] == "  also: 19950 more"
    assert "line 3: exclude[1].path" in str(raised.value)
    assert time.monotonic() - begun < 60


def test_a_password_in_the_wrong_place_is_never_repeated() -> None:
    with pytest.raises(BadInput) as raised:
        load('format = 1\n[[map.acls]]\nfrom = "digest:me:hunter2"\ndrop = true\n')
    assert "hunter2" not in "".join([str(raised.value), *getattr(raised.value, "__notes__", ())])


def test_identities_are_those_of_the_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZKMIG_AUTH", "digest:me:hunter2")
    (rule,) = load('format = 1\n[[map.acls]]\nfrom = "ip:1.2.3.4"\nto = "digest:me"\n').map_acls
    assert rule.after is not None
    assert rule.after.id.startswith("me:")


def test_lines_of_every_form_that_toml_has() -> None:
    """Strings over lines, with brackets and quotes in them; inline tables; dotted keys; headers twice removed."""
    text = '''# first
a = """x
[b]
""\"""
b = \'\'\'
"""\'\'\'
c = [ "]", # ]
  {d = 1}, ]
"d.e".f = 1
[g]
[g.h.i]
j = "#"
[[k]]
[[k.l]]
[[k.l]]
m = 1
[k.n]
o = 2
[[k]]
[[k.l]]
p = 3
'''
    lines = Lines(text)
    for field, line in [
        (("a",), 2), (("b",), 5), (("c",), 7), (("d.e", "f"), 9), (("g",), 10), (("g", "h"), 11),
        (("g", "h", "i", "j"), 12), (("k", 0), 13), (("k", 0, "l", 0), 14), (("k", 0, "l", 1, "m"), 16),
        (("k", 0, "n", "o"), 18), (("k", 1), 19), (("k", 1, "l", 0, "p"), 21), (("k", 1, "l", 0, "missing"), 20),
        (("none",), 1),
    ]:  # fmt: skip
        assert lines.of(field) == line, field


# -- docs/policy.md ---------------------------------------------------------------------------------------------------

EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
(CHECK,) = re.findall(r"```python\n# checks.py\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) >= 8


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_page_are_policies(example: str, folder: Path) -> None:
    (folder / "checks.py").write_text(CHECK)
    policy = load(example)
    assert unpacked(packed(policy.rules)) == policy.rules


def test_the_check_of_the_page_judges(folder: Path) -> None:
    (folder / "checks.py").write_text(CHECK)
    (example,) = (each for each in EXAMPLES if "checks.py" in each)
    tree = {"": Node(), "/pools": Node(), "/pools/web": Node(b'{"hosts": ["a"], "needs": 2}')}
    verdict = judge(load(example).rules, snapshot_of(tree))
    assert [each.what for each in verdict.violations] == ["pool web has 1 hosts, and needs 2"]


def test_the_fault_of_the_page_is_what_is_said() -> None:
    text = "format = 1\n" + "\n" * 11 + '[[guardrails]]\nmax_deletions = "many"\npattern = "/x"\n'
    with pytest.raises(BadInput) as raised:
        load(text)
    assert f"zkmig: {raised.value}" in PAGE
