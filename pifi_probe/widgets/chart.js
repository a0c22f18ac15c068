// The picture of a search: chart, table and card, linked through one selected trial.
//
// Plain SVG and DOM; nothing is fetched. Whatever is shown goes through text nodes and attributes, never through
// markup. First come the pure functions (tested by tests/js/chart.test.mjs), then the four views, then the page.

export const RUNGS = ["estimator", "frozen", "last-block", "short", "full"];
const SHAPES = { estimator: "diamond", frozen: "square", "last-block": "down", short: "up", full: "circle" };
const CONTROL_SHAPES = { random: "cross", shuffled: "plus" };
const COLOURS = ["#2f7fd0", "#c2570c", "#1a8f6a", "#a45cc8", "#9a6a1e", "#c03a6b"]; // 3:1 on white and on black
const GREY = "#767676";
const NULLS = ["random", "shuffled"];
const BUSY = ["preparing", "running", "pausing", "stopping"];
const VIEWS = { depth: "Depth", rungs: "Strategy", regret: "Cost and regret", pareto: "NLL and latency" };
const STATES = { elsewhere: "running in another process" };
const SHOWN = 100; // rows of the table, until more are asked for
const SPEECH = 4000; // milliseconds between two sentences for screen readers

// ---------------------------------------------------------------------------------------------- pure functions

/** The 97.5 % quantile of Student's t, to 0.003. */
export function t95(df) {
  const exact = [Infinity, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
  return df <= 10 ? exact[df] : 1.96 + 2.37 / df + 2.8 / df ** 2;
}

export const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

export function median(values) {
  const ordered = [...values].sort((a, b) => a - b);
  const half = ordered.length >> 1;
  return ordered.length % 2 ? ordered[half] : (ordered[half - 1] + ordered[half]) / 2;
}

/** What is plotted of a trial; null where it is not known. */
export function valueOf(row, metric) {
  if (row.state !== "complete") return null;
  return metric === "accuracy" ? row.accuracy : row.value;
}

/** Trials of one candidate, rung and phase together, with a 95 % interval; the noise is pooled over each rung. */
export function groupsOf(rows, metric = "nll") {
  const found = new Map();
  for (const row of rows) {
    const key = [row.label, row.rung, row.phase].join("\n");
    if (!found.has(key)) {
      const { label, kind, control, x, model, rung, phase } = row;
      found.set(key, { key, label, kind, control, x, model, rung, phase, numbers: [], values: [], latencies: [],
        failed: false, running: false });
    }
    const group = found.get(key);
    const value = valueOf(row, metric);
    group.numbers.push(row.n);
    group.failed ||= row.state === "failed";
    group.running ||= row.state === "running";
    if (value !== null) group.values.push(value);
    if (value !== null && row.latency !== null) group.latencies.push(row.latency);
  }
  const groups = [...found.values()];
  for (const rung of RUNGS) {
    const own = groups.filter((group) => group.rung === rung && group.values.length);
    const df = own.reduce((sum, group) => sum + group.values.length - 1, 0);
    const squares = own.flatMap((group) => group.values.map((value) => (value - mean(group.values)) ** 2));
    const sd = df ? Math.sqrt(squares.reduce((sum, square) => sum + square, 0) / df) : null;
    for (const group of own) {
      group.mean = mean(group.values);
      group.half = sd === null ? null : (t95(df) * sd) / Math.sqrt(group.values.length);
    }
  }
  return groups;
}

/** The highest rung on which a candidate ended. */
export function topRung(groups) {
  return [...RUNGS].reverse().find((rung) => groups.some((g) => g.rung === rung && g.values.length && !g.control));
}

/** Where layers without knowledge lie: mean of the random and shuffled ones, and two standard deviations about it. */
export function nullBand(groups, rung) {
  const means = groups.filter((g) => g.rung === rung && NULLS.includes(g.kind) && g.values.length).map((g) => g.mean);
  if (!means.length) return null;
  const centre = mean(means);
  if (means.length < 2) return { low: centre, high: centre, mean: centre };
  const sd = Math.sqrt(means.reduce((sum, one) => sum + (one - centre) ** 2, 0) / (means.length - 1));
  return { low: centre - 2 * sd, high: centre + 2 * sd, mean: centre };
}

/** After each trial of the highest rung: what was spent, and how far the leader is above the final best. */
export function regretSteps(rows) {
  const done = rows.filter((row) => row.phase === "select" && row.state !== "running" && row.kind !== "one-shot");
  const top = topRung(groupsOf(done));
  const own = (row) => row.rung === top && row.state === "complete" && !row.control;
  const means = (some) => new Map(groupsOf(some).map((group) => [group.label, group.mean]));
  const final = means(done.filter(own));
  const best = Math.min(...final.values());
  const seen = new Map();
  const steps = [];
  let cost = 0;
  for (const row of done) {
    cost += row.cost;
    if (!own(row)) continue;
    seen.set(row.label, [...(seen.get(row.label) ?? []), row.value]);
    const leader = [...seen].reduce((a, b) => (mean(b[1]) < mean(a[1]) ? b : a))[0];
    steps.push({ n: row.n, cost, regret: final.get(leader) - best, leader });
  }
  return steps;
}

/** Mark the points that no other beats in one respect and equals in the other; low is good in both. */
export function paretoFront(points) {
  const beats = (a, b) => (a.x <= b.x && a.y < b.y) || (a.x < b.x && a.y <= b.y);
  return points.map((point) => ({ ...point, best: !points.some((other) => beats(other, point)) }));
}

/** Milliseconds of one text by what decides them, model and design: layers of one model do the same work, so that a
 *  difference between them is noise of the clock. */
export function latencies(groups) {
  const found = new Map();
  for (const group of groups) {
    const key = costKey(group);
    found.set(key, [...(found.get(key) ?? []), ...group.latencies]);
  }
  return (group) => median(found.get(costKey(group)));
}

const costKey = (group) => [NULLS.includes(group.kind) ? "single" : group.kind, group.model, group.label.split(/ [|]|>> /).length].join("\n");

/** Limits of an axis that single diverged trials do not stretch; what is far, and not absurd, stays in the frame. */
export function limits(values) {
  const ordered = [...values].filter(Number.isFinite).sort((a, b) => a - b);
  if (!ordered.length) return [0, 1];
  const at = (share) => ordered[Math.round(share * (ordered.length - 1))];
  const reach = 25 * (at(0.75) - at(0.25));
  let [low, high] = [at(0), at(1)];
  if (reach > 0) [low, high] = [Math.max(low, at(0.25) - reach), Math.min(high, at(0.75) + reach)];
  const pad = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - pad, high + pad];
}

