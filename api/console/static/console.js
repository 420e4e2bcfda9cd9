// What the pages can't do by HTML and htmx alone. No library beside htmx, nothing inline.
"use strict";

// --- Values as the viewer's locale and zone write them ---------------------------------------

const locale = navigator.languages;
const formats = new Map();
const once = (key, make) => formats.get(key) ?? formats.set(key, make()).get(key);

function money(value, currency, style) {
  const options = style === "compact"
    ? { notation: "compact", maximumFractionDigits: 1 }
    : style === "fine"
    ? { notation: "compact", maximumFractionDigits: 3 }
    : style === "exact"
    ? { maximumFractionDigits: 2 }
    : { maximumFractionDigits: 0 };
  // The CRM's currency codes need not be ones that the browser knows the shape of.
  const own = /^[A-Z]{3}$/.test(currency)
    ? { style: "currency", currency, minimumFractionDigits: 0 }
    : {};
  return once(
    `money ${currency} ${style}`,
    () => new Intl.NumberFormat(locale, { ...own, ...options }),
  )
    .format(value);
}

const UNITS = [
  ["year", 31557600],
  ["month", 2629800],
  ["week", 604800],
  ["day", 86400],
  ["hour", 3600],
  ["minute", 60],
  ["second", 1],
];

function ago(at) {
  const seconds = (new Date(at) - Date.now()) / 1000;
  const [unit, length] = UNITS.find(([, length]) => Math.abs(seconds) >= length) ?? ["second", 1];
  return once("ago", () => new Intl.RelativeTimeFormat(locale, { numeric: "auto" }))
    .format(Math.trunc(seconds / length), unit);
}

const time = (at) =>
  once("time", () => new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" }))
    .format(new Date(at));

const WRITERS = {
  number: (element) =>
    once(
      `number ${element.dataset.digits}`,
      () =>
        new Intl.NumberFormat(locale, { maximumFractionDigits: Number(element.dataset.digits) }),
    ).format(element.value),
  percent: (element) =>
    once(
      "percent",
      () => new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: 1 }),
    ).format(element.value / 100),
  money: (element) => money(element.value, element.dataset.currency, element.dataset.style),
  seconds: (element) =>
    once(
      "seconds",
      () =>
        new Intl.NumberFormat(locale, { style: "unit", unit: "second", maximumFractionDigits: 1 }),
    ).format(element.value),
  time: (element) => time(element.dateTime),
  // A day has no zone: it is the same day everywhere.
  day: (element) =>
    once("day", () => new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeZone: "UTC" }))
      .format(new Date(element.dateTime)),
  month: (element) =>
    once(
      "month",
      () => new Intl.DateTimeFormat(locale, { month: "short", year: "2-digit", timeZone: "UTC" }),
    ).format(new Date(element.dateTime)),
  ago: (element) => ago(element.dateTime),
};

function write(part) {
  const inside = part.querySelectorAll("[data-format]");
  for (const element of part.matches("[data-format]") ? [part, ...inside] : inside) {
    element.textContent = WRITERS[element.dataset.format](element);
    if (element.dataset.format === "ago") element.title = time(element.dateTime);
  }
}

function renew(elements) {
  for (const element of elements) element.textContent = ago(element.dateTime);
}
setInterval(() => renew(document.querySelectorAll("[data-format=ago]")), 30_000);
// What somebody waits for.
setInterval(() => renew(document.querySelectorAll("[data-follow] [data-format=ago]")), 1000);

// --- Messages, among them the way back -------------------------------------------------------

function say(text, { bad = false, undo = null } = {}) {
  for (const one of document.querySelectorAll("#messages .message")) {
    if (one.querySelector("span").textContent === text) one.remove(); // said again, not twice
  }
  const message = document.createElement("div");
  message.className = bad ? "message bad" : "message";
  const words = document.createElement("span");
  words.dir = "auto";
  words.textContent = text;
  message.append(words);
  const form = undo?.form && document.getElementById(undo.form);
  if (form) {
    form.hidden = false;
    form.addEventListener("htmx:afterRequest", () => message.remove());
    message.append(form);
  } else if (undo) {
    const button = document.createElement("button");
    button.textContent = "Undo";
    button.addEventListener("click", () => {
      message.remove();
      htmx.ajax("POST", undo.path, { values: undo.values, target: undo.target, swap: "outerHTML" });
    });
    message.append(button);
  }
  const close = document.createElement("button");
  close.className = "close";
  close.setAttribute("aria-label", "Close");
  close.textContent = "×";
  close.addEventListener("click", () => message.remove());
  message.append(close);
  const messages = document.getElementById("messages");
  messages.append(message);
  while (messages.children.length > 3) messages.firstChild.remove();
  // Long enough to read and to reach; what went wrong stays until it is closed, and so does the way
  // back of many.
  if (!bad && !form) setTimeout(() => message.remove(), 20_000);
}

