// Keys: through the deals of a page, and to anything by its name.
"use strict";

const palette = document.getElementById("palette");
const help = document.getElementById("keys");
const field = palette?.querySelector("input");
const WRITES = "input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable]";

const hasSingleKeys = () => localStorage.getItem("single-keys") !== "off";

function openPalette() {
  if (!palette.open) palette.showModal();
  field.select();
  htmx.trigger(field, "opened");
}

function openHelp() {
  help.querySelector("[data-single-keys]").checked = hasSingleKeys();
  if (!help.open) help.showModal();
}

/** Go some steps on among elements, from the one that has the focus. */
function step(elements, by) {
  const here = elements.indexOf(document.activeElement);
  const next = elements[here < 0 ? (by > 0 ? 0 : elements.length - 1) : here + by];
  next?.focus();
  next?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

const ACTIONS = {
  "/": () => {
    const search = document.getElementById("search");
    if (!search) return openPalette();
    search.focus();
    search.select();
  },
  "?": openHelp,
  j: () => step([...document.querySelectorAll(".deals a.name, .lanes a.name")], 1),
  k: () => step([...document.querySelectorAll(".deals a.name, .lanes a.name")], -1),
  x: () => document.activeElement.closest(".deals tr")?.querySelector("[data-pick]")?.click(),
};

// Enter means the first of what fits the words as they are now, which may not be there yet.
let isWanted = false;
function goToFirst() {
  const found = palette.querySelector("[data-of]");
  if (found?.dataset.of !== field.value) return;
  isWanted = false;
  found.querySelector("a")?.click();
}

if (palette) {
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      return openPalette();
    }
    const action = Object.hasOwn(ACTIONS, event.key) ? ACTIONS[event.key] : null;
    if (!action || event.ctrlKey || event.metaKey || event.altKey || !hasSingleKeys()) return;
    if (event.target.closest(WRITES) || document.querySelector("dialog:modal")) return;
    event.preventDefault();
    action();
  });

  palette.addEventListener("keydown", (event) => {
    const found = [field, ...palette.querySelectorAll("#found a")];
    if (["ArrowDown", "ArrowUp"].includes(event.key)) {
      event.preventDefault();
      step(found, event.key === "ArrowDown" ? 1 : -1);
    }
    if (event.key !== "Enter" || event.target !== field) return;
    isWanted = true;
    goToFirst();
  });
  document.addEventListener("htmx:afterSwap", ({ detail: { target } }) => {
    if (target.id === "found" && isWanted) goToFirst();
  });
  field.addEventListener("input", () => isWanted = false);

  help.addEventListener("change", (event) => {
    if (event.target.checked) localStorage.removeItem("single-keys");
    else localStorage.setItem("single-keys", "off");
  });

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-open-palette]")) openPalette();
    if (event.target.closest("[data-open-keys]")) openHelp();
    // Beside it.
    if (event.target === palette) palette.close();
  });
}