export function ticks(low, high, count = 4) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw * 0.7);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(k * step);
  return found;
}

export function scale([low, high], [from, to]) {
  const clamp = (value) => Math.min(Math.max(value, low), high);
  return (value) => from + ((clamp(value) - low) / (high - low)) * (to - from);
}

/** Where a mark stands in the frame; one that lies outside stands whole at the edge, with a note of its value. */
export function placed(value, [low, high], at, inset = 8) {
  const outside = value > high ? 1 : value < low ? -1 : 0;
  const edge = at(outside > 0 ? high : low);
  const inward = Math.sign(at(outside > 0 ? low : high) - edge) * inset;
  return { at: outside ? edge + inward : at(value), note: outside ? `${outside > 0 ? "above" : "below"}: ${short(value)}` : "" };
}

/** Rows by a column; what is not known comes last in both directions. */
export function sortRows(rows, column, descending = false) {
  const sign = descending ? -1 : 1;
  const rank = (row) => (column === "rung" ? RUNGS.indexOf(row.rung) : row[column]);
  return [...rows].sort((a, b) => {
    const [p, q] = [rank(a), rank(b)];
    if (p === null || q === null) return (p === null) - (q === null) || a.n - b.n;
    const order = typeof p === "string" ? p.localeCompare(q, "en", { numeric: true }) : p - q;
    return sign * order || a.n - b.n;
  });
}

/** Whether every word of the filter is found in a row; "layer 11" is that layer and not one with an 11 in its name. */
export function matches(row, filter) {
  const text = [row.label, row.rung, row.phase, row.state, row.kind, row.message].join(" ").toLowerCase();
  const words = filter.toLowerCase().replace(/\blayer\s+(\d+)\b/g, "[$1]");
  return words.split(/\s+/).every((word) => text.includes(word));
}

/** How many trials chose, and how many confirmed the choice. */
export function counted(rows) {
  const confirmed = rows.filter((row) => row.phase === "confirm").length;
  const all = `${rows.length} trial${rows.length === 1 ? "" : "s"}`;
  return confirmed ? `${all} (${rows.length - confirmed} to choose, ${confirmed} to confirm)` : all;
}

export function toCsv(rows) {
  const columns = ["n", "label", "rung", "seed", "phase", "state", "value", "accuracy", "cost", "seconds", "why",
    "message"];
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = rows.map((row) => columns.map((name) => cell(row[name])).join(","));
  return [["trial", ...columns.slice(1)].join(","), ...lines].join("\n") + "\n";
}

