/** All that is known of one run: what was asked for, how it went, and its rows, which must add up. */

import { post } from "./api.js";
import { button, make } from "./dom.js";
import { between, count, duration, moment, place } from "./format.js";
import { sinkTable } from "./table.js";

const LONG = 24; // characters that need a line of their own
const EQUATIONS = [
  { name: "Read", value: (sink) => count(sink.read) },
  { name: "= accepted", value: (sink) => count(sink.accepted) },
  { name: "+ rejected", value: (sink) => count(sink.rejected) },
  { name: "+ filtered", value: (sink) => count(sink.filtered ?? 0) },
  { name: "Records", value: (sink) => count(records(sink)), group: true },
  { name: "= written", value: (sink) => count(sink.written) },
  { name: "+ merged", value: (sink) => count(sink.merged) },
  { name: "+ dead", value: (sink) => count(sink.dead) },
  { name: "Adds up", value: (sink) => (addsUp(sink) ? "yes" : "NO"), group: true },
];

export function addsUp(sink) {
  const told = sink.accepted + sink.rejected + (sink.filtered ?? 0);
  return sink.read === told && records(sink) === sink.written + sink.merged + sink.dead;
}

/** Of accepted rows, where one may be several records; else as many. */
function records(sink) {
  return sink.records ?? sink.accepted;
}

/** `tell(text)` is for what came of the button. */
export function details(run, tell) {
  const facts = [
    ["Source", place(run.source)],
    ["Sinks", run.sinks.join(", ")],
    ["Data set", run.dataset],
    ["Rows at most", run.limit && count(run.limit)],
    ["Asked for by", run.origin],
    ["Announced", moment(run.created_at)],
    ["Started", run.started_at && moment(run.started_at)],
    ["Ended", run.finished_at && moment(run.finished_at)],
    ["Took", run.finished_at && run.started_at && between(run.started_at, run.finished_at)],
    ["Attempt", run.attempt && count(run.attempt)],
    ["Exit code", run.exit_code !== null && String(run.exit_code)],
    ["Reason", run.reason],
  ].filter(([, value]) => value);
  return make("div", { class: "details" }, factList(facts), reportOf(run), whatCanBeDone(run, tell));
}

function factList(facts) {
  const pair = ([name, value]) =>
    make("div", { class: value.length > LONG && "long" }, make("dt", {}, name), make("dd", {}, make("bdi", {}, value)));
  return make("dl", { class: "facts" }, facts.map(pair));
}

function whatCanBeDone(run, tell) {
  const hasEnded = !["queued", "running"].includes(run.state);
  const [label, path] = hasEnded ? ["Retry", "retry"] : ["Cancel", "cancel"];
  const work = async () => {
    await post(`/v1/runs/${run.id}/${path}`);
    tell(hasEnded ? `Run ${run.id} is queued again.` : `Run ${run.id} stops as soon as what is in flight is written.`);
  };
  const link = make("a", { href: `#run=${run.id}` }, `Link to run ${run.id}`);
  return make("p", {}, button(label, `${label} run ${run.id}`, work, tell), " ", link);
}

function reportOf(run) {
  if (!run.report) return null;
  if (!run.report.sources) return factList(Object.entries(run.report).map(([name, value]) => [name, inWords(value)]));
  return make("div", {}, run.report.sources.map(stream));
}

function stream(report) {
  const table = sinkTable(`How the rows of ${place(report.source)} add up`, EQUATIONS);
  table.show(Object.entries(report.sinks).map(([name, sink]) => ({ name, sink })));
  const { rows_now, elapsed_s, rows_per_s } = report;
  const pace = `${count(rows_now)} rows in this run, ${duration(elapsed_s)}, ${count(rows_per_s)} rows a second.`;
  return make("div", {}, table.element, make("p", { class: "hint" }, pace));
}

function inWords(value) {
  if (typeof value === "number") return count(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}
