// The pure functions of the chart: `node --test tests/js`.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

const source = ["chart", "chart_map"].map((name) => readFileSync(new URL(`../../pifi_probe/widgets/${name}.js`, import.meta.url), "utf8")).join("\n");
// The package has no package.json that would call the file a module.
const chart = await import(`data:text/javascript;base64,${Buffer.from(source).toString("base64")}`);

let number = 0;
function row(label, fidelity, value, more = {}) {
  return { n: number++, label, kind: "single", control: false, x: 3, model: "m", fidelity, seed: 0, phase: "select",
    state: "complete", value, accuracy: 0.8, cost: 1, seconds: 2, latency: 1, bytes: null, why: "", message: "",
    facts: {}, ...more };
}
const close = (found, expected, within = 1e-9) => assert.ok(Math.abs(found - expected) < within, `${found} is not ${expected}`);

test("the quantile of Student's t is right to 0.003", () => {
  const known = { 1: 12.706, 3: 3.182, 10: 2.228, 11: 2.201, 20: 2.086, 60: 2.0, 1000: 1.962 };
  for (const [df, quantile] of Object.entries(known)) close(chart.t95(Number(df)), quantile, 0.003);
});

test("trials of one candidate, fidelity and phase are one group, with noise pooled over the fidelity", () => {
  const rows = [row("a", "full", 1), row("a", "full", 3), row("b", "full", 5), row("b", "full", 7), row("c", "full", 4),
    row("a", "frozen", 9), row("a", "full", 2, { phase: "confirm" })];
  const groups = chart.groupsOf(rows);
  assert.deepEqual(groups.map((one) => [one.label, one.fidelity, one.phase, one.mean]), [["a", "full", "select", 2],
    ["b", "full", "select", 6], ["c", "full", "select", 4], ["a", "frozen", "select", 9], ["a", "full", "confirm", 2]]);
  const sd = Math.sqrt(2); // two groups of two, each with a sum of squares of 2, over two degrees of freedom
  close(groups[0].half, (4.303 * sd) / Math.sqrt(2));
  close(groups[2].half, 4.303 * sd);
  assert.equal(groups[3].half, null, "one trial at a fidelity tells nothing of its noise");
});

test("failed and running trials have no value, and are marked", () => {
  const [group] = chart.groupsOf([row("a", "full", null, { state: "failed" }), row("a", "full", null, { state: "running" })]);
  assert.deepEqual([group.values, group.failed, group.running, group.numbers.length], [[], true, true, 2]);
});

test("accuracies are grouped where they were measured", () => {
  const [group] = chart.groupsOf([row("a", "full", 1, { accuracy: 0.5 }), row("a", "full", 1, { accuracy: null })], "accuracy");
  assert.deepEqual(group.values, [0.5]);
});

test("the null band is two standard deviations about the random and shuffled layers", () => {
  const control = (kind, value) => row(`${kind} a`, "full", value, { kind, control: true });
  const groups = chart.groupsOf([control("random", 1), control("shuffled", 3), control("vanilla", 99), row("a", "full", 50)]);
  const band = chart.nullBand(groups, "full");
  close(band.low, 2 - 2 * Math.SQRT2);
  close(band.high, 2 + 2 * Math.SQRT2);
  assert.equal(chart.nullBand(groups, "frozen"), null);
});

test("the highest fidelity is that of a candidate, not of a control", () => {
  const rows = [row("a", "frozen", 1), row("vanilla", "full", 1, { kind: "vanilla", control: true })];
  assert.equal(chart.topFidelity(chart.groupsOf(rows)), "frozen");
});

test("regret counts what cheap and failed trials cost, and looks back from the end", () => {
  const rows = [row("a", "frozen", 9, { cost: 0.5 }), row("a", "full", 2), row("c", "full", null, { state: "failed" }),
    row("b", "full", 1), row("x", "full", 0, { phase: "confirm" })];
  const steps = chart.regretSteps(rows);
  assert.deepEqual(steps.map(({ cost, regret, leader }) => [cost, regret, leader]), [[1.5, 1, "a"], [3.5, 0, "b"]]);
});

test("regret is never negative, and ends at zero", () => {
  const rows = Array.from({ length: 60 }, (_, k) => row(`l${k % 7}`, "full", Math.sin(k * 12.9)));
  const steps = chart.regretSteps(rows);
  assert.ok(steps.every((step) => step.regret >= -1e-12));
  close(steps.at(-1).regret, 0);
});

