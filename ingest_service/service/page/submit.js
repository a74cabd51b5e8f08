/** The form that loads a file. */

import { post } from "./api.js";
import { make, setText } from "./dom.js";

/** `offer(names)` says which sinks there are to choose from. */
export function submit(section) {
  const form = section.querySelector("form");
  const { source, dataset, limit, restart } = form.elements;
  const into = form.querySelector("#into");
  const message = form.querySelector(".message");
  let offered = "";

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    setText(message, "");
    try {
      const run = await post("/v1/runs", wanted());
      const isNew = run.state === "queued" && run.attempt === 0;
      setText(message, isNew ? `It is queued, as run ${run.id}.` : `That is run ${run.id}, which is ${run.state}.`);
      restart.checked = false;
    } catch (problem) {
      setText(message, problem.message);
    }
  });

  function wanted() {
    const sinks = [...form.querySelectorAll("[name=sink]:checked")].map((box) => box.value);
    return {
      source: source.value.trim(),
      sinks,
      ...(dataset.value.trim() && { dataset: dataset.value.trim() }),
      ...(limit.value && { limit: Number(limit.value) }),
      restart: restart.checked,
    };
  }

  function offer(names) {
    if (names.join() === offered) return;
    offered = names.join();
    const boxes = names.map((name) =>
      make("label", { class: "choice" }, make("input", { type: "checkbox", name: "sink", value: name }), " ", name),
    );
    form.querySelector(".choices").replaceChildren(...boxes);
    into.hidden = names.length < 2;
  }

  return { offer };
}
