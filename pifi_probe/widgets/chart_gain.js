// ---------------------------------------------------------------------------------------------- gain over the projections
// The zero line is what two projections do without any layer; the band is what twins without knowledge reach. Below
// the axis stands the model as a stack of blocks, coloured by the probability of being the best layer.

const UNIT_NAMES = { points: "gain over the projections (points of validation accuracy)", nats: "gain over the projections (nats of validation NLL)" };

function gainView(svg, width, { rows, summary }) {
  const fidelities = [...FIDELITIES].reverse().map((fidelity) => [fidelity, gainsOver(rows, fidelity)]).filter(([, found]) => found);
  if (!fidelities.length) return null;
  const { place, last } = stackPlaces(summary.models ?? [], rows);
  const strip = fidelities.some(([, found]) => found.gains.some(inColumn)) ? stripWidth(width) : 0; // one axis for all
  const frame = { x: 52, width: width - 64 - strip };
  const marks = [];
  let y = 24;
  fidelities.forEach(([fidelity, found], k) => {
    const height = k === 0 ? 230 : 110;
    marks.push(...gainPanel(svg, found, { ...frame, strip, y, height, fidelity, place, last, summary, narrow: frame.width < 570 }));
    y += height + (k === 0 ? 78 : found.gains.some(inColumn) ? 60 : 34);
    if (k === 0) marks.push(...stack(svg, rows, summary, { ...frame, y: y - 70, place, last }));
  });
  marks.sort((a, b) => a.x - b.x || a.y - b.y);
  return { height: y, marks, legend: gainLegend(fidelities.map(([, found]) => found), summary), words: blocksInWords(summary.posterior ?? []) };
}

function gainPanel(svg, { unit, gains, band }, { x, y, width, strip, height, fidelity, place, last, summary, narrow }) {
  const ends = gains.flatMap((one) => [one.gain, one.gain - (one.half ?? 0), one.gain + (one.half ?? 0)]);
  const ys = limits([0, ...ends, ...(band ? [band.low, band.high] : [])]);
  const title = width < 260 ? `gain (${unit}), ${fidelity}` : narrow ? `gain over projections (${unit}), ${fidelity}` : `${fidelity} runs: ${UNIT_NAMES[unit]}, high is good`;
  const { group: ground, sx, sy, spot } = panel(svg, { x, y, width, height, xs: [-0.7, last + 0.7], ys, title, xLabels: false });
  const columns = gainColumns(svg, gains.filter(inColumn), { x: x + width + 10, y, width: strip - 10, height, narrow });
  if (band) ground.append(s("rect", { class: "pp-null", x, y: sy(band.high), width, height: Math.max(sy(band.low) - sy(band.high), 1) }));
  ground.append(s("line", { x1: x, x2: x + width, y1: sy(0), y2: sy(0), stroke: GROUPS.linear.colour, "stroke-width": 2 }));
  const chosen = chosenIn(summary, gains);
  if (chosen) ground.append(chosenSign(sx(place(chosen)), y, height));
  return gains.map((one) => {
    const look = GROUPS[one.control ? (NULLS.includes(one.kind) ? "twins" : "vanilla") : "real"];
    const [px, py] = columns.has(one) ? [columns.get(one), placed(one.gain, ys, sy).at]
      : one.x === null ? [x + width - 12, placed(one.gain, ys, sy).at] : spot(place(one), one.gain);
    const made = s("g", { class: "pp-mark" });
    if (one.x === null) made.append(s("line", { class: "pp-control", x1: x, x2: x + width, y1: py, y2: py, stroke: look.colour, "stroke-dasharray": "7 4" }));
    if (one.half !== null) made.append(s("line", { x1: px, x2: px, y1: sy(one.gain - one.half), y2: sy(one.gain + one.half), stroke: look.colour, "stroke-width": 1.6 }));
    made.append(mark(look.shape, px, py, look.colour, { hollow: !one.control && !beyond(one, band) }));
    if (one.phase === "confirm" && !one.control) made.append(s("circle", { class: "pp-confirmed", cx: px, cy: py, r: 9, stroke: look.colour }));
    made.append(s("title", {}, gainTitle(one, unit)));
    ground.append(made);
    return { x: px, y: py, numbers: one.numbers };
  });
}

const GAIN_COLUMNS = ["choice", "random", "shuffled", "vanilla"];
const columnOf = (one) => (!one.control ? "choice" : GAIN_COLUMNS.includes(one.kind) ? one.kind : "vanilla");
const inColumn = (one) => one.phase === "confirm" || (one.control && one.x === null);

/** The choice and its controls next to the layers, each in a column of its own; returns where each stands. */
function gainColumns(svg, gains, { x, y, width, height, narrow }) {
  const places = new Map();
  if (!gains.length) return places;
  const step = width / GAIN_COLUMNS.length;
  const fresh = gains.some((one) => one.phase === "confirm");
  const ground = s("g", {}, s("path", { class: "pp-axis", d: `M${x} ${y}v${height}h${width}`, fill: "none" }));
  ground.append(s("text", { class: "pp-title", x, y: y - 8 }, !fresh ? "controls" : narrow ? "confirm" : "confirmation"));
  svg.append(ground);
  GAIN_COLUMNS.forEach((name, k) => {
    const middle = x + (k + 0.5) * step;
    const own = gains.filter((one) => columnOf(one) === name);
    own.forEach((one, i) => places.set(one, middle + 11 * (i - (own.length - 1) / 2)));
    ground.append(s("text", { class: "pp-slot", x: middle + 6, y: y + height + 10, "text-anchor": "end", transform: `rotate(-60 ${middle + 6} ${y + height + 10})` }, name));
  });
  return places;
}

