"""The page that `zkmig show --html` writes: usable at 20,000 changes, and harmless whatever servers have put into it.

Method: pages of made-up plans in a real Chromium; what it draws is looked at, and what its console and its network saw.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.browser import Browser
from tests.trees import Node, snapshot_of
from zkmig.model.snapshot import Snapshot
from zkmig.plan.make import make_plan
from zkmig.plan.plan import Plan
from zkmig.policy.captures import CapturePattern, Template
from zkmig.policy.policy import Policy
from zkmig.policy.rules import JsonData, MaxDeletions, Reference, Rules
from zkmig.show import page
from zkmig.show.before import Before
from zkmig.show.changes import change_tree
from zkmig.show.values import Masks

NODES_MAX = 6_000  # elements that a page may have, however many changes there are


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as one:
        yield one


Open = Callable[..., Path]


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens the page of a plan; in the end nothing has failed in it, and nothing was asked for but the page."""
    made = tmp_path / "plan.html"

    def open_page(plan: Plan, before: Snapshot | None = None, *, with_data: bool = True) -> Path:
        there = Before.of(before, before.scope, plan) if before is not None else None
        tree = change_tree(plan)
        page.write_page(str(made), plan, "0123456789abcdef" * 4, tree, Masks.of(plan.masks), with_data, there, True)
        browser.open(made)
        return made

    yield open_page
    assert browser.complaints() == []
    assert browser.requests() == [made.as_uri()]


def plan_between(
    source: Mapping[str, Node], target: Mapping[str, Node], policy: Policy | None = None
) -> tuple[Plan, Snapshot]:
    before = snapshot_of(target)
    return make_plan(snapshot_of(source), before, policy=policy, hosts=(("zk1", 2181),)), before


def drawn_names(browser: Browser) -> list[str]:
    return browser.texts("#tree [role=treeitem]:not(.more) > .row bdi")


def choose(browser: Browser, path: str) -> None:
    """By the search, as somebody at the keys would."""
    browser.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    query = browser.one("#query")
    query.clear()
    query.send_keys(path, Keys.ENTER)
    browser.until(lambda: browser.texts("#detail h3") == [path], path)


def test_twenty_thousand_changes_stay_few_on_the_page(browser: Browser, opened: Open) -> None:
    """20,000 nodes in one folder, besides others: what is drawn stays small on opening, unfolding, searching."""
    source = {"": Node(), "/hosts": Node(), "/pools": Node(), "/pools/web": Node(b"new")}
    source |= {f"/hosts/h{number:05}": Node(b"up") for number in range(20_000)}
    target = {"": Node(), "/pools": Node(), "/pools/web": Node(b"old"), "/pools/gone": Node(b"x")}
    plan, _ = plan_between(source, target)
    opened(plan)
    assert "20001 to create, 1 to write, 1 to delete" in browser.one("#summary").text
    assert drawn_names(browser) == ["/app", "hosts", "pools"]
    assert browser.nodes < NODES_MAX

    browser.all("#tree [role=treeitem] [role=treeitem] > .row")[0].click()
    assert len(drawn_names(browser)) == 203
    browser.one("#tree .more > .row").click()  # 200 more
    assert len(drawn_names(browser)) == 403
    assert browser.nodes < NODES_MAX

    query = browser.one("#query")
    query.send_keys("HOSTS/h1")
    browser.until(lambda: browser.one("#found").text == "10000 of 20003 changes", "the search")
    assert browser.nodes < NODES_MAX
    assert len(browser.all("#results button.path")) == 200
    browser.one("#results button.less").click()
    assert len(browser.all("#results button.path")) == 400
    query.clear()
    query.send_keys("h13579")
    browser.until(lambda: browser.one("#found").text == "1 of 20003 changes", "the search")
    browser.one("#results button.path").click()
    assert browser.texts("#detail h3") == ["/app/hosts/h13579"]
    assert browser.texts("#tree [aria-selected=true] > .row bdi") == ["h13579"]
    assert browser.nodes < NODES_MAX
    earlier = browser.one("#tree .more > .row")  # what is around it can be come to in both directions
    assert "13400 earlier" in earlier.text
    earlier.click()
    assert "h13200" in drawn_names(browser)

    browser.one("#only option[value=delete]").click()
    assert browser.texts("#results button.path") == ["/app/pools/gone"]


