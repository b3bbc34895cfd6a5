// Keeps the page up to date: when the service reports an event, and every ten seconds, the page is
// read again and its parts marked `data-live` are replaced. Without this script, every page works,
// too, in browsers that know `command` and `commandfor`.

const EVENTS_PAUSE = 1500; // at least so many milliseconds between two readings
const TIMER = 10_000;
const HELD = "imageprocessor-admin-held";

const events = document.querySelector("script[data-events]").dataset.events;
const hold = document.querySelector("#hold");
let readAt = Date.now();
let dueAt = Infinity;
let timer = null;
let stream = null;

function isStill() {
  return document.hidden || sessionStorage.getItem(HELD) === "yes";
}

/** Read the page again so many milliseconds after the last time, unless that is planned sooner. */
function plan(pause) {
  if (isStill() || readAt + pause >= dueAt) return;
  dueAt = readAt + pause;
  clearTimeout(timer);
  timer = setTimeout(refresh, Math.max(0, dueAt - Date.now()));
}

async function refresh() {
  if (!isStill()) {
    try {
      const response = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (response.status === 401) return location.reload(); // the session has ended
      if (!response.ok) throw new Error(response.status);
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
      for (const part of document.querySelectorAll("[data-live]")) replace(part, fresh);
      hold.classList.remove("lost");
    } catch {
      hold.classList.add("lost");
    }
  }
  readAt = Date.now();
  dueAt = Infinity;
  plan(TIMER);
}

/** Replace the content of *part*, unless somebody is at work in it. */
function replace(part, fresh) {
  const next = fresh.getElementById(part.id);
  const isBusy = part.contains(document.activeElement) || part.querySelector("dialog[open]");
  if (!next || isBusy || next.innerHTML === part.innerHTML) return;
  const lefts = [...part.querySelectorAll(".scroll")].map((region) => region.scrollLeft);
  part.replaceChildren(...next.childNodes);
  [...part.querySelectorAll(".scroll")].forEach((region, index) => {
    region.scrollLeft = lefts[index] ?? 0;
  });
}

function follow() {
  stream?.close();
  stream = null;
  const held = sessionStorage.getItem(HELD) === "yes";
  hold.setAttribute("aria-pressed", String(held));
  hold.lastChild.textContent = held ? "Held" : "Live";
  if (isStill()) return;
  stream = new EventSource(events);
  for (const type of ["image.accepted", "image.completed", "image.failed", "image.deleted"]) {
    stream.addEventListener(type, () => plan(EVENTS_PAUSE));
  }
}

if (document.querySelector("[data-live]")) {
  hold.hidden = false;
  hold.addEventListener("click", () => {
    sessionStorage.setItem(HELD, hold.ariaPressed === "true" ? "no" : "yes");
    follow();
    plan(0);
  });
  document.addEventListener("visibilitychange", () => {
    follow();
    plan(EVENTS_PAUSE);
  });
  follow();
  plan(TIMER);
}

// What the last action has done is said once: not again when the page is reloaded.
const address = new URL(location.href);
if (address.searchParams.has("notice")) {
  address.searchParams.delete("notice");
  address.searchParams.delete("count");
  history.replaceState(null, "", address);
}

if (!("commandForElement" in HTMLButtonElement.prototype)) {
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[commandfor]");
    const dialog = button && document.getElementById(button.getAttribute("commandfor"));
    if (!dialog) return;
    if (button.getAttribute("command") === "close") dialog.close();
    else dialog.showModal();
  });
}
