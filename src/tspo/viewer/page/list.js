// The list of groups: filters, pages that are fetched as one scrolls, and the way from one group to the next.

import { byId, count, el, stateClass } from "./dom.js";
import { addressOf, go, place } from "./place.js";
import { STATES, source } from "./source.js";

const shown = { groups: [], total: 0, trajectories: 0, asked: "", fetching: null };

export function startList() {
  const chip = (name, label, state) =>
    el("button", { type: "button", class: "chip", "data-name": name, "aria-pressed": "false", onclick: () => toggle(name) },
      state ? el("span", { class: `dot ${stateClass(state)}` }) : null, label);
  byId("states").append(...STATES.map((state) => chip(state, state, state)), chip("all-wrong", "none right", null));
  byId("text").addEventListener("input", () => go({ text: byId("text").value }, { replace: true }));
  for (const end of ["first", "last"]) {
    byId(end).addEventListener("change", () => go({ [end]: byId(end).value }, { replace: true }));
  }
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("text").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    step(1, { fromStart: true });
  });
  byId("scroller").addEventListener("scroll", () => {
    const box = byId("scroller");
    if (box.scrollTop + box.clientHeight > box.scrollHeight - 600) fetchPage().catch(() => {}); // main.js tells when the viewer is gone
  });
  byId("rows").addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    event.preventDefault();
    step(event.key === "ArrowDown" ? 1 : -1, { focus: true });
  });
}

function wantedAt(at) {
  const chosen = (at.states ?? "").split(",").filter(Boolean);
  const step = (text) => (/^\d+$/.test(text ?? "") ? Number(text) : null);
  return {
    states: STATES.filter((state) => chosen.includes(state)),
    allWrong: chosen.includes("all-wrong"),
    text: at.text ?? "",
    first: step(at.first),
    last: step(at.last),
  };
}

function toggle(name) {
  const chosen = new Set((place().states ?? "").split(",").filter(Boolean));
  if (!chosen.delete(name)) chosen.add(name);
  go({ states: [...chosen].join(",") });
}

/** Show the list as the place wants it. */
export async function showList() {
  const at = place();
  const wanted = wantedAt(at);
  for (const end of ["first", "last"]) if (document.activeElement !== byId(end)) byId(end).value = wanted[end] ?? "";
  if (document.activeElement !== byId("text")) byId("text").value = wanted.text;
  for (const chip of byId("states").querySelectorAll("button")) {
    const name = chip.dataset.name;
    const isOn = name === "all-wrong" ? wanted.allWrong : wanted.states.includes(name);
    chip.setAttribute("aria-pressed", String(isOn));
  }
  const asked = JSON.stringify([at.run ?? "0", wanted]);
  if (asked !== shown.asked) {
    Object.assign(shown, { groups: [], total: 0, trajectories: 0, asked, fetching: null });
    byId("scroller").scrollTop = 0;
    await fetchPage({ first: true });
  }
  markCurrent();
}

/** Fetch the next page, if there is one; the answer to a question that is no longer asked is dropped. */
async function fetchPage({ first = false } = {}) {
  if (shown.fetching) return shown.fetching;
  if (!first && shown.groups.length >= shown.total) return undefined;
  const { asked } = shown;
  const [run, wanted] = JSON.parse(asked);
  let page;
  try {
    shown.fetching = source.groups(Number(run), wanted, shown.groups.length);
    page = await shown.fetching;
  } finally {
    if (asked === shown.asked) shown.fetching = null;
  }
  if (asked !== shown.asked) return undefined;
  if (first) byId("rows").replaceChildren();
  shown.total = page.total;
  shown.trajectories = page.trajectories;
  byId("rows").append(...page.groups.map(row));
  shown.groups.push(...page.groups);
  say();
  markCurrent();
  return page;
}

/** The run has grown: what was at the end of the list may not be any more. */
export async function listGrew() {
  const { asked } = shown;
  if (!asked || shown.fetching) return;
  const [run, wanted] = JSON.parse(asked);
  const page = await source.groups(Number(run), wanted, shown.groups.length);
  if (asked !== shown.asked) return;
  const wasWhole = shown.groups.length >= shown.total;
  shown.total = page.total;
  shown.trajectories = page.trajectories;
  say();
  if (wasWhole) fetchPage();
}

function say() {
  byId("count").textContent = shown.total
    ? `${count(shown.total, "group")}, ${count(shown.trajectories, "trajectory", "trajectories")}`
    : "";
  byId("rows").querySelector(".nothing")?.remove();
  if (!shown.total) byId("rows").append(el("li", { class: "nothing" }, "No group is like that."));
}

function row(group) {
  return el("li", {},
    el("a", { class: "row", href: addressOf({ view: "trajectories", group: group.id, member: null }), "data-id": group.id,
        onclick: (event) => {
          if (event.ctrlKey || event.metaKey || event.shiftKey) return;
          event.preventDefault();
          open(group.id);
        } },
      el("span", { class: "asked", dir: "auto" }, group.question),
      el("span", { class: "about" }, el("span", {}, group.when), dots(group))));
}

/** A dot a trajectory, or, of many, how many there are of each kind. */
export function dots(group) {
  const drawn = STATES.flatMap((state) => {
    const dot = () => el("span", { class: `dot ${stateClass(state)}` });
    if (!group[state]) return [];
    if (group.members > 10) return [dot(), el("span", { class: "many" }, String(group[state]))];
    return Array.from({ length: group[state] }, dot);
  });
  const said = STATES.filter((state) => group[state]).map((state) => `${group[state]} ${state}`).join(", ");
  return el("span", { class: "dots", role: "img", "aria-label": said, title: said }, drawn);
}

function open(id) {
  go({ view: "trajectories", group: id, member: null });
}

function markCurrent() {
  const { group } = place();
  byId("rows").querySelector("[aria-current]")?.removeAttribute("aria-current");
  const current = byId("rows").querySelector(`[data-id="${Number(group)}"]`);
  current?.setAttribute("aria-current", "true");
  return current;
}

/** Go on to the next group of the list, or back; over the end of what is there, more is fetched. */
export async function step(by, { focus = false, fromStart = false } = {}) {
  const id = Number(place().group);
  const at = fromStart ? -1 : shown.groups.findIndex((group) => group.id === id);
  const next = Math.max(at + by, 0);
  if (next >= shown.groups.length) await fetchPage();
  const group = shown.groups[Math.min(next, shown.groups.length - 1)];
  if (!group) return;
  open(group.id);
  const current = markCurrent();
  current?.scrollIntoView({ block: "nearest" });
  if (focus) current?.focus();
}
