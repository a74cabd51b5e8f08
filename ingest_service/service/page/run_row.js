/** One run in the table of runs: a line, and below it the details while they are open. */

import { make, setText } from "./dom.js";
import { UNKNOWN, count, duration, moment, nameOf } from "./format.js";
import { details } from "./report.js";

/** The element is a `tbody`. `tell(text)` is for what came of the buttons in the details. */
export function runRow(run, tell) {
  const name = make("button", { type: "button", class: "disclose", "aria-expanded": "false", click: toggle });
  const sinks = make("td", { class: "wide" });
  const state = make("span");
  const rows = make("span", {}, UNKNOWN);
  const pace = make("small");
  const announced = make("td", { class: "wide nowrap" });
  const reason = make("small");
  const line = make(
    "tr",
    {},
    make("td", { class: "wide number" }, run.id),
    make("th", { scope: "row" }, name, reason),
    sinks,
    make("td", {}, state),
    make("td", { class: "number" }, rows, pace),
    announced,
  );
  const element = make("tbody", { "data-run": run.id }, line);
  const id = `run-${run.id}`;
  let latest = run;
  let open = null;
  name.append(make("bdi", {}, nameOf(run.source)));
  show(run);

  function show(now) {
    latest = now;
    setText(sinks, now.sinks.join(", "));
    setText(state, now.state);
    state.className = `state ${now.state}`;
    setText(rows, count(rowsOf(now)));
    setText(pace, paceOf(now));
    setText(announced, moment(now.created_at));
    setText(reason, now.state === "done" ? "" : (now.reason ?? ""));
    if (open) unfold();
  }

  function toggle() {
    if (!open) return unfold();
    open.remove();
    open = null;
    name.setAttribute("aria-expanded", "false");
    name.removeAttribute("aria-controls");
  }

  /** Open the details, or make them anew. */
  function unfold() {
    const hadFocus = open?.contains(document.activeElement);
    open?.remove();
    open = make("tr", { id, class: "unfolded" }, make("td", { colspan: 6 }, details(latest, tell)));
    element.append(open);
    name.setAttribute("aria-expanded", "true");
    name.setAttribute("aria-controls", id);
    if (hadFocus) name.focus();
  }

  return {
    element,
    show,
    unfold: () => {
      if (!open) unfold();
      name.focus();
    },
    focus: () => name.focus(),
    progressed: (event) => setText(rows, count(event.rows_read)),
  };
}

/** How long a run took that has ended, and how many rows it moved a second. */
function paceOf(run) {
  if (!run.started_at || !run.finished_at) return "";
  const seconds = (new Date(run.finished_at) - new Date(run.started_at)) / 1000;
  const moved = run.report?.sources?.reduce((sum, source) => sum + source.rows_now, 0);
  return moved && seconds ? `${duration(seconds)}, ${count(moved / seconds)}/s` : duration(seconds);
}

/** Rows read so far: those of the report, once there is one. */
function rowsOf(run) {
  const sources = run.report?.sources;
  if (!sources) return run.report?.letters ?? run.progress?.rows_read ?? null;
  const readOf = (source) => Math.max(0, ...Object.values(source.sinks).map((sink) => sink.read));
  return sources.reduce((sum, source) => sum + readOf(source), 0);
}
