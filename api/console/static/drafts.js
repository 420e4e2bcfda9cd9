// What is being written is kept in this browser until it is saved: for each user, deal and form.
// Of two people who write the same, the second sees both versions and takes one, field by field.
"use strict";

const KEPT = "draft ";
const FIELDS = "textarea[name], select[name], input[name]:not([type=hidden])";
const CHOICES = ["radio", "checkbox"];
const comparison = document.getElementById("comparison");
const restored = new WeakSet();
const sent = new WeakMap();
const saved = new WeakMap();

const keyOf = (form) => `${KEPT}${document.body.dataset.user} ${form.dataset.draft}`;

function kept(key) {
  const text = localStorage.getItem(key);
  return text === null ? null : JSON.parse(text);
}

// The values of a form by name: as they are, or `asRead` from the server.
function valuesOf(form, asRead = false) {
  const values = {};
  for (const field of form.querySelectorAll(FIELDS)) {
    if (CHOICES.includes(field.type)) {
      values[field.name] ??= "";
      if (asRead ? field.defaultChecked : field.checked) values[field.name] = field.value;
    } else if (field.matches("select") && asRead) {
      const chosen = [...field.options].find((option) => option.defaultSelected);
      values[field.name] = (chosen ?? field.options[0]).value;
    } else values[field.name] = asRead ? field.defaultValue : field.value;
  }
  return values;
}

function put(form, values, asRead = false) {
  for (const field of form.querySelectorAll(FIELDS)) {
    if (!(field.name in values)) continue;
    const value = values[field.name];
    if (CHOICES.includes(field.type)) {
      field[asRead ? "defaultChecked" : "checked"] = field.value === value;
    } else if (field.matches("select") && asRead) {
      for (const option of field.options) option.defaultSelected = option.value === value;
    } else field[asRead ? "defaultValue" : "value"] = value;
  }
}

function labelOf(form, name) {
  const field = form.elements[name];
  const one = field instanceof RadioNodeList ? field[0] : field;
  const words = CHOICES.includes(one.type)
    ? one.closest("fieldset").querySelector("legend").firstChild.textContent
    : one.ariaLabel ?? one.labels[0].firstChild.textContent;
  return words.trim();
}

// What a value is called where one chooses among some.
function wordsOf(form, name, value) {
  const field = form.elements[name];
  const options = field instanceof RadioNodeList ? [...field] : [...(field.options ?? [])];
  const chosen = options.find((option) => option.value === value);
  return (chosen?.labels?.[0] ?? chosen)?.textContent.trim() || value;
}

// --- Keep and restore -------------------------------------------------------------------------

function keep(form) {
  const [read, own] = [valuesOf(form, true), valuesOf(form)];
  const fields = Object.keys(own).filter((name) => own[name] !== read[name]).map((name) => ({
    name,
    // What was typed since the last save builds on what that has saved.
    read: saved.has(form) && saved.get(form)[name] !== own[name]
      ? saved.get(form)[name]
      : read[name],
    own: own[name],
    label: labelOf(form, name),
    words: wordsOf(form, name, own[name]),
  }));
  if (fields.length === 0) return forget(form);
  const draft = { at: new Date().toISOString(), etag: form.elements.etag?.value, fields };
  try {
    localStorage.setItem(keyOf(form), JSON.stringify(draft));
  } catch {
    form.dataset.guard = ""; // no room: then the browser asks before it leaves the page
  }
}

function forget(form) {
  localStorage.removeItem(keyOf(form));
  form.querySelector(".kept")?.remove();
}

function restore(form) {
  const draft = kept(keyOf(form));
  if (!draft || restored.has(form)) return;
  restored.add(form);
  const read = valuesOf(form, true);
  const open = draft.fields.filter(({ name, own }) => name in read && read[name] !== own);
  if (open.length === 0) return forget(form);
  put(form, Object.fromEntries(open.map(({ name, own }) => [name, own])));
  showScore(form);
  form.prepend(
    note(`Not saved yet: kept in this browser, written ${ago(draft.at)}.`, () => {
      form.reset();
      forget(form);
      showScore(form);
    }),
  );
  if ("compare" in form.dataset && open.some((field) => field.read !== read[field.name])) {
    const etag = form.elements.etag.value;
    // A save is refused, and compared again, until one has chosen.
    form.elements.etag.value = draft.etag;
    compare(form, { values: read, etag, who: form.dataset.compare });
  }
}

function showScore(form) {
  const radio = form.querySelector("input[type=radio][hx-post]");
  if (radio) htmx.trigger(radio, "change");
}

function note(words, discard) {
  const place = document.createElement("p");
  place.className = "kept";
  place.append(words, " ", button("Discard", discard));
  return place;
}

function button(words, act, kind = "") {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = words;
  made.className = kind;
  made.addEventListener("click", act);
  return made;
}

