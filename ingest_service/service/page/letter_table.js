/** The dead letters of a stream: which rows, why, and what can be done about each, or about all of a code. */

import { get } from "./api.js";
import { button, make, setText } from "./dom.js";
import { count } from "./format.js";

const PAGE = 20;
const MOST_CHARACTERS = 2_000; // of a row; it may have a million

/**
 * The letters, a page at a time. `reload()` begins again at the first, `grown()` adds what came after the last. The
 * roles are those that the elements have anyway, but lose on a phone, where a letter is no line any more. While a row
 * is being edited nothing is taken away: what was to be shown is asked for afterwards.
 *
 * `replay(choice, tell, done)` tries the letters of a code again, or one. `title` gets the focus when a row goes that has
 * it.
 */
export function letterTable(path, title, tell, replay) {
  const body = make("tbody", { role: "rowgroup" });
  const heads = ["Line", "Why", "Row as it stands in the file"];
  const cells = heads.map((text, i) =>
    make("th", { scope: "col", role: "columnheader", class: i ? null : "number" }, text),
  );
  const head = make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, cells));
  const table = make("table", { class: "letters", role: "table", "aria-labelledby": title.id }, head, body);
  const more = make("button", { type: "button", class: "more", hidden: true }, "Show more");
  let at = null; // where the last page that is shown begins
  let last = []; // its rows
  let next = null;
  const codes = make("p", { class: "buttons codes" });
  const element = make("div", {}, codes, table, more);
  const known = new Set();
  const editing = new Set(); // rows
  let isOld = false;

  /** Whoever edits a row is not disturbed. */
  function unlessEdited(work) {
    isOld = editing.size > 0;
    if (!isOld) work();
  }

  const editor = {
    begin: (row) => editing.add(row),
    end: (row) => {
      editing.delete(row);
      if (isOld) unlessEdited(() => load(null));
    },
  };

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
    if (gone.length > 0 && editing.size > 0) {
      isOld = true;
      return;
    }
    const hadFocus = element.contains(document.activeElement);
    for (const row of gone) row.remove();
    at = cursor;
    last = page.letters.map((letter) => letterRow(letter, editor, replay, tell));
    body.append(...last);
    next = page.next;
    if (more.contains(document.activeElement) && next === null) last[0]?.focus(); // the button goes
    more.hidden = next === null;
    if (cursor === null) clearCodes();
    for (const { code } of page.letters) addCode(code);
    if (hadFocus && !element.contains(document.activeElement)) title.focus();
  }

  function clearCodes() {
    known.clear();
    codes.replaceChildren();
  }

  function addCode(code) {
    if (known.has(code)) return;
    known.add(code);
    codes.append(button(`Replay all ${code}`, null, () => replay({ code }, tell), tell));
  }
  more.addEventListener("click", () => load(next));

  return {
    element,
    reload: () => unlessEdited(() => load(null)),
    grown: () => next === null && unlessEdited(() => load(at)),
  };
}

function letterRow(letter, editor, replay, tell) {
  const raw = letter.raw.length > MOST_CHARACTERS ? `${letter.raw.slice(0, MOST_CHARACTERS)}…` : letter.raw;
  const notes = [];
  if (letter.encoding) notes.push(`in ${letter.encoding}: it is not UTF-8`);
  if (raw !== letter.raw) notes.push(`${count(letter.raw.length)} characters in all`);
  const cell = make(
    "td",
    { role: "cell" },
    make("code", { class: "raw" }, make("bdi", {}, document.createTextNode(raw))), // as it stands in the file
    notes.length ? make("small", {}, notes.join("; ")) : null,
  );
  const row = make(
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
    cell,
  );
  if (letter.id) cell.append(letterButtons(letter, editor, replay, tell));
  return row;
}

/** Replay it, or edit its row first. */
function letterButtons(letter, editor, replay, tell) {
  const line = `line ${count(letter.line)}`;
  const again = button("Replay", `Replay ${line}`, () => replay({ letter: letter.id }, tell), tell);
  const edit = make("button", { type: "button", "aria-label": `Edit ${line}`, click: open }, "Edit");
  const buttons = make("p", { class: "buttons" }, edit, again);
  const element = make("div", {}, buttons);

  function open() {
    const text = make("textarea", { rows: 3, "aria-label": `New row for ${line}`, spellcheck: "false" });
    text.value = letter.encoding ? "" : letter.raw;
    const message = make("p", { class: "message", role: "status" });
    const tellHere = (said) => setText(message, said);
    const landed = () => {
      if (form.isConnected) close();
    };
    const send = () => replay({ letter: letter.id, raw: text.value }, tellHere, landed);
    const form = make(
      "div",
      { class: "editor" },
      text,
      letter.raw.includes("\r") ? make("small", {}, "Line ends inside of the row become \\n.") : null,
      make("p", { class: "buttons" }, button("Replay with this", null, send, tellHere), cancel()),
      message,
    );
    editor.begin(element);
    element.replaceChildren(form);
    text.focus();
  }

  function cancel() {
    return make("button", { type: "button", click: close }, "Cancel");
  }

  function close() {
    element.replaceChildren(buttons);
    edit.focus();
    editor.end(element);
  }

  return element;
}
