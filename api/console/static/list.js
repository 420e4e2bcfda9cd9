// The table of opportunities: what is long, chosen, remembered, and come back to.
"use strict";

// --- The status of a deal, in a menu that all rows share -----------------------------------------

const menu = document.getElementById("moves");

function openMoves(button) {
  const moves = button.dataset.moves.split(" ");
  for (const choice of menu.children) choice.hidden = !moves.includes(choice.dataset.to);
  menu.showPopover({ source: button });
  const { left, top, bottom } = button.getBoundingClientRect();
  const { width, height } = menu.getBoundingClientRect();
  const hasRoom = bottom + height < innerHeight;
  menu.style.left = `${Math.max(0, Math.min(left, innerWidth - width))}px`;
  menu.style.top = `${hasRoom ? bottom : top - height}px`;
  menu.dataset.of = button.id;
  menu.querySelector("button:not([hidden])").focus();
}

function moveFromMenu({ dataset: { to } }) {
  const row = document.getElementById(menu.dataset.of).closest("tr");
  menu.hidePopover(); // the button has the focus again
  move(row, to, `#${row.id}`);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.move");
  if (button) openMoves(button);
  const choice = event.target.closest("#moves button");
  if (choice) moveFromMenu(choice);
});
menu?.addEventListener("keydown", (event) => {
  if (!["ArrowDown", "ArrowUp"].includes(event.key)) return;
  event.preventDefault();
  step([...menu.querySelectorAll("button:not([hidden])")], event.key === "ArrowDown" ? 1 : -1);
});
// It would stand where its button was.
document.addEventListener("scroll", () => menu?.matches(":popover-open") && menu.hidePopover(), {
  capture: true,
  passive: true,
});

// --- What a user has chosen last, for the next visit ---------------------------------------------

function remember(name, value) {
  const age = value ? 365 * 24 * 3600 : 0;
  const secure = location.protocol === "https:" ? "; secure" : "";
  document.cookie = `${name}=${value}; path=/opportunities; max-age=${age}; samesite=lax${secure}`;
}

// Before the table is asked for.
document.addEventListener("change", (event) => {
  if (event.target.id === "sort") remember("sort", event.target.value);
  if (event.target.name !== "columns") return;
  const chosen = document.querySelectorAll("#filters [name=columns]:checked");
  remember("columns", [...chosen].map((one) => one.value).join("."));
}, { capture: true });

document.addEventListener("click", (event) => {
  const link = event.target.closest(".deals thead a");
  if (link) remember("sort", new URL(link.href).searchParams.get("sort"));
  const button = event.target.closest("[data-earlier]");
  const column = button?.parentElement;
  if (!column?.previousElementSibling) return;
  column.previousElementSibling.before(column);
  button.focus();
  const box = column.querySelector("input");
  if (box.checked) box.dispatchEvent(new Event("change", { bubbles: true }));
});

// --- CSV as one's spreadsheet wants it ------------------------------------------------------------

function showCsv() {
  const form = document.getElementById("csv-options");
  if (!form) return;
  const chosen = JSON.parse(localStorage.getItem("csv") ?? '{"separator": "comma"}');
  const { separator, byte_order_mark: mark, shown } = form.elements;
  separator.value = chosen.separator;
  mark.checked = chosen.mark ?? false;
  shown.checked = chosen.shown ?? false;
  const link = document.querySelector("[data-export=csv]");
  const url = new URL(link.href);
  for (const name of ["separator", "byte_order_mark", "columns"]) url.searchParams.delete(name);
  if (chosen.separator !== "comma") url.searchParams.set("separator", chosen.separator);
  if (chosen.mark) url.searchParams.set("byte_order_mark", "true");
  if (chosen.shown) {
    const workbook = new URL(document.querySelector("[data-export=xlsx]").href);
    for (const name of workbook.searchParams.getAll("columns")) {
      url.searchParams.append("columns", name);
    }
  }
  link.href = url.href;
  showChosen();
}

document.addEventListener("change", (event) => {
  const form = event.target.closest("#csv-options");
  if (!form) return;
  const { separator, byte_order_mark: mark, shown } = form.elements;
  const chosen = { separator: separator.value, mark: mark.checked, shown: shown.checked };
  localStorage.setItem("csv", JSON.stringify(chosen));
  showCsv();
});

