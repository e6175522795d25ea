// The curves of one run or several, laid over each other. A click on a step shows its trajectories.

import { byId, el, svg } from "./dom.js";
import { go } from "./place.js";
import { source } from "./source.js";

const SIZE = { width: 400, height: 190, left: 46, right: 10, top: 8, bottom: 24 };
const shown = { text: "", names: [] };

/** The swatch of a run, as in its line. */
export function swatch(run) {
  return el("span", { class: `swatch own${run % 6} ${["", "dashed", "dotted"][run % 3]}` });
}

export async function showCurves(runs) {
  const names = runs.map((run) => run.name);
  const content = await source.curves();
  const text = JSON.stringify([content, names]);
  if (text === shown.text) return;
  Object.assign(shown, { text, names });
  const main = content.charts.filter((chart) => chart.main);
  const others = content.charts.filter((chart) => !chart.main);
  const wasOpen = byId("curves").querySelector("details.others")?.open ?? false;
  byId("curves").replaceChildren(el("div", {},
    el("h1", {}, names.length > 1 ? `${names.length} runs` : names[0]),
    content.charts.length
      ? el("p", { class: "lead" }, content.smoothing, source.isStatic ? "" : " Click a step to see its trajectories.")
      : el("p", { class: "lead" }, "There are no metrics here: trajectory files alone have none, and a run writes them step by step."),
    el("div", { class: "charts" }, main.map(chart)),
    others.length ? el("details", { class: "others", open: wasOpen },
      el("summary", {}, `All other metrics (${others.length})`), el("div", { class: "charts" }, others.map(chart))) : null,
    runs.filter((run) => run.settings).map((run) =>
      el("details", {}, el("summary", {}, `Settings of ${run.name}`), el("pre", { class: "settings" }, run.settings)))));
}

function chart(one) {
  const readout = el("p", { class: "readout", "aria-live": "off" });
  const rest = () => readout.replaceChildren(...one.lines.map((line) =>
    el("span", {}, shown.names.length > 1 ? `${shown.names[line.run]} ` : "now ", value(line, line.y.length - 1))));
  rest();
  return el("figure", { class: "chart" }, el("h2", { title: one.caption }, one.title), readout, plot(one, readout, rest));
}

const value = (line, i) => el("b", { class: `own${line.run % 6}` }, short(line.y[i]));

function plot(one, readout, rest) {
  const xs = one.lines.flatMap((line) => line.x);
  const ys = one.lines.flatMap((line) => [...line.y, ...line.low, ...line.high]);
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  const ticks = niceTicks(Math.min(...ys), Math.max(...ys));
  const [y0, y1] = [ticks[0], ticks.at(-1)];
  const x = (step) => SIZE.left + ((step - x0) / (x1 - x0 || 1)) * (SIZE.width - SIZE.left - SIZE.right);
  const y = (number) => SIZE.height - SIZE.bottom - ((number - y0) / (y1 - y0 || 1)) * (SIZE.height - SIZE.top - SIZE.bottom);
  const path = (points) => points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)},${y(b).toFixed(1)}`).join("");
  const along = (line, values) => values.map((number, i) => [line.x[i], number]);

  const cross = svg("g", { visibility: "hidden" });
  const drawing = svg("svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, role: "img",
      "aria-label": `${one.title}, ${one.lines.map((line) => `${shown.names[line.run]}: ${short(line.y.at(-1))} at the end`).join(", ")}` },
    ticks.map((tick) => [
      svg("line", { class: "grid", x1: SIZE.left, x2: SIZE.width - SIZE.right, y1: y(tick), y2: y(tick) }),
      svg("text", { x: SIZE.left - 6, y: y(tick) + 4, "text-anchor": "end" }, short(tick))]),
    [x0, x1].map((step, i) => svg("text", { x: x(step), y: SIZE.height - 6, "text-anchor": i ? "end" : "start" },
      i ? String(x1) : `step ${x0}`)),
    one.lines.map((line) => svg("g", { class: `own${line.run % 6} dash${line.run % 3}` },
      line.low.length ? svg("path", { class: "band", d: `${path(along(line, line.low))}${path(along(line, line.high).reverse()).replace("M", "L")}Z` }) : null,
      svg("path", { class: "line", d: path(along(line, line.y)) }))),
    cross);

  const nearest = (event) => {
    const around = drawing.getBoundingClientRect();
    const step = x0 + (((event.clientX - around.left) / around.width) * SIZE.width - SIZE.left) / (SIZE.width - SIZE.left - SIZE.right) * (x1 - x0);
    return one.lines.map((line) => ({ line, i: closest(line.x, step) }));
  };
  drawing.addEventListener("pointermove", (event) => {
    const found = nearest(event);
    const step = found[0].line.x[found[0].i];
    readout.replaceChildren(el("span", {}, `step ${step}`), ...found.map(({ line, i }) =>
      el("span", {}, shown.names.length > 1 ? `${shown.names[line.run]} ` : "", value(line, i))));
    cross.setAttribute("visibility", "visible");
    cross.replaceChildren(
      svg("line", { class: "cross", x1: x(step), x2: x(step), y1: SIZE.top, y2: SIZE.height - SIZE.bottom }),
      ...found.map(({ line, i }) => svg("circle", { class: `point own${line.run % 6}`, cx: x(line.x[i]), cy: y(line.y[i]), r: 3.5 })));
  });
  drawing.addEventListener("pointerleave", () => {
    cross.setAttribute("visibility", "hidden");
    rest();
  });
  drawing.addEventListener("click", (event) => {
    const [{ line, i }] = nearest(event);
    go({ view: "trajectories", run: line.run, first: line.x[i], last: line.x[i], group: null, member: null });
  });
  return drawing;
}

function closest(steps, wanted) {
  let best = 0;
  for (let i = 1; i < steps.length; i += 1) if (Math.abs(steps[i] - wanted) < Math.abs(steps[best] - wanted)) best = i;
  return best;
}

/** Three to six round numbers from at most `low` to at least `high`. */
export function niceTicks(low, high) {
  if (high === low) return niceTicks(low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2);
  const span = high - low;
  const power = 10 ** Math.floor(Math.log10(span / 3));
  const size = [1, 2, 5, 10].map((factor) => factor * power).find((step) => span / step <= 4.5);
  const first = Math.floor(low / size + 1e-9);
  const last = Math.max(Math.ceil(high / size - 1e-9), first + 1);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * size).toPrecision(12)));
}

function short(number) {
  const size = Math.abs(number);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return number.toExponential(1);
  if (size >= 1000) return number.toLocaleString("en", { maximumFractionDigits: 0 });
  return String(Number(number.toPrecision(3)));
}
