// ---------------------------------------------------------------------------------------------- the four views
// Each returns {height, marks, legend}; a mark {x, y, numbers} can be clicked and reached with the arrow keys.

const NAMES = { nll: "validation NLL (nats), low is good", accuracy: "validation accuracy, high is good" };
const nameOf = (fidelity, metric, width) => {
  const name = `${fidelity} runs: ${fidelity === "estimator" ? "minus the score, low is good" : NAMES[metric]}`;
  return width < 420 ? name.split(",")[0] : name;
};

const seriesOf = (one) => (one.control || one.kind !== "single" ? one.kind : one.model);

/** A colour for each model and each design; grey for others. */
function palette(groups, summary) {
  const names = new Set([...(summary.models ?? []).map(([name]) => name),
    ...groups.filter((group) => !group.control).map(seriesOf)]);
  const colours = new Map([...names].map((name, k) => [name, COLOURS[k % COLOURS.length]]));
  return (name) => colours.get(name) ?? GREY;
}

const shapeOf = (group) => CONTROL_SHAPES[group.kind] ?? (DASHES[group.kind] ? "bar" : SHAPES[group.fidelity]);

function depthView(svg, width, { rows, summary, metric }) {
  const groups = groupsOf(rows, metric).filter((group) => group.kind !== "one-shot");
  const colour = palette(groups, summary);
  const fidelities = FIDELITIES.filter((fidelity) => groups.some((g) => g.fidelity === fidelity)).reverse();
  const last = Math.max(1, ...(summary.models ?? []).map(([, n]) => n - 1), ...groups.map((group) => group.x ?? 0));
  const marks = [];
  const strip = groups.some((group) => group.phase === "confirm") ? stripWidth(width) : 0; // beside every fidelity: one axis
  let y = 24;
  fidelities.forEach((fidelity, k) => {
    const height = k === 0 ? 230 : 110;
    marks.push(...depthPanel(svg, groups.filter((group) => group.fidelity === fidelity), {
      x: 52, y, width: width - 64 - strip, strip, height, last, fidelity, colour, summary, metric, bottom: k === fidelities.length - 1,
    }));
    const slots = groups.some((group) => group.fidelity === fidelity && group.phase === "confirm") ? 26 : 0;
    y += height + Math.max(k === fidelities.length - 1 ? 40 : 34, 34 + slots);
  });
  return { height: y, marks, legend: depthLegend(groups, fidelities, colour, summary, metric) };
}