def test_everything_is_reached_without_a_mouse(browser: Browser, opened: Open) -> None:
    """Keys alone: along the tree, open and shut, more of a long folder, into the search and out of it."""
    source = {"": Node(), "/a": Node(), "/b": Node()} | {f"/a/n{number:03}": Node() for number in range(250)}
    plan, _ = plan_between(source, {"": Node()})
    opened(plan)
    browser.run("document.querySelector('#tree [tabindex=\"0\"]').focus()")

    def press(*keys: str) -> str:
        for key in keys:
            ActionChains(browser.driver).send_keys(key).perform()
        return str(browser.run("return document.activeElement.querySelector('.row')?.textContent ?? ''"))

    assert "/app" in press(Keys.HOME)
    assert press(Keys.ARROW_DOWN).startswith("\u25b8+a")
    assert press(Keys.ARROW_RIGHT).startswith("\u25be+a")
    assert press(Keys.ARROW_RIGHT).startswith("+n000")
    assert press(Keys.ARROW_LEFT).startswith("\u25be+a")
    assert press(Keys.END).startswith("+b")
    assert "50 more" in press(Keys.ARROW_UP)
    assert press(Keys.ENTER).startswith("+n200")
    assert press(Keys.ENTER).startswith("+n200")
    assert browser.texts("#detail h3") == ["/app/a/n200"]
    assert press(Keys.ARROW_LEFT, Keys.ARROW_LEFT).startswith("\u25b8+a")
    press("/", "n", "1", "7", Keys.ENTER)
    assert browser.texts("#detail h3") == ["/app/a/n170"]
    press("/", "x", Keys.ESCAPE)
    assert browser.one("#tree").is_displayed()
    assert not browser.one("#results").is_displayed()


# What would run, or turn the line around, if any of it were taken for more than text.
HOSTILE = (
    "<script>window.ran=1<",
    "script><script>window.ran=1",
    "<img src=x onerror=window.ran=1>",
    "<!--<script>",
    "]]>&lt;&#x3c;b&#x3e;",
    "'\"`${window.ran=1}",
    "javascript:window.ran=1",
    "__proto__",
    "constructor",
    "\u202egnp.exe\u2066",
    "line\u2028end",
    "@PLAN@@SCRIPT@@STYLE@",
)
HOSTILE_DATA = (
    b"</script><script>window.ran=1</script>",
    b"<!--<script>",
    b'{"a": "</script><img src=x onerror=window.ran=1>", "__proto__": {"x": 1}}',
    "\u202e\u2066 \u2028 \u2029 \ufeff \x00\x1b[31m".encode(),
    b"\xff\xfe</script><script>window.ran=1</script>",
)


def hostile_plan() -> tuple[Plan, Snapshot]:
    """Names and data in every place of the page: changes, batches, links, rules, notes."""
    source = {"": Node(b"1")}
    target = {"": Node(b"0")}
    for number, name in enumerate(HOSTILE):
        data = HOSTILE_DATA[number % len(HOSTILE_DATA)]
        source[f"/{name}"] = Node(data)
        source[f"/{name}/{name}"] = Node(name.encode())
        if number % 2:
            target[f"/{name}"] = Node(data[::-1] if number % 4 == 1 else data + b"\n")
    named = HOSTILE[2]
    rules = Rules(
        references=(
            Reference(
                named, CapturePattern.parse("/app/*/{x}"), Template.parse("/app/{value}", frozenset("x")), None, False
            ),
        ),
        guardrails=(MaxDeletions(f"{named} too", CapturePattern.parse("/app/*"), 5, None, "</script>" + named),),
    )
    return plan_between(source, target, Policy(rules=rules))


def test_hostile_names_and_data_are_text(browser: Browser, opened: Open) -> None:
    """Each node is chosen and each table is drawn; nothing runs, and nothing unseen stands in what is shown."""
    plan, before = hostile_plan()
    made = opened(plan, before)
    assert not set(made.read_bytes()) - {0x0A, *range(0x20, 0x7F)}
    for number, name in enumerate(HOSTILE):
        browser.run(
            "const query = document.getElementById('query');"
            "query.value = arguments[0]; query.dispatchEvent(new Event('input'))",
            name,
        )
        browser.until(lambda: browser.all("#results button.path"), name)
        browser.all("#results button.path")[-1].click()
        assert browser.texts("#detail h3"), number
    shown = browser.run("return document.body.innerText")
    assert "\\u202egnp.exe\\u2066" in shown
    assert not any(char in shown for char in "\u202e\u2066\u2028\u2029\x1b\x00")
    assert HOSTILE[0] in shown
    assert browser.run("return window.ran") is None
    assert browser.all("script[src], img, iframe, object, embed, link, form") == []


