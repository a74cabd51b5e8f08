/** What a sink holds of a user, newest first: looked up when somebody asks, and never on its own. */

import { get } from "./api.js";
import { make, setText } from "./dom.js";

const LIMIT = 20;

export function user(section) {
  const form = section.querySelector("form");
  const { id, of, titles } = form.elements;
  const message = section.querySelector(".message");
  const place = section.querySelector(".found");

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    setText(message, "Looking…");
    place.replaceChildren();
    const query = new URLSearchParams({ limit: LIMIT, titles: titles.checked, dataset: of.value.trim() });
    try {
      const found = await get(`/v1/users/${encodeURIComponent(id.value.trim())}/recent?${query}`);
      show(found);
    } catch (problem) {
      setText(message, problem.message);
    }
  });

  function show({ sink, user_id, interactions }) {
    const n = interactions.length;
    setText(message, n === 0 ? `${sink} has nothing of ${user_id}.` : `The newest ${n} that ${sink} has of ${user_id}.`);
    if (n > 0) place.replaceChildren(table(interactions));
  }
}

function table(interactions) {
  const names = [...new Set(interactions.flatMap(Object.keys))].filter((name) => name !== "user_id");
  if (names.includes("title")) names.splice(1, 0, ...names.splice(names.indexOf("title"), 1));
  const head = make("tr", {}, names.map((name) => make("th", { scope: "col" }, name)));
  const rows = interactions.map((one) => make("tr", {}, names.map((name) => make("td", {}, String(one[name] ?? "")))));
  const caption = "What the sink has of the user";
  return make(
    "div",
    { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" },
    make("table", {}, make("caption", { class: "unseen" }, caption), make("thead", {}, head), make("tbody", {}, rows)),
  );
}
