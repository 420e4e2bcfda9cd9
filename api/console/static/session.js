// A session that ends leaves the page as it is: one signs in again on it, and goes on.
"use strict";

const signIn = document.getElementById("sign-in-again");
// Each page tells the others who is signed in: another tab may be where one signs in again.
const signedIn = new BroadcastChannel("signed-in");
const { user: userId, userName } = document.body.dataset;
let refused = new Map();
let isPutOff = false;
let form = null;

async function askToSignIn(byUser) {
  const isAsked = () => signIn.matches(":modal") || ((signIn.open || isPutOff) && !byUser);
  if (isAsked()) return;
  if (!signIn.open || !signIn.querySelector("form")) {
    // Two requests can be refused at once: a second form would take the place of the filled one.
    form ??= htmx.ajax("GET", "/sign-in", { target: signIn, swap: "innerHTML" });
    await form;
    form = null;
    if (isAsked()) return;
  }
  const name = signIn.querySelector("[name=name]");
  if (!name) return; // without a connection
  name.value = userName;
  signIn.close();
  if (byUser) {
    signIn.showModal();
    signIn.querySelector("[name=password]").focus();
  } else {
    // Whoever is typing goes on typing where they were.
    const focused = document.activeElement;
    signIn.show();
    focused.focus();
  }
}

function sendAgain({ elt, target, requestConfig: { verb, path, parameters }, etc }) {
  htmx.ajax(verb, path, {
    source: elt,
    target,
    swap: etc.swapOverride,
    select: etc.select,
    values: parameters,
  });
}

function goOn({ id, name }) {
  if (!signIn.open && !isPutOff) return;
  if (String(id) !== userId) {
    tell(`You are signed in as ${name} now. Reload the page to go on as ${name}.`);
    return;
  }
  signIn.close();
  isPutOff = false;
  const waiting = refused.values();
  refused = new Map();
  htmx.trigger(document.body, "signed-in-again");
  for (const request of waiting) sendAgain(request);
}

function tell(words) {
  const alert = signIn.querySelector("[role=alert]");
  alert.textContent = words;
  alert.hidden = false;
}

// Before others hear of it: this is no error to show.
globalThis.addEventListener("htmx:responseError", (event) => {
  const { xhr, elt } = event.detail;
  if (signIn.contains(elt)) {
    event.stopPropagation();
    tell(JSON.parse(xhr.responseText).detail);
  } else if (xhr.status === 401 && userId) {
    event.stopPropagation();
    const byUser = !elt.closest("[data-background]");
    if (byUser) refused.set(elt, event.detail);
    askToSignIn(byUser);
  }
}, { capture: true });

document.addEventListener("signed-in", ({ detail: { id, name } }) => {
  signedIn.postMessage({ id, name });
  goOn({ id, name });
});
signedIn.addEventListener("message", (event) => goOn(event.data));
if (userId) signedIn.postMessage({ id: userId, name: userName });

signIn.addEventListener("cancel", () => isPutOff = true);
signIn.addEventListener("click", async (event) => {
  if (event.target.closest("[data-put-off]")) {
    isPutOff = true;
    signIn.close();
  }
  if (event.target.closest("[data-continue]")) {
    const answer = await fetch("/api/session");
    if (answer.ok) goOn(await answer.json());
    else tell("You are not signed in yet.");
  }
});
