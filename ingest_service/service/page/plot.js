/** A line a sink, two minutes at most. Texts stand beside the drawing, so that they keep their size on a phone. */

import { make, makeSvg, setText } from "./dom.js";
import { count, duration } from "./format.js";

const WIDTH = 600;
const HEIGHT = 100;
const SHORTEST_S = 10;
const STYLES = 6; // of lines, in style.css: each has a colour and dashes of its own

/** `draw(series)` takes `[{name, points}]`, with points as of `rates`. */
export function plot() {
  const top = make("span");
  const middle = make("span");
  const scale = make("div", { class: "scale", "aria-hidden": "true" }, top, middle, make("span", {}, "0"));
  const lines = makeSvg("g");
  const grid = [0, HEIGHT / 2, HEIGHT].map((y) => makeSvg("path", { class: "grid", d: `M0 ${y}H${WIDTH}` }));
  const drawing = makeSvg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": "Rows a second" },
    grid,
    lines,
  );
  const begin = make("span");
  const times = make("div", { class: "times", "aria-hidden": "true" }, begin, make("span", {}, "now"));

  function draw(series) {
    const at_s = series.flatMap(({ points }) => points.map((point) => point.at_s));
    const to_s = Math.max(...at_s);
    const span_s = Math.max(SHORTEST_S, to_s - Math.min(...at_s));
    const rates = series.flatMap(({ points }) => points.map((point) => point.rows_per_s ?? 0));
    const most = roundUp(Math.max(10, ...rates));
    setText(top, count(most));
    setText(middle, count(most / 2));
    setText(begin, `${duration(span_s)} ago`);
    const x = (point) => WIDTH * (1 - (to_s - point.at_s) / span_s);
    const y = (point) => HEIGHT * (1 - point.rows_per_s / most);
    lines.replaceChildren(...series.map(({ points }, i) => line(points, x, y, i)));
    drawing.setAttribute("aria-label", inWords(series));
  }

  return { element: make("div", { class: "plot" }, scale, drawing, times), draw };
}

/** A short piece of the line, for a legend. */
export function swatch(number) {
  const piece = makeSvg("path", { class: styleOf(number), d: "M0 4H24" });
  return makeSvg("svg", { class: "swatch", viewBox: "0 0 24 8", "aria-hidden": "true" }, piece);
}

function line(points, x, y, number) {
  let pen = "M";
  let path = "";
  for (const point of points) {
    const isKnown = point.rows_per_s !== null;
    if (isKnown) path += `${pen}${x(point).toFixed(1)} ${y(point).toFixed(1)}`;
    pen = isKnown ? "L" : "M";
  }
  return makeSvg("path", { class: styleOf(number), d: path });
}

const styleOf = (number) => `line line-${number % STYLES}`;

/** The next round number: 1, 2, 3, 4, 6, 8, 10, 20, … */
function roundUp(number) {
  const power = 10 ** Math.floor(Math.log10(number));
  return power * [1, 2, 3, 4, 6, 8, 10].find((factor) => factor * power >= number);
}

function inWords(series) {
  const sentences = series.map(({ name, points }) => {
    const known = points.map((point) => point.rows_per_s).filter((rate) => rate !== null);
    return known.length
      ? `${name}: now ${count(known.at(-1))}, at most ${count(Math.max(...known))}.`
      : `${name}: not known yet.`;
  });
  return ["Rows a second.", ...sentences].join(" ");
}
