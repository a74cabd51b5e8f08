/** What is running now: a panel a run, with a plot and the numbers of each sink. */

import { post } from "./api.js";
import { button, make, remove, setText } from "./dom.js";
import { UNKNOWN, count, duration, milliseconds, moment, nameOf, percent, place, size } from "./format.js";
import { plot, swatch } from "./plot.js";
import { rates } from "./rates.js";
import { sinkTable } from "./table.js";

const QUANTITIES = [
  { name: "Rows/s", value: (sink) => count(sink.rows_per_s) },
  { name: "Settled", value: (sink) => percent(sink.percent) },
  { name: "Watermark", value: (sink) => size(sink.watermark) },
  { name: "Written", value: (sink) => count(sink.rows_written), group: true },
  { name: "Merged", value: (sink) => count(sink.merged) },
  { name: "Dead", value: (sink) => count(sink.dead) },
  { name: "Queued chunks", value: (sink) => count(sink.queued), group: true },
  { name: "Rows in flight", value: (sink) => count(sink.in_flight) },
  { name: "Concurrency", value: (sink) => count(sink.concurrency), note: (sink) => sink.concurrency_reason ?? "" },
  { name: "Retries", value: (sink) => count(sink.retries), group: true },
  { name: "Throttled", value: (sink) => count(sink.throttled) },
  { name: "Request, median", value: (sink) => milliseconds(sink.p50_ms) },
  { name: "Request, p99", value: (sink) => milliseconds(sink.p99_ms) },
];

const FIGURES = [
  { name: "Done", value: (event) => percent(event.percent) },
  { name: "Left", value: (event) => duration(event.eta_s) },
  { name: "Rows read", value: (event) => count(event.rows_read) },
  { name: "Read/s", value: (event) => count(event.rows_per_s) },
  { name: "Refused", value: (event) => count(event.rows_rejected) },
  { name: "File", value: (event) => size(event.size) },
  { name: "Shards", value: (event) => (event.shards ? `${event.shards_complete} of ${event.shards}` : "") },
];

/** `changed(run)` and `progressed(event)` keep the panels in `section` true; `keep(runs)` says which ones still run. */
export function running(section) {
  const panels = new Map();
  const list = section.querySelector("#running");
  const idle = section.querySelector("#idle");
  const title = section.querySelector("h2");

  function changed(run) {
    if (run.state !== "running") return drop(run.id);
    if (!panels.has(run.id)) {
      panels.set(run.id, panel(run));
      list.append(panels.get(run.id).element);
    }
    idle.hidden = true;
    panels.get(run.id).describe(run);
    if (run.progress) panels.get(run.id).show(run.progress);
  }

  function drop(id) {
    if (!panels.has(id)) return;
    remove(panels.get(id).element, title);
    panels.delete(id);
    idle.hidden = panels.size > 0;
  }

  function keep(runs) {
    const ids = new Set(runs.map((run) => run.id));
    for (const id of [...panels.keys()].filter((id) => !ids.has(id))) drop(id);
    runs.forEach(changed);
  }

  return {
    changed,
    progressed: (event) => panels.get(event.run)?.show(event),
    keep,
  };
}

function panel(run) {
  const history = rates();
  const chart = plot();
  const table = sinkTable(`Run ${run.id}: the sinks`, QUANTITIES);
  const figures = FIGURES.map(({ name, value }) => ({ name, value, shown: make("dd", {}, UNKNOWN) }));
  const about = make("p", { class: "hint" });
  const message = make("p", { class: "message", role: "status" });
  const bar = make("progress", { max: 100, "aria-label": `Run ${run.id}: how much the slowest sink has` });
  const titleId = `running-${run.id}`;
  const tell = (text) => setText(message, text);
  const cancel = async () => {
    await post(`/v1/runs/${run.id}/cancel`);
    tell("It stops as soon as what is in flight is written.");
  };
  const beside = make("div", { class: "beside", hidden: true }, chart.element, table.element);
  const element = make(
    "article",
    { class: "panel", "aria-labelledby": titleId },
    make(
      "header",
      {},
      make("h3", { id: titleId }, make("bdi", {}, nameOf(run.source))),
      button("Cancel", `Cancel run ${run.id}`, cancel, tell),
      about,
    ),
    bar,
    make(
      "dl",
      { class: "figures" },
      figures.map(({ name, shown }) => make("div", {}, make("dt", {}, name), shown)),
    ),
    message,
    beside,
  );

  function describe(now) {
    const words = [`Run ${now.id}`, place(now.source), now.dataset, `since ${moment(now.started_at)}`];
    if (now.attempt > 1) words.push(`attempt ${now.attempt}`);
    setText(about, words.filter(Boolean).join(" · "));
  }

  function show(event) {
    if (!event.sinks) return; // a step of MovieLens that counts something else
    beside.hidden = false;
    history.add(event);
    for (const { value, shown } of figures) {
      setText(shown, value(event));
      shown.parentElement.hidden = !shown.textContent;
    }
    if (event.percent === null) bar.removeAttribute("value");
    else bar.value = event.percent;
    const sinks = sinksOf(event, history);
    table.show(sinks.map((sink, i) => ({ name: sink.name, head: swatch(i), sink })));
    chart.draw(sinks.map(({ name }) => ({ name, points: history.points(name) })));
  }

  return { element, describe, show };
}

/** The sinks of an event, each with what the event says of it elsewhere. */
function sinksOf(event, history) {
  const sinks = Object.entries(event.sinks);
  const slowest = Math.min(...sinks.map(([, sink]) => sink.watermark));
  return sinks.map(([name, sink]) => ({
    ...sink,
    name,
    queued: event.queue_depth[name],
    rows_per_s: history.now(name),
    // Of a compressed file only the slowest sink's percent is known; the others are ahead by what they settled more.
    percent: event.percent === null || !slowest ? null : Math.min(100, (event.percent * sink.watermark) / slowest),
  }));
}