function depthPanel(svg, groups, { x, y, width, strip, height, last, fidelity, colour, summary, metric, bottom }) {
  const ended = groups.filter((group) => group.values.length);
  const believed = metric === "nll" && fidelity === summary.fidelity ? (summary.posterior ?? []) : [];
  const empty = metric === "nll" ? nullBand(groups, fidelity) : null;
  const ys = limits([
    ...ended.flatMap((group) => [group.mean, group.mean - (group.half ?? 0), group.mean + (group.half ?? 0)]),
    ...believed.flatMap((one) => [one.mean - 2 * one.sd, one.mean + 2 * one.sd]),
    ...(empty ? [empty.low, empty.high] : []),
  ]);
  const confirmed = groups.filter((group) => group.phase === "confirm");
  const whole = width + strip;
  const { group: ground, sx, sy, spot } = panel(svg, {
    x, y, width, height, xs: [-0.7, last + 0.7], ys, title: nameOf(fidelity, metric, width), xName: "layer", whole: true,
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
    ground.append(s("line", { class: "pp-control", x1: x, x2: x + width, y1: at, y2: at, stroke: controlColour(group.kind), "stroke-dasharray": DASHES[group.kind] }));
  }
  const marks = ended.filter((group) => isLine(group) && group.phase !== "confirm")
    .map((group) => ({ x: x + width - 20, y: sy(group.mean), numbers: group.numbers }));
  const chosen = chosenIn(summary, groups);
  if (chosen) ground.append(chosenSign(sx(chosen.x), y, height));
  const tools = { sx, sy, spot, y, height, ys, colour };
  for (const group of groups.filter((one) => !isLine(one) && one.x !== null && one.phase !== "confirm")) marks.push(depthMark(ground, group, tools));
  if (confirmed.length) marks.push(...confirmStrip(svg, confirmed, { ...tools, x: x + width + 10, width: strip - 10 }, whole));
  return marks.sort((a, b) => a.x - b.x || a.y - b.y);
}

const DASHES = { vanilla: "7 4", linear: "2 3" };
const controlColour = (kind) => ({ vanilla: "var(--pp-ink)", linear: "var(--pp-linear)" })[kind] ?? GREY;
const CONFIRMED = ["choice", "random", "shuffled", "linear", "vanilla"];
const stripWidth = (width) => (width < 420 ? 92 : 138);

/** A triangle above the chosen layer and a line down to its index. */
function chosenSign(at, y, height) {
  return s("g", { class: "pp-chosen" }, s("path", { d: `M${at} ${y + 9}l-6 -9h12z` }), s("path", { d: `M${at} ${y + 9}v${height - 9}`, "stroke-dasharray": "1 3" }));
}

/** The same sign in a legend. */
const chosenKey = ({ chosen }) => (chosen ? [[s("g", { class: "pp-chosen" }, s("path", { d: "M8 12l-6 -9h12z" })), `chosen: ${chosen}`]] : []);

/** The confirmation next to the layers: the choice and its controls, each in a column of its own, on fresh seeds. */
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
  const own = group.control ? controlColour(group.kind) : colour(seriesOf(group));
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
  return [group.label, `${group.fidelity} runs`, phase, value, state].filter(Boolean).join(", ");
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

function depthLegend(groups, fidelities, colour, summary, metric) {
  const models = new Set(groups.filter((group) => !group.control).map(seriesOf));
  const fidelity = fidelities[0] ?? "full";
  const found = [...models].map((name) => [mark(SHAPES[fidelity], 8, 8, colour(name)), name]);
  for (const kind of NULLS.filter((one) => groups.some((group) => group.kind === one))) {
    found.push([mark(CONTROL_SHAPES[kind], 8, 8, GREY), `${kind} layer`]);
  }
  for (const [kind, words] of [["vanilla", "the encoder alone"], ["linear", "two projections"]]) {
    if (groups.some((group) => group.kind === kind)) found.push([s("path", { class: "pp-control", d: "M0 8h16", stroke: controlColour(kind), "stroke-dasharray": DASHES[kind] }), words]);
  }
  found.push(...chosenKey(summary));
  if (groups.some((group) => group.phase === "confirm")) found.push([mark(SHAPES[fidelity], 8, 8, GREY, { hollow: true }), "confirmation, fresh seeds"]);
  if (groups.some((group) => group.half)) found.push([s("line", { x1: 8, x2: 8, y1: 1, y2: 15, stroke: GREY, "stroke-width": 1.6 }), "95 % interval, noise pooled over layers"]);
  const swatch = (name) => s("rect", { class: name, x: 1, y: 3, width: 14, height: 10, fill: COLOURS[0] });
  const believed = s("g", {}, swatch("pp-band"), s("path", { class: "pp-mean", d: "M1 8h14", stroke: COLOURS[0] }));
  const held = s("g", {}, swatch("pp-best"), s("rect", { x: 1, y: 11, width: 14, height: 3, fill: COLOURS[0] }));
  if (metric === "nll" && (summary.posterior ?? []).length) found.push([believed, "posterior mean, ± 2 sd"], [held, "layers tied with the best (95 %)"]);
  if (metric === "nll" && nullBand(groups, fidelity)) found.push([swatch("pp-null"), "null: random and shuffled layers"]);
  return found;
}

function strategyView(svg, width, { rows, summary }) {
  const groups = groupsOf(rows).filter((group) => group.kind !== "one-shot");
  const colour = palette(groups, summary);
  const fidelities = FIDELITIES.filter((fidelity) => groups.some((group) => group.fidelity === fidelity)).reverse();
  const last = Math.max(1, ...(summary.models ?? []).map(([, n]) => n - 1), ...groups.map((group) => group.x ?? 0));
  const marks = [];
  const sx = scale([-0.7, last + 0.7], [92, width - 12]);
  svg.append(s("text", { class: "pp-title", x: 12, y: 16 }, "what was tried at each fidelity; larger: more seeds"));
  fidelities.forEach((fidelity, k) => {
    const y = 42 + 34 * k;
    svg.append(s("text", { x: 12, y: y + 4 }, fidelity), s("line", { class: "pp-grid", x1: 92, x2: width - 12, y1: y, y2: y }));
    for (const group of groups.filter((one) => one.fidelity === fidelity && one.x !== null)) {
      const own = group.control ? GREY : colour(seriesOf(group));
      const radius = 3 + Math.min(Math.sqrt(group.numbers.length), 3);
      svg.append(s("g", { class: "pp-mark" }, mark(shapeOf(group), sx(group.x), y, own, { hollow: group.phase === "confirm", radius }), s("title", {}, titleOf(group))));
      marks.push({ x: sx(group.x), y, numbers: group.numbers });
    }
  });
  const chosen = chosenIn(summary, groups);
  if (chosen) svg.append(chosenSign(sx(chosen.x), 22, 34 * fidelities.length));
  let y = 42 + 34 * fidelities.length;
  for (const tick of ticks(0, last, Math.round(width / 80)).filter((one) => one % 1 === 0)) {
    svg.append(s("text", { x: sx(tick), y: y, "text-anchor": "middle" }, String(tick)));
  }
  svg.append(s("text", { x: (92 + width - 12) / 2, y: y + 16, "text-anchor": "middle" }, "layer"));
  y += 58;
  const used = FIDELITIES.filter((fidelity) => fidelities.includes(fidelity));
  const columns = Math.max(1, Math.floor(width / 300));
  const wide = Math.min(width / columns, 420);
  used.slice(1).forEach((upper, k) => {
    const spot = { x: (k % columns) * wide + 56, y: y + Math.floor(k / columns) * 250, width: wide - 76, height: 180 };
    marks.push(...pairPanel(svg, groups, used[k], upper, spot, summary, colour));
  });
  return { height: y + (used.length > 1 ? 250 * Math.ceil((used.length - 1) / columns) : -20), marks, legend: chosenKey(summary) };
}

/** One fidelity against the next: does the cheap one rank layers as the dear one does? */
function pairPanel(svg, groups, lower, upper, spot, summary, colour) {
  const on = (fidelity) => new Map(groups.filter((g) => g.fidelity === fidelity && g.phase === "select" && g.values.length && !g.control).map((g) => [g.label, g]));
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
  const fidelity = topFidelity(groups);
  const sign = metric === "accuracy" ? -1 : 1;
  const own = groups.filter((group) => group.fidelity === fidelity && group.phase === "select" && group.latencies.length);
  if (!own.length) return null;
  const colour = palette(groups, summary);
  const latency = latencies(own);
  const points = paretoFront(own.map((group) => ({ x: latency(group), y: sign * group.mean, group })));
  const { group: ground, sx, sy, spot } = panel(svg, { x: 56, y: 24, width: width - 72, height: 280,
    xs: limits(points.map((point) => point.x)), ys: limits(points.map((point) => sign * point.y)),
    title: nameOf(fidelity, metric, width), xName: "one text (ms), median over layers of equal size" });
  const front = points.filter((point) => point.best).sort((a, b) => a.x - b.x);
  ground.append(s("path", { class: "pp-control", d: `M${front.map((point) => `${sx(point.x)} ${sy(sign * point.y)}`).join("L")}`, stroke: GREY, fill: "none" }));
  const marks = points.map(({ x, y, best, group }) => {
    const [px, py] = spot(x, sign * y);
    const tint = group.control ? GREY : colour(seriesOf(group));
    ground.append(s("g", { class: "pp-mark" }, mark(shapeOf(group), px, py, tint, { hollow: !best }), s("title", {}, `${titleOf(group)}, ${x.toFixed(1)} ms`)));
    if (group.label === summary.chosen) ground.append(s("g", { class: "pp-chosen" }, s("path", { d: `M${px} ${py - 8}l-6 -9h12z` })));
    return { x: px, y: py, numbers: group.numbers };
  });
  const keys = [[mark("circle", 8, 8, COLOURS[0]), "nothing is better in both"], [mark("circle", 8, 8, COLOURS[0], { hollow: true }), "the others"]];
  return { height: 350, marks, legend: [...keys, ...chosenKey(summary)] };
}

const DRAW = { gain: gainView, map: mapView, depth: depthView, fidelities: strategyView, regret: regretView, pareto: paretoView };
const MISSING = { gain: "The projections have not been run yet.", map: "No chain has ended yet.",
  depth: "No trial has begun yet.", fidelities: "No trial has begun yet.",
  regret: "No candidate has ended yet.", pareto: "No latency has been measured yet." };
