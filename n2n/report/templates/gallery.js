"use strict";
// The cards of a gallery: those that are asked for, in the order that is asked for.
for (const gallery of document.querySelectorAll("[data-gallery]")) {
  const list = gallery.querySelector(".cards");
  const cards = [...list.children];
  const [search, state, order, count] = ["search", "state", "order", "count"].map((name) =>
    gallery.querySelector(`[data-${name}]`));
  const wanted = {
    "": () => true,
    flagged: (card) => card.classList.contains("flagged"),
    problem: (card) => "problem" in card.dataset,
  };
  const show = () => {
    const text = search.value.toLowerCase();
    let shown = 0;
    for (const card of cards) {
      card.hidden = !(wanted[state.value](card) && card.dataset.name.toLowerCase().includes(text));
      shown += !card.hidden;
    }
    count.textContent = `${shown.toLocaleString("en")} of ${cards.length.toLocaleString("en")} images`;
  };
  const sort = () => {
    const by = order.value;
    const sorted = by ? [...cards].sort((a, b) => b.dataset[by] - a.dataset[by]) : cards;
    list.append(...sorted);
  };
  search.addEventListener("input", show);
  state.addEventListener("change", show);
  order.addEventListener("change", sort);
  gallery.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
}