function gainTitle(one, unit) {
  const digits = unit === "points" ? 1 : 4;
  const seeds = `${one.values.length} seed${one.values.length > 1 ? "s" : ""}`;
  const how = one.paired ? `${seeds}, paired with the projections` : seeds;
  return `${one.label}${one.phase === "confirm" ? ", confirmation" : ""}: ${signed(one.gain, digits)}${one.half === null ? "" : ` ± ${one.half.toFixed(digits)}`} ${unit} over the projections, ${how}`;
}

/** Where layers stand: the models one after the other, with a gap between them. */
function stackPlaces(models, rows) {
  const known = models.length ? models : [["", 1 + Math.max(0, ...rows.map((row) => row.x ?? 0))]];
  const starts = new Map();
  let next = 0;
  for (const [name, n] of known) {
    starts.set(name, next);
    next += n + 1;
  }
  return { place: ({ model, x }) => (starts.get(model) ?? 0) + x, last: next - 2, starts };
}

/** One block a layer; a click selects the layer's newest trial. The colour's depth is the root of the probability, on a
 *  scale of its own and not of the largest one, so that many layers that are equally likely look pale. */
function stack(svg, rows, summary, { x, y, width, place, last }) {
  const sx = scale([-0.7, last + 0.7], [x, x + width]);
  const step = sx(1) - sx(0);
  const sure = new Map((summary.posterior ?? []).map((one) => [one.label, one.p]));
  const newest = new Map(rows.filter((row) => !row.control && row.kind === "single").map((row) => [row.label, row.n]));
  const marks = [];
  const every = [1, 2, 5, 10, 20, 50].find((one) => one * step > 24) ?? 100;
  for (const [model, n] of summary.models ?? []) {
    for (let k = 0; k < n; k++) {
      const label = `${model}[${k}]`;
      const at = sx(place({ model, x: k }));
      const p = sure.get(label);
      const block = s("rect", { class: label === summary.chosen ? "pp-block pp-block-chosen" : "pp-block", x: at - step / 2 + 0.5, y, width: Math.max(step - 1, 1), height: 26,
        fill: p === undefined ? "none" : "var(--pp-real)", "fill-opacity": p === undefined ? null : Math.sqrt(p).toFixed(3) });
      block.append(s("title", {}, `${label}: ${p === undefined ? "nothing is known of it" : `the best layer with probability ${percent(p)}`}`));
      svg.append(block);
      if (k % every === 0) svg.append(s("text", { x: at, y: y + 41, "text-anchor": "middle" }, String(k)));
      if (newest.has(label)) marks.push({ x: at, y: y + 13, numbers: [newest.get(label)], block: true });
    }
    const end = sx(place({ model, x: n - 1 }));
    const start = sx(place({ model, x: 0 }));
    svg.append(s("text", { x: (start + end) / 2, y: y + 57, "text-anchor": "middle" }, summary.models.length > 1 ? clipped(model, (end - start) / 7) : `layer of ${model}`));
  }
  return marks;
}

const clipped = (text, most) => (text.length <= most ? text : `${text.slice(0, Math.max(1, most - 1))}…`);

function gainLegend(found, summary) {
  const all = found.flatMap((one) => one.gains);
  const drawn = (name, hollow = false) => mark(GROUPS[name].shape, 8, 8, GROUPS[name].colour, { hollow });
  const legend = [[drawn("real"), "layer above or below the twins"], [drawn("real", true), "layer not clearly different from the twins"]];
  if (all.some((one) => NULLS.includes(one.kind))) legend.push([drawn("twins"), "random and shuffled twins"]);
  if (found.some((one) => one.band)) legend.push([s("rect", { class: "pp-null", x: 1, y: 3, width: 14, height: 10 }), "what twins reach (± 2 sd)"]);
  legend.push([s("path", { d: "M0 8h16", stroke: GROUPS.linear.colour, "stroke-width": 2 }), "two projections: zero"]);
  if (all.some((one) => one.kind === "vanilla")) legend.push([drawn("vanilla"), "the encoder alone"]);
  if (all.some((one) => one.phase === "confirm" && !one.control)) legend.push([s("circle", { class: "pp-confirmed", cx: 8, cy: 8, r: 6.5, stroke: GROUPS.real.colour }), "on fresh seeds"]);
  legend.push(...chosenKey(summary));
  if ((summary.posterior ?? []).length) {
    const shades = [0, 0.25, 1].map((p, k) => s("rect", { class: "pp-block", x: 5.3 * k, y: 3, width: 5.3, height: 10, fill: "var(--pp-real)", "fill-opacity": Math.sqrt(p) }));
    legend.push([s("g", {}, shades), "block: probability of being the best, empty 0 %, half 25 %, full 100 %"]);
  }
  return legend;
}
