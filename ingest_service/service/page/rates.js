/** Rows a second into each sink, from what had been settled at each event. */

export const KEPT_S = 120;
const SMOOTH_S = 5; // rows are settled a chunk at a time: from one second to the next the rate would be a comb
const GAP_S = 4; // longer without an event: nothing is known of the time between

/** `add` takes progress events; `points(sink)` are `{at_s, rows_per_s}`, where a rate of null is a gap. */
export function rates() {
  let samples = [];
  let points = [];

  function add(event) {
    const at_s = Date.parse(event.timestamp) / 1000;
    const last = samples.at(-1);
    if (last && at_s - last.at_s > GAP_S) {
      points.push({ at_s, rates: {} });
      samples = [];
    }
    samples = [...samples.filter((sample) => at_s - sample.at_s <= SMOOTH_S), { at_s, settled: settledIn(event) }];
    const first = samples[0];
    if (at_s > first.at_s) points.push({ at_s, rates: since(first, samples.at(-1)) });
    points = points.filter((point) => at_s - point.at_s <= KEPT_S);
  }

  return {
    add,
    points: (sink) => points.map(({ at_s, rates }) => ({ at_s, rows_per_s: rates[sink] ?? null })),
    now: (sink) => points.at(-1)?.rates[sink] ?? null,
  };
}

function settledIn(event) {
  const sinks = Object.entries(event.sinks);
  return Object.fromEntries(sinks.map(([name, sink]) => [name, sink.rows_written + sink.merged + sink.dead]));
}

function since(first, last) {
  const seconds = last.at_s - first.at_s;
  const rows = (sink) => Math.max(0, last.settled[sink] - (first.settled[sink] ?? 0));
  return Object.fromEntries(Object.keys(last.settled).map((sink) => [sink, rows(sink) / seconds]));
}
