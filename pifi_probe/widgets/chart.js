// The picture of a search: answer, ladder, chart, table and card, linked through one selected trial.
//
// Plain SVG and DOM; nothing is fetched. Whatever is shown goes through text nodes and attributes, never through
// markup. The files named by SCRIPTS of chart.py are one module, in that order; here are its pure functions, which
// tests/js/chart.test.mjs runs.

export const FIDELITIES = ["estimator", "frozen", "last-block", "short", "full"];
const SHAPES = { estimator: "diamond", frozen: "square", "last-block": "down", short: "up", full: "circle" };
const CONTROL_SHAPES = { random: "cross", shuffled: "plus" };
const COLOURS = ["#D55E00", "#1a8f6a", "#a45cc8", "#9a6a1e", "#c03a6b", "#2f7fd0"]; // 3:1 on white and on black
const GREY = "#767676";
const NULLS = ["random", "shuffled"];
const BUSY = ["preparing", "running", "pausing", "stopping"];
const VIEWS = { gain: "Gain", map: "Chains", depth: "Depth", fidelities: "Strategy", regret: "Cost and regret", pareto: "NLL and latency" };
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

/** Trials of one candidate, fidelity and phase together, with a 95 % interval; the noise is pooled over each fidelity. */
export function groupsOf(rows, metric = "nll") {
  const found = new Map();
  for (const row of rows) {
    const key = [row.label, row.fidelity, row.phase].join("\n");
    if (!found.has(key)) {
      const { label, kind, control, x, model, fidelity, phase } = row;
      found.set(key, { key, label, kind, control, x, model, fidelity, phase, numbers: [], values: [], latencies: [],
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
  for (const fidelity of FIDELITIES) {
    const own = groups.filter((group) => group.fidelity === fidelity && group.values.length);
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

/** The highest fidelity at which a candidate ended. */
export function topFidelity(groups) {
  return [...FIDELITIES].reverse().find((fidelity) => groups.some((g) => g.fidelity === fidelity && g.values.length && !g.control));
}

/** Where layers without knowledge lie: mean of the random and shuffled ones, and two standard deviations about it. */
export function nullBand(groups, fidelity) {
  const means = groups.filter((g) => g.fidelity === fidelity && NULLS.includes(g.kind) && g.values.length).map((g) => g.mean);
  if (!means.length) return null;
  const centre = mean(means);
  if (means.length < 2) return { low: centre, high: centre, mean: centre };
  const sd = Math.sqrt(means.reduce((sum, one) => sum + (one - centre) ** 2, 0) / (means.length - 1));
  return { low: centre - 2 * sd, high: centre + 2 * sd, mean: centre };
}

/** The chosen candidate, or null where it has no place on the axis. */
export function chosenIn({ chosen, posterior }, groups) {
  const found = [...(posterior ?? []), ...groups].find((one) => one.label === chosen);
  return found && found.x !== null ? found : null;
}

/** After each trial of the highest fidelity: what was spent, and how far the leader is above the final best. */
export function regretSteps(rows) {
  const done = rows.filter((row) => row.phase === "select" && row.state !== "running" && row.kind !== "one-shot");
  const top = topFidelity(groupsOf(done));
  const own = (row) => row.fidelity === top && row.state === "complete" && !row.control;
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
  const rank = (row) => (column === "fidelity" ? FIDELITIES.indexOf(row.fidelity) : row[column]);
  return [...rows].sort((a, b) => {
    const [p, q] = [rank(a), rank(b)];
    if (p === null || q === null) return (p === null) - (q === null) || a.n - b.n;
    const order = typeof p === "string" ? p.localeCompare(q, "en", { numeric: true }) : p - q;
    return sign * order || a.n - b.n;
  });
}

/** Whether every word of the filter is found in a row; "layer 11" is that layer and not one with an 11 in its name. */
export function matches(row, filter) {
  const text = [row.label, row.fidelity, row.phase, row.state, row.kind, row.message].join(" ").toLowerCase();
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
  const columns = ["n", "label", "fidelity", "seed", "phase", "state", "value", "accuracy", "cost", "seconds", "why",
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
  const top = topFidelity(groups);
  if (!top) return "Depth chart: no trial has ended yet.";
  const own = groups.filter((group) => group.fidelity === top && group.values.length && !group.control);
  const best = own.reduce((a, b) => (b.mean < a.mean ? b : a));
  const chosen = summary.chosen ? ` Chosen so far: ${summary.chosen}.` : "";
  return `Depth chart: ${own.length} candidates on ${top} runs; the lowest mean NLL is ${short(best.mean)}, ` +
    `of ${best.label}.${chosen}`;
}

export const signed = (value, digits = 1) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
export const interval = ({ low, high }) => `[${signed(low)}, ${signed(high)}]`;

/** What the ladder shows, for those who do not see it. */
export function ladderInWords(steps) {
  const names = { linear: "two projections", twins: "a random twin", real: "the real layer" };
  const told = steps.filter((one) => names[one.group])
    .map((one) => `${names[one.group]} ${signed(one.mean)} ${interval(one)}`);
  return `Ladder: difference to the encoder alone in ${steps[0].unit}, with intervals: ${told.join("; ")}.`;
}
export const percent = (share) => (share > 0 && share < 0.01 ? "below 1 %" : `${Math.round(100 * share)} %`);

/** What each candidate gains over the projections at a fidelity, in points of accuracy where it is known, else in nats.
 *
 *  Seeds that both were run with are compared in pairs; otherwise the means are. The noise is pooled over candidates.
 *  Null where the projections or the candidates were not run. */
export function gainsOver(rows, fidelity) {
  const own = rows.filter((row) => row.fidelity === fidelity && row.state === "complete" && row.kind !== "one-shot");
  const inPoints = own.length > 0 && own.every((row) => row.accuracy !== null);
  const score = (row) => (inPoints ? 100 * row.accuracy : -row.value);
  const linear = own.filter((row) => row.kind === "linear");
  if (!linear.length || !own.some((row) => !row.control)) return null;
  const base = new Map(linear.map((row) => [`${row.phase} ${row.seed}`, score(row)]));
  const baseMean = mean(linear.map(score));
  const found = groupsOf(own.filter((row) => row.kind !== "linear")).map((group) => {
    const runs = own.filter((row) => row.label === group.label && row.kind === group.kind && row.phase === group.phase);
    const paired = runs.filter((row) => base.has(`${row.phase} ${row.seed}`));
    const differences = paired.map((row) => score(row) - base.get(`${row.phase} ${row.seed}`));
    const values = paired.length ? differences : runs.map((row) => score(row) - baseMean);
    return { ...group, values, paired: paired.length > 0, gain: mean(values), half: null };
  });
  for (const paired of [true, false]) {
    const alike = found.filter((one) => one.paired === paired);
    const df = alike.reduce((sum, one) => sum + one.values.length - 1, 0);
    if (!df) continue;
    const sd = Math.sqrt(alike.flatMap((one) => one.values.map((value) => (value - one.gain) ** 2)).reduce((a, b) => a + b, 0) / df);
    for (const one of alike) one.half = t95(df) * sd * Math.sqrt(1 / one.values.length + (paired ? 0 : 1 / linear.length));
  }
  const twins = found.filter((one) => NULLS.includes(one.kind)).flatMap((one) => one.values);
  return { unit: inPoints ? "points" : "nats", gains: found, band: twins.length ? bandOf(twins) : null };
}

/** Mean and two standard deviations about it. */
export function bandOf(values) {
  const centre = mean(values);
  const sd = values.length < 2 ? 0 : Math.sqrt(values.reduce((sum, one) => sum + (one - centre) ** 2, 0) / (values.length - 1));
  return { low: centre - 2 * sd, high: centre + 2 * sd, mean: centre };
}

/** Whether an interval leaves out all that twins reach; without an interval or twins nothing is said. */
export const beyond = (one, band) => one.half !== null && band !== null && (one.gain - one.half > band.high || one.gain + one.half < band.low);

/** The blocks in words: the likeliest layers, and what chance alone would give each. */
export function blocksInWords(posterior) {
  if (!posterior.length) return "";
  const top = [...posterior].sort((a, b) => b.p - a.p).slice(0, 3);
  return `Most probably the best: ${top.map((one) => `${one.label} (${percent(one.p)})`).join(", ")}; with nothing known, each of the ${posterior.length} layers would have ${percent(1 / posterior.length)}.`;
}

/** The first trials of a search, as they were started. */
export const replayed = (rows, upto) => (upto === null ? rows : rows.slice(0, upto));

/** What the search did at a step, why, and who led then. */
export function stepInWords(rows, upto) {
  const row = rows[upto - 1];
  if (!row) return "Nothing has been tried yet.";
  const groups = groupsOf(rows.slice(0, upto).filter((one) => one.phase === "select"));
  const top = topFidelity(groups);
  const own = groups.filter((group) => group.fidelity === top && group.values.length && !group.control);
  const leader = own.length ? own.reduce((a, b) => (b.mean < a.mean ? b : a)).label : "";
  const result = row.state === "complete" ? `${row.fidelity === "estimator" ? "minus the score" : "NLL"} ${short(row.value)}` : row.state;
  return `Trial ${upto} of ${rows.length}: ${row.label}, ${row.fidelity} run, seed ${row.seed}, ${result}. ` +
    `Why: ${row.why || "not recorded"}.${leader ? ` In the lead: ${leader}.` : ""}`;
}

/** Whether layers can be compared with the projections. */
export const hasGain = (rows) => rows.some((row) => row.kind === "linear") && FIDELITIES.some((fidelity) => gainsOver(rows, fidelity));

/** One sentence that tells what the gain chart shows, blocks included. */
export function gainInWords(rows, summary) {
  const fidelity = [...FIDELITIES].reverse().find((one) => gainsOver(rows, one));
  if (!fidelity) return "Gain over the projections: they have not been run yet.";
  const { unit, gains, band } = gainsOver(rows, fidelity);
  const digits = unit === "points" ? 1 : 4;
  const layers = gains.filter((one) => !one.control);
  const best = layers.reduce((a, b) => (b.gain > a.gain ? b : a));
  const above = layers.filter((one) => beyond(one, band) && one.gain > 0).length;
  const twins = band ? ` Twins reach ${signed(band.low, digits)} to ${signed(band.high, digits)}; ${above} of ${layers.length} lie above that.` : "";
  return `Gain over the projections, ${fidelity} runs: the largest is ${signed(best.gain, digits)} ${unit}, of ${best.label}.${twins} ${blocksInWords(summary.posterior ?? [])}`.trim();
}
