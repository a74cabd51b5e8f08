/** The rows that were refused, by stream: how many, which and why, and a button that tries them again. */

import { get, post } from "./api.js";
import { atMostEvery, button, make, remove, setText } from "./dom.js";
import { count, nameOf, place, size } from "./format.js";
import { letterTable } from "./letter_table.js";

const STREAMS = 50; // shown at first, and more with each press of the button
const RELOAD_MS = 2_000;
const REMEMBERED = 100; // replays that have ended, maybe before the answer came that they are queued

/** `reload()` looks for streams again, but not all the time; `changed(run)` is told of each run. */
export function deadLetters(section) {
  const list = section.querySelector(".streams");
  const message = section.querySelector(".message");
  const title = section.querySelector("h2");
  const more = section.querySelector(".more");
  const streams = new Map();
  let most = STREAMS;
  let all = [];
  const ended = new Map(); // replays, by their id
  const waiting = new Map(); // who is to be told of the others

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
        streams.set(about.stream, streamPanel(about.stream, follow));
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

  /** `tell` what becomes of a replay, and call `done` if it ends well. */
  function follow(run, tell, done) {
    tell(`Tried again, as run ${run.id}.`);
    waiting.set(run.id, { tell, done });
    if (ended.has(run.id)) changed(ended.get(run.id));
  }

  function changed(run) {
    if (run.kind !== "replay" || ["queued", "running"].includes(run.state)) return;
    ended.set(run.id, run);
    if (ended.size > REMEMBERED) ended.delete(ended.keys().next().value);
    const { tell, done } = waiting.get(run.id) ?? {};
    waiting.delete(run.id);
    tell?.(outcome(run));
    if (run.state === "done") done?.();
  }

  return { reload, changed };
}

function outcome({ id, state, reason, report }) {
  if (state !== "done") return `Run ${id} has ${state}. ${reason ?? ""}`;
  return `Run ${id}: ${count(report?.landed)} landed, ${count(report?.left)} left.`;
}

/** `follow(run, tell, done)` tells what becomes of a replay that was queued. */
function streamPanel(stream, follow) {
  const source = make("bdi");
  const facts = make("p", { class: "hint" });
  const message = make("p", { class: "message", role: "status" });
  const tell = (text) => setText(message, text);
  const path = `/v1/dead-letters/${encodeURIComponent(stream)}`;
  const titleId = `letters-of-${stream}`;
  const title = make("h3", { id: titleId, tabindex: "-1" }, source);
  const table = letterTable(path, title, tell, replay);
  const toggle = make("button", { type: "button", "aria-expanded": "false", "aria-describedby": titleId }, "Show");
  const all = button("Replay", null, () => replay(undefined, tell), tell);
  all.setAttribute("aria-describedby", titleId);
  const buttons = make("p", { class: "buttons" }, toggle, all);
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

  /** All of them, or those of a choice. */
  async function replay(choice, tellThere, done) {
    follow(await post(`${path}/replay`, choice), tellThere, done);
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