// --- Back to the row from which one went, among the rows that were there -------------------------

const KEPT_PLACE = "place ";
const MOST_AT_ONCE = 100; // rows; more would let the page hang
const scroller = () => document.querySelector(".scroll.tall");
let opened = null;

globalThis.addEventListener("pagehide", () => {
  if (!scroller()) return;
  const place = { rows: rowsOfTable().length, top: scroller().scrollTop, page: scrollY, opened };
  sessionStorage.setItem(`${KEPT_PLACE}${location.href}`, JSON.stringify(place));
});
document.addEventListener("click", (event) => {
  const row = event.target.closest(".deals a.name")?.closest("tr");
  if (row) opened = row.id;
});

async function comeBack() {
  const [{ type }] = performance.getEntriesByType("navigation");
  const kept = sessionStorage.getItem(`${KEPT_PLACE}${location.href}`);
  if (!kept || !scroller() || !["back_forward", "reload"].includes(type)) return;
  const { rows, top, page, opened: id } = JSON.parse(kept);
  for (let missing; (missing = rows - rowsOfTable().length) > 0;) {
    const link = document.querySelector("#more a");
    if (!link) break;
    const path = `${link.getAttribute("href")}&rows=${Math.min(missing, MOST_AT_ONCE)}`;
    await htmx.ajax("GET", path, { target: "#more", swap: "outerHTML" });
    if (link.isConnected) break; // it was refused
  }
  scroller().scrollTop = top;
  scrollTo(0, page);
  const name = id && document.querySelector(`#${id} a.name`);
  name?.focus({ preventScroll: true });
  intoView(name);
}

// --- Rows that are chosen, and what can be done with all of them ---------------------------------

const MOST_CHOSEN = 500;
const chosenBar = document.getElementById("chosen");
const picked = new Map(); // the status of each deal as it was seen, by id
let lastPicked = null;

const rowsOfTable = () => [...document.querySelectorAll(".deals tr[data-state]")];
const idOf = (row) => row.dataset.deal;

function showPicked(part) {
  for (const box of part.querySelectorAll("[data-pick]")) {
    const isPicked = picked.has(box.dataset.pick);
    box.ariaChecked = isPicked;
    box.closest("tr").classList.toggle("picked", isPicked);
  }
}

function pick(rows, isPicked) {
  for (const row of rows) {
    if (!isPicked) picked.delete(idOf(row));
    else if (picked.size < MOST_CHOSEN) picked.set(idOf(row), row.dataset.state);
    else {
      say(`No more than ${MOST_CHOSEN} deals can be chosen at once.`, { bad: true });
      break;
    }
  }
  showChosen();
}

/** Choose all that match the filters, also those that are not in the table yet. */
async function pickMatching() {
  const { matching, total } = document.getElementById("results").dataset;
  const url = new URL(matching, location.href);
  url.searchParams.set("limit", MOST_CHOSEN);
  const answer = await fetch(url).catch(() => null);
  if (!answer?.ok) return say("The deals could not be read. Try again.", { bad: true });
  const { items } = await answer.json();
  picked.clear();
  for (const deal of items) picked.set(`${deal.id}`, deal.workflow_status);
  showChosen();
  if (total > MOST_CHOSEN) {
    say(`The first ${MOST_CHOSEN} of ${inWords(total)} deals are chosen: no more can be at once.`);
  }
}
const inWords = (count) => new Intl.NumberFormat(locale).format(count);

function showChosen() {
  if (!chosenBar) return;
  const table = document.querySelector(".deals");
  if (table) showPicked(table);
  showChosenBar();
}

