// Trajectories turn by turn: what the policy sampled, what it was given to read, and single tokens under the pointer.

import { badge, creditCell } from "./credit.js";
import { byId, el, fill } from "./dom.js";

/** What is known of the token that an element shows. */
const facts = new WeakMap();

/** Columns of trajectories, their turns in line; `members` are places in the group. */
export function columns(group, members, estimator, other, onMember) {
  const turns = Math.max(...members.map((i) => group.members[i].turns.length));
  const cells = members.flatMap((i, column) => [
    at(column, 0, memberHead(group.members[i], i, members.length > 1 ? onMember : null)),
    ...Array.from({ length: turns }, (_, turn) =>
      at(column, turn + 1, turn < group.members[i].turns.length
        ? turnCard(group, i, turn, estimator, other)
        : el("div", { class: "turn ended" }, "ended"))),
  ]);
  return el("div", { class: members.length > 1 ? "columns" : "columns one", tabindex: "0", role: "region",
    "aria-label": "Trajectories" }, cells);
}

function at(column, row, element) {
  element.style.setProperty("grid-column", String(column + 1));
  element.style.setProperty("grid-row", String(row + 1));
  return element;
}

function memberHead(member, i, onMember) {
  const name = `Trajectory ${i + 1}`;
  return el("div", { class: "member-head" },
    onMember
      ? el("button", { type: "button", class: "member-link", onclick: () => onMember(i) }, name)
      : el("h2", {}, name),
    badge(member.state),
    el("p", { class: "answer" }, member.answer === null ? member.stop : ["answer ", el("q", { dir: "auto" }, member.answer)]));
}

function turnCard(group, i, k, estimator, other) {
  const turn = group.members[i].turns[k];
  return el("article", { class: turn.first_occurrence ? "turn first" : "turn" },
    el("header", { class: "turn-head" },
      el("div", { class: "name" }, `Turn ${k + 1}`, el("span", {}, turn.action)),
      creditCell(group, estimator, other, i, k)),
    el("div", {},
      el("p", { class: "label" }, "sampled"),
      el("div", { class: "policy", dir: "auto", tabindex: turn.tokens ? "0" : null }, turn.tokens ? turn.tokens.map(token) : pieces(turn.text))),
    turn.first_occurrence ? el("p", { class: "found" }, "the answer first appears here") : null,
    turn.feedback === null ? null : el("div", { class: "feedback" },
      el("p", { class: "label" }, "feedback"),
      el("div", { class: "passages", tabindex: "0", dir: "auto" }, pieces(turn.feedback))));
}

function pieces(parts) {
  return parts.map(([kind, text]) => {
    if (kind === "text") return text;
    if (kind === "mark") return el("mark", {}, text);
    return el("span", { class: kind }, kind === "cut" ? ` … ${text} … ` : text);
  });
}

function token(known) {
  const element = el("span", { class: known.tag ? "token tag" : "token" }, known.text);
  if (known.logprob !== null) {
    // From no shade for what was certain to a full one for what had a chance of one in 150 and less.
    element.style.setProperty("--share", `${Math.min(-known.logprob / 5, 1) * 30}%`);
  }
  facts.set(element, known);
  return element;
}

/** Scroll each passage box to the answer it holds. */
export function showMarks(root) {
  for (const mark of root.querySelectorAll("mark")) {
    const box = mark.closest(".passages");
    box.scrollTop = mark.offsetTop - box.clientHeight / 2;
  }
}

/** Show what is known of the token under the pointer, or, in a turn that has the focus, of the one the arrows are at. */
export function startTokens(root) {
  const at = () => root.querySelector(".token.at");
  const show = (element) => (element ? showFacts(element) : (byId("tip").hidden = true));
  root.addEventListener("pointerover", (event) => show(facts.has(event.target) ? event.target : at()));
  root.addEventListener("pointerleave", () => show(at()));
  root.addEventListener("scroll", () => show(at()), true);
  root.addEventListener("focusout", () => {
    at()?.classList.remove("at");
    show(null);
  });
  root.addEventListener("keydown", (event) => {
    if (!event.target.matches(".policy") || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    event.preventDefault();
    const tokens = [...event.target.querySelectorAll(".token")];
    const next = tokens.indexOf(at()) + (event.key === "ArrowRight" ? 1 : -1);
    at()?.classList.remove("at");
    tokens[Math.min(Math.max(next, 0), tokens.length - 1)]?.classList.add("at");
    show(at());
  });
}

function showFacts(element) {
  const tip = byId("tip");
  const known = facts.get(element);
  const fact = (name, value) => [el("dt", {}, name), el("dd", {}, value)];
  fill(tip,
    el("p", { class: "what" }, visible(known.text)),
    el("dl", {},
      fact("log-probability", known.logprob === null ? "not known" : small(known.logprob)),
      fact("probability", known.logprob === null ? "not known" : percent(Math.exp(known.logprob))),
      fact("ratio in the update", known.ratio === null ? "not written" : known.ratio.toFixed(4))));
  tip.hidden = false;
  const around = element.getBoundingClientRect();
  const left = Math.min(Math.max(around.left, 8), innerWidth - tip.offsetWidth - 8);
  const above = around.top - tip.offsetHeight - 8;
  tip.style.setProperty("left", `${left}px`);
  tip.style.setProperty("top", `${above > 8 ? above : around.bottom + 8}px`);
}

const small = (number) => (Math.abs(number) < 0.001 && number !== 0 ? number.toExponential(1) : number.toFixed(4));

const percent = (share) => (share > 0.9999 ? "over 99.99 %" : `${(share * 100).toFixed(share < 0.001 ? 4 : 2)} %`);

const visible = (text) => text.replaceAll("\n", "⏎").replace(/^ | $/g, "␣");
