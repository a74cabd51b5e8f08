/** A table with a row a quantity and a column a sink: it fits a phone, and reads like a ledger. */

import { make, setText } from "./dom.js";

/**
 * `quantities` are `[{name, value, note, group}]`: `value(sink)` and `note(sink)` are texts of one of `columns`, and
 * `group` sets a row apart from those above. `show(columns)` fills it; columns are `[{name, head, sink}]`.
 */
export function sinkTable(caption, quantities) {
  const head = make("tr");
  const body = make("tbody");
  const table = make(
    "table",
    { class: "ledger" },
    make("caption", { class: "unseen" }, caption),
    make("thead", {}, head),
    body,
  );
  let shown = [];
  let cells = [];

  function build(columns) {
    shown = columns.map((column) => column.name);
    const heads = columns.map(({ name, head }) => make("th", { scope: "col" }, ...(head ? [head, " "] : []), name));
    head.replaceChildren(make("td"), ...heads);
    cells = quantities.map(() => columns.map(() => ({ value: make("span"), note: make("small") })));
    const rows = quantities.map((quantity, i) =>
      make(
        "tr",
        { class: quantity.group ? "group" : null },
        make("th", { scope: "row" }, quantity.name),
        cells[i].map(({ value, note }) => make("td", {}, value, quantity.note ? note : null)),
      ),
    );
    body.replaceChildren(...rows);
  }

  function show(columns) {
    if (columns.map((column) => column.name).join("\n") !== shown.join("\n")) build(columns);
    quantities.forEach((quantity, i) =>
      columns.forEach(({ sink }, j) => {
        setText(cells[i][j].value, quantity.value(sink));
        if (quantity.note) setText(cells[i][j].note, quantity.note(sink));
      }),
    );
  }

  const element = make("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" }, table);
  return { element, show };
}