export function clock(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

export function size(bytes) {
  return bytes < 2 ** 30 ? `${(bytes / 2 ** 20).toFixed(1)} MB` : `${(bytes / 2 ** 30).toFixed(1)} GB`;
}

export const short = (value, digits = 4) => (value === null || value === undefined ? "–" : value.toFixed(digits));

/** One sentence that tells what the depth chart shows. */
export function inWords(rows, summary) {
  const groups = groupsOf(rows);
  const top = topRung(groups);
  if (!top) return "Depth chart: no trial has ended yet.";
  const own = groups.filter((group) => group.rung === top && group.values.length && !group.control);
  const best = own.reduce((a, b) => (b.mean < a.mean ? b : a));
  const chosen = summary.chosen ? ` Chosen so far: ${summary.chosen}.` : "";
  return `Depth chart: ${own.length} candidates on ${top} runs; the lowest mean NLL is ${short(best.mean)}, ` +
    `of ${best.label}.${chosen}`;
}

// ---------------------------------------------------------------------------------------------- elements

function element(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const h = (tag, attributes = {}, ...children) => element(document.createElement(tag), attributes, children);
const s = (tag, attributes = {}, ...children) =>
  element(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** A mark: its shape tells the rung, hollow: the confirmation. */
function mark(shape, x, y, colour, { hollow = false, radius = 5 } = {}) {
  const r = radius;
  const look = { fill: hollow ? "var(--pp-ground)" : colour, stroke: colour, "stroke-width": 1.6 };
  const path = {
    square: `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
    diamond: `M${x} ${y - r - 1}l${r + 1} ${r + 1}l${-r - 1} ${r + 1}l${-r - 1} ${-r - 1}z`,
    up: `M${x} ${y - r - 1}l${r + 1} ${2 * r}h${-2 * r - 2}z`,
    down: `M${x} ${y + r + 1}l${r + 1} ${-2 * r}h${-2 * r - 2}z`,
    cross: `M${x - r} ${y - r}l${2 * r} ${2 * r}m0 ${-2 * r}l${-2 * r} ${2 * r}`,
    plus: `M${x} ${y - r - 1}v${2 * r + 2}m${-r - 1} ${-r - 1}h${2 * r + 2}`,
    bar: `M${x - r - 1} ${y}h${2 * r + 2}`,
  }[shape];
  return path ? s("path", { d: path, ...look }) : s("circle", { cx: x, cy: y, r, ...look });
}

/** Frame, axes and names of one panel; returns its group and scales. */
function panel(svg, { x, y, width, height, xs, ys, title, xName = "", whole = false, xLabels = true }) {
  const sx = scale(xs, [x, x + width]);
  const sy = scale(ys, [y + height, y]);
  const group = s("g");
  for (const tick of ticks(...ys, Math.max(2, Math.round(height / 50)))) {
    const digits = Math.max(0, Math.min(6, 1 - Math.floor(Math.log10((ys[1] - ys[0]) / 2))));
    group.append(
      s("line", { class: "pp-grid", x1: x, x2: x + width, y1: sy(tick), y2: sy(tick) }),
      s("text", { x: x - 6, y: sy(tick) + 4, "text-anchor": "end" }, tick.toFixed(digits)),
    );
  }
  if (xLabels) {
    for (const tick of ticks(...xs, Math.max(2, Math.round(width / 70))).filter((one) => !whole || one % 1 === 0)) {
      group.append(s("text", { x: sx(tick), y: y + height + 15, "text-anchor": "middle" }, String(+tick.toPrecision(4))));
    }
    group.append(s("text", { x: x + width / 2, y: y + height + 31, "text-anchor": "middle" }, xName));
  }
  group.append(
    s("path", { class: "pp-axis", d: `M${x} ${y}v${height}h${width}`, fill: "none" }),
    s("text", { class: "pp-title", x, y: y - 8 }, title),
  );
  svg.append(group);
  const spot = (valueX, valueY) => {
    const [h_, v] = [placed(valueX, xs, sx), placed(valueY, ys, sy)];
    const note = h_.note || v.note;
    if (note) {
      const right = h_.at > x + width / 2;
      group.append(s("text", { class: "pp-note", x: h_.at + (right ? -9 : 9), y: v.at + 4, "text-anchor": right ? "end" : "start" }, note));
    }
    return [h_.at, v.at];
  };
  return { group, sx, sy, spot };
}

// ---------------------------------------------------------------------------------------------- the four views
// Each returns {height, marks, legend}; a mark {x, y, numbers} can be clicked and reached with the arrow keys.

const NAMES = { nll: "validation NLL (nats), low is good", accuracy: "validation accuracy, high is good" };
const nameOf = (rung, metric, width) => {
  const name = `${rung} runs: ${rung === "estimator" ? "minus the score, low is good" : NAMES[metric]}`;
  return width < 420 ? name.split(",")[0] : name;
};

const seriesOf = (one) => (one.control || one.kind !== "single" ? one.kind : one.model);

/** A colour for each model and each design; controls are grey. */
function palette(groups, summary) {
  const names = new Set([...(summary.models ?? []).map(([name]) => name),
    ...groups.filter((group) => !group.control).map(seriesOf)]);
  const colours = new Map([...names].map((name, k) => [name, COLOURS[k % COLOURS.length]]));
  return (name) => colours.get(name) ?? GREY;
}

const shapeOf = (group) => CONTROL_SHAPES[group.kind] ?? (DASHES[group.kind] ? "bar" : SHAPES[group.rung]);

function depthView(svg, width, { rows, summary, metric }) {
  const groups = groupsOf(rows, metric).filter((group) => group.kind !== "one-shot");
  const colour = palette(groups, summary);
  const rungs = RUNGS.filter((rung) => groups.some((g) => g.rung === rung)).reverse();
  const last = Math.max(1, ...(summary.models ?? []).map(([, n]) => n - 1), ...groups.map((group) => group.x ?? 0));
  const marks = [];
  const strip = groups.some((group) => group.phase === "confirm") ? stripWidth(width) : 0; // beside every rung: one axis
  let y = 24;
  rungs.forEach((rung, k) => {
    const height = k === 0 ? 230 : 110;
    marks.push(...depthPanel(svg, groups.filter((group) => group.rung === rung), {
      x: 52, y, width: width - 64 - strip, strip, height, last, rung, colour, summary, metric, bottom: k === rungs.length - 1,
    }));
    const slots = groups.some((group) => group.rung === rung && group.phase === "confirm") ? 26 : 0;
    y += height + Math.max(k === rungs.length - 1 ? 40 : 34, 34 + slots);
  });
  return { height: y, marks, legend: depthLegend(groups, rungs, colour, summary, metric) };
}

function depthPanel(svg, groups, { x, y, width, strip, height, last, rung, colour, summary, metric, bottom }) {
  const ended = groups.filter((group) => group.values.length);
  const believed = metric === "nll" && rung === summary.rung ? (summary.posterior ?? []) : [];
  const empty = metric === "nll" ? nullBand(groups, rung) : null;
  const ys = limits([
    ...ended.flatMap((group) => [group.mean, group.mean - (group.half ?? 0), group.mean + (group.half ?? 0)]),
    ...believed.flatMap((one) => [one.mean - 2 * one.sd, one.mean + 2 * one.sd]),
    ...(empty ? [empty.low, empty.high] : []),
  ]);
  const confirmed = groups.filter((group) => group.phase === "confirm");
  const whole = width + strip;
  const { group: ground, sx, sy, spot } = panel(svg, {
    x, y, width, height, xs: [-0.7, last + 0.7], ys, title: nameOf(rung, metric, width), xName: "layer", whole: true,
    xLabels: bottom,
  });
  const step = sx(1) - sx(0);
  for (const one of believed.filter((belief) => belief.best)) {
    ground.prepend(s("rect", { class: "pp-best", x: sx(one.x) - step / 2, y, width: step, height, fill: colour(one.model) }),
      s("rect", { x: sx(one.x) - step / 2, y: y + height - 3, width: step, height: 3, fill: colour(one.model) }));
  }
  if (empty) {
    const [top, foot] = [sy(empty.high), sy(empty.low)];
    ground.append(s("rect", { class: "pp-null", x, y: top, width, height: Math.max(foot - top, 1) }));
  }
  for (const [name] of summary.models ?? []) ground.append(...posterior(believed.filter((b) => b.model === name), sx, sy, colour(name)));
  const isLine = (group) => group.x === null || group.kind === "linear";
  for (const group of ended.filter(isLine)) {
    const at = sy(group.mean);
    ground.append(s("line", { class: "pp-control", x1: x, x2: x + width, y1: at, y2: at, stroke: GREY, "stroke-dasharray": DASHES[group.kind] }));
  }
  const marks = ended.filter((group) => isLine(group) && group.phase !== "confirm")
    .map((group) => ({ x: x + width - 20, y: sy(group.mean), numbers: group.numbers }));
  const chosen = (summary.posterior ?? []).find((one) => one.label === summary.chosen) ?? groups.find((one) => one.label === summary.chosen);
  if (chosen && chosen.x !== null) ground.append(chosenSign(sx(chosen.x), y, height));
  const tools = { sx, sy, spot, y, height, ys, colour };
  for (const group of groups.filter((one) => !isLine(one) && one.x !== null && one.phase !== "confirm")) marks.push(depthMark(ground, group, tools));
  if (confirmed.length) marks.push(...confirmStrip(svg, confirmed, { ...tools, x: x + width + 10, width: strip - 10 }, whole));
  return marks.sort((a, b) => a.x - b.x || a.y - b.y);
}

const DASHES = { vanilla: "7 4", linear: "2 3" };
const CONFIRMED = ["choice", "random", "shuffled", "linear", "vanilla"];
const stripWidth = (width) => (width < 420 ? 92 : 138);

/** A triangle above the chosen layer and a line down to its index. */
function chosenSign(at, y, height) {
  return s("g", { class: "pp-chosen" }, s("path", { d: `M${at} ${y + 9}l-6 -9h12z` }), s("path", { d: `M${at} ${y + 9}v${height - 9}`, "stroke-dasharray": "1 3" }));
}

/** The confirmation beside the layers: the choice and its controls, each in a column of its own, on fresh seeds. */
function confirmStrip(svg, groups, tools, whole) {
  const { x, width, y, height, sy } = tools;
  const step = width / CONFIRMED.length;
  const ground = s("g", {}, s("path", { class: "pp-axis", d: `M${x} ${y}v${height}h${width}`, fill: "none" }));
  ground.append(s("text", { class: "pp-title", x, y: y - 8 }, whole < 420 ? "confirm" : "confirmation"));
  svg.append(ground);
  CONFIRMED.forEach((name, k) => {
    const at = x + (k + 0.5) * step;
    ground.append(s("text", { class: "pp-slot", x: at + 4, y: y + height + 12, "text-anchor": "end", transform: `rotate(-40 ${at + 4} ${y + height + 12})` }, name));
  });
  return groups.filter((group) => group.values.length || group.failed || group.running).map((group) => {
    const slot = CONFIRMED.indexOf(group.control ? group.kind : "choice");
    const at = x + ((slot < 0 ? 0 : slot) + 0.5) * step;
    return depthMark(ground, group, { ...tools, at, sy });
  });
}

function depthMark(ground, group, { sx, sy, spot, y, height, ys, colour, at: column = null }) {
  const at = column ?? sx(group.x);
  const own = group.control ? GREY : colour(seriesOf(group));
  const known = group.values.length > 0;
  const up = !known ? y + height - 8 : column === null ? spot(group.x, group.mean)[1] : placed(group.mean, ys, sy).at;
  const one = s("g", { class: "pp-mark" });
  if (known && group.half !== null) {
    one.append(s("line", { x1: at, x2: at, y1: sy(group.mean - group.half), y2: sy(group.mean + group.half), stroke: own,
      "stroke-width": 1.6 }));
  }
  if (known) one.append(mark(shapeOf(group), at, up, own, { hollow: group.phase === "confirm" }));
  else if (group.failed) one.append(s("text", { class: "pp-failed", x: at, y: up + 5, "text-anchor": "middle" }, "✕"));
  if (group.running) one.append(s("circle", { class: "pp-running", cx: at, cy: up, r: 9 }));
  one.append(s("title", {}, titleOf(group)));
  ground.append(one);
  return { x: at, y: up, numbers: group.numbers };
}

function titleOf(group) {
  const n = group.values.length;
  const value = n ? `${short(group.mean)}${group.half === null ? "" : ` ± ${short(group.half)}`}, ${n} seed${n > 1 ? "s" : ""}` : "";
  const state = group.running ? "running" : group.failed ? "failed" : "";
  const phase = group.phase === "confirm" ? "confirmation" : "";
  return [group.label, `${group.rung} runs`, phase, value, state].filter(Boolean).join(", ");
}

function posterior(believed, sx, sy, colour) {
  const known = believed.filter((one) => one.mean !== null && one.sd !== null).sort((a, b) => a.x - b.x);
  if (known.length < 2) return [];
  const line = (points) => points.map(([px, py]) => `${px.toFixed(1)} ${py.toFixed(1)}`).join("L");
  const upper = known.map((one) => [sx(one.x), sy(one.mean + 2 * one.sd)]);
  const lower = known.map((one) => [sx(one.x), sy(one.mean - 2 * one.sd)]).reverse();
  return [
    s("path", { class: "pp-band", d: `M${line([...upper, ...lower])}z`, fill: colour }),
    s("path", { class: "pp-mean", d: `M${line(known.map((one) => [sx(one.x), sy(one.mean)]))}`, stroke: colour, fill: "none" }),
  ];
}

function depthLegend(groups, rungs, colour, summary, metric) {
  const models = new Set(groups.filter((group) => !group.control).map(seriesOf));
  const rung = rungs[0] ?? "full";
  const found = [...models].map((name) => [mark(SHAPES[rung], 8, 8, colour(name)), name]);
  for (const kind of NULLS.filter((one) => groups.some((group) => group.kind === one))) {
    found.push([mark(CONTROL_SHAPES[kind], 8, 8, GREY), `${kind} layer`]);
  }
  for (const [kind, words] of [["vanilla", "the encoder alone"], ["linear", "two projections"]]) {
    if (groups.some((group) => group.kind === kind)) found.push([s("path", { class: "pp-control", d: "M0 8h16", stroke: GREY, "stroke-dasharray": DASHES[kind] }), words]);
  }
  if (summary.chosen) found.push([s("g", { class: "pp-chosen" }, s("path", { d: "M8 12l-6 -9h12z" })), `chosen: ${summary.chosen}`]);
  if (groups.some((group) => group.phase === "confirm")) found.push([mark(SHAPES[rung], 8, 8, GREY, { hollow: true }), "confirmation, fresh seeds"]);
  if (groups.some((group) => group.half)) found.push([s("line", { x1: 8, x2: 8, y1: 1, y2: 15, stroke: GREY, "stroke-width": 1.6 }), "95 % interval, noise pooled over layers"]);
  const swatch = (name) => s("rect", { class: name, x: 1, y: 3, width: 14, height: 10, fill: COLOURS[0] });
  const believed = s("g", {}, swatch("pp-band"), s("path", { class: "pp-mean", d: "M1 8h14", stroke: COLOURS[0] }));
  const held = s("g", {}, swatch("pp-best"), s("rect", { x: 1, y: 11, width: 14, height: 3, fill: COLOURS[0] }));
  if (metric === "nll" && (summary.posterior ?? []).length) found.push([believed, "posterior mean, ± 2 sd"], [held, "holds the best layer (95 %)"]);
  if (metric === "nll" && nullBand(groups, rung)) found.push([swatch("pp-null"), "null: random and shuffled layers"]);
  return found;
}

function strategyView(svg, width, { rows, summary }) {
  const groups = groupsOf(rows).filter((group) => group.kind !== "one-shot");
  const colour = palette(groups, summary);
  const rungs = RUNGS.filter((rung) => groups.some((group) => group.rung === rung)).reverse();
  const last = Math.max(1, ...(summary.models ?? []).map(([, n]) => n - 1), ...groups.map((group) => group.x ?? 0));
  const marks = [];
  const sx = scale([-0.7, last + 0.7], [92, width - 12]);
  svg.append(s("text", { class: "pp-title", x: 12, y: 16 }, "what was tried on each rung; larger: more seeds"));
  rungs.forEach((rung, k) => {
    const y = 42 + 34 * k;
    svg.append(s("text", { x: 12, y: y + 4 }, rung), s("line", { class: "pp-grid", x1: 92, x2: width - 12, y1: y, y2: y }));
    for (const group of groups.filter((one) => one.rung === rung && one.x !== null)) {
      const own = group.control ? GREY : colour(seriesOf(group));
      const radius = 3 + Math.min(Math.sqrt(group.numbers.length), 3);
      svg.append(s("g", { class: "pp-mark" }, mark(shapeOf(group), sx(group.x), y, own, { hollow: group.phase === "confirm", radius }), s("title", {}, titleOf(group))));
      marks.push({ x: sx(group.x), y, numbers: group.numbers });
    }
  });
  let y = 42 + 34 * rungs.length;
  for (const tick of ticks(0, last, Math.round(width / 80)).filter((one) => one % 1 === 0)) {
    svg.append(s("text", { x: sx(tick), y: y, "text-anchor": "middle" }, String(tick)));
  }
  svg.append(s("text", { x: (92 + width - 12) / 2, y: y + 16, "text-anchor": "middle" }, "layer"));
  y += 58;
  const used = RUNGS.filter((rung) => rungs.includes(rung));
  const columns = Math.max(1, Math.floor(width / 300));
  const wide = Math.min(width / columns, 420);
  used.slice(1).forEach((upper, k) => {
    const spot = { x: (k % columns) * wide + 56, y: y + Math.floor(k / columns) * 250, width: wide - 76, height: 180 };
    marks.push(...pairPanel(svg, groups, used[k], upper, spot, summary, colour));
  });
  return { height: y + (used.length > 1 ? 250 * Math.ceil((used.length - 1) / columns) : -20), marks, legend: [] };
}

/** One rung against the next: does the cheap one rank layers as the dear one does? */
function pairPanel(svg, groups, lower, upper, spot, summary, colour) {
  const on = (rung) => new Map(groups.filter((g) => g.rung === rung && g.phase === "select" && g.values.length && !g.control).map((g) => [g.label, g]));
  const [below, above] = [on(lower), on(upper)];
  const both = [...below.keys()].filter((label) => above.has(label));
  const agreed = (summary.agreement ?? []).find((one) => one.lower === lower && one.upper === upper);
  const words = agreed && agreed.kendall !== null ? `Kendall ${agreed.kendall.toFixed(2)} (${agreed.n} candidates)` : `${both.length} candidates on both`;
  const { group, spot: stand } = panel(svg, { ...spot,
    xs: limits(both.map((label) => below.get(label).mean)), ys: limits(both.map((label) => above.get(label).mean)),
    title: `${lower} to ${upper}: ${words}`, xName: lower });
  return both.map((label) => {
    const one = above.get(label);
    const [x, y] = stand(below.get(label).mean, one.mean);
    group.append(s("g", { class: "pp-mark" }, mark(SHAPES[upper], x, y, colour(seriesOf(one)), { radius: 4 }), s("title", {}, titleOf(one))));
    return { x, y, numbers: one.numbers };
  });
}

function regretView(svg, width, { rows }) {
  const steps = regretSteps(rows);
  if (!steps.length) return null;
  const worst = Math.max(...steps.map((step) => step.regret)); // here the outlier is the finding
  const { group, sx, sy } = panel(svg, { x: 56, y: 24, width: width - 72, height: 280,
    xs: [0, 1.04 * steps[steps.length - 1].cost || 1], ys: [-0.06 * (worst || 1), 1.06 * (worst || 1)],
    title: "how far the leader is above the final best (nats)", xName: "spent (full runs)" });
  const path = steps.map((step, k) => (k ? `H${sx(step.cost)}V${sy(step.regret)}` : `M${sx(step.cost)} ${sy(step.regret)}`));
  group.append(s("path", { class: "pp-mean", d: path.join(""), stroke: COLOURS[0], fill: "none" }));
  const marks = steps.map((step) => {
    const [x, y] = [sx(step.cost), sy(step.regret)];
    group.append(s("g", { class: "pp-mark" }, mark("circle", x, y, COLOURS[0], { radius: 3.5 }),
      s("title", {}, `trial ${step.n}: ${step.leader} leads, ${short(step.regret)} above the final best`)));
    return { x, y, numbers: [step.n] };
  });
  return { height: 350, marks, legend: [] };
}

function paretoView(svg, width, { rows, summary, metric }) {
  const groups = groupsOf(rows, metric);
  const rung = topRung(groups);
  const sign = metric === "accuracy" ? -1 : 1;
  const own = groups.filter((group) => group.rung === rung && group.phase === "select" && group.latencies.length);
  if (!own.length) return null;
  const colour = palette(groups, summary);
  const latency = latencies(own);
  const points = paretoFront(own.map((group) => ({ x: latency(group), y: sign * group.mean, group })));
  const { group: ground, sx, sy, spot } = panel(svg, { x: 56, y: 24, width: width - 72, height: 280,
    xs: limits(points.map((point) => point.x)), ys: limits(points.map((point) => sign * point.y)),
    title: nameOf(rung, metric, width), xName: "one text (ms), median over layers of equal size" });
  const front = points.filter((point) => point.best).sort((a, b) => a.x - b.x);
  ground.append(s("path", { class: "pp-control", d: `M${front.map((point) => `${sx(point.x)} ${sy(sign * point.y)}`).join("L")}`, stroke: GREY, fill: "none" }));
  const marks = points.map(({ x, y, best, group }) => {
    const [px, py] = spot(x, sign * y);
    const tint = group.control ? GREY : colour(seriesOf(group));
    ground.append(s("g", { class: "pp-mark" }, mark(shapeOf(group), px, py, tint, { hollow: !best }), s("title", {}, `${titleOf(group)}, ${x.toFixed(1)} ms`)));
    return { x: px, y: py, numbers: group.numbers };
  });
  return { height: 350, marks, legend: [[mark("circle", 8, 8, COLOURS[0]), "nothing is better in both"], [mark("circle", 8, 8, COLOURS[0], { hollow: true }), "the others"]] };
}

const DRAW = { depth: depthView, rungs: strategyView, regret: regretView, pareto: paretoView };
const MISSING = { depth: "No trial has begun yet.", rungs: "No trial has begun yet.",
  regret: "No candidate has ended yet.", pareto: "No latency has been measured yet." };

// ---------------------------------------------------------------------------------------------- table and card

const COLUMNS = [
  ["n", "trial", (row) => String(row.n)],
  ["label", "candidate", (row) => row.label],
  ["rung", "rung", (row) => row.rung],
  ["seed", "seed", (row) => String(row.seed)],
  ["phase", "phase", (row) => row.phase],
  ["state", "state", (row) => row.state],
  ["value", "NLL", (row) => short(row.value)],
  ["accuracy", "accuracy", (row) => short(row.accuracy, 3)],
  ["cost", "cost", (row) => row.cost.toFixed(3)],
  ["seconds", "time", (row) => clock(row.seconds) || "–"],
];
const TEXTS = ["label", "rung", "phase", "state"];

function tableRow(row, select) {
  const pick = h("button", { type: "button", "aria-label": `trial ${row.n}, ${row.label}`, onclick: () => select(row.n) }, String(row.n));
  const cells = COLUMNS.slice(1).map(([name, , text]) => h("td", { class: TEXTS.includes(name) ? null : "pp-number" }, text(row)));
  return h("tr", { class: `pp-${row.state}`, "data-trial": row.n, onclick: () => select(row.n) }, h("td", {}, pick), cells);
}

function card(row) {
  if (!row) return [h("p", { class: "pp-quiet" }, "Select a trial in the chart or in the table to see its recipe, curve and cost.")];
  const facts = [
    ["state", row.state], ["rung, seed", `${row.rung}, ${row.seed}`],
    [row.rung === "estimator" ? "minus the score" : "NLL (nats)", short(row.value)], ["accuracy", short(row.accuracy, 3)],
    ["cost", `${row.cost.toFixed(3)} full runs`], ["time", clock(row.seconds)],
    ["one text", row.latency === null ? "" : `${row.latency.toFixed(1)} ms`],
    ["model", row.bytes ? size(row.bytes) : ""], ["peak memory", row.facts.memory ? size(row.facts.memory) : ""],
    ["why", row.why],
  ].filter(([, value]) => value && value !== "–");
  const pairs = (entries) => h("dl", {}, entries.map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]));
  const recipe = row.facts.recipe ? h("details", {}, h("summary", {}, "recipe"), pairs(Object.entries(row.facts.recipe))) : null;
  return [
    h("h3", {}, `Trial ${row.n}: ${row.label}`),
    row.message ? h("p", { class: "pp-error" }, row.message) : null,
    pairs(facts), curve(row.facts.curve ?? []), recipe,
  ];
}

function curve(values) {
  const known = values.map((value, k) => [k + 1, value]).filter(([, value]) => value !== null);
  if (known.length < 2) return null;
  const svg = s("svg", { width: 240, height: 120, role: "img", "aria-label": `validation NLL by epoch: ${known.map(([, value]) => short(value)).join(", ")}` });
  const { group, sx, sy } = panel(svg, { x: 48, y: 22, width: 180, height: 60, xs: [0.8, values.length + 0.2],
    ys: limits(known.map(([, value]) => value)), title: "validation NLL", xName: "epoch", whole: true });
  group.append(s("path", { class: "pp-mean", d: `M${known.map(([k, value]) => `${sx(k)} ${sy(value)}`).join("L")}`, stroke: COLOURS[0], fill: "none" }));
  known.forEach(([k, value]) => group.append(mark("circle", sx(k), sy(value), COLOURS[0], { radius: 3 })));
  return svg;
}

// ---------------------------------------------------------------------------------------------- files

function download(name, content, type) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** The chart as a file of its own: what the style sheet says is written into it. */
function standalone(svg) {
  const copy = svg.cloneNode(true);
  const [from, to] = [svg, copy].map((one) => [one, ...one.querySelectorAll("*")]);
  from.forEach((one, k) => {
    const look = getComputedStyle(one);
    for (const name of ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "fill-opacity", "font-family", "font-size", "font-weight"]) {
      to[k].style.setProperty(name, look.getPropertyValue(name));
    }
  });
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.style.background = getComputedStyle(svg).getPropertyValue("--pp-ground") || "white";
  return new XMLSerializer().serializeToString(copy);
}

function downloadPng(svg) {
  const picture = new Image();
  picture.onload = () => {
    const canvas = h("canvas", { width: 2 * svg.clientWidth, height: 2 * svg.clientHeight });
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => download("search.png", blob, "image/png"));
  };
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(standalone(svg))}`;
}

// ---------------------------------------------------------------------------------------------- the page

class Page {
  constructor(model, el) {
    this.model = model;
    this.rows = new Map();
    this.lines = new Map(); // of the table: number -> {row, line}
    this.order = { column: "n", descending: true };
    this.filter = "";
    this.shown = SHOWN;
    this.drawn = { marks: [] };
    this.queued = false;
    this.build(el);
    this.listen(el);
    this.replace(model.get("rows"));
    if (model.send) model.send({ kind: "hello" });
  }

  get(name) { return this.model.get(name); }

  set(name, value) {
    this.model.set(name, value);
    this.model.save_changes();
    this.draw();
  }

  build(el) {
    this.answer = h("p", { class: "pp-answer" });
    this.badge = h("strong", { class: "pp-badge" });
    this.numbers = h("span");
    this.progress = h("progress", { max: 1, value: 0, "aria-label": "share of the budget that is spent" });
    this.confirmed = h("progress", { max: 1, value: 0, "aria-label": "share of the confirmation that is done" });
    this.next = h("p", { class: "pp-why" });
    this.message = h("p", { class: "pp-message" });
    this.estimate = h("p", { class: "pp-quiet" });
    this.verdict = h("div", { class: "pp-verdict" });
    this.tabs = Object.entries(VIEWS).map(([name, words]) => h("button", { type: "button", "data-view": name, onclick: () => this.set("view", name) }, words));
    this.figure = h("div", { class: "pp-figure", tabindex: 0, role: "group", "aria-label": "Chart; the arrow keys move from trial to trial" });
    this.legend = h("div", { class: "pp-legend" });
    this.card = h("section", { class: "pp-card", "aria-label": "Selected trial" });
    this.search = h("input", { type: "search", "aria-label": "Filter the table", placeholder: "Filter: full failed 12 …",
      oninput: () => { this.filter = this.search.value; this.draw(); } });
    this.count = h("span", { class: "pp-quiet" });
    this.body = h("tbody");
    this.heads = COLUMNS.map(([name, words]) => h("th", { scope: "col" }, h("button", { type: "button", onclick: () => this.sort(name) }, words)));
    this.more = h("button", { type: "button", onclick: () => { this.shown += 10 * SHOWN; this.draw(); } }, "Show more");
    this.live = h("div", { class: "pp-speech", role: "status", "aria-live": "polite" });
    const files = { CSV: () => download("trials.csv", toCsv(this.ordered()), "text/csv"),
      JSON: () => download("trials.json", JSON.stringify(this.ordered(), null, 1), "application/json"),
      SVG: () => this.svg && download("search.svg", standalone(this.svg), "image/svg+xml"),
      PNG: () => this.svg && downloadPng(this.svg) };
    const save = Object.entries(files).map(([name, action]) => h("button", { type: "button", "aria-label": `Save ${name}`, onclick: action }, name));
    this.root = h("div", { class: "pp-search" }, this.answer,
      h("div", { class: "pp-status" }, this.badge, this.numbers, this.progress, this.confirmed), this.next, this.message, this.estimate,
      h("div", { class: "pp-bar" }, h("div", { role: "group", "aria-label": "View", class: "pp-tabs" }, this.tabs),
        h("div", { role: "group", "aria-label": "Save", class: "pp-save" }, "Save ", save)),
      h("div", { class: "pp-main" }, h("div", {}, this.figure, this.legend), h("div", {}, this.verdict, this.card)),
      h("div", { class: "pp-bar" }, this.search, this.count),
      h("div", { class: "pp-scroll", tabindex: 0, role: "region", "aria-label": "Trials" },
        h("table", {}, h("thead", {}, h("tr", {}, this.heads)), this.body)),
      this.more, this.live);
    el.append(this.root);
  }

  listen(el) {
    this.heard = {
      "change:rows": () => this.replace(this.get("rows")),
      "msg:custom": (message) => this.hear(message),
    };
    for (const name of ["facts", "summary", "selected", "view", "metric"]) this.heard[`change:${name}`] = () => this.draw();
    for (const [name, action] of Object.entries(this.heard)) this.model.on(name, action);
    this.figure.addEventListener("click", (event) => this.click(event));
    this.figure.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("keydown", (event) => this.tableKey(event));
    this.watcher = new ResizeObserver(() => this.draw());
    this.watcher.observe(el);
  }

  close() {
    this.watcher.disconnect();
    for (const [name, action] of Object.entries(this.heard)) this.model.off(name, action);
  }

  replace(rows) {
    this.rows = new Map(rows.map((row) => [row.n, row]));
    this.draw();
  }

  hear(message) {
    if (message.kind === "rows" && message.every) this.rows.clear();
    if (message.kind === "rows") for (const row of message.rows) this.rows.set(row.n, row);
    if (message.kind === "copy") this.copy(message.text);
    this.draw();
  }

  copy(text) {
    const done = navigator.clipboard?.writeText(text);
    if (done) done.then(() => this.say("The script is in the clipboard."), () => this.say("The script is shown below the chart."));
  }

  ordered() { return [...this.rows.values()].sort((a, b) => a.n - b.n); }

  select(number) {
    this.set("selected", number);
    const row = this.rows.get(number);
    if (row) this.say(`Trial ${row.n}: ${row.label}, ${row.rung} run, ${row.state}, NLL ${short(row.value)}`, true);
  }

  sort(name) {
    const { column, descending } = this.order;
    this.order = { column: name, descending: column === name && !descending };
    this.draw();
  }

  // Clicks and keys

  click(event) {
    const box = this.svg?.getBoundingClientRect();
    if (!box) return;
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const near = this.drawn.marks.map((one) => [Math.hypot(one.x - x, one.y - y), one]).sort((a, b) => a[0] - b[0])[0];
    if (near && near[0] < 24) this.select(this.numberIn(near[1]));
  }

  /** The newest trial of a mark; clicked again, the one before. */
  numberIn({ numbers }) {
    const at = numbers.indexOf(this.get("selected"));
    return numbers[at > 0 ? at - 1 : numbers.length - 1];
  }

  key(event) {
    const marks = this.drawn.marks;
    const at = marks.findIndex((one) => one.numbers.includes(this.get("selected")));
    const to = { ArrowRight: at + 1, ArrowLeft: at < 0 ? marks.length - 1 : at - 1, Home: 0, End: marks.length - 1 }[event.key];
    if (event.key === "Escape") this.set("selected", null);
    else if (to === undefined || !marks[to]) return;
    else this.select(marks[to].numbers[marks[to].numbers.length - 1]);
    event.preventDefault();
    event.stopPropagation(); // a notebook would take the arrows for its own
  }

  tableKey(event) {
    const line = event.target.closest("tr");
    const other = { ArrowDown: line?.nextElementSibling, ArrowUp: line?.previousElementSibling }[event.key];
    if (!other) return;
    other.querySelector("button").focus();
    this.select(Number(other.dataset.trial));
    event.preventDefault();
    event.stopPropagation();
  }

  /** Tell screen readers, not more often than they can read it out. */
  say(text, now = false) {
    this.speech = text;
    if (now) this.live.textContent = text;
    if (now || this.waiting) return;
    this.waiting = setTimeout(() => { this.live.textContent = this.speech; this.waiting = null; }, this.live.textContent ? SPEECH : 0);
  }

  // Drawing

  draw() {
    if (this.queued) return;
    this.queued = true;
    requestAnimationFrame(() => { this.queued = false; this.drawNow(); });
  }

  drawNow() {
    const rows = this.ordered();
    const width = Math.max(280, Math.floor(this.root.clientWidth));
    if (!this.root.isConnected || !this.root.clientWidth) return;
    this.root.classList.toggle("pp-wide", width >= 900);
    this.drawStatus();
    this.drawChart(rows);
    this.drawCard();
    this.drawTable(rows);
  }

  drawStatus() {
    const facts = this.get("facts");
    const summary = this.get("summary");
    const state = facts.state ?? "idle";
    const busy = BUSY.includes(state);
    this.badge.textContent = STATES[state] ?? state;
    this.badge.dataset.state = state;
    const parts = [facts.phase && busy ? facts.phase : "", this.rows.size ? counted(this.ordered()) : "",
      facts.budget ? `${(facts.cost ?? 0).toFixed(2)} C spent (1 C is a full run), budget ${facts.budget}` : "",
      facts.elapsed ? clock(facts.elapsed) : "", facts.confirming ? `confirm ${facts.confirming} runs` : "",
      busy && facts.remaining ? `about ${clock(facts.remaining)} left for both` : ""];
    this.numbers.textContent = parts.filter(Boolean).join(" · ");
    this.progress.value = facts.share ?? 0;
    this.confirmed.value = facts.confirmed ?? 0;
    this.confirmed.hidden = !facts.confirming;
    this.next.textContent = facts.running && busy ? `Why ${facts.running} next: ${facts.why || "the strategy asks for it"}` : "";
    this.message.textContent = facts.message ?? "";
    this.message.classList.toggle("pp-error", state === "failed");
    this.estimate.textContent = facts.estimate ?? "";
    this.answer.textContent = summary.answer ?? "";
    const lines = (summary.verdict ?? "").split("\n").filter(Boolean);
    this.verdict.replaceChildren(...lines.map((line, k) => h(k ? "p" : "h3", {}, line)));
    const spoken = `${this.badge.textContent}. ${summary.chosen ? `Chosen so far: ${summary.chosen}.` : ""} ${facts.message ?? ""}`;
    if (spoken !== this.spoken) this.say(spoken);
    this.spoken = spoken;
  }

  drawCard() {
    const row = this.rows.get(this.get("selected"));
    if (row && row === this.carded) return; // so that an open recipe stays open
    this.carded = row;
    this.card.replaceChildren(...card(row).filter(Boolean));
  }

  drawChart(rows) {
    const view = this.get("view");
    const summary = this.get("summary");
    for (const tab of this.tabs) tab.setAttribute("aria-pressed", tab.dataset.view === view);
    const width = Math.max(280, Math.floor(this.figure.clientWidth));
    const svg = s("svg", { width, role: "img", "aria-label": view === "depth" ? inWords(rows, summary) : VIEWS[view] });
    const drawn = rows.length ? DRAW[view](svg, width, { rows, summary, metric: this.get("metric") }) : null;
    this.drawn = drawn ?? { marks: [] };
    this.svg = drawn ? svg : null;
    this.legend.replaceChildren(...(drawn?.legend ?? []).map(([sign, words]) => h("span", {}, s("svg", { width: 16, height: 16, "aria-hidden": "true" }, sign), words)));
    if (!drawn) {
      this.figure.replaceChildren(h("p", { class: "pp-quiet" }, MISSING[view]));
      return;
    }
    svg.setAttribute("height", drawn.height);
    for (const one of drawn.marks.filter(({ numbers }) => numbers.includes(this.get("selected")))) {
      svg.append(s("circle", { class: "pp-ring", cx: one.x, cy: one.y, r: 11 }));
    }
    this.figure.replaceChildren(svg);
  }

  drawTable(rows) {
    const kept = sortRows(rows.filter((row) => matches(row, this.filter)), this.order.column, this.order.descending);
    const selected = this.get("selected");
    COLUMNS.forEach(([name], k) => {
      const order = this.order.column === name ? (this.order.descending ? "descending" : "ascending") : "none";
      this.heads[k].setAttribute("aria-sort", order);
    });
    const visible = kept.slice(0, this.shown);
    const lines = visible.map((row) => this.line(row));
    const reachable = visible.some((row) => row.n === selected) ? selected : visible[0]?.n;
    lines.forEach((line, k) => {
      const number = visible[k].n;
      line.classList.toggle("pp-selected", number === selected);
      line.querySelector("button").setAttribute("aria-pressed", number === selected);
      line.querySelector("button").tabIndex = number === reachable ? 0 : -1;
      if (this.body.children[k] !== line) this.body.insertBefore(line, this.body.children[k] ?? null);
    });
    while (this.body.children.length > lines.length) this.body.lastElementChild.remove();
    this.count.textContent = kept.length === rows.length ? `${rows.length} trial${rows.length === 1 ? "" : "s"}` : `${kept.length} of ${rows.length} trials`;
    this.more.hidden = kept.length <= this.shown;
  }

  /** The line of a row; made anew only when the row has changed. */
  line(row) {
    const known = this.lines.get(row.n);
    if (known?.row === row) return known.line;
    const line = tableRow(row, (number) => this.select(number));
    if (known?.line.contains(document.activeElement)) requestAnimationFrame(() => line.querySelector("button").focus());
    this.lines.set(row.n, { row, line });
    return line;
  }
}

function render({ model, el }) {
  const page = new Page(model, el);
  return () => page.close();
}

/** Show values that do not change, on a page without Python. */
export function mount(el, values) {
  const heard = {};
  const model = {
    get: (name) => values[name],
    set: (name, value) => { values[name] = value; (heard[`change:${name}`] ?? []).forEach((action) => action()); },
    save_changes: () => {},
    on: (name, action) => (heard[name] ??= []).push(action),
    off: () => {},
  };
  return render({ model, el });
}

export default { render };
