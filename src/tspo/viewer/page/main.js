// The page: which view is shown, of which run, and how it keeps up with a run that is still going.

import { showCurves, swatch } from "./curves.js";
import { byId, el } from "./dom.js";
import { sameQuestionIn, showGroup, startGroup } from "./group.js";
import { startKeys } from "./keys.js";
import { listGrew, showList, startList } from "./list.js";
import { addressOf, go, onPlace, place } from "./place.js";
import { source } from "./source.js";
import { startTheme, switchTheme } from "./theme.js";

const LOOK_EVERY = 5000;
const known = { runs: [] };

startTheme();
start();

async function start() {
  byId("theme").addEventListener("click", switchTheme);
  let content;
  try {
    content = await source.runs();
  } catch (error) {
    return tell(`The viewer does not answer: ${error.message}`);
  }
  known.runs = content.runs;
  startList();
  startGroup();
  startKeys();
  onPlace(show);
  tellProblems();
  await show();
  byId("note").textContent = content.note ?? "";
  if (!source.isStatic) setInterval(look, LOOK_EVERY);
  return undefined;
}

async function show() {
  const at = place();
  const run = known.runs[Number(at.run ?? 0)] ? Number(at.run ?? 0) : 0;
  const hasCurves = known.runs.some((one) => one.groups === 0);
  const view = at.view ?? (hasCurves ? "curves" : "trajectories");
  for (const name of ["trajectories", "curves"]) {
    byId(name).hidden = view !== name;
    const link = byId(`to-${name}`);
    link.setAttribute("href", addressOf({ view: name }));
    if (view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${known.runs.map((one) => one.name).join(", ")} · tspo view`;
  drawRuns(run, view);
  try {
    if (view === "curves") await showCurves(known.runs);
    else await Promise.all([showList(), showGroup()]);
  } catch (error) {
    tell(`The viewer does not answer: ${error.message}`);
  }
}

function drawRuns(current, view) {
  byId("runs").replaceChildren(...known.runs.map((run, number) =>
    view === "curves"
      ? el("span", { class: "run" }, swatch(number), run.name)
      : el("button", { type: "button", class: "run", "aria-pressed": String(number === current),
          onclick: async () => go({ run: number, group: await sameQuestionIn(number), member: null }) },
        known.runs.length > 1 ? swatch(number) : null, run.name)));
}

async function look() {
  if (document.hidden) return;
  try {
    const content = await source.runs();
    const grew = JSON.stringify(content.runs) !== JSON.stringify(known.runs);
    known.runs = content.runs;
    tellProblems();
    if (!grew) return;
    if (byId("curves").hidden) await listGrew();
    else await showCurves(known.runs);
  } catch {
    tell("The viewer has been stopped; what is here stays.");
  }
}

function tellProblems() {
  tell(known.runs.map((run) => run.problem).filter(Boolean).join(" "));
}

function tell(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}
