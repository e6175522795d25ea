// What each turn earned, as numbers and bars. The numbers are the server's; here they are only drawn.

import { el, stateClass } from "./dom.js";

/** The widest advantage of a group under any estimator: bars of all are on one scale. */
export function widest(group) {
  const all = Object.values(group.credit).flat().flatMap((one) => one.advantages.map(Math.abs));
  return Math.max(...all, 0) || 1;
}

export function signed(number) {
  const text = Math.abs(number).toFixed(2);
  return number > 0.004 ? `+${text}` : number < -0.004 ? `−${text}` : "0";
}

const sign = (number) => (number > 0 ? "plus" : number < 0 ? "minus" : "zero");

/** Reward, advantage, and the advantage as a bar from the middle; a thin mark shows another estimator's. */
export function creditCell(group, estimator, other, member, turn) {
  const scale = widest(group);
  const own = group.credit[estimator][member];
  const advantage = own.advantages[turn];
  const bar = el("i", { class: sign(advantage) });
  const half = (Math.abs(advantage) / scale) * 50;
  bar.style.setProperty("width", `${half}%`);
  bar.style.setProperty("left", `${advantage < 0 ? 50 - half : 50}%`);
  let mark = null;
  if (other) {
    mark = el("span", { class: "other" });
    mark.style.setProperty("left", `${50 + (group.credit[other][member].advantages[turn] / scale) * 50}%`);
  }
  return el("div", { class: "cell" },
    el("div", { class: "line" },
      el("span", { class: "reward" }, "r ", el("b", {}, String(Number(own.rewards[turn].toFixed(3))))),
      el("span", { class: `advantage-number ${sign(advantage)}` }, signed(advantage))),
    el("div", { class: "advantage", role: "img", "aria-label": `advantage ${signed(advantage)}` }, bar, mark));
}

export function badge(state) {
  return el("span", { class: `badge ${stateClass(state)}` }, el("span", { class: `dot ${stateClass(state)}` }), state);
}

/** The whole group at once: a row a trajectory, a column a turn. */
export function matrix(group, estimator, other, chosen, onMember) {
  const turns = Math.max(...group.members.map((member) => member.turns.length));
  const head = Array.from({ length: turns }, (_, turn) => el("th", { scope: "col" }, `turn ${turn + 1}`));
  const rows = group.members.map((member, i) =>
    el("tr", { "aria-current": i === chosen ? "true" : null },
      el("td", { class: "who" },
        el("button", { type: "button", class: "member-link", onclick: () => onMember(i) }, `Trajectory ${i + 1}`),
        el("div", {}, badge(member.state))),
      el("td", { class: "said" }, el("span", { dir: "auto" }, member.answer ?? member.stop)),
      Array.from({ length: turns }, (_, turn) =>
        el("td", {}, turn < member.turns.length ? creditCell(group, estimator, other, i, turn) : null))));
  return el("div", { class: "matrix-box", tabindex: "0", role: "region", "aria-label": "Credit of the whole group" },
    el("table", { class: "matrix" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, ""), el("th", { class: "said", scope: "col" }, "answer"), head)),
      el("tbody", {}, rows)));
}
