// One group: its question, the same question at other steps, who earned what, and the trajectories to read.

import { matrix } from "./credit.js";
import { byId, el, fill, stateClass } from "./dom.js";
import { go, place } from "./place.js";
import { STATES, source } from "./source.js";
import { columns, showMarks, startTokens } from "./turns.js";

const TITLES = {
  tspo: "TSPO", grpo: "GRPO", dr_grpo: "Dr. GRPO", rloo: "RLOO", mt_grpo: "MT-GRPO", gigpo: "GiGPO", igpo: "IGPO",
  reinforce_plus_plus: "REINFORCE++", reinforce_plus_plus_baseline: "REINFORCE++ with baseline",
};

/** How an estimator is called; one that was added has its own name. */
const title = (name) => TITLES[name] ?? name;

const shown = { key: "", group: null, shaded: false };

export function startGroup() {
  startTokens(byId("group"));
}

/** Show the group that the place names. */
export async function showGroup() {
  const { run = "0", group } = place();
  byId("trajectories").classList.toggle("reading", group !== undefined);
  if (group === undefined) {
    shown.key = "";
    byId("group").replaceChildren(el("p", { class: "empty" },
      "Choose a question. ", el("kbd", {}, "j"), el("kbd", {}, "k"), "go through the list, ", el("kbd", {}, "?"), "shows all keys."));
    return;
  }
  const key = `${run}/${group}`;
  if (key !== shown.key) {
    shown.key = key;
    let found;
    try {
      found = await source.group(Number(run), Number(group));
    } catch (error) {
      if (key === shown.key) byId("group").replaceChildren(el("p", { class: "empty", role: "alert" }, error.message));
      return;
    }
    if (key !== shown.key) return;
    shown.group = found;
    byId("group").scrollTop = 0;
  }
  if (shown.group) draw();
}

function estimatorNow() {
  const { credit } = place();
  return credit in shown.group.credit ? credit : shown.group.trained_with;
}

/** What the bars are compared with: GRPO, or beside GRPO what the run was trained with, or TSPO. */
function otherThan(estimator) {
  if (estimator !== "grpo") return "grpo";
  return shown.group.trained_with !== "grpo" ? shown.group.trained_with : "tspo";
}

/** Evaluations stand before the first step and after the last; a file that tells no step is at 0. */
const isTrainedOn = (time) => time.at > 0 && time.at < 2 ** 40;

function draw() {
  const { group } = shown;
  const estimator = estimatorNow();
  const other = otherThan(estimator);
  const { member } = place();
  const chosen = member !== undefined && group.members[Number(member)] ? Number(member) : null;
  const onMember = (i) => go({ member: i });
  const now = group.history.find((one) => one.id === group.id);
  const members = chosen === null ? group.members.map((_, i) => i) : [chosen];
  const box = byId("group");
  const scrolled = box.scrollTop;
  const key = box.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  fill(box,
    el("p", { class: "eyebrow" },
      el("button", { type: "button", class: "back", onclick: () => go({ group: null, member: null }) }, "‹ list"),
      el("span", {}, now.when),
      el("span", {}, `${isTrainedOn(now) ? "trained with" : "not trained on: credit as under"} ${title(group.trained_with)}`)),
    el("h1", { dir: "auto" }, group.question),
    el("p", { class: "golden" }, el("span", { class: "soft" }, group.golden_answers.length > 1 ? "Golden answers " : "Golden answer "),
      group.golden_answers.slice(0, 6).flatMap((answer, i) => [i ? el("span", { class: "soft" }, " or ") : "", el("b", { dir: "auto" }, answer)])),
    el("p", { class: "lesson" }, group.lesson),
    group.history.length > 1 ? history(group) : null,
    el("div", { class: "head" }, el("h2", {}, "Who earned what"), creditSwitch(estimator)),
    matrix(group, estimator, other, chosen, onMember),
    el("p", { class: "key" },
      el("span", {}, "r: reward of the turn"), el("span", {}, "number and bar: advantage"),
      el("span", {}, el("span", { class: "other" }), `advantage under ${title(other)}`)),
    group.as_recorded ? null : el("p", { class: "note" },
      "The file records other credit than these settings give: it was written under settings that are not known here."),
    group.members_in_all > group.members.length ? el("p", { class: "note" },
      `The first ${group.members.length} of ${group.members_in_all} trajectories; credit is over all of them.`) : null,
    el("div", { class: "head" }, el("h2", {}, "Turn by turn"), tools(group, chosen)),
    notes(group),
    columns(group, members, estimator, other, onMember));
  box.classList.toggle("shaded", shown.shaded);
  showMarks(box);
  box.scrollTop = scrolled;
  // What had the focus is drawn anew; whoever is there by keyboard stays there.
  if (key !== undefined) box.querySelector(`[data-key="${key}"]`)?.focus({ preventScroll: true });
}

