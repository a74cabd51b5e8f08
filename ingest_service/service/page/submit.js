/** The form that loads a file. */

import { get, post } from "./api.js";
import { make, setText } from "./dom.js";
import { questions } from "./questions.js";

/** `offer(names)` says which sinks there are to choose from. */
export function submit(section) {
  const form = section.querySelector("form");
  const { source, dataset, limit, restart } = form.elements;
  const into = form.querySelector("#into");
  const message = form.querySelector(".message");
  let offered = "";
  let folder = null; // the one whose files are suggested

  source.addEventListener("focus", suggestFiles);
  source.addEventListener("input", suggestFiles);
  dataset.addEventListener("focus", suggestDatasets, { once: true });
  questions(section.querySelector(".questions"), () => (form.reportValidity() ? wanted() : null));

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

  /** What is in the folder that is typed so far. Where nothing can be suggested one types on. */
  async function suggestFiles() {
    const typed = source.value.slice(0, source.value.lastIndexOf("/") + 1);
    if (typed === folder || typed.includes("://")) return;
    folder = typed;
    const found = await get(`/v1/files?${new URLSearchParams({ folder: typed })}`).catch(() => null);
    if (found === null || folder !== typed) return;
    const names = [...found.folders.map((path) => `${path}/`), ...found.files.map((file) => file.path)];
    form.querySelector("#files").replaceChildren(...names.map((value) => make("option", { value })));
  }

  async function suggestDatasets() {
    const { datasets } = await get("/v1/datasets").catch(() => ({ datasets: [] }));
    form.querySelector("#datasets").replaceChildren(...datasets.map((value) => make("option", { value })));
  }

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
