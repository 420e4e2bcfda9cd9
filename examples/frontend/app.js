import { Crm } from "./crm.js";

const find = (selector) => document.querySelector(selector);
const signIn = find("#sign-in");
const dialog = find("dialog");
const say = (words) => find("#state").textContent = words;

let crm, position, nextCursor, shown; // `shown`: the deal in the dialog, and its version

signIn.elements.api.value = new URLSearchParams(location.search).get("api") ??
  signIn.elements.api.value;

signIn.addEventListener("submit", async (event) => {
  event.preventDefault();
  // In memory only: whatever script runs on the page could read what is stored.
  crm = new Crm(signIn.elements.api.value, signIn.elements.token.value);
  try {
    // Before the list, so that nothing falls between the two.
    position = await crm.end();
    await showDeals();
  } catch (error) {
    return say(error.message);
  }
  signIn.hidden = true;
  find("main").hidden = false;
  follow();
});

async function showDeals(cursor = null) {
  const page = await crm.list({}, cursor);
  if (!cursor) find("tbody").replaceChildren();
  for (const deal of page.items) find("tbody").append(row(deal));
  find("#total").textContent = page.total;
  nextCursor = page.next_cursor;
  find("#more").hidden = nextCursor === null;
}

find("#more").addEventListener("click", () => showDeals(nextCursor));

function row(deal) {
  const row = document.createElement("tr");
  row.id = `deal-${deal.id}`;
  const name = document.createElement("button");
  name.textContent = deal.name?.trim() || "(no name)";
  name.addEventListener("click", () => open(deal.id));
  const value = deal.deal_value === null
    ? "–"
    : `${deal.deal_value.toLocaleString()} ${deal.currency ?? ""}`;
  // `append` takes texts for texts, never for HTML: what the CRM says is not to be trusted.
  for (const content of [name, deal.customer, deal.stage, value, deal.workflow_status]) {
    const cell = document.createElement("td");
    cell.append(content ?? "–");
    row.append(cell);
  }
  return row;
}

// --- Move a deal -----------------------------------------------------------------------------

async function open(id) {
  await show(await crm.read(id));
  find("#refusal").textContent = "";
  dialog.showModal();
}

async function show(read) {
  // Before anything is shown, since it would replace what a quick user has chosen.
  const { moves, labels } = await crm.get("/api/workflow");
  shown = read;
  find("#deal-name").textContent = read.deal.name;
  find("#deal-stage").textContent = `Stage: ${read.deal.stage ?? "none"}`;
  const now = read.deal.workflow_status;
  const states = [now, ...moves.filter((move) => move.before === now).map((move) => move.after)];
  dialog.querySelector("select").replaceChildren(
    ...states.map((state) => new Option(labels[state], state)),
  );
}

dialog.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const wanted = dialog.querySelector("select").value;
  try {
    const moved = await crm.move(shown.deal.id, shown.etag, wanted);
    find(`#deal-${moved.deal.id}`)?.replaceWith(row(moved.deal));
    dialog.close();
  } catch (error) {
    find("#refusal").textContent = error.message;
    // Somebody, or a sync, was quicker: show what is there now, and let the user decide again.
    if (error.status === 412) await show(await crm.read(shown.deal.id));
  }
});

find("#close").addEventListener("click", () => dialog.close());

// --- Follow what happens ---------------------------------------------------------------------

async function follow() {
  let isStale = false; // the list, since it could not be read when something had changed
  try {
    for await (const { name, data } of crm.events(position)) {
      say(name === "interrupted" ? "Interrupted: trying again." : "Live.");
      // Too many to be named, or the stream was interrupted for too long.
      isStale ||= name === "reset" || (name === "changes" && !data.opportunity_ids);
      try {
        if (isStale && name !== "interrupted") await showDeals();
        else if (name === "changes") await refresh(data.opportunity_ids);
        isStale &&= name === "interrupted";
      } catch {
        isStale = true;
      }
    }
    say("Signed out: connect with another token.");
  } catch (error) {
    say(error.message);
  }
  signIn.hidden = false;
}

async function refresh(ids) {
  for (const id of ids) {
    const old = find(`#deal-${id}`);
    if (old) old.replaceWith(row((await crm.read(id)).deal));
  }
}

// --- What has changed since the user looked last ----------------------------------------------

find("#news").addEventListener("click", async () => {
  const list = find("#changes");
  list.replaceChildren();
  try {
    const changes = crm.changes(position);
    for (;;) {
      const { value, done } = await changes.next();
      if (done) {
        position = value;
        break;
      }
      const item = document.createElement("li");
      item.textContent = value.kind === "changed"
        ? `${value.remote_id}: ${value.field}: ${value.old_value} → ${value.new_value}`
        : `${value.remote_id}: ${value.kind}`;
      list.append(item);
    }
  } catch (error) {
    if (error.status !== 410) return say(error.message);
    // Changes after the cursor are deleted: begin anew with what is there.
    position = await crm.end();
    await showDeals();
  }
  if (!list.children.length) list.append("Nothing.");
});
