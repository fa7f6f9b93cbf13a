"use strict";
// A page of work that goes on loads itself anew, and leaves the reader where he was: the place on
// the page, what is open, chosen or typed, and what has the focus. It waits while he has paused it.
{
  const { refresh } = document.body.dataset;
  const memory = `n2n ${location.pathname}`;
  const kept = JSON.parse(sessionStorage.getItem(memory) ?? "{}");
  const pause = document.querySelector("[data-pause]");
  const opened = () => [...document.querySelectorAll("details")];
  const chosen = () => [...document.querySelectorAll("input, select")];
  const focusable = () => [...document.querySelectorAll("a, button, input, select, summary, [tabindex]")];

  opened().forEach((part, number) => { part.open = kept.open?.[number] ?? part.open; });
  chosen().forEach((field, number) => {
    const value = kept.values?.[number];
    if (field === pause) field.checked = Boolean(kept.paused);
    else if (value !== undefined && value !== field.value) {
      field.value = value;
      field.dispatchEvent(new Event("input"));
      field.dispatchEvent(new Event("change"));
    }
  });
  focusable()[kept.focus]?.focus({ preventScroll: true });
  if (kept.top !== undefined) scrollTo({ top: kept.top, behavior: "instant" });

  const keep = () => sessionStorage.setItem(memory, JSON.stringify({
    open: opened().map((part) => part.open),
    values: chosen().map((field) => field.value),
    focus: focusable().indexOf(document.activeElement),
    top: scrollY,
    paused: pause.checked,
  }));
  addEventListener("pagehide", keep);
  setInterval(() => { if (!pause.checked) location.reload(); }, 1000 * refresh);
}