test("the front holds what nothing beats", () => {
  const points = [{ x: 1, y: 3 }, { x: 2, y: 2 }, { x: 2, y: 3 }, { x: 3, y: 2 }, { x: 1, y: 3 }];
  assert.deepEqual(chart.paretoFront(points).map((point) => point.best), [true, true, false, false, true]);
});

test("the chosen layer has a place on the axis, from the posterior or from its trials, and others have none", () => {
  const groups = [{ label: "m[3]", x: 3 }, { label: "vanilla", x: null }];
  assert.equal(chart.chosenIn({ chosen: "m[5]", posterior: [{ label: "m[5]", x: 5 }] }, groups).x, 5);
  assert.equal(chart.chosenIn({ chosen: "m[3]" }, groups).x, 3);
  for (const chosen of ["vanilla", "m[9]", undefined]) assert.equal(chart.chosenIn({ chosen }, groups), null);
});

test("one diverged trial does not stretch the axis", () => {
  const values = Array.from({ length: 30 }, (_, k) => 0.4 + 0.001 * k);
  const [low, high] = chart.limits([...values, 500]);
  assert.ok(low < 0.4 && high < 1, `${low} to ${high}`);
  assert.deepEqual(chart.limits([]), [0, 1]);
  const [below, above] = chart.limits([0.5]);
  assert.ok(below < 0.5 && above > 0.5);
});

test("a layer far from the others stays in the frame", () => {
  const values = [...Array.from({ length: 12 }, (_, k) => 0.61 + 0.001 * k), 0.6464];
  assert.ok(chart.limits(values)[1] > 0.6464);
});

test("a mark outside of the frame stands whole inside its edge, with its value", () => {
  const up = chart.scale([0, 1], [100, 0]); // upwards on a page is down in pixels
  assert.deepEqual(chart.placed(0.5, [0, 1], up), { at: 50, note: "" });
  assert.deepEqual(chart.placed(7, [0, 1], up), { at: 8, note: "above: 7.0000" });
  assert.deepEqual(chart.placed(-7, [0, 1], up), { at: 92, note: "below: -7.0000" });
});

test("layers of one model have one latency, their median, and controls without a layer their own", () => {
  const group = (label, kind, times) => ({ label, kind, model: kind === "vanilla" ? "" : "m", latencies: times });
  const all = [group("m[1]", "single", [10]), group("m[2]", "single", [12]), group("random m[2]", "random", [14]),
    group("vanilla", "vanilla", [7]), group("m[1] | m[2] (mix)", "mix", [30])];
  assert.deepEqual(all.map(chart.latencies(all)), [12, 12, 12, 7, 30]);
});

test("the header counts what the table counts", () => {
  const rows = [row("a", "full", 1), row("b", "full", 1), row("a", "full", 1, { phase: "confirm" })];
  assert.equal(chart.counted(rows), "3 trials (2 to choose, 1 to confirm)");
  assert.equal(chart.counted(rows.slice(0, 1)), "1 trial");
});

test("layer 11 is found by its number, and not layer 1", () => {
  const rows = ["m[1]", "m[11]", "m[21]"].map((label) => row(label, "frozen", 1));
  assert.deepEqual(rows.filter((one) => chart.matches(one, "layer 11 frozen")).map((one) => one.label), ["m[11]"]);
  assert.deepEqual(rows.filter((one) => chart.matches(one, "Layer 1")).map((one) => one.label), ["m[1]"]);
});

test("ticks are round, inside, and at least two", () => {
  for (const [low, high] of [[0.391, 0.462], [0, 1], [-0.7, 29.7], [1e-4, 3e-4], [12, 4000]]) {
    const found = chart.ticks(low, high);
    assert.ok(found.length >= 2 && found.length <= 8, `${found}`);
    assert.ok(found.every((tick) => tick >= low - 1e-9 && tick <= high + 1e-9));
  }
});

test("the table sorts words as words, numbers as numbers, fidelities by height, and the unknown last", () => {
  const rows = [row("m[10]", "full", 2), row("m[9]", "frozen", null), row("m[2]", "short", 1)];
  const labels = (column, descending) => chart.sortRows(rows, column, descending).map((one) => one.label);
  assert.deepEqual(labels("label"), ["m[2]", "m[9]", "m[10]"]);
  assert.deepEqual(labels("fidelity", true), ["m[10]", "m[2]", "m[9]"]);
  assert.deepEqual(labels("value"), ["m[2]", "m[10]", "m[9]"]);
  assert.deepEqual(labels("value", true), ["m[10]", "m[2]", "m[9]"]);
});

