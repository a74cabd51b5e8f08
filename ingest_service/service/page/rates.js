/**
 * Rows a second into each sink. Rows are settled a chunk at a time, and a chunk may take part of a second or many.
 * So the rate is that between two times at which rows were settled, and holds until the next such time is overdue.
 */

const KEPT_S = 120;
const APART_S = 5; // at least, where chunks are fast: else the line would be a comb
const GAP_S = 4; // longer without an event: nothing is known of the time between

/** `add` takes progress events; `points(sink)` are `{at_s, rows_per_s}`, where a rate of null is not known. */
export function rates() {
  const sinks = new Map();

  function add(event) {
    const at_s = Date.parse(event.timestamp) / 1000;
    for (const [name, sink] of Object.entries(event.sinks)) {
      if (!sinks.has(name)) sinks.set(name, { settled: 0, steps: [], points: [] });
      extend(sinks.get(name), at_s, sink.rows_written + sink.merged + sink.dead);
    }
  }

  const points = (name) => sinks.get(name)?.points ?? [];
  return { add, points, now: (name) => points(name).at(-1)?.rows_per_s ?? null };
}

/** `steps` are the times at which more was found settled than before, and how much it was then. */
function extend(line, at_s, settled) {
  const last = line.points.at(-1);
  if (last && (at_s - last.at_s > GAP_S || settled < line.settled)) {
    line.steps = [];
    line.points.push({ at_s, rows_per_s: null });
  } else if (last && settled > line.settled) {
    line.steps.push({ at_s, settled });
  }
  line.settled = settled;
  line.points.push({ at_s, rows_per_s: rate(line.steps, at_s) });
  line.points = line.points.filter((point) => at_s - point.at_s <= KEPT_S);
  line.steps = line.steps.filter((step) => at_s - step.at_s <= KEPT_S);
}

function rate(steps, now_s) {
  if (steps.length < 2) return null;
  const to = steps.at(-1);
  const from = steps.findLast((step) => to.at_s - step.at_s >= APART_S) ?? steps[0];
  return (to.settled - from.settled) / Math.max(to.at_s - from.at_s, now_s - to.at_s);
}
