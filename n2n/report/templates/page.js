"use strict";
// Sliders: the range input says how much of `before` is seen, in percent from the left.
for (const slider of document.querySelectorAll("[data-slider]")) {
  const input = slider.querySelector("input");
  const show = () => slider.style.setProperty("--at", input.value + "%");
  input.addEventListener("input", show);
  show(); // a reloaded page keeps the input's value
}
