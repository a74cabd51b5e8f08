/** Numbers, sizes and times as they are shown. What is not known is a dash. */

export const UNKNOWN = "–";
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const time = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });

/** In which times are shown. */
export const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone;

const known = (show) => (value) => (value === null || value === undefined ? UNKNOWN : show(value));

export const count = known((n) => whole.format(n));
export const percent = known((n) => `${n.toFixed(1)} %`);

/** Bytes; a million of them is a MB. */
export const size = known((n) => {
  const [unit, divisor] = n < 1e3 ? ["B", 1] : n < 1e6 ? ["KB", 1e3] : n < 1e9 ? ["MB", 1e6] : ["GB", 1e9];
  return `${(n / divisor).toFixed(divisor > 1 && n / divisor < 100 ? 1 : 0)} ${unit}`;
});
export const milliseconds = known((n) => `${n < 100 ? short.format(n) : whole.format(n)} ms`);

/** `45 s`, `3 min 20 s`, `2 h 5 min`. */
export const duration = known((seconds) => {
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${whole.format(Math.floor(s / 3600))} h ${Math.floor((s % 3600) / 60)} min`;
});

/** An ISO 8601 time, in the reader's own zone; without its day if that is today. */
export const moment = known((iso) => {
  const at = new Date(iso);
  const today = day.format(new Date()) === day.format(at);
  return today ? time.format(at) : `${day.format(at)}, ${time.format(at)}`;
});

/** How long it took from one ISO 8601 time to another. */
export const between = (from, to) => duration(from && to ? (new Date(to) - new Date(from)) / 1000 : null);

/** The last part of a path or URL, readable. */
export function nameOf(source) {
  const last = source.replace(/\/+$/, "").split("/").pop() || source;
  return source.startsWith("file://") ? decoded(last) : last;
}

/** A source as a person would write it. */
export function place(source) {
  return source.startsWith("file://") ? decoded(source.slice("file://".length)) : source;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
