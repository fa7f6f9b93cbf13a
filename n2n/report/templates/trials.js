"use strict";
// The table of trials: rows that are asked for, in the order of a column; and the trial that a
// link or a point of a chart leads to, opened.
for (const part of document.querySelectorAll("[data-trials]")) {
  const body = part.querySelector("tbody");
  const rows = [...body.rows];
  const [search, state, count] = ["search", "state", "count"].map((name) =>
    part.querySelector(`form [data-${name}]`));
  const show = () => {
    const text = search.value.toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = (state.value && row.dataset.state !== state.value) ||
        !row.textContent.toLowerCase().includes(text);
      shown += !row.hidden;
    }
    count.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} trials`;
  };
  search.addEventListener("input", show);
  state.addEventListener("change", show);
  part.querySelector("form").addEventListener("submit", (event) => event.preventDefault());

  // Cells without a value come last, in both directions.
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value !== undefined ? Number(cell.dataset.value) : cell.textContent;
  };
  const compare = (a, b) =>
    typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
  const heads = [...part.querySelectorAll("thead th")];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.ariaSort === "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.ariaSort = down ? "descending" : "ascending";
    const missing = (row) => row.cells[column].textContent === "–";
    body.append(...[...rows].sort((a, b) => missing(a) - missing(b) ||
      (down ? -1 : 1) * compare(key(a, column), key(b, column)) || 0));
  }));
}
const open = () => {
  const place = document.getElementById(location.hash.slice(1));
  if (place instanceof HTMLDetailsElement) {
    place.open = true;
    place.scrollIntoView();
    place.querySelector("summary").focus();
  }
};
addEventListener("hashchange", open);
open();
