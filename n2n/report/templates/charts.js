"use strict";
// Draws charts in the colours of the page, each when it comes near the screen or is to be printed,
// and again when the screen turns dark or light.
(() => {
  const style = getComputedStyle(document.documentElement);
  const resolve = (value) => {
    if (typeof value === "string") {
      const name = /^var\((--\w+)\)$/.exec(value);
      return name ? style.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map(resolve);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, resolve(inner)]));
  };
  const settings = { responsive: true, displayModeBar: false };
  const drawn = new Set();
  const draw = (place) => {
    const figure = JSON.parse(document.getElementById(place.dataset.chart).textContent);
    Plotly.react(place, resolve(figure.data), resolve(figure.layout), settings);
    if (drawn.has(place)) return;
    drawn.add(place);
    place.on("plotly_click", (event) => { // a point that belongs to a part of the page
      const part = event.points[0].customdata;
      if (part) location.hash = part;
    });
  };
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "500px" });
  const places = document.querySelectorAll("[data-chart]");
  for (const place of places) near.observe(place);
  addEventListener("beforeprint", () => {
    for (const place of places) if (!drawn.has(place)) draw(place);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const place of drawn) draw(place);
  });
})();