test("the filter asks for every word", () => {
  const one = row("m[10]", "full", null, { state: "failed", message: "out of memory" });
  assert.ok(chart.matches(one, "FULL memory"));
  assert.ok(chart.matches(one, ""));
  assert.ok(!chart.matches(one, "full complete"));
});

test("CSV quotes what needs it", () => {
  const lines = chart.toCsv([row('a "b", c', "full", 0.5, { why: "two\nlines" })]).split("\n");
  assert.ok(lines[0].startsWith("trial,label,fidelity"));
  assert.ok(lines[1].includes('"a ""b"", c",full,0,select,complete,0.5'));
  assert.ok(lines[1].endsWith('"two'));
});

test("times and sizes are short", () => {
  assert.deepEqual([0.25, 45, 600, 10000, null].map(chart.clock), ["0.3 s", "45 s", "10 min", "2.8 h", ""]);
  assert.deepEqual([5 * 2 ** 20, 3 * 2 ** 30].map(chart.size), ["5.0 MB", "3.0 GB"]);
});

test("the chart has a sentence for those who do not see it", () => {
  const rows = [row("a", "full", 2), row("b", "full", 1)];
  assert.equal(chart.inWords(rows, { chosen: "b" }),
    "Depth chart: 2 candidates on full runs; the lowest mean NLL is 1.0000, of b. Chosen so far: b.");
  assert.equal(chart.inWords([], {}), "Depth chart: no trial has ended yet.");
});

test("a thousand trials are grouped and sorted within a frame or two", () => {
  const rows = Array.from({ length: 1000 }, (_, k) => row(`m[${k % 97}]`, chart.FIDELITIES[k % 5], Math.sin(k)));
  const took = Array.from({ length: 5 }, () => {
    const began = performance.now();
    chart.groupsOf(rows);
    chart.regretSteps(rows);
    chart.sortRows(rows, "value");
    return performance.now() - began;
  });
  assert.ok(Math.min(...took) < 200, `${took} ms`); // others may be at work on this machine
});

