// The one script of every page: parts that are drawn anew, commands that are copied.
"use strict";

for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const code = button.parentElement.querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
    say("copied");
  } catch {
    getSelection().selectAllChildren(code);
    say("selected; copy it with your keyboard");
  }
});

function say(text) {
  document.querySelector("[data-news]").textContent = text;
}

// What a person has opened, typed or chosen stays; a part that did not change is left alone.
function replace(place, html) {
  const made = document.createElement("template");
  made.innerHTML = html;
  const before = [...place.querySelectorAll("details")];
  made.content.querySelectorAll("details").forEach((each, at) => {
    const was = each.id ? place.querySelector(`#${CSS.escape(each.id)}`) : before[at];
    if (was) each.open = was.open;
  });
  for (const each of made.content.querySelectorAll("[data-copy]")) each.hidden = false;
  const now = document.createElement("div");
  now.append(made.content);
  const then = document.createElement("div");
  then.innerHTML = place.innerHTML.trim();
  if (now.isEqualNode(then)) return false;
  const typed = place.contains(document.activeElement) && document.activeElement.matches("input, textarea, select");
  if (typed) return false;
  const focused = place.contains(document.activeElement) ? document.activeElement : null;
  const at = focused ? [...place.querySelectorAll("a, button, summary, [tabindex]")].indexOf(focused) : -1;
  place.replaceChildren(...now.childNodes);
  if (at >= 0) {
    const again = (focused.id && document.getElementById(focused.id)) || place.querySelectorAll("a, button, summary, [tabindex]")[at];
    if (again) again.focus({ preventScroll: true });
  }
  return true;
}

const live = document.body.dataset.live;
if (live) {
  const events = new EventSource(live);
  let changed = 0;
  events.addEventListener("part", (event) => {
    const { id, html } = JSON.parse(event.data);
    const place = document.querySelector(`[data-part="${CSS.escape(id)}"]`);
    if (place && replace(place, html)) {
      place.classList.remove("fresh");
      void place.offsetWidth;
      place.classList.add("fresh");
      clearTimeout(changed);
      changed = setTimeout(() => say(`updated at ${new Date().toISOString().slice(11, 19)} UTC`), 500);
    }
  });
  events.addEventListener("end", () => {
    events.close();
    say("this page is not kept up to date any more; open it anew");
  });
  events.addEventListener("error", () => say("the page's process does not answer; what is shown may be old"));
  events.addEventListener("open", () => say(""));
  addEventListener("pagehide", () => events.close());
}
