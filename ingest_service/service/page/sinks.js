/** How the sinks are. */

import { get } from "./api.js";
import { make, setText } from "./dom.js";

const LOOK_MS = 30_000;

/** Looks now and then while the page can be seen; `found(names)` is told which sinks there are. */
export function sinks(section, found) {
  const list = section.querySelector("ul");
  const message = section.querySelector(".message");
  let shown = "";

  async function look() {
    try {
      const { sinks } = await get("/v1/sinks");
      setText(message, "");
      found(sinks.map((sink) => sink.name));
      if (shown === JSON.stringify(sinks)) return;
      shown = JSON.stringify(sinks);
      list.replaceChildren(...sinks.map(item));
    } catch (problem) {
      setText(message, problem.message);
    }
  }

  let timer = null;
  return {
    start: () => {
      look();
      timer ??= setInterval(() => document.hidden || look(), LOOK_MS);
    },
    stop: () => {
      clearInterval(timer);
      timer = null;
    },
  };
}

function item(sink) {
  const bad = sink.findings.filter((finding) => !finding.ok);
  return make(
    "li",
    {},
    make("strong", {}, sink.name),
    " ",
    make("span", { class: `state ${sink.healthy ? "done" : "failed"}` }, sink.healthy ? "healthy" : "not healthy"),
    make("small", {}, sink.kind),
    bad.map((finding) => make("p", {}, `${finding.what}: ${finding.detail}`)),
  );
}