test("nothing is fetched, and nothing is shown as markup", () => {
  const folder = new URL("../../pifi_probe/widgets/", import.meta.url);
  const source = readdirSync(folder).filter((name) => name.endsWith(".js")).map((name) => readFileSync(new URL(name, folder), "utf8")).join("\n");
  assert.doesNotMatch(source, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function/);
  assert.doesNotMatch(source.replaceAll("http://www.w3.org/2000/svg", ""), /https?:|\bfetch\(|import\(|^import /m);
  assert.doesNotMatch(source, /<\/script/i, "it is put into pages as it is");
});

test("the ladder is told in words, with signs and intervals", () => {
  const rung = (group, mean, low, high) => ({ group, mean, low, high, unit: "points" });
  const words = chart.ladderInWords([rung("vanilla", 0, 0, 0), rung("linear", -0.25, -1, 0.5), rung("real", 3.44, 1.9, 5)]);
  assert.equal(words, "Ladder: difference to the encoder alone in points, with intervals: two projections −0.3 [−1.0, +0.5]; the real layer +3.4 [+1.9, +5.0].");
});

const control = (kind, accuracy, more = {}) => row(`${kind} a`, "full", 1, { kind, control: true, accuracy, phase: "confirm", seed: 1000, ...more });

test("a gain over the projections is paired by seed where both were run, and in points", () => {
  const rows = [control("linear", 0.5), control("linear", 0.7, { seed: 1001 }), row("a", "full", 1, { accuracy: 0.53, phase: "confirm", seed: 1000 }),
    row("a", "full", 1, { accuracy: 0.74, phase: "confirm", seed: 1001 }), row("b", "full", 1, { accuracy: 0.7, seed: 0 }), row("b", "frozen", 1)];
  const { unit, gains, band } = chart.gainsOver(rows, "full");
  assert.equal(unit, "points");
  assert.deepEqual(gains.map((one) => [one.label, one.paired]), [["a", true], ["b", false]]);
  close(gains[0].gain, 3.5);
  close(gains[0].half, 12.706 * Math.SQRT1_2 / Math.SQRT2, 1e-6);
  close(gains[1].gain, 10);
  assert.equal(gains[1].half, null, "one run alone tells nothing of its noise");
  assert.equal(band, null);
  assert.equal(chart.gainsOver(rows, "frozen"), null, "without projections there is nothing to gain over");
  assert.ok(chart.hasGain(rows) && !chart.hasGain(rows.filter((one) => one.kind !== "linear")));
});

test("without accuracies the gain is in nats, and high is good", () => {
  const rows = [control("linear", null, { value: 0.6 }), row("a", "full", 0.5, { accuracy: null, phase: "confirm", seed: 1000 })];
  const { unit, gains } = chart.gainsOver(rows, "full");
  assert.equal(unit, "nats");
  close(gains[0].gain, 0.1);
});

test("a layer is told from its twins only where its interval leaves out all that they reach", () => {
  const band = chart.bandOf([0, 1, 2]);
  close(band.low, -1);
  close(band.high, 3);
  const one = (gain, half) => ({ gain, half });
  assert.deepEqual([one(5, 1.9), one(5, 2.1), one(-4, 2.9), one(5, null)].map((each) => chart.beyond(each, band)), [true, false, true, false]);
  assert.equal(chart.beyond(one(5, 1), null), false);
});

test("the gain chart and its blocks are told in words", () => {
  const rows = [control("linear", 0.5), control("random", 0.5), control("shuffled", 0.52), row("m[3]", "full", 1, { accuracy: 0.6, phase: "confirm", seed: 1000 })];
  const posterior = [["m[0]", 0.004], ["m[1]", 0.196], ["m[2]", 0.2], ["m[3]", 0.6]].map(([label, p]) => ({ label, p }));
  const words = chart.gainInWords(rows, { posterior });
  assert.match(words, /^Gain over the projections, full runs: the largest is \+10\.0 points, of m\[3\]\. Twins reach −1\.8 to \+3\.8; 0 of 1 lie above that\./);
  assert.match(words, /m\[3\] \(60 %\), m\[2\] \(20 %\), m\[1\] \(20 %\); with nothing known, each of the 4 layers would have 25 %\.$/);
  assert.equal(chart.percent(0.004), "below 1 %");
  assert.equal(chart.blocksInWords([]), "");
});

test("a replay shows the first trials, why each was run, and who led then", () => {
  const rows = [row("a", "full", 3, { why: "first" }), row("b", "full", 1), row("a", "full", 0, { phase: "confirm" })];
  assert.deepEqual(chart.replayed(rows, 2).map((one) => one.label), ["a", "b"]);
  assert.equal(chart.replayed(rows, null), rows);
  assert.equal(chart.stepInWords(rows, 1), "Trial 1 of 3: a, full run, seed 0, NLL 3.0000. Why: first. In the lead: a.");
  assert.match(chart.stepInWords(rows, 3), /Why: not recorded\. In the lead: b\.$/, "a confirmation does not choose");
});

test("chains have a map of entry and length, by their gain or else by their loss; single layers alone have none", () => {
  const chain = (entry, length, accuracy, value, more = {}) => row(`m[${entry}:${entry + length}]`, "frozen", value, { kind: length > 1 ? "serial" : "single", entry, length, accuracy, ...more });
  const rows = [chain(3, 1, 0.6, 0.5), chain(2, 4, 0.7, 0.6), chain(2, 2, 0.65, 0.4)];
  const bare = chart.chainsOf(rows);
  assert.deepEqual([bare.unit, bare.best.entry, bare.best.length, bare.cells.length], ["NLL", 2, 2, 3]);
  const linear = row("linear", "frozen", 0.7, { kind: "linear", control: true, accuracy: 0.62, entry: null, length: 0 });
  const gained = chart.chainsOf([...rows, linear]);
  assert.deepEqual([gained.unit, gained.best.label], ["points", "m[2:6]"]);
  close(gained.best.value, 8);
  assert.equal(chart.chainsOf([rows[0], linear]), null);
  const promised = chart.chainsOf([chain(1, 2, null, -5, { fidelity: "estimator" }), chain(4, 2, null, -7, { fidelity: "estimator" })]);
  assert.deepEqual([promised.unit, promised.best.entry, promised.best.value], ["promise", 4, 7]);
  assert.equal(chart.mapInWords([...rows, linear], { headroom: { m: [0, 4.2, 1] } }),
    "Map of chains: 3 chains on frozen runs; the best enters at layer 2 and has 4 layers: +8.0 points over the projections. Behind it: m adds most before layer 1, +4.2 points.");
});
