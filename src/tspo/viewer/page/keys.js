// The keyboard: one table of keys, which is also what the help shows.

import { byId, el } from "./dom.js";
import { cycleCredit, moveInHistory, readMember, toggleShade } from "./group.js";
import { step } from "./list.js";
import { go, place } from "./place.js";
import { switchTheme } from "./theme.js";

const KEYS = [
  { keys: ["j"], also: "↓ in the list", what: "next question", act: () => step(1) },
  { keys: ["k"], also: "↑ in the list", what: "question before", act: () => step(-1) },
  { keys: ["ArrowLeft"], shown: "←", what: "the same question earlier", act: () => moveInHistory(-1) },
  { keys: ["ArrowRight"], shown: "→", what: "the same question later", act: () => moveInHistory(1) },
  { keys: [], shown: "← →", also: "in a turn", what: "tokens, one by one (Tab goes to a turn)" },
  { keys: ["1", "2", "3", "4", "5", "6", "7", "8", "9"], shown: "1 … 9", what: "read one trajectory", act: (key) => readMember(Number(key)) },
  { keys: ["0", "s"], shown: "0", what: "all side by side", act: () => readMember(0) },
  { keys: ["c"], what: "credit of the next estimator", act: cycleCredit },
  { keys: ["p"], what: "shade tokens by surprise", act: toggleShade },
  { keys: ["/"], what: "search", act: search },
  { keys: ["v"], what: "curves or trajectories", act: () => go({ view: place().view === "curves" ? "trajectories" : "curves" }) },
  { keys: ["t"], what: "dark or light", act: switchTheme },
  { keys: ["?"], what: "these keys", act: showHelp },
  { keys: ["Escape"], shown: "Esc", what: "leave the search, one trajectory, the question", act: leave },
];

export function startKeys() {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || byId("help").open) return;
    const isTyped = event.target.matches("input:not([type=range]):not([type=checkbox]), textarea, select");
    if (isTyped && event.key !== "Escape") return;
    // Arrows belong to what has them itself: a slider, a box that scrolls.
    if (event.key.startsWith("Arrow") && event.target.matches("input, [tabindex='0']")) return;
    const found = KEYS.find((one) => one.keys.includes(event.key));
    if (!found) return;
    event.preventDefault();
    found.act(event.key);
  });
  byId("help-button").addEventListener("click", showHelp);
}

function search() {
  go({ view: "trajectories" });
  byId("text").focus();
  byId("text").select();
}

function leave() {
  if (document.activeElement.matches("input")) document.activeElement.blur();
  else if (place().member !== undefined) go({ member: null });
  else go({ group: null });
}

function showHelp() {
  byId("help").replaceChildren(
    el("h2", { id: "help-title" }, "Keys"),
    el("dl", {}, KEYS.map((one) => [
      el("dt", {}, el("kbd", {}, one.shown ?? one.keys[0]), one.also ? el("span", { class: "soft" }, one.also) : null),
      el("dd", {}, one.what)])),
    el("form", { method: "dialog" }, el("button", {}, "Close")));
  byId("help").showModal();
}