document.addEventListener(
  "message",
  (event) => say(event.detail.text, { undo: event.detail.undo }),
);

/** Mark the parts of a form without which it was refused, and go to the first. */
function showMissing(form, missing) {
  for (const part of form.querySelectorAll("[data-needed]")) {
    part.classList.toggle("missing", missing.includes(part.dataset.needed));
  }
  form.querySelector(".missing input")?.focus();
}

document.addEventListener(
  "change",
  (event) => event.target.closest(".missing")?.classList.remove("missing"),
);

/** Show in a choice again what holds. */
function showPresent(select) {
  select.selectedIndex = [...select.options].findIndex((one) => one.defaultSelected);
}

document.addEventListener("htmx:responseError", (event) => {
  const { xhr, elt } = event.detail;
  let text = "That did not work.";
  try {
    const problem = JSON.parse(xhr.responseText);
    text = problem.detail ?? problem.title ?? text;
    showMissing(elt, problem.missing ?? []);
  } catch {
    text = `${text} (${xhr.status})`;
  }
  say(text, { bad: true });
  // A choice that was refused shows again what holds.
  if (elt.matches("select.move")) showPresent(elt);
});

// --- Without a connection --------------------------------------------------------------------

const offline = (is) => {
  document.querySelector(".offline").hidden = !is;
};
window.addEventListener("offline", () => offline(true));
window.addEventListener("online", () => offline(false));
document.addEventListener("htmx:sendError", () => offline(true));
document.addEventListener("htmx:timeout", () => offline(true));
document.addEventListener("htmx:afterOnLoad", () => offline(!navigator.onLine));

// --- While something is asked for --------------------------------------------------------------

let asked = 0;
const isAsking = (more) => {
  asked += more;
  document.querySelector(".loading").classList.toggle("now", asked > 0);
};
document.addEventListener("htmx:beforeRequest", (event) => event.defaultPrevented || isAsking(1));
document.addEventListener("htmx:afterRequest", () => isAsking(-1));

// --- A page that could not be shown -----------------------------------------------------------

/** Wait until the server is well and somebody looks, then load the page: once a minute at most. */
async function retry(pause) {
  await new Promise((resolve) => setTimeout(resolve, pause));
  const isDue = !document.hidden && Date.now() - sessionStorage.getItem("retried") > 60_000;
  if (isDue && await fetch("/health/ready").then((answer) => answer.ok, () => false)) {
    sessionStorage.setItem("retried", Date.now());
    location.reload();
  } else retry(Math.min(2 * pause, 60_000));
}
if (document.querySelector("[data-retry]")) retry(2000);

// --- A sync while it runs --------------------------------------------------------------------

// The stream is the page's own: see live.js.
document.addEventListener("sync", ({ detail: run }) => {
  for (const element of document.querySelectorAll("[data-follow]")) {
    element.querySelector("[data-lost]").hidden = true;
    if (run?.run_id === element.dataset.follow && run.status === "RUNNING") {
      showProgress(element, run);
      continue;
    }
    if (run?.run_id === element.dataset.follow) {
      const read = new Intl.NumberFormat(locale).format(run.total_fetched);
      if (run.status === "SUCCESS") say(`The sync has ended: ${read} records read.`);
      else say(`The sync failed: ${run.error_message ?? "see its log"}`, { bad: true });
    }
    htmx.trigger(document.body, "sync-ended");
  }
});
document.addEventListener("live-lost", () => {
  for (const words of document.querySelectorAll("[data-lost]")) words.hidden = false;
});

function showProgress(element, run) {
  element.querySelector("[data-phase]").textContent = run.phase[0] +
    run.phase.slice(1).toLowerCase();
  for (const words of element.querySelectorAll("[data-doing]")) {
    words.hidden = words.dataset.doing !== run.phase;
  }
  const progress = element.querySelector("progress");
  if (run.phase === "LOADING" && run.percent !== null) progress.value = run.percent;
  else progress.removeAttribute("value");
  const number = new Intl.NumberFormat(locale, { maximumFractionDigits: 0 });
  element.querySelector("[data-fetched]").textContent = number.format(run.total_fetched);
  element.querySelector("[data-rate]").textContent = run.records_per_second
    ? `${number.format(run.records_per_second)} per second`
    : "";
}

// --- Saved views that this browser has kept for itself, as versions before did ------------------

if (localStorage.getItem("views") && document.getElementById("views")) {
  const forms = JSON.parse(localStorage.getItem("views")).map(({ name, query }) =>
    htmx.ajax("POST", "/views", {
      source: "#views",
      swap: "none",
      values: { page: "list", name: name.slice(0, 60), query: query.replace("?", "") },
    })
  );
  Promise.all(forms).then(() => localStorage.removeItem("views"));
}

