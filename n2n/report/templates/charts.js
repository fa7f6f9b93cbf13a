"use strict";
// Draws every chart in the colours of the page, and again when the screen turns dark or light.
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
  const draw = () => {
    for (const place of document.querySelectorAll("[data-chart]")) {
      const figure = JSON.parse(document.getElementById(place.dataset.chart).textContent);
      Plotly.react(place, resolve(figure.data), resolve(figure.layout), settings);
      place.removeAllListeners("plotly_click");
      place.on("plotly_click", (event) => { // a point that belongs to a part of the page
        const part = event.points[0].customdata;
        if (part) location.hash = part;
      });
    }
  };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
