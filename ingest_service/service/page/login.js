/** The form where the token is given. It goes into the body of one request, and is kept nowhere. */

import { ask, post } from "./api.js";
import { setText } from "./dom.js";

/** `entered()` is called after a good login. `show(why)` shows the form, `hide()` hides it; `leave()` logs out. */
export function login(section, entered) {
  const form = section.querySelector("form");
  const token = form.elements.token;
  const message = form.querySelector(".message");

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    setText(message, "");
    try {
      await post("/v1/session", { token: token.value });
      token.value = "";
      entered();
    } catch (problem) {
      setText(message, problem.message);
      token.focus();
      token.select();
    }
  });

  function show(why) {
    if (section.hidden) {
      section.hidden = false;
      setText(message, why);
      token.focus();
    }
  }

  function hide() {
    section.hidden = true;
  }

  return { show, hide, leave: () => ask("DELETE", "/v1/session") };
}