@pytest.mark.parametrize("with_policy", [False, True])
def test_the_browser_would_tell(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_policy: bool
) -> None:
    """Negative control: a page that escapes nothing runs what it was given, unless its policy is there to refuse it."""
    monkeypatch.setattr(page, "_UNSAFE", {})
    if not with_policy:
        monkeypatch.setattr(page, "_policy", lambda *_: "")
    plan, _ = hostile_plan()
    made = tmp_path / "bad.html"
    page.write_page(str(made), plan, "0" * 64, change_tree(plan), Masks(), True)
    browser.open(made)
    assert browser.run("return window.ran") == (None if with_policy else 1)
    assert browser.complaints() or not with_policy


def test_data_stands_side_by_side_as_it_is(browser: Browser, opened: Open) -> None:
    """Lines that differ are marked; no number is rounded, null is not empty, bytes are bytes, and what is not known or
    cut off is said."""
    big = b'{"id":12345678901234567890,"id":1.10,"list":[1,2,3],"text":"a: {b}, \\"c\\""}'
    source = {
        "": Node(), "/json": Node(big), "/blanks": Node(b'{"a": 1}'), "/lines": Node(b"one\ntwo\nthree\nfive"),
        "/null": Node(None), "/empty": Node(b""), "/bytes": Node(b"\x00\xffAB"), "/long": Node(b"x" * 100_000),
        "/new": Node(b"first"),
    }  # fmt: skip
    target = {
        "": Node(), "/json": Node(big.replace(b"2,3", b"2,4")), "/blanks": Node(b'{"a":1}'),
        "/lines": Node(b"one\n2\nthree\nfour\nfive"), "/null": Node(b"x"), "/empty": Node(None), "/bytes": Node(b"AB"),
        "/long": Node(b"short"), "/old": Node(b"last words"),
    }  # fmt: skip
    plan, before = plan_between(source, target)

    def table(path: str) -> list[list[str]]:
        choose(browser, f"/app/{path}")
        rows = browser.run(
            "return [...document.querySelectorAll('#detail table.data tbody tr')].map((row) =>"
            "[...row.cells].map((cell) => (/gone|come/.test(cell.className) ? '*' : '') + cell.textContent))"
        )
        return [list(row) for row in rows]

    opened(plan, before)
    json_rows = table("json")
    assert ['  "id": 12345678901234567890,', '  "id": 12345678901234567890,'] in json_rows
    assert ['  "id": 1.10,', '  "id": 1.10,'] in json_rows
    assert [row for row in json_rows if row[0].startswith("*")] == [["*    4", "*    3"]]
    assert "".join(row[1].strip("* ") for row in json_rows).replace(": ", ":") == big.decode().replace(": ", ":")
    browser.one("#detail input[type=checkbox]").click()
    assert browser.texts("#detail table.data td.come") == [big.decode()]
    assert "what differs is blanks" in table("blanks")[0][0]
    assert table("lines") == [
        ["one", "one"], ["*2", "*two"], ["three", "three"], ["*four", ""], ["five", "five"],
    ]  # fmt: skip
    assert table("null") == [["x", "null: no data"]]
    assert table("empty") == [["null: no data", "empty: 0 bytes"]]
    assert "00 ff 41 42" in table("bytes")[0][1]
    assert table("new") == [["there was no such node", "first"]]
    assert table("old") == [["last words", "the node is gone"]]
    table("long")
    assert "the begin of 100000 bytes" in browser.texts("#detail table.data th")[1]

    opened(plan)  # what stands there now is not in the plan
    assert "5 bytes; the plan does not hold them" in table("long")[0][0]
    assert "create it again" in table("old")[0][0]
    opened(plan, before, with_data=False)
    assert table("new") == [["there was no such node", "not in this page, which was made without data: 5 bytes"]]


