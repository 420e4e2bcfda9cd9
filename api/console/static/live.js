// One event stream for the page: it tells of syncs, of deals that changed since the page was read,
// and of the session's end. A tab that nobody sees has none, and catches up when it is seen.
"use strict";

const changedBar = document.getElementById("changed");
const freshness = document.querySelector("#fresh span");
const showsDeals = /^\/(today|opportunities|board|dashboard)/.test(location.pathname);
const onlyDeal = Number(location.pathname.match(/^\/opportunities\/(\d+)$/)?.[1]) || null;
const AGAIN = 20_000; // milliseconds

let stream = null;
let position = document.body.dataset.asOf;
let readAt = new Date().toISOString();
let changedDeals = new Set();
let hasMore = false; // changes whose deals are not named
let isLive = false;
let lastRun = null;

function showFreshness() {
  const count = changedDeals.size;
  const isStale = showsDeals && (hasMore || (onlyDeal ? changedDeals.has(onlyDeal) : count > 0));
  const what = hasMore
    ? "Many deals have"
    : onlyDeal
    ? "This deal has"
    : `${count} ${count === 1 ? "deal has" : "deals have"}`;
  const words = `${what} changed since this page was read ${ago(readAt)}.`;
  const text = changedBar.querySelector("span");
  if (isStale && text.textContent !== words) text.textContent = words;
  changedBar.hidden = !isStale;
  freshness.textContent = !isLive
    ? "Live updates are interrupted."
    : isStale || !showsDeals
    ? ""
    : "It is up to date.";
}

// A deal that is read from the CRM on its page: it is shown again if anything is new.
let refreshing = null;
document.addEventListener("refresh-started", ({ detail }) => {
  refreshing = detail.run_id;
  say("Reading the deal from the CRM…");
});
document.addEventListener("sync", ({ detail: run }) => {
  if (!refreshing || run?.run_id !== refreshing || run.status === "RUNNING") return;
  refreshing = null;
  if (run.status !== "SUCCESS") {
    say(`The deal could not be read: ${run.error_message}`, { bad: true });
  } else if (run.total_fetched === 0) {
    say("The CRM does not show this deal: it is deleted there, or not shared.", { bad: true });
  } else if (run.unchanged_records > 0) say("The deal is as it is in the CRM.");
  else location.reload();
});

function lose() {
  isLive = false;
  document.dispatchEvent(new CustomEvent("live-lost"));
  showFreshness();
}

function connect() {
  stream?.close();
  const query = new URLSearchParams({ of_others: true, cursor: position });
  const own = stream = new EventSource(`/api/events?${query}`);
  stream.addEventListener("open", () => {
    isLive = true;
    showFreshness();
  });
  stream.addEventListener("sync", (event) => {
    const { run } = JSON.parse(event.data);
    const name = `${run?.run_id} ${run?.status}`;
    const isShown = document.querySelector("#indicator .dot.live") !== null;
    const isNews = lastRun === null ? isShown !== (run?.status === "RUNNING") : lastRun !== name;
    if (isNews) htmx.trigger(document.body, "sync-changed");
    lastRun = name;
    document.dispatchEvent(new CustomEvent("sync", { detail: run }));
  });
  stream.addEventListener("changes", (event) => {
    position = event.lastEventId;
    const { opportunity_ids: ids } = JSON.parse(event.data);
    for (const id of ids ?? []) changedDeals.add(id);
    hasMore ||= ids === null;
    showFreshness();
  });
  stream.addEventListener("reset", (event) => {
    position = event.lastEventId;
    hasMore = true;
    showFreshness();
  });
  stream.addEventListener("signed-out", () => {
    stream.close();
    lose();
    askToSignIn(false);
  });
  stream.addEventListener("error", async () => {
    lose();
    if (own.readyState !== EventSource.CLOSED) return; // it tries again by itself
    const answer = await fetch("/api/session").catch(() => null);
    if (answer?.status === 401) askToSignIn(false);
    else setTimeout(() => own === stream && connect(), AGAIN);
  });
}

if (userId) {
  connect();
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      stream.close();
      isLive = false;
    } else connect();
  });
  globalThis.addEventListener("pagehide", () => stream.close());
  document.addEventListener("signed-in-again", connect);
  // What a filter or a new page of the board has read is as of then.
  document.addEventListener("htmx:afterOnLoad", (event) => {
    const { xhr, target } = event.detail;
    const asOf = xhr.getResponseHeader("X-As-Of");
    if (!asOf || !["results", "board"].includes(target.id)) return;
    [position, readAt, changedDeals, hasMore] = [asOf, new Date().toISOString(), new Set(), false];
    document.querySelector("#fresh time").dateTime = readAt;
    connect();
  });
  setInterval(() => {
    showFreshness();
    if (!isLive && !document.hidden) htmx.trigger(document.body, "sync-changed");
  }, 60_000);
}
