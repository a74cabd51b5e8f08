/** Files that are put into an inbox: chosen or dropped, sent one after the other, each with its progress. */

import { get, putFile } from "./api.js";
import { make, remove, say, setText } from "./dom.js";
import { size } from "./format.js";

/** `reload()` asks which inboxes there are; without any the section is not shown. */
export function upload(section) {
  const form = section.querySelector("form");
  const { inbox, file } = form.elements;
  const hint = form.querySelector("#inbox-hint");
  const list = section.querySelector("ul");
  const title = section.querySelector("h2");
  let inboxes = [];
  let mostBytes = 0;
  let last = Promise.resolve(); // until it is done the next file waits

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    add([...file.files]);
    file.value = "";
  });
  inbox.addEventListener("change", tellPattern);

  section.addEventListener("dragenter", mark);
  section.addEventListener("dragover", mark);
  section.addEventListener("dragleave", (event) => section.contains(event.relatedTarget) || unmark());
  section.addEventListener("drop", (event) => {
    unmark();
    add([...event.dataTransfer.files]);
  });
  for (const kind of ["dragover", "drop"]) {
    window.addEventListener(kind, (event) => event.preventDefault()); // beside the section a file would replace the page
  }

  function mark() {
    section.classList.add("dropping");
  }

  function unmark() {
    section.classList.remove("dropping");
  }

  function add(files) {
    if (section.hidden) return;
    for (const one of files) {
      const item = fileItem(one, title);
      const to = inbox.value;
      list.append(item.element);
      last = last.then(() => item.send(to, mostBytes));
    }
  }

  function tellPattern() {
    const pattern = inboxes.find((one) => one.name === inbox.value)?.pattern ?? "*";
    setText(hint, `Names like ${pattern}, ${size(mostBytes)} at most.`);
  }

  async function reload() {
    const found = await get("/v1/uploads").catch(() => null);
    if (found === null) return;
    ({ inboxes, most_bytes: mostBytes } = found);
    const chosen = inbox.value;
    inbox.replaceChildren(...inboxes.map(({ name }) => make("option", { value: name }, name)));
    if (inboxes.some(({ name }) => name === chosen)) inbox.value = chosen;
    section.hidden = inboxes.length === 0;
    tellPattern();
  }

  return { reload };
}

/** A file on its way. `heir` gets the focus when the item goes. */
function fileItem(file, heir) {
  const ending = new AbortController();
  const bar = make("progress", { max: 1, value: 0, "aria-label": `How much of ${file.name} is sent` });
  const message = make("p", { class: "message", role: "status" }, "Waits.");
  const end = make("button", { type: "button", "aria-label": `Remove ${file.name}`, click: leave }, "Remove");
  const element = make("li", {}, make("p", { class: "buttons" }, make("bdi", {}, file.name), end), bar, message);

  function leave() {
    ending.abort();
    remove(element, heir);
  }

  async function send(inbox, mostBytes) {
    if (ending.signal.aborted) return;
    try {
      if (file.size > mostBytes) throw new Error(`It has ${size(file.size)}, more than an inbox takes.`);
      setText(message, "Is being sent.");
      const path = `/v1/uploads/${encodeURIComponent(inbox)}/${encodeURIComponent(file.name)}`;
      await putFile(path, file, (sent) => (bar.value = sent / Math.max(1, file.size)), ending.signal);
      bar.value = 1;
      tell(`It is in ${inbox}.`);
    } catch (problem) {
      bar.hidden = true;
      tell(problem.message);
    }
  }

  function tell(text) {
    setText(message, text);
    if (!ending.signal.aborted) say(`${file.name}: ${text}`);
  }

  return { element, send };
}