def test_a_node_too_deep_for_the_tree_is_told_of_all_the_same(browser: Browser, opened: Open) -> None:
    """Some thousand nested lists end the tab of a Chromium; its path and data are shown without them."""
    source = {"/d" * depth: Node(b"deep" if depth == 3_000 else b"") for depth in range(3_001)}
    plan, _ = plan_between(source, {"": Node()})
    opened(plan)
    choose(browser, "/app" + "/d" * 3_000)
    assert "3000 levels deep" in browser.one("#found").text
    assert browser.texts("#detail .data td:last-child bdi") == ["deep"]
    choose(browser, "/app" + "/d" * 40)
    assert browser.texts("#tree [aria-selected=true] > .row bdi") == ["d"]


def test_text_of_control_characters_does_not_stop_the_page(browser: Browser, opened: Open) -> None:
    """60,000 NULs are UTF-8; an element for each escape took half a minute. As bytes they are drawn a part at a time;
    line ends of Windows and a few escapes stay text."""
    names = {"/nul": b"\0" * 60_000, "/crlf": b"a\r\n" * 20_000, "/few": b"\x01a" * 500}
    source = {"": Node()} | {path: Node(data) for path, data in names.items()}
    target = {"": Node()} | {path: Node(b"\x02" + data) for path, data in names.items()}
    plan, before = plan_between(source, target)
    opened(plan, before)
    choose(browser, "/app/nul")
    assert browser.nodes < NODES_MAX
    assert browser.texts("#detail .data td:last-child bdi")[0].startswith("000000  00 00")
    assert "as bytes" in browser.texts("#detail .data th")[1]
    choose(browser, "/app/crlf")
    assert browser.nodes < NODES_MAX
    assert browser.texts("#detail .data td:last-child bdi")[1] == "a\\r"
    choose(browser, "/app/few")
    assert browser.texts("#detail .data td:last-child bdi") == ["\\x01a" * 500]


def test_what_differs_behind_the_begin_is_not_taken_for_the_same(browser: Browser, opened: Open) -> None:
    """Of two long values the begins are shown; where these are equal nothing is marked, and it is said why."""
    source = {"": Node(), "/long": Node(b"x" * 70_000 + b"new"), "/other": Node(b"n" + b"x" * 70_000)}
    target = {"": Node(), "/long": Node(b"x" * 70_000 + b"old"), "/other": Node(b"o" + b"x" * 70_000)}
    plan, before = plan_between(source, target)
    opened(plan, before)
    choose(browser, "/app/long")
    assert "what differs lies behind them" in browser.one("#detail table.data").text
    choose(browser, "/app/other")
    assert "what differs lies behind" not in browser.one("#detail table.data").text


def test_what_is_done_is_told_to_who_does_not_see_it(browser: Browser, opened: Open) -> None:
    """The tree as assistive technology hears it: words in place of marks, level, and what is open."""
    source = {"": Node(), "/a": Node(b"x"), "/a/n": Node(b"y"), "/w": Node(b"after")}
    plan, _ = plan_between(source, {"": Node(), "/w": Node(b"before"), "/x": Node(b"z")})
    opened(plan)
    heard = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    names = [one["name"]["value"] for one in heard if one.get("role", {}).get("value") == "treeitem"]
    assert names == [
        "/app below: 2 created, 1 written, 1 deleted",
        "created a 1 byte; below: 1 created",
        "changed w 6 \u2192 5 bytes",
        "deleted x",
    ]


def test_json_too_deep_to_indent_is_shown_as_it_stands(browser: Browser, opened: Open) -> None:
    """Indented, 60 KB of brackets would be gigabytes; a little less deep they are indented."""
    deep, usual = (b"[" * depth + b"]" * depth for depth in (30_000, 50))
    plan, _ = plan_between({"": Node(), "/deep": Node(deep), "/usual": Node(usual)}, {"": Node()})
    opened(plan)
    choose(browser, "/app/deep")
    assert browser.texts("#detail .data td:last-child bdi") == [deep.decode()]
    choose(browser, "/app/usual")
    assert len(browser.texts("#detail .data td:last-child bdi")) == 99