// --- A deal's move in the workflow, which asks for whom if somebody is to work on it -------------

let moved = null; // the card that gets the focus when the board is there again

async function move(deal, state, target, { keepsFocus = false } = {}) {
  const { deal: id, state: seen, assigned } = deal.dataset;
  const values = { workflow_status: state, seen };
  if (state === "ASSIGNED") {
    values.assigned_to = await askForWhom(assigned, deal.querySelector(".name").textContent);
    if (values.assigned_to === null) return; // the deal stays as it is
  }
  if (keepsFocus) moved = id;
  htmx.ajax("POST", `/opportunities/${id}/status`, { values, target, swap: "outerHTML" });
}

const forWhom = document.getElementById("for-whom");

/**
 * Ask who is to work on a deal, or on several: the user's id, "0" for nobody; null: it is called
 * off. `holder` has it now, "" if several deals have several.
 */
function askForWhom(holder, name) {
  const own = [document.body.dataset.user, "0", ""];
  const select = forWhom.querySelector("select");
  for (const option of select.options) {
    const isFree = "anybody" in forWhom.dataset ||
      [holder, option.value].every((id) => own.includes(id));
    const isOffered = option.value === holder || ("active" in option.dataset && isFree);
    option.hidden = option.disabled = !isOffered;
  }
  select.value = holder === "0" ? own[0] : holder;
  forWhom.querySelector("p").textContent = name;
  forWhom.returnValue = "";
  forWhom.showModal();
  select.focus();
  return new Promise((resolve) => {
    forWhom.addEventListener(
      "close",
      () => resolve(forWhom.returnValue === "assign" ? select.value : null),
      { once: true },
    );
  });
}
forWhom?.querySelector("select").addEventListener("keydown", (event) => {
  if (event.key === "Enter") forWhom.querySelector("[value=assign]").click();
});

// Before htmx hears of the choice.
document.addEventListener("change", (event) => {
  const select = event.target;
  if (!select.matches("select.move") || select.value !== "ASSIGNED") return;
  event.stopPropagation();
  showPresent(select);
  move(select.closest("[data-assigned]"), "ASSIGNED", select.getAttribute("hx-target"));
}, { capture: true });

// --- The board: drag a card, or move it with Alt and an arrow ----------------------------------

const moves = (card) => (card.dataset.moves ?? "").split(" ").filter(Boolean);

document.addEventListener("dragstart", (event) => {
  const card = event.target.closest?.(".deal[draggable]");
  if (!card) return;
  event.dataTransfer.setData("text/plain", card.dataset.deal);
  event.dataTransfer.effectAllowed = "move";
  card.classList.add("dragged");
  for (const lane of document.querySelectorAll(".lane")) {
    lane.classList.toggle("open", moves(card).includes(lane.dataset.state));
  }
});
// Also over a lane that is closed to the card: what is dropped there is answered.
document.addEventListener("dragover", (event) => {
  if (event.target.closest?.(".lane") && document.querySelector(".deal.dragged")) {
    event.preventDefault();
  }
});
document.addEventListener("drop", (event) => {
  const lane = event.target.closest?.(".lane");
  const card = document.querySelector(".deal.dragged");
  if (!lane || !card) return;
  event.preventDefault();
  if (moves(card).includes(lane.dataset.state)) {
    // A dialog that opens before would keep the browser from ending the drag.
    card.addEventListener("dragend", () => move(card, lane.dataset.state, "#board"), {
      once: true,
    });
  } else if (lane.dataset.state !== card.dataset.state) refuse(card, lane);
});
const titleOf = (state) =>
  document.querySelector(`.lane[data-state="${state}"] h2 .state`)?.textContent ?? state;

function refuse(card, lane) {
  const open = moves(card).map(titleOf);
  const may = open.length ? `It may go to: ${open.join(", ")}.` : "You may not move it.";
  const { dataset: { state } } = lane;
  const how = lane.dataset.how ? `${lane.dataset.how} ` : "";
  const words = `From ${titleOf(card.dataset.state)} it can't go to ${titleOf(state)}.`;
  say(`${words} ${how}${may}`, { bad: true });
}
document.addEventListener("dragend", () => {
  document.querySelectorAll(".dragged, .lane.open").forEach((one) =>
    one.classList.remove("dragged", "open")
  );
});

document.addEventListener("keydown", (event) => {
  const card = event.target.closest?.(".deal");
  if (!card || !event.altKey || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
  event.preventDefault();
  const lanes = [...document.querySelectorAll(".lane")].map((lane) => lane.dataset.state);
  const here = lanes.indexOf(card.dataset.state);
  const open = event.key === "ArrowRight" ? lanes.slice(here + 1) : lanes.slice(0, here).reverse();
  const state = open.find((one) => moves(card).includes(one));
  if (!state) return say("It can't be moved there.");
  move(card, state, "#board", { keepsFocus: true });
});

// --- Small things ----------------------------------------------------------------------------

const THEMES = ["system", "light", "dark"];
function showTheme() {
  for (const element of document.querySelectorAll("[data-theme-name]")) {
    element.textContent = document.documentElement.dataset.theme ?? "system";
  }
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
  } catch {
    say(`The browser does not let a page copy here: ${text}`, { bad: true });
  }
}

