/** What is asked before a load: what the rows would become, a schema for them, what a load would take. */

import { ask } from "./api.js";
import { escaped, make, setText } from "./dom.js";

const PATIENCE_MS = 310_000; // the service has less
const QUESTIONS = [
  { what: "preview", label: "Preview", of: ({ source, sinks, dataset }) => ({ source, sinks, dataset }) },
  { what: "estimate", label: "Estimate", of: ({ source, sinks, dataset }) => ({ source, sinks, dataset }) },
  { what: "infer", label: "Infer a schema", of: ({ source }) => ({ source }) },
];
const TITLES = {
  preview: "What the first rows become",
  estimate: "What a load takes",
  infer: "A schema file, told from the rows",
};

/** Buttons in `place`, about what `wanted()` says the form holds; null where that is not filled in. */
export function questions(place, wanted) {
  const buttons = QUESTIONS.map(({ what, label, of }) =>
    make("button", { type: "button", click: () => put(what, of) }, label),
  );
  const stop = make("button", { type: "button", hidden: true, click: end }, "Stop");
  const message = make("p", { class: "message", role: "status" });
  const answer = make("div");
  let asking = null; // ends the question that waits for its answer
  place.append(make("p", { class: "buttons" }, buttons, stop), message, answer);

  async function put(what, of) {
    const form = wanted();
    if (form === null) return;
    end();
    const mine = (asking = new AbortController());
    stop.hidden = false;
    answer.replaceChildren();
    setText(message, `${form.source} is being looked at…`);
    try {
      const signal = AbortSignal.any([mine.signal, AbortSignal.timeout(PATIENCE_MS)]);
      const found = await ask("POST", `/v1/${what}`, of(form), signal);
      if (mine !== asking) return;
      setText(message, "");
      show(TITLES[what], form.source, found);
    } catch (problem) {
      if (mine !== asking) return;
      setText(message, problem.message);
    }
    over();
  }

  function end() {
    if (asking === null) return;
    asking.abort();
    setText(message, "");
    over();
  }

  function over() {
    asking = null;
    if (stop.contains(document.activeElement)) buttons[0].focus();
    stop.hidden = true;
  }

  function show(title, source, { lines, notes }) {
    const text = make("pre", { tabindex: "0", role: "region", "aria-label": title });
    for (const line of lines) text.append(escaped(line), document.createTextNode("\n"));
    answer.replaceChildren(
      make("h3", {}, title),
      make("p", { class: "hint" }, make("bdi", {}, source)),
      text,
      ...notes.map((note) => make("p", { class: "hint" }, note)),
    );
    text.focus();
  }
}