def test_references_rules_and_batches_are_drawn(browser: Browser, opened: Open) -> None:
    """Few links are all drawn, of many only those of the chosen node; each leads to its node. Rules and what is against
    the tree are named."""

    def of(services: int) -> Plan:
        source = {"": Node(), "/pools": Node(), "/services": Node(), "/pools/a": Node(b"no JSON")}
        source |= {f"/services/s{number:03}": Node(b"a" if number else b"b") for number in range(services)}
        source |= {"/pools/b": Node(b"{}")}
        target = {"": Node(), "/pools": Node(), "/pools/a": Node(b"no JSON")}
        pattern = CapturePattern.parse("/app/services/{svc}")
        rules = Rules(
            references=(Reference("its pool", pattern, Template.parse("/app/pools/{value}", frozenset(("svc",)))),),
            guardrails=(JsonData("pools are JSON", CapturePattern.parse("/app/pools/*")),),
            report_existing=True,
        )
        return plan_between(source, target, Policy(rules=rules))[0]

    opened(of(3))
    assert len(browser.all("#graph path.link")) == 3
    assert browser.texts("#graph text") == [
        "/app/services/s000", "/app/services/s001", "/app/services/s002", "/app/pools/b", "/app/pools/a",
    ]  # fmt: skip
    browser.all("#graph g")[3].send_keys(Keys.ENTER)
    assert browser.texts("#detail h3") == ["/app/pools/b"]
    assert "/app/services/s000" in browser.one("#detail").text
    rules = browser.one("#rules").text
    assert "its pool" in rules
    assert "/app/services/{svc} -> /app/pools/{value}" in rules
    assert "its data is not JSON" in rules
    assert "it was so before" in rules
    assert len(browser.all("#batches tbody tr")) == 1

    opened(of(500))
    assert browser.all("#graph path.link") == []
    assert "500 links. Choose a node" in browser.one("#links-told").text
    choose(browser, "/app/services/s123")
    assert len(browser.all("#graph path.link")) == 1
    choose(browser, "/app/pools/b")
    assert len(browser.all("#graph path.link")) == 1
    assert browser.nodes < NODES_MAX
    choose(browser, "/app/services/s123")
    named = browser.all("#graph g")[1]  # /app/pools/a, which the plan leaves alone
    browser.run("arguments[0].scrollIntoView(); arguments[0].focus()", named)
    named.send_keys(Keys.ENTER)
    assert browser.one("#found").text == "The plan changes nothing at or below /app/pools/a."
    assert browser.run(
        "const box = document.getElementById('found').getBoundingClientRect();"
        "return box.top >= 0 && box.bottom <= innerHeight"
    )


def test_on_paper_nothing_is_cut_off(browser: Browser, opened: Open) -> None:
    """A page printed on A4 has no scroll bars: the graph of references, wider than the sheet on a screen, fits it, and
    so does a node's data. As a control, the same width on a screen needs a scroll bar."""
    pattern = CapturePattern.parse("/app/services/{svc}")
    template = Template.parse("/app/pools/{value}", frozenset(("svc",)))
    long = "n" * 60
    services = {"/services": Node(), "/services/s": Node(long.encode())}
    plan, before = plan_between(
        {"": Node(), "/pools": Node(), f"/pools/{long}": Node(), **services},
        {"": Node()},
        Policy(rules=Rules(references=(Reference("its pool", pattern, template),))),
    )
    opened(plan, before)
    choose(browser, "/app/services/s")
    paper = {"width": 700, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    wider = """return [...document.querySelectorAll("*")].filter((each) => !each.closest("svg") &&
        each.scrollWidth > each.clientWidth && getComputedStyle(each).overflowX !== "visible").map((each) => each.id)"""
    try:
        browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", paper)
        assert "graph" in browser.run(wider)
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        assert browser.run(wider) == []
        drawn, sheet = browser.run(
            """const right = (what) => document.querySelector(what).getBoundingClientRect().right;
            return [Math.max(...[...document.querySelectorAll("#graph text")].map((each) =>
                each.getBoundingClientRect().right)), right("body")]"""
        )
        assert drawn <= sheet
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_is_plain_data_for_other_readers(tmp_path: Path) -> None:
    """The JSON in it is the plan, and says so without a browser."""
    plan, before = hostile_plan()
    made = tmp_path / "plan.html"
    page.write_page(str(made), plan, "0" * 64, change_tree(plan), Masks(), True, Before.of(before, before.scope, plan))
    inside = made.read_text().partition('id="plan">')[2].partition("</script>")[0]
    document = json.loads(inside)
    names = {row[1] for row in document["rows"]}
    assert {*HOSTILE, "/app"} == names