// The secret of a link to set a password: no server sees what stands after the #.
const secret = document.querySelector("[data-from-link]");
if (secret) {
  secret.value = location.hash.slice(1);
  history.replaceState(null, "", location.pathname);
}

document.addEventListener("click", (event) => {
  const on = (selector) => event.target.closest(selector);
  if (on("[data-reload]")) location.reload();
  if (on("[data-copy-address]")) {
    copy(new URL(on("[data-copy-address]").dataset.copyAddress, location.href).href);
  }
  const expander = on("[data-expands]");
  if (expander) expander.ariaExpanded = expander.ariaExpanded !== "true";
  if (on("[data-copy]")) copy(on("[data-copy]").dataset.copy);
  if (on("[data-theme-next]")) {
    const present = document.documentElement.dataset.theme ?? "system";
    const next = THEMES[(THEMES.indexOf(present) + 1) % THEMES.length];
    if (next === "system") {
      localStorage.removeItem("theme");
      delete document.documentElement.dataset.theme;
    } else {
      localStorage.setItem("theme", next);
      document.documentElement.dataset.theme = next;
    }
    showTheme();
  }
  for (const open of document.querySelectorAll("details.filter[open], details.menu[open]")) {
    if (!open.contains(event.target)) open.open = false;
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const open of document.querySelectorAll("details.filter[open], details.menu[open]")) {
    open.open = false;
    open.querySelector("summary").focus();
  }
});

document.addEventListener("input", (event) => {
  if (!event.target.matches("[data-narrows]")) return;
  event.stopPropagation();
  const wanted = event.target.value.toLowerCase();
  for (const option of event.target.closest(".popover").querySelectorAll(".options label")) {
    option.hidden = !option.textContent.toLowerCase().includes(wanted);
  }
});

// A filter opens to the side that has room.
document.addEventListener("toggle", (event) => {
  const popover = event.target.querySelector(":scope > .popover");
  if (!event.target.open || !popover) return;
  const { left, right } = popover.getBoundingClientRect();
  if (right > document.documentElement.clientWidth) popover.classList.add("end");
  else if (left < 0) popover.classList.remove("end");
}, true);

// Each letter of the search has asked already. To ask again when the field is left could undo the
// click that left it: the answer would stop the way to another page.
document.addEventListener("change", (event) => {
  if (event.target.id === "search") event.stopPropagation();
}, true);

document.addEventListener("change", (event) => {
  const filter = event.target.closest("#filters details.filter");
  const checked = filter?.querySelectorAll("input[type=checkbox]:checked").length ?? 0;
  if (
    !filter || filter.querySelector("[name=columns]") || !filter.querySelector("[type=checkbox]")
  ) return;
  filter.querySelector(".count")?.remove();
  if (!checked) return;
  const count = document.createElement("span");
  count.className = "count";
  count.textContent = checked;
  filter.querySelector("summary").append(" ", count);
});

function ready(part) {
  write(part);
  if (moved) {
    document.getElementById(`card-${moved}`)?.focus();
    moved = null;
  }
  // Someone else's sync has begun, which this page does not follow yet.
  if (part.matches("#indicator .dot.live") && !document.querySelector("[data-follow]")) {
    htmx.trigger(document.body, "sync-started");
  }
}

showTheme();
// The page itself at once, before it is painted; htmx tells of each part that comes in later.
ready(document.body);
const intoView = (entry) => entry?.scrollIntoView({ block: "nearest", inline: "nearest" });
intoView(document.querySelector(".top nav [aria-current]"));
document.querySelector(".top nav")?.addEventListener("focusin", (event) => intoView(event.target));
document.addEventListener("htmx:load", (event) => {
  if (event.detail.elt !== document.body) ready(event.detail.elt);
});

// --- What was written and not saved -----------------------------------------------------------

const guarded = new Set();
document.addEventListener("input", (event) => {
  const form = event.target.closest("form[data-guard]");
  if (form) guarded.add(form);
});
document.addEventListener("htmx:afterRequest", (event) => {
  if (!event.detail.successful) return;
  guarded.delete(event.detail.elt);
  if (event.detail.elt.matches("[data-clears]")) event.detail.elt.reset();
  if (event.detail.elt.matches("form.popover")) event.detail.elt.parentElement.open = false;
});
window.addEventListener("beforeunload", (event) => {
  if ([...guarded].some((form) => form.isConnected)) event.preventDefault();
});
