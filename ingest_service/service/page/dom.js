/** Elements are made of attributes and texts, never of markup: what comes out of a file stays text. */

const SVG = "http://www.w3.org/2000/svg";

// Control characters, marks that turn the direction of writing, line ends of Unicode, lone surrogates.
const ACTING =
  /[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** A text with characters that act on the reader's eye, rather than stand for themselves, as escapes. */
export function escaped(text) {
  return text.replace(ACTING, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

const shown = (value) => (typeof value === "string" ? escaped(value) : value);

/** An element. An attribute that is a function listens to the event of its name; null and false leave it out. */
export function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function makeSvg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : shown(value));
  }
  element.append(...children.flat().filter((child) => child !== null).map(shown));
  return element;
}

/** Change a text only if it is another: what is unchanged is not drawn, selected text stays selected. */
export function setText(element, text) {
  const plain = escaped(String(text));
  if (element.textContent !== plain) element.textContent = plain;
}

/** Take an element away. If it has the focus, `heir` gets that: nobody is thrown back to the top of the page. */
export function remove(element, heir) {
  const hadFocus = element.contains(document.activeElement);
  element.remove();
  if (hadFocus) heir.focus();
}

/** Said by screen readers when they have a moment. */
export function say(text) {
  document.getElementById("news").textContent = escaped(text);
}

/** A function that calls `work` now, but at most once in `ms`: calls in between become one, at the end of that time. */
export function atMostEvery(ms, work) {
  let timer = null;
  let again = false;
  return function call() {
    again = timer !== null;
    if (again) return;
    timer = setTimeout(() => {
      timer = null;
      if (again) call();
    }, ms);
    work();
  };
}

/** A button that does `work` and cannot be pressed again meanwhile. `tell` is given a text if that fails. */
export function button(label, description, work, tell) {
  const element = make("button", { type: "button", "aria-label": description }, label);
  element.addEventListener("click", async () => {
    if (element.getAttribute("aria-disabled") === "true") return;
    element.setAttribute("aria-disabled", "true"); // not `disabled`, which would lose the focus
    try {
      await work();
    } catch (problem) {
      tell(problem.message);
    } finally {
      element.removeAttribute("aria-disabled");
    }
  });
  return element;
}
