/** The runs, newest first: by state, a page at a time, each with its report behind its name. */

import { get } from "./api.js";
import { atMostEvery, make, remove, setText } from "./dom.js";
import { ZONE, count } from "./format.js";
import { runRow } from "./run_row.js";

const PAGE = 50;
const MOST_ROWS = 5_000; // a page that stays open for months must not grow for months
const STATES = ["running", "queued", "done", "failed", "cancelled"];
const COUNTS_MS = 2_000;
const SEARCH_MS = 300;

/**
 * `changed(run)` and `progressed(event)` keep the table in `section` true; `reload()` fetches it anew. `holdFor` keeps
 * events back until a promise is kept.
 */
export function runs(section, holdFor) {
  const table = section.querySelector("table");
  const more = section.querySelector(".more");
  const message = section.querySelector(".message");
  const title = section.querySelector("h2");
  const rows = new Map();
  setText(section.querySelector(".zone"), ZONE);
  let state = "";
  let source = "";
  let next = null;
  let turn = Promise.resolve();

  const tell = (text) => setText(message, text);
  const fail = (problem) => tell(problem.message);
  const totals = filter(section.querySelector(".filter"), (chosen) => {
    state = chosen;
    inTurn(reload);
  });
  const search = section.querySelector("[type=search]");
  search.addEventListener(
    "input",
    atMostEvery(SEARCH_MS, () => {
      source = search.value.trim().toLowerCase();
      inTurn(reload);
    }),
  );
  const countAgain = atMostEvery(COUNTS_MS, () => get("/v1/runs?limit=1").then((page) => totals(page.counts), fail));

  async function fetchPage(limit, cursor) {
    const query = new URLSearchParams({ limit, ...(state && { state }), ...(source && { source }), ...(cursor && { cursor }) });
    const page = await get(`/v1/runs?${query}`);
    tell("");
    next = page.next;
    more.hidden = next === null;
    totals(page.counts);
    return page.runs;
  }

  /** The newest runs: as many as were shown, as far as one request gives them. */
  async function reload() {
    const found = await fetchPage(Math.min(500, Math.max(PAGE, rows.size)), null);
    const shown = new Set(found.map((run) => run.id));
    for (const id of [...rows.keys()].filter((id) => !shown.has(id))) drop(id);
    for (const run of found) show(run);
    const none = source ? "There is no such run." : state ? `No run is ${state}.` : "There are no runs yet.";
    if (!found.length) tell(none);
  }

  async function showMore() {
    const found = await fetchPage(PAGE, next);
    for (const run of found) show(run);
    if (more.hidden && found.length) rows.get(found[0].id).focus(); // the button is gone
    tell(`${count(rows.size)} runs are shown.`);
  }

  /** One at a time, so that the answer of the latest is the last to be shown. */
  function inTurn(work) {
    turn = holdFor(turn.then(work).catch(fail));
  }
  more.addEventListener("click", () => inTurn(showMore));

  function show(run) {
    if (rows.has(run.id)) return rows.get(run.id).show(run);
    const row = runRow(run, tell);
    const older = [...table.tBodies].find((body) => Number(body.dataset.run) < Number(run.id));
    table.insertBefore(row.element, older ?? null);
    rows.set(run.id, row);
  }

  function drop(id) {
    remove(rows.get(id).element, title);
    rows.delete(id);
  }

  /** Whether a run is among those that are shown, by its state and source, and as far down as is shown. */
  const belongs = (run) =>
    (!state || run.state === state) &&
    run.source.toLowerCase().includes(source) &&
    (next === null || Number(run.id) >= Number(next));

  /** Show one run with its details, wherever it would stand. */
  async function unfold(id) {
    show(await get(`/v1/runs/${id}`));
    rows.get(id).unfold();
  }

  function changed(run) {
    countAgain();
    if (!belongs(run)) {
      if (rows.has(run.id)) drop(run.id);
      return;
    }
    show(run);
    tell("");
    if (rows.size > MOST_ROWS) {
      drop([...table.tBodies].at(-1).dataset.run);
      next = [...table.tBodies].at(-1).dataset.run;
      more.hidden = false;
    }
  }

  return {
    reload: () => inTurn(reload),
    unfold: (id) => inTurn(() => unfold(id)),
    changed,
    progressed: (event) => rows.get(event.run)?.progressed(event),
  };
}

/** The choice of a state. Returns a function that shows how many runs there are of each. */
function filter(fieldset, choose) {
  const numbers = new Map();
  for (const state of ["", ...STATES]) {
    const input = make("input", {
      type: "radio",
      name: "state",
      value: state,
      checked: state === "",
      change: () => choose(state),
    });
    numbers.set(state, make("span", { class: "count" }));
    fieldset.append(make("label", {}, input, make("span", {}, state || "all", " ", numbers.get(state))));
  }
  return (counts) => {
    const all = Object.values(counts).reduce((sum, n) => sum + n, 0);
    for (const [state, shown] of numbers) setText(shown, count(state ? counts[state] : all));
  };
}