function showChosenBar() {
  const all = document.querySelector("[data-pick-all]");
  const isWhole = picked.size > 0 && rowsOfTable().every((row) => picked.has(idOf(row)));
  if (all) all.ariaChecked = isWhole || (picked.size > 0 ? "mixed" : false);
  const total = Number(document.getElementById("results").dataset.total);
  const rest = chosenBar.querySelector("[data-pick-matching]");
  rest.hidden = !isWhole || picked.size >= Math.min(total, MOST_CHOSEN);
  rest.textContent = total > MOST_CHOSEN
    ? `Choose the first ${MOST_CHOSEN} of ${inWords(total)}`
    : `Choose all ${inWords(total)}`;
  chosenBar.hidden = picked.size === 0;
  document.body.classList.toggle("choosing", !chosenBar.hidden);
  chosenBar.querySelector("strong").textContent = inWords(picked.size);
  for (const link of chosenBar.querySelectorAll("[data-export-chosen]")) {
    const kind = link.dataset.exportChosen;
    const whole = document.querySelector(`[data-export=${kind}]`)?.href ?? location.href;
    const given = new URL(whole).searchParams;
    // Without the filters: a deal may have been changed since it was chosen.
    const query = new URLSearchParams({ format: kind, include_deleted: true });
    for (const name of ["columns", "separator", "byte_order_mark", "sort"]) {
      for (const value of given.getAll(name)) query.append(name, value);
    }
    if (query.get("sort")?.endsWith("relevance")) query.delete("sort");
    for (const id of picked.keys()) query.append("id", id);
    link.href = `/api/opportunities/export?${query}`;
  }
}

document.addEventListener("click", (event) => {
  const box = event.target.closest("[data-pick]");
  if (box) {
    const rows = rowsOfTable();
    const here = rows.findIndex((row) => idOf(row) === box.dataset.pick);
    const last = rows.findIndex((row) => idOf(row) === lastPicked);
    const range = event.shiftKey && last >= 0
      ? rows.slice(Math.min(here, last), Math.max(here, last) + 1)
      : [rows[here]];
    lastPicked = box.dataset.pick;
    pick(range, box.ariaChecked !== "true");
  }
  const all = event.target.closest("[data-pick-all]");
  if (all) pick(rowsOfTable(), all.ariaChecked !== "true");
  if (event.target.closest("[data-pick-none]")) pickNone();
  if (event.target.closest("[data-pick-matching]")) pickMatching();
});

function pickNone() {
  picked.clear();
  showChosen();
}

document.addEventListener("htmx:configRequest", ({ detail: { elt: form, formData } }) => {
  const addRow = (id) => {
    const row = document.getElementById(`deal-${id}`);
    if (row) formData.append("row", id);
    return row;
  };
  if (form.matches("[data-of-chosen]")) {
    for (const [id, state] of picked) {
      formData.append("deal", `${id} ${addRow(id)?.dataset.state ?? state}`);
    }
  }
  if (form.matches("[data-of-rows]")) {
    JSON.parse(formData.get("steps")).forEach((one) => addRow(one.id));
  }
});
document.addEventListener("htmx:confirm", async (event) => {
  const { elt: form, issueRequest } = event.detail;
  if (!form.matches("[data-asks-for-whom]")) return;
  const { workflow_status: state, assigned_to: whom } = form.elements;
  whom.value = "";
  if (state.value !== "ASSIGNED") return;
  event.preventDefault();
  const holders = new Set(
    [...picked.keys()].map((id) => document.getElementById(`deal-${id}`)?.dataset.assigned),
  );
  const [first] = holders;
  const holder = holders.size === 1 && first ? first : "";
  const given = await askForWhom(holder, chosenBar.querySelector("[role=status]").textContent);
  if (given === null) return;
  whom.value = given;
  issueRequest();
});
document.addEventListener("htmx:afterSwap", ({ detail: { target } }) => {
  if (target.id === "results") pickNone();
  if (target.id !== "refused") return;
  for (const { dataset: { chosen }, value } of target.querySelectorAll("[data-chosen]")) {
    if (picked.has(chosen)) picked.set(chosen, value);
  }
  if (target.querySelector("h2")) target.showModal();
});

document.addEventListener("htmx:load", ({ detail: { elt: part } }) => {
  if (part === document.body || part.id === "results") showCsv();
  if (part === document.body) comeBack();
  else if (part.matches("tr[data-state]")) showPicked(part);
  else if (part.matches(".deals tbody") && picked.size > 0) {
    showPicked(part);
    if (!part.nextElementSibling) showChosenBar(); // once for all that came
  }
});