// Drafts of this page's deal whose form is not there any more, for somebody has decided.
function showLeftovers() {
  const place = document.getElementById("leftovers");
  if (!place) return;
  const start = `${KEPT}${document.body.dataset.user} ${place.dataset.of} `;
  const here = [...document.querySelectorAll("form[data-draft]")].map(keyOf);
  const keys = Object.keys(localStorage).filter((key) =>
    key.startsWith(start) && !here.includes(key)
  );
  place.replaceChildren(...keys.map((key) => {
    const card = document.createElement("section");
    card.className = "card kept";
    const title = document.createElement("h2");
    title.textContent = "You wrote this, and it was not saved";
    const list = document.createElement("dl");
    for (const { label, words } of kept(key).fields) {
      const [term, text] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = label;
      text.textContent = words;
      text.dir = "auto";
      list.append(term, text);
    }
    const discard = button("Discard", () => {
      localStorage.removeItem(key);
      showLeftovers();
    });
    card.append(title, list, discard);
    return card;
  }));
}

document.addEventListener("input", (event) => {
  const form = event.target.closest("form[data-draft]");
  if (form) keep(form);
});
document.addEventListener("htmx:load", (event) => {
  const part = event.detail.elt;
  if (part.matches("form[data-draft]")) restore(part);
  part.querySelectorAll("form[data-draft]").forEach(restore);
  showLeftovers();
});
document.addEventListener("htmx:beforeRequest", (event) => {
  const form = event.detail.elt;
  if (form.matches("form[data-draft]")) sent.set(form, valuesOf(form));
});
document.addEventListener("htmx:afterRequest", (event) => {
  const form = event.detail.elt;
  if (!event.detail.successful || !form.matches("form[data-draft]")) return;
  // The part of the page that is read again now shows what is saved, and the rest stays a draft:
  // what was typed meanwhile, or what could not be saved yet.
  if ("compare" in form.dataset) {
    saved.set(form, sent.get(form));
    keep(form);
  } else if (JSON.stringify(valuesOf(form)) === JSON.stringify(sent.get(form))) forget(form);
});
document.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-forgets]")) return;
  const own = `${KEPT}${document.body.dataset.user} `;
  for (const key of Object.keys(localStorage)) {
    if (key.startsWith(own)) localStorage.removeItem(key);
  }
});

// --- Two versions -----------------------------------------------------------------------------

globalThis.addEventListener("htmx:responseError", async (event) => {
  const { xhr, elt: form } = event.detail;
  if (xhr.status !== 412 || !form.matches("form[data-compare]")) return;
  event.stopPropagation();
  const answer = await fetch(location.href);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const other = page.querySelector("form[data-compare]");
  if (other?.dataset.draft === form.dataset.draft) {
    const etag = other.elements.etag.value;
    compare(form, { values: valuesOf(other, true), etag, who: other.dataset.compare });
  } else {
    say("It was submitted meanwhile: what you wrote is kept above.", { bad: true });
    htmx.trigger(document.body, "assessment-changed");
  }
}, { capture: true });

function compare(form, theirs) {
  const [read, own] = [valuesOf(form, true), valuesOf(form)];
  const names = Object.keys(own).filter((name) => own[name] !== theirs.values[name]);
  comparison.querySelector("[data-who]").textContent = theirs.who;
  comparison.querySelector("tbody").replaceChildren(...names.map((name) => {
    const row = document.createElement("tr");
    const title = document.createElement("th");
    title.scope = "row";
    title.textContent = labelOf(form, name);
    // What only one of the two has touched is theirs to say.
    const isOwn = own[name] !== read[name];
    row.append(
      title,
      version(form, name, "own", own[name], isOwn),
      version(form, name, "theirs", theirs.values[name], !isOwn),
    );
    return row;
  }));
  comparison.querySelector("form").onsubmit = () => {
    for (const name of names) {
      const chosen = comparison.querySelector(`[name="take ${name}"]:checked`);
      if (chosen.value === "theirs") put(form, { [name]: theirs.values[name] });
    }
    put(form, theirs.values, true);
    form.elements.etag.value = theirs.etag;
    keep(form);
    form.requestSubmit(form.querySelector("[name=save]"));
  };
  if (!comparison.open) comparison.showModal();
}

function version(form, name, whose, value, isChosen) {
  const cell = document.createElement("td");
  const label = document.createElement("label");
  const radio = document.createElement("input");
  const text = document.createElement("span");
  radio.type = "radio";
  radio.name = `take ${name}`;
  radio.value = whose;
  radio.checked = isChosen;
  text.dir = "auto";
  text.textContent = wordsOf(form, name, value) || "(empty)";
  label.append(radio, text);
  cell.append(label);
  return cell;
}

comparison.addEventListener("click", (event) => {
  const whose = event.target.closest("[data-take]")?.dataset.take;
  if (whose) {
    for (const radio of comparison.querySelectorAll(`tbody [value=${whose}]`)) {
      radio.checked = true;
    }
  }
  if (event.target.closest("[data-close]")) comparison.close();
});
