// Draws the plan that stands in #plan. Whatever comes from a server gets into the page as text, never as markup:
// nodes are made by createElement and textContent, and the page's policy (Trusted Types) refuses anything else.
"use strict";
(() => {
  const PAGE = 200; // children, results and rows that are drawn at once; more on demand
  const DEPTH = 12; // to which a chain of folders is opened in the beginning
  const DEPTH_MAX = 500; // of a node that is shown in the tree: some thousand nested lists end a browser
  const LINES = 400; // of data
  const LINKS_MAX = 60; // that are drawn at once
  const NESTED_MAX = 100; // levels of JSON that are indented: blanks grow with the square of them
  const ESCAPES_MAX = 4_000; // of one value: text with more of them is shown as bytes, of which a page is drawn at once
  const CELLS_MAX = 4_000_000; // of the table by which two values are compared line by line
  const SORTS = ["create", "write", "delete", "raise_counter", "set_acl"];
  const DONE = { create: "created", write: "written", delete: "deleted", raise_counter: "counters", set_acl: "ACLs" };
  const HARMFUL = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu; // as zkmig escapes them on terminals

  const byId = (id) => document.getElementById(id);
  window.addEventListener("error", (event) => {
    byId("failed").hidden = false;
    byId("failed").textContent = `This page could not be drawn as it should be: ${event.message}. zkmig show prints the plan as text.`;
  });
  const plan = JSON.parse(byId("plan").textContent);
  byId("plan").remove(); // its text is not needed twice
  const rows = plan.rows;
  const parentOf = (node) => rows[node][0];
  const doneTo = (node) => rows[node][2] || null;

  // -- the tree as columns ------------------------------------------------------------------------------------------

  const ends = new Int32Array(rows.length).fill(0);
  const counts = SORTS.map(() => new Int32Array(rows.length));
  for (let node = rows.length - 1; node >= 0; node--) {
    if (ends[node] < node + 1) ends[node] = node + 1;
    const done = doneTo(node);
    if (done) for (const sort of done.changes) counts[SORTS.indexOf(sort)][node]++;
    const parent = parentOf(node);
    if (parent < 0) continue;
    if (ends[parent] < ends[node]) ends[parent] = ends[node];
    for (const column of counts) column[parent] += column[node];
  }
  const held = new Map(); // children that were asked for
  const children = (node) => {
    let found = held.get(node);
    if (!found) {
      found = [];
      for (let child = node + 1; child < ends[node]; child = ends[child]) found.push(child);
      held.set(node, found);
    }
    return found;
  };
  const pathOf = (node) => {
    const names = [];
    for (; parentOf(node) >= 0; node = parentOf(node)) names.push(rows[node][1]);
    const top = rows[0][1];
    return names.length ? (top === "/" ? "" : top) + "/" + names.reverse().join("/") : top;
  };
  let places = null;
  const nodeAt = (path) => {
    if (!places) {
      places = new Map();
      for (let node = 0; node < rows.length; node++) places.set(pathOf(node), node);
    }
    return places.get(path);
  };

  // -- drawing ------------------------------------------------------------------------------------------------------

  const make = (name, options = {}, ...inside) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(options)) {
      if (key === "class") element.className = value;
      else if (key === "click") element.addEventListener("click", value);
      else element.setAttribute(key, value);
    }
    element.append(...inside);
    return element;
  };
  const codeOf = (char) => {
    const code = char.codePointAt(0);
    if (char === "\n") return "\\n";
    if (char === "\r") return "\\r";
    if (char === "\t") return "\\t";
    if (code < 0x100) return "\\x" + code.toString(16).padStart(2, "0");
    if (code < 0x10000) return "\\u" + code.toString(16).padStart(4, "0");
    return "\\U" + code.toString(16).padStart(8, "0");
  };
  // Text of unknown origin: what is not for showing is shown as an escape, and nothing reverses what follows.
  const told = (text, keepTabs = false) => {
    const shown = make("bdi");
    let from = 0;
    for (const match of text.matchAll(HARMFUL)) {
      if (keepTabs && match[0] === "\t") continue;
      shown.append(text.slice(from, match.index), make("span", { class: "escaped" }, codeOf(match[0])));
      from = match.index + match[0].length;
    }
    shown.append(text.slice(from));
    return shown;
  };
  const countsText = (node, less = null) =>
    SORTS.map((sort, at) => [counts[at][node] - (less && less.changes.includes(sort) ? 1 : 0), DONE[sort]])
      .filter(([count]) => count).map(([count, name]) => `${count} ${name}`).join(", ");
  const counted = (count, one) => `${count} ${one}${count === 1 ? "" : "s"}`;
  const bytesOf = (count) => counted(count, "byte");
  const MARKED = { create: "created", delete: "deleted", change: "changed" }; // as a screen reader says it
  const drawMark = ([mark, kind]) => kind ? make("span", { class: `mark ${kind}`, role: "img", "aria-label": MARKED[kind] }, mark) : make("span", { class: "mark" });
  const markOf = (done) => {
    if (!done) return ["", ""];
    if (done.changes.includes("create")) return ["+", "create"];
    return done.changes.includes("delete") ? ["-", "delete"] : ["~", "change"];
  };
  const pathButton = (path) => make("button", { type: "button", class: "path", click: () => revealPath(path) }, told(path));
  // A part of a list, and a button for the rest of it.
  const drawMore = (place, items, drawn, draw, step, what) => {
    const stop = Math.min(items.length, drawn + step);
    for (let at = drawn; at < stop; at++) place.append(draw(items[at], at));
    if (stop === items.length) return;
    const button = make("button", { type: "button", class: "less" }, `Show ${Math.min(step, items.length - stop)} more of ${items.length} ${what}`);
    const holder = place.tagName === "TBODY" ? make("tr", {}, make("td", { colspan: "9" }, button))
      : place.tagName === "OL" ? make("li", {}, button) : button;
    button.addEventListener("click", () => { holder.remove(); drawMore(place, items, stop, draw, step, what); });
    place.append(holder);
  };

  // -- the tree -----------------------------------------------------------------------------------------------------

  const tree = byId("tree");
  const opened = new Map(); // node -> [from, to] of its children that are drawn
  const items = new Map(); // node -> its <li>, while it is drawn
  let chosen = -1;

  const describe = (node) => {
    const done = doneTo(node), parts = [];
    if (done) {
      if (done.data) parts.push(done.before_bytes === undefined ? sizeOf(done.data) : `${done.before_bytes} \u2192 ${sizeOf(done.data)}`);
      if (done.counter) parts.push(`counter to ${done.counter.to}`);
      if (done.acl_steps) parts.push("ACL");
      if (done.kind) parts.push(done.kind);
    }
    if (ends[node] > node + 1) parts.push(`below: ${countsText(node, done)}`);
    return parts.join("; ");
  };
  const sizeOf = (value) => value.is === "null" ? "null" : bytesOf(value.bytes);
  const drawItem = (node, level, at, count) => {
    const isOpen = opened.has(node), isFolder = ends[node] > node + 1;
    const item = make("li", { role: "treeitem", tabindex: "-1", "aria-level": level, "aria-setsize": count, "aria-posinset": at + 1 },
      make("div", { class: "row" },
        make("span", { class: "twist", "aria-hidden": "true" }, isFolder ? (isOpen ? "\u25be" : "\u25b8") : ""),
        drawMark(markOf(doneTo(node))), told(rows[node][1]), make("span", { class: "what" }, describe(node))));
    item.setAttribute("aria-selected", node === chosen);
    if (isFolder) item.setAttribute("aria-expanded", isOpen);
    item.dataset.node = node;
    items.set(node, item);
    if (isOpen) item.append(drawGroup(node, level + 1));
    return item;
  };
  const drawGroup = (node, level) => {
    const group = make("ul", { role: "group" });
    const all = children(node), [from, to] = opened.get(node);
    const more = (text, edge) => {
      const item = make("li", { role: "treeitem", tabindex: "-1", class: "more", "aria-level": level }, make("div", { class: "row" }, text));
      item.dataset.node = node;
      item.dataset.edge = edge;
      return item;
    };
    if (from > 0) group.append(more(`\u2026 ${from} earlier: show ${Math.min(PAGE, from)} of them`, "from"));
    for (let at = from; at < to; at++) group.append(drawItem(all[at], level, at, all.length));
    if (to < all.length) group.append(more(`\u2026 ${all.length - to} more: show ${Math.min(PAGE, all.length - to)} of them`, "to"));
    return group;
  };
  const redraw = (node) => {
    const item = items.get(node);
    if (!item) return;
    forgetBelow(node);
    const fresh = drawItem(node, Number(item.getAttribute("aria-level")), Number(item.getAttribute("aria-posinset")) - 1, Number(item.getAttribute("aria-setsize")));
    item.replaceWith(fresh);
  };
  const forgetBelow = (node) => {
    for (const inner of items.get(node).querySelectorAll("[role=treeitem]:not(.more)")) items.delete(Number(inner.dataset.node));
  };
  const open = (node, child = -1) => {
    const all = children(node);
    if (!all.length) return;
    const at = child < 0 ? 0 : all.indexOf(child);
    const window = opened.get(node);
    if (window && at >= window[0] && at < window[1]) return;
    const from = Math.floor(at / PAGE) * PAGE;
    opened.set(node, [from, Math.min(all.length, from + PAGE)]);
    redraw(node);
  };
  const close = (node) => { if (opened.delete(node)) redraw(node); };
  const focus = (item) => {
    for (const other of tree.querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
    item.tabIndex = 0;
    item.focus({ preventScroll: true });
    item.firstElementChild.scrollIntoView({ block: "nearest", inline: "nearest" });
  };
  const choose = (node) => {
    if (items.has(chosen)) items.get(chosen).setAttribute("aria-selected", false);
    chosen = node;
    if (items.has(node)) items.get(node).setAttribute("aria-selected", true);
    drawDetail(node);
    drawLinks();
  };
  const reveal = (node) => {
    endSearch();
    const above = [];
    for (let each = parentOf(node); each >= 0; each = parentOf(each)) above.push(each);
    if (above.length > DEPTH_MAX) {
      choose(node);
      say(`It lies ${above.length} levels deep, too deep to be drawn in the tree.`);
      return;
    }
    for (let at = above.length - 1; at >= 0; at--) open(above[at], at ? above[at - 1] : node);
    choose(node);
    focus(items.get(node));
  };
  const revealPath = (path) => {
    const node = nodeAt(path);
    if (node !== undefined) { reveal(node); return; }
    say(`The plan changes nothing at or below ${path}.`);
    found.scrollIntoView({ block: "nearest" }); // who asks may be at the other end of the page
  };
  const widen = (item) => {
    const node = Number(item.dataset.node), window = opened.get(node), all = children(node);
    const edge = item.dataset.edge;
    const first = edge === "to" ? all[window[1]] : all[Math.max(0, window[0] - PAGE)];
    if (edge === "to") window[1] = Math.min(all.length, window[1] + PAGE);
    else window[0] = Math.max(0, window[0] - PAGE);
    redraw(node);
    focus(items.get(first));
  };
  const act = (item, isToggle) => {
    if (item.dataset.edge) { widen(item); return; }
    const node = Number(item.dataset.node);
    if (isToggle) opened.has(node) ? close(node) : open(node);
    choose(node);
    focus(items.get(node));
  };
  tree.addEventListener("click", (event) => {
    const item = event.target.closest("[role=treeitem]");
    if (item) act(item, true);
  });
  tree.addEventListener("keydown", (event) => {
    const item = event.target.closest("[role=treeitem]");
    if (!item || event.ctrlKey || event.altKey || event.metaKey) return;
    const node = Number(item.dataset.node), isNode = !item.dataset.edge;
    const drawn = () => [...tree.querySelectorAll("[role=treeitem]")];
    const step = (by) => { const all = drawn(), to = all[all.indexOf(item) + by]; if (to) focus(to); };
    switch (event.key) {
      case "ArrowDown": step(1); break;
      case "ArrowUp": step(-1); break;
      case "Home": focus(drawn()[0]); break;
      case "End": focus(drawn().at(-1)); break;
      case "ArrowRight":
        if (!isNode) break;
        if (opened.has(node)) step(1);
        else if (ends[node] > node + 1) { open(node); focus(items.get(node)); }
        break;
      case "ArrowLeft":
        if (isNode && opened.has(node)) { close(node); focus(items.get(node)); }
        else { const up = isNode ? parentOf(node) : node; if (up >= 0) focus(items.get(up)); }
        break;
      case "Enter": case " ": act(item, false); break;
      default: return;
    }
    event.preventDefault();
  });
  byId("fold").addEventListener("click", () => {
    endSearch();
    opened.clear();
    redraw(0);
    focus(items.get(0));
  });

  // -- search -------------------------------------------------------------------------------------------------------

  const query = byId("query"), only = byId("only"), results = byId("results"), found = byId("found");
  const say = (text) => { found.replaceChildren(told(text)); };
  let waiting = 0, hits = [];
  const search = () => {
    const text = query.value.toLowerCase(), sort = only.value;
    if (!text && !sort) { endSearch(); return; }
    hits = [];
    for (let node = 0; node < rows.length; node++) {
      const done = doneTo(node);
      if (done && (!sort || done.changes.includes(sort)) && pathOf(node).toLowerCase().includes(text)) hits.push(node);
    }
    say(`${hits.length} of ${counted(plan.changed, "change")}`);
    results.replaceChildren();
    drawMore(results, hits, 0, (node) => make("li", {}, drawMark(markOf(doneTo(node))), " ",
      make("button", { type: "button", class: "path", click: () => reveal(node) }, told(pathOf(node)))), PAGE, "that match");
    results.hidden = false;
    tree.hidden = true;
  };
  const endSearch = () => {
    clearTimeout(waiting);
    hits = [];
    query.value = only.value = "";
    found.replaceChildren();
    results.replaceChildren();
    results.hidden = true;
    tree.hidden = false;
  };
  query.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(search, 120); });
  only.addEventListener("change", search);
  query.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { endSearch(); focus(items.get(chosen) || items.get(0)); event.preventDefault(); }
    if (event.key === "Enter") { clearTimeout(waiting); search(); if (hits.length) reveal(hits[0]); event.preventDefault(); }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.altKey || event.metaKey || /^(INPUT|SELECT)$/.test(event.target.tagName)) return;
    query.focus();
    event.preventDefault();
  });

  // -- one node -----------------------------------------------------------------------------------------------------

  const detail = byId("detail");
  const drawDetail = (node) => {
    const done = doneTo(node), path = pathOf(node), list = make("dl");
    const say = (about, what) => list.append(make("dt", {}, about), make("dd", {}, typeof what === "string" ? told(what) : what));
    detail.replaceChildren(make("h3", {}, told(path)), list);
    if (ends[node] > node + 1) say("below", countsText(node, done));
    if (!done) { say("itself", "is not changed"); drawNamed(path, say); return; }
    say("is", done.changes.map((sort) => ({ create: "created", write: "written", delete: "deleted", raise_counter: "its counter raised", set_acl: "its ACL set" })[sort]).join(", "));
    if (done.batches) say(done.batches.length > 1 ? "in batches" : "in batch", done.batches.slice(0, 20).join(", ") + (done.batches.length > 20 ? ` and ${done.batches.length - 20} more` : ""));
    if (done.kind) say("kind", done.kind + (done.ttl_ms ? `, ${done.ttl_ms} ms` : ""));
    if (done.counter) say("counter", `to ${done.counter.to}, by at most ${done.counter.by_at_most}`);
    if (done.acl) say("ACL", done.acl.join(", "));
    if (done.acl_steps) {
      if (done.before && done.before.acl) say("ACL before", done.before.acl.join(", "));
      if (done.acl_steps.before) say("ACL before the commit", done.acl_steps.before.join(", "));
      if (done.acl_steps.after) say("ACL after the commit", done.acl_steps.after.join(", "));
    }
    if (done.before && done.before.fault) say("target", done.before.fault);
    drawNamed(path, say);
    const hasData = done.data || done.changes.includes("delete");
    if (hasData) drawData(done);
  };
  const whyNot = (value) => {
    switch (value.is) {
      case "null": return "null: no data";
      case "masked": return `masked, ${bytesOf(value.bytes)}`;
      case "not asked": return `not in this page, which was made without data: ${bytesOf(value.bytes)}`;
      case "left out": return `left out, since the page would be too large: ${bytesOf(value.bytes)}`;
      case "absent": return value.why;
      default: return value.bytes ? "" : "empty: 0 bytes";
    }
  };
  const beforeOf = (done) => {
    if (done.before && done.before.data) return done.before.data;
    if (done.before && done.before.fault) return { is: "absent", why: `not shown: ${done.before.fault}` };
    if (done.changes.includes("create")) return { is: "absent", why: "there was no such node" };
    const bytes = done.before_bytes === undefined ? `${bytesOf(done.create_again_bytes)} to create it again` : bytesOf(done.before_bytes);
    return { is: "absent", why: `${bytes}; the plan does not hold them (zkmig show --before LOCATION does)` };
  };
  const drawData = (done) => {
    const sides = [beforeOf(done), done.data || { is: "absent", why: "the node is gone" }];
    const isJson = sides.some((side) => jsonOf(side) !== null);
    const place = make("div");
    const draw = (raw) => place.replaceChildren(dataTable(sides, raw));
    if (isJson) {
      const box = make("input", { type: "checkbox" });
      box.addEventListener("change", () => draw(box.checked));
      detail.append(make("label", {}, box, " JSON as it stands, not indented"));
    }
    detail.append(place);
    draw(false);
  };
  const headOf = (name, side) => {
    const cut = side.cut ? `, the begin of ${side.bytes} bytes` : side.is === "text" || side.is === "base64" ? `, ${bytesOf(side.bytes)}` : "";
    return make("th", { scope: "col" }, name + (side.is === "base64" ? " (no text)" : isBytes(side) ? " (as bytes)" : "") + cut);
  };
  const dataTable = (sides, raw) => {
    const lines = sides.map((side) => whyNot(side) ? null : linesOf(side, raw));
    const body = make("tbody"), table = make("table", { class: "data" },
      make("thead", {}, make("tr", {}, headOf("before", sides[0]), headOf("after", sides[1]))), body);
    const pairs = lines[0] && lines[1] ? compared(lines[0], lines[1])
      : (lines[0] || lines[1] || [""]).map((line) => lines[0] ? [line, null, ""] : lines[1] ? [null, line, ""] : [null, null, ""]);
    const isSame = lines[0] && lines[1] && pairs.every(([one, other]) => one === other);
    const note = !isSame ? "" : sides.some((side) => side.cut) ? "The begins are the same: what differs lies behind them, and is not in this page."
      : sides[0].text !== sides[1].text && !raw ? "As JSON they are the same: what differs is blanks." : "";
    if (note) body.append(make("tr", {}, make("td", { class: "why", colspan: "2" }, note)));
    drawMore(body, pairs, 0, ([one, other, kind], at) => make("tr", {}, ...[one, other].map((line, side) => {
      if (!lines[side]) return make("td", { class: "why" }, at ? "" : told(whyNot(sides[side])));
      return make("td", { class: line === null || !kind ? "" : side ? "come" : "gone" }, line === null ? "" : told(line, true));
    })), LINES, "lines");
    return table;
  };
  // Also what is text, but made of characters that are shown as escapes: each is an element of its own.
  const isBytes = (side) => {
    if (side.is !== "text") return side.is === "base64";
    let count = 0;
    for (const [char] of side.text.replaceAll("\r\n", "").matchAll(HARMFUL)) // lines are drawn a part at a time
      if (char !== "\n" && char !== "\t" && ++count > ESCAPES_MAX) return true;
    return false;
  };
  const linesOf = (side, raw) => {
    if (isBytes(side)) return hexLines(side.is === "base64" ? Uint8Array.from(atob(side.base64), (char) => char.charCodeAt(0)) : new TextEncoder().encode(side.text));
    return ((!raw && jsonOf(side)) || side.text).split("\n");
  };
  // Indents JSON without touching a token: parsing and writing again would round large numbers and drop double keys.
  const jsonOf = (side) => {
    if (side.is !== "text" || side.cut || isBytes(side)) return null;
    try { if (typeof JSON.parse(side.text) !== "object") return null; } catch { return null; }
    const pieces = [];
    let depth = 0;
    for (const [token] of side.text.matchAll(/"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\],:]|[^\s{}[\],:"]+/g)) {
      const last = pieces.at(-1), lineEnd = "\n" + "  ".repeat(depth);
      if (token === "}" || token === "]") {
        depth--;
        pieces.push(last === "{" || last === "[" ? token : "\n" + "  ".repeat(depth) + token);
      } else {
        if (last === "{" || last === "[") pieces.push(lineEnd);
        pieces.push(token === ":" ? ": " : token === "," ? "," + lineEnd : token);
        if ((token === "{" || token === "[") && ++depth > NESTED_MAX) return null;
      }
    }
    return pieces.join("");
  };
  const hexLines = (bytes) => {
    const lines = [];
    for (let at = 0; at < bytes.length; at += 16) {
      const codes = [...bytes.subarray(at, at + 16)];
      const text = codes.map((code) => code >= 32 && code < 127 ? String.fromCharCode(code) : ".").join("");
      lines.push(`${at.toString(16).padStart(6, "0")}  ${codes.map((code) => code.toString(16).padStart(2, "0")).join(" ").padEnd(47)}  ${text}`);
    }
    return lines;
  };
  // Lines side by side: [before, after, ""] where they are equal, null for what one side does not have.
  const compared = (ours, theirs) => {
    let first = 0, ourEnd = ours.length, theirEnd = theirs.length;
    while (first < ourEnd && first < theirEnd && ours[first] === theirs[first]) first++;
    while (ourEnd > first && theirEnd > first && ours[ourEnd - 1] === theirs[theirEnd - 1]) { ourEnd--; theirEnd--; }
    const same = (lines, from, to) => lines.slice(from, to).map((line) => [line, line, ""]);
    return [...same(ours, 0, first), ...middle(ours.slice(first, ourEnd), theirs.slice(first, theirEnd)), ...same(ours, ourEnd, ours.length)];
  };
  const middle = (ours, theirs) => {
    const width = theirs.length + 1, pairs = [];
    let gone = [], come = [];
    const flush = () => {
      for (let at = 0; at < Math.max(gone.length, come.length); at++) pairs.push([gone[at] ?? null, come[at] ?? null, "x"]);
      gone = []; come = [];
    };
    if (ours.length * theirs.length > CELLS_MAX) { gone = ours; come = theirs; flush(); return pairs; }
    const longest = new Uint32Array((ours.length + 1) * width); // of the common lines from here on
    for (let a = ours.length - 1; a >= 0; a--)
      for (let b = theirs.length - 1; b >= 0; b--)
        longest[a * width + b] = ours[a] === theirs[b] ? longest[(a + 1) * width + b + 1] + 1 : Math.max(longest[(a + 1) * width + b], longest[a * width + b + 1]);
    let a = 0, b = 0;
    while (a < ours.length || b < theirs.length) {
      if (a < ours.length && b < theirs.length && ours[a] === theirs[b]) { flush(); pairs.push([ours[a++], theirs[b++], ""]); }
      else if (b === theirs.length || (a < ours.length && longest[(a + 1) * width + b] >= longest[a * width + b + 1])) gone.push(ours[a++]);
      else come.push(theirs[b++]);
    }
    flush();
    return pairs;
  };

  // -- references ---------------------------------------------------------------------------------------------------

  const links = plan.links.map(([rule, source, target, isNew]) => ({ rule, source, target, isNew }));
  const bySource = new Map(), byTarget = new Map();
  for (const link of links) {
    for (const [map, path] of [[bySource, link.source], [byTarget, link.target]]) {
      if (!map.has(path)) map.set(path, []);
      map.get(path).push(link);
    }
  }
  const drawNamed = (path, say) => {
    for (const [about, map, other] of [["names", bySource, "target"], ["is named by", byTarget, "source"]]) {
      const all = map.get(path) || [];
      if (!all.length) continue;
      const list = make("div");
      drawMore(list, all, 0, (link) => make("div", {}, pathButton(link[other]), ` (${link.rule}${link.isNew ? "" : ", no longer"})`), 20, "links");
      say(about, list);
    }
  };
  const SVG = "http://www.w3.org/2000/svg";
  const svgOf = (name, attributes, ...inside) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...inside);
    return element;
  };
  const drawLinks = () => {
    const place = byId("graph");
    place.replaceChildren();
    let shown = links;
    const about = [];
    if (plan.links_hidden) about.push(`Names in ${counted(plan.links_hidden, "node")} are not told: what is masked is not shown.`);
    if (!plan.references) about.push("The plan's policy has no references.");
    else if (!plan.has_data) about.push("What a node names is its data, and this page was made without data.");
    else if (!links.length) about.push("No node that the plan writes names another.");
    else if (links.length > LINKS_MAX) {
      const path = chosen < 0 ? null : pathOf(chosen);
      shown = path === null ? [] : [...(bySource.get(path) || []), ...(byTarget.get(path) || [])];
      const near = shown.length;
      shown = shown.slice(0, LINKS_MAX);
      about.push(near ? `${shown.length} of the ${counted(near, "link")} of the chosen node; ${links.length} in all.` : `${links.length} links. Choose a node to see its own.`);
    } else about.push(`${counted(links.length, "link")}: who names on the left, what is named on the right.`);
    byId("links-told").textContent = about.join(" ");
    if (!shown.length) return;
    const sources = [...new Set(shown.map((link) => link.source))], targets = [...new Set(shown.map((link) => link.target))];
    const height = 24, width = 1000, at = (paths, path) => paths.indexOf(path) * height + 18;
    const tall = Math.max(sources.length, targets.length) * height + 12;
    const graph = svgOf("svg", { width, height: tall, viewBox: `0 0 ${width} ${tall}`, role: "group", "aria-label": "References" });
    for (const link of shown) {
      const from = at(sources, link.source) - 4, to = at(targets, link.target) - 4;
      graph.append(svgOf("path", { class: `link ${link.isNew ? "come" : "gone"}`, d: `M 405 ${from} C 500 ${from}, 500 ${to}, 595 ${to}` },
        svgOf("title", {}, link.rule + (link.isNew ? "" : " (no longer)"))));
    }
    for (const [paths, x, anchor] of [[sources, 400, "end"], [targets, 600, "start"]]) {
      for (const path of paths) {
        const node = nodeAt(path);
        const kind = node === undefined ? "" : markOf(doneTo(node))[1];
        const name = told(path).textContent;
        const text = svgOf("text", { x, y: at(paths, path), "text-anchor": anchor, class: kind, direction: "ltr" }, name.length > 52 ? "\u2026" + name.slice(-51) : name);
        const group = svgOf("g", { role: "button", tabindex: "0", "aria-label": name }, svgOf("title", {}, name), text);
        group.addEventListener("click", () => revealPath(path));
        group.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { revealPath(path); event.preventDefault(); } });
        graph.append(group);
      }
    }
    place.append(graph);
  };

  // -- tables -------------------------------------------------------------------------------------------------------

  const tableOf = (heads, items, draw, what) => {
    const body = make("tbody");
    drawMore(body, items, 0, draw, PAGE, what);
    return make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))), body);
  };
  const cells = (...inside) => make("tr", {}, ...inside.map((each) => make("td", typeof each === "number" ? { class: "number" } : {}, typeof each === "string" ? told(each) : typeof each === "number" ? String(each) : each)));
  const drawFacts = () => {
    const list = byId("facts");
    drawMore(list, plan.facts, 0, ([about, text]) => {
      const pair = document.createDocumentFragment();
      pair.append(make("dt", {}, about), make("dd", {}, told(text)));
      return pair;
    }, PAGE, "sentences");
  };
  const drawRules = () => {
    const place = byId("rules-shown"), rules = plan.rules.rules;
    if (!rules.length) { place.append(make("p", {}, "The plan was made without rules.")); return; }
    place.append(tableOf(["rule", "sort", "about", "result", "reason"], rules, (rule) => {
      const result = rule.violations ? make("span", { class: "bad" }, `violations: ${rule.violations}`) : [rule.judged ? "holds" : "", rule.not_judged && `not judged: ${rule.not_judged}`].filter(Boolean).join("; ");
      return cells(rule.name, rule.sort, rule.about, result, rule.reason);
    }, "rules"));
    if (!plan.rules.violations.length) return;
    place.append(make("h3", {}, "Violations"), tableOf(["rule", "path", "what", "value", "cause"], plan.rules.violations, (each) =>
      cells(each.rule, pathButton(each.path), each.what, each.value, each.was_there_before ? "it was so before" : each.change), "violations"));
    for (const [rule, count] of Object.entries(plan.rules.more)) place.append(make("p", {}, told(`${rule}: ${count} more`)));
  };
  const drawBatches = () => {
    const place = byId("batches-shown");
    if (!plan.batches.length) { place.append(make("p", {}, "There are none.")); return; }
    place.append(tableOf(["batch", "operations", "bytes", "bytes to undo", "first", "last"], plan.batches, (batch, at) =>
      cells(at + 1, batch.operations, batch.bytes, batch.undo_bytes, pathButton(batch.first), pathButton(batch.last)), "batches"));
  };

  drawFacts();
  drawRules();
  drawBatches();
  tree.append(drawItem(0, 1, 0, 1));
  items.get(0).tabIndex = 0;
  for (let node = 0, depth = 0; depth < DEPTH; node = children(node)[0], depth++) {
    open(node);
    if (children(node).length !== 1) break; // here there is something to choose from
  }
  items.get(0).tabIndex = 0;
  drawLinks();
  detail.append(make("p", {}, plan.changed ? "Choose a node to see what is done to it." : "There are no changes here."));
  document.documentElement.dataset.drawn = "yes";
})();
