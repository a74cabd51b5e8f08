/** The rows that were refused, by stream: how many, which and why, and a button that tries them again. */

import { get, post } from "./api.js";
import { atMostEvery, button, make, remove, setText } from "./dom.js";
import { count, nameOf, place, size } from "./format.js";

const PAGE = 20;
const STREAMS = 50; // shown at first, and more with each press of the button
const RELOAD_MS = 2_000;
const MOST_CHARACTERS = 2_000; // of a row; it may have a million

/** `reload()` looks for streams again, but not all the time. */
export function deadLetters(section) {
  const list = section.querySelector(".streams");
  const message = section.querySelector(".message");
  const title = section.querySelector("h2");
  const more = section.querySelector(".more");
  const streams = new Map();
  let most = STREAMS;
  let all = [];

  const reload = atMostEvery(RELOAD_MS, async () => {
    try {
      all = (await get("/v1/dead-letters")).streams;
      show(all.slice(0, most));
    } catch (problem) {
      setText(message, problem.message);
    }
  });

  function show(found) {
    const names = new Set(found.map((about) => about.stream));
    for (const [name, stream] of streams) {
      if (names.has(name)) continue;
      remove(stream.element, title);
      streams.delete(name);
    }
    for (const about of found) {
      if (!streams.has(about.stream)) {
        streams.set(about.stream, streamPanel(about.stream));
        list.append(streams.get(about.stream).element);
      }
      streams.get(about.stream).show(about);
    }
    more.hidden = found.length === all.length;
    setText(message, found.length ? "" : "There are none.");
  }

  more.addEventListener("click", () => {
    const first = all[most];
    most += STREAMS;
    show(all.slice(0, most));
    streams.get(first.stream).focus();
  });

  return { reload };
}

function streamPanel(stream) {
  const source = make("bdi");
  const facts = make("p", { class: "hint" });
  const message = make("p", { class: "message", role: "status" });
  const tell = (text) => setText(message, text);
  const path = `/v1/dead-letters/${encodeURIComponent(stream)}`;
  const titleId = `letters-of-${stream}`;
  const title = make("h3", { id: titleId, tabindex: "-1" }, source);
  const table = letterTable(path, titleId, tell);
  const toggle = make("button", { type: "button", "aria-expanded": "false", "aria-describedby": titleId }, "Show");
  const replay = button("Replay", null, replayAll, tell);
  replay.setAttribute("aria-describedby", titleId);
  const buttons = make("p", { class: "buttons" }, toggle, replay);
  const element = make(
    "article",
    { class: "panel", "aria-labelledby": titleId },
    make("header", {}, title, buttons, facts),
    message,
  );
  let before = { letters: 0, bytes: 0 };

  toggle.addEventListener("click", () => {
    const isOpen = table.element.isConnected;
    if (isOpen) table.element.remove();
    else {
      element.append(table.element);
      table.reload();
    }
    toggle.setAttribute("aria-expanded", String(!isOpen));
    setText(toggle, isOpen ? "Show" : "Hide");
  });

  async function replayAll() {
    const run = await post(`${path}/replay`);
    tell(`They are tried again, as run ${run.id}.`);
  }

  function show(about) {
    setText(source, about.source ? nameOf(about.source) : stream);
    setText(
      facts,
      `${count(about.letters)} rows · ${size(about.bytes)}${about.source ? ` · ${place(about.source)}` : ""}`,
    );
    if (table.element.isConnected) {
      if (about.letters > before.letters) table.grown();
      else if (about.bytes !== before.bytes) table.reload();
    }
    before = about;
  }

  return { element, show, focus: () => title.focus() };
}

/**
 * The letters, a page at a time. `reload()` begins again at the first, `grown()` adds what came after the last. The
 * roles are those that the elements have anyway, but lose on a phone, where a letter is no line any more.
 */
function letterTable(path, titleId, tell) {
  const body = make("tbody", { role: "rowgroup" });
  const heads = ["Line", "Why", "Row as it stands in the file"];
  const cells = heads.map((text, i) =>
    make("th", { scope: "col", role: "columnheader", class: i ? null : "number" }, text),
  );
  const head = make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, cells));
  const table = make("table", { class: "letters", role: "table", "aria-labelledby": titleId }, head, body);
  const more = make("button", { type: "button", class: "more", hidden: true }, "Show more");
  let at = null; // where the last page that is shown begins
  let last = []; // its rows
  let next = null;

  async function load(cursor) {
    const query = new URLSearchParams({ limit: PAGE, ...(cursor && { cursor }) });
    try {
      show(await get(`${path}?${query}`), cursor);
    } catch (problem) {
      tell(problem.message);
    }
  }

  function show(page, cursor) {
    const gone = cursor === null ? [...body.children] : cursor === at ? last : [];
    for (const row of gone) row.remove();
    at = cursor;
    last = page.letters.map(letterRow);
    body.append(...last);
    next = page.next;
    if (more.contains(document.activeElement) && next === null) last[0]?.focus(); // the button goes
    more.hidden = next === null;
  }
  more.addEventListener("click", () => load(next));

  return {
    element: make("div", {}, table, more),
    reload: () => load(null),
    grown: () => next === null && load(at),
  };
}

function letterRow(letter) {
  const raw = letter.raw.length > MOST_CHARACTERS ? `${letter.raw.slice(0, MOST_CHARACTERS)}…` : letter.raw;
  const notes = [];
  if (letter.encoding) notes.push(`in ${letter.encoding}: it is not UTF-8`);
  if (raw !== letter.raw) notes.push(`${count(letter.raw.length)} characters in all`);
  return make(
    "tr",
    { role: "row", tabindex: "-1" },
    make("th", { scope: "row", role: "rowheader", class: "number" }, count(letter.line)),
    make(
      "td",
      { role: "cell" },
      letter.reason,
      " ",
      make("small", {}, `${letter.stage}: `, make("code", {}, letter.code)),
    ),
    make(
      "td",
      { role: "cell" },
      make("code", { class: "raw" }, make("bdi", {}, document.createTextNode(raw))), // as it stands in the file
      notes.length ? make("small", {}, notes.join("; ")) : null,
    ),
  );
}