function creditSwitch(estimator) {
  return el("div", { class: "switch", role: "group", "aria-label": "Credit under" },
    Object.keys(shown.group.credit).map((name) =>
      el("button", { type: "button", "aria-pressed": String(name === estimator), "data-key": name,
        onclick: () => go({ credit: name }, { replace: true }) }, title(name))));
}

function tools(group, chosen) {
  const button = (label, isOn, onclick) =>
    el("button", { type: "button", "aria-pressed": String(isOn), "data-key": `show ${label}`, onclick }, label);
  const shade = el("input", { type: "checkbox", id: "shade", onchange: toggleShade });
  shade.checked = shown.shaded;
  return el("div", { class: "tools" },
    el("label", {}, shade, "shade tokens by surprise"),
    group.members.length > 1 ? el("div", { class: "switch", role: "group", "aria-label": "Trajectories shown" },
      button("side by side", chosen === null, () => go({ member: null })),
      group.members.map((_, i) => button(String(i + 1), i === chosen, () => go({ member: i })))) : null);
}

function notes(group) {
  const turns = group.members.flatMap((member) => member.turns);
  const note = (text) => [el("p", { class: "note" }, text)];
  if (turns.every((turn) => turn.tokens === null)) {
    return note("This file does not say where single tokens are in the text, so there is nothing to show under the "
      + "pointer. Training writes it unless training.token_details is false.");
  }
  if (turns.every((turn) => (turn.tokens ?? []).every((token) => token.ratio === null))) {
    return note("Point at a token for its log-probability. Its ratio in the update is not there: no update has "
      + "trained on these trajectories, or it did not write it.");
  }
  return note("Point at a token for its log-probability when it was sampled, and for its ratio in the update: the "
    + "probability it had there over the one it was sampled with.");
}

function history(group) {
  const times = group.history;
  const at = times.findIndex((one) => one.id === group.id);
  const text = el("output", {}, timesText(times, at));
  const slider = el("input", { type: "range", min: "0", max: String(times.length - 1), value: String(at), "data-key": "history",
    "aria-label": "The same question at other steps", "aria-valuetext": times[at].when,
    onchange: (event) => open(times[Number(event.target.value)].id),
    oninput: (event) => { text.textContent = timesText(times, Number(event.target.value)); } });
  const bars = times.map((time) => {
    const parts = STATES.map((state) => {
      const part = el("span", { class: `part ${stateClass(state)}` });
      part.style.setProperty("height", `${(time[state] / time.members) * 100}%`);
      return part;
    });
    const said = `${time.when}: ${STATES.map((state) => `${time[state]} ${state}`).join(", ")}`;
    return el("button", { type: "button", class: "time", title: said, "aria-label": said,
      "aria-current": time.id === group.id ? "true" : null, onclick: () => open(time.id) }, parts.reverse());
  });
  const box = el("div", { class: "history" }, el("div", { class: "times" }, bars), text, slider);
  box.style.setProperty("--width", `${Math.min(times.length * 64, 640)}px`);
  return box;
}

const timesText = (times, at) => `${times[at].when} · ${at + 1} of ${times.length} with this question`;

const open = (id) => go({ group: id, member: null });

/** The same question earlier or later. */
export function moveInHistory(by) {
  const times = shown.group?.history ?? [];
  const next = times[times.findIndex((one) => one.id === shown.group?.id) + by];
  // Another group may be on its way, and this one only still be drawn.
  if (next && place().group === String(shown.group.id)) open(next.id);
}

/** The group of another run that asks the question which is shown, at the step nearest to it; null if there is none. */
export async function sameQuestionIn(run) {
  const { group } = shown;
  if (!group || place().group === undefined) return null;
  const { question, at } = group.history.find((one) => one.id === group.id);
  const found = await source.groups(run, { states: [], allWrong: false, text: question, first: null, last: null }, 0);
  const same = found.groups.filter((one) => one.question === question);
  same.sort((a, b) => Math.abs(a.at - at) - Math.abs(b.at - at));
  return same[0]?.id ?? null;
}

/** The next estimator's credit. */
export function cycleCredit() {
  if (!shown.group) return;
  const estimators = Object.keys(shown.group.credit);
  const next = estimators.indexOf(estimatorNow()) + 1;
  go({ credit: estimators[next % estimators.length] }, { replace: true });
}

/** One trajectory by its number, or with 0 all of them. */
export function readMember(number) {
  if (shown.group && number <= shown.group.members.length) go({ member: number === 0 ? null : number - 1 });
}

export function toggleShade() {
  shown.shaded = !shown.shaded;
  byId("group").classList.toggle("shaded", shown.shaded);
  const box = byId("shade");
  if (box) box.checked = shown.shaded;
}
