// ---------------------------------------------------------------------------------------------- the map of chains
// A chain of neighbouring layers is an entry and a length. Behind the map stands what the donor's own states add to the
// encoder at each depth, the headroom, where it is known.

/** Chains of the highest fidelity by entry and length: their gain over the projections, or else their loss. */
export function chainsOf(rows) {
  const chains = rows.filter((row) => row.entry !== null && row.entry !== undefined && !row.control && row.kind !== "one-shot");
  if (!chains.some((row) => row.length > 1)) return null;
  const done = chains.filter((row) => row.state === "complete");
  const fidelity = [...FIDELITIES].reverse().find((one) => done.some((row) => row.fidelity === one));
  if (!fidelity) return null;
  const gained = gainsOver(rows, fidelity);
  const unit = gained ? gained.unit : fidelity === "estimator" ? "promise" : "NLL";
  const known = new Map();
  for (const group of gained ? gained.gains.filter((one) => !one.control) : groupsOf(done.filter((row) => row.fidelity === fidelity))) {
    const value = gained ? group.gain : fidelity === "estimator" ? -group.mean : group.mean;
    const row = done.find((one) => one.label === group.label);
    if (!known.has(group.label) || group.phase === "confirm") known.set(group.label, { label: group.label, model: group.model, entry: row.entry, length: row.length, value, numbers: group.numbers });
  }
  const cells = [...known.values()];
  const best = cells.reduce((a, b) => ((unit === "NLL" ? b.value < a.value : b.value > a.value) ? b : a));
  return { fidelity, unit, cells, best };
}

export function mapInWords(rows, summary) {
  const found = chainsOf(rows);
  if (!found) return "Map of chains: none has ended yet.";
  const { fidelity, unit, cells, best } = found;
  const behind = Object.entries(summary.headroom ?? {}).map(([model, added]) => {
    const most = added.indexOf(Math.max(...added));
    return ` Behind it: ${model} adds most before layer ${most}, ${signed(added[most])} points.`;
  });
  return `Map of chains: ${cells.length} chains on ${fidelity} runs; the best enters at layer ${best.entry} and has ${best.length} layer${best.length > 1 ? "s" : ""}: ${valueInWords(best.value, unit)}.${behind.join("")}`;
}

const valueInWords = (value, unit) => ({ points: `${signed(value)} points over the projections`, nats: `${signed(value, 4)} nats over the projections`,
  NLL: `NLL ${short(value)}`, promise: `a promise of ${short(value, 2)}` })[unit];

function mapView(svg, width, { rows, summary }) {
  const found = chainsOf(rows);
  if (!found) return null;
  const { fidelity, unit, cells, best } = found;
  const models = (summary.models ?? []).filter(([name]) => cells.some((one) => one.model === name));
  const marks = [];
  let y = 24;
  for (const [model, n] of models.length ? models : [["", 1 + Math.max(...cells.map((one) => one.entry + one.length))]]) {
    const own = cells.filter((one) => !models.length || one.model === model);
    const tallest = Math.max(2, ...own.map((one) => one.length));
    const height = Math.min(260, 40 + 26 * tallest);
    const added = summary.headroom?.[model];
    const inset = added ? 44 : 12;
    const spot = { x: 52, y, width: width - 52 - inset, height };
    const { group, sx, sy } = panel(svg, { ...spot, xs: [-0.7, n + 0.3], ys: [0.4, tallest + 0.6], whole: true, xName: `entry: the first layer of ${model || "the chain"}`,
      title: `layers in the chain, ${fidelity} runs${models.length > 1 ? `: ${model}` : ""}`, digits: 0 });
    if (added) headroomBehind(group, added, sx, { ...spot, inset });
    const values = cells.map((one) => (unit === "NLL" ? -one.value : one.value));
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const side = Math.max(5, Math.min(22, (sx(1) - sx(0)) - 1, (sy(1) - sy(2)) - 2));
    for (const one of own) {
      const share = high > low ? ((unit === "NLL" ? -one.value : one.value) - low) / (high - low) : 1;
      const [px, py] = [sx(one.entry), sy(one.length)];
      group.append(s("g", { class: "pp-mark" },
        s("rect", { class: one.label === summary.chosen ? "pp-block pp-block-chosen" : "pp-block", x: px - side / 2, y: py - side / 2, width: side, height: side, fill: "var(--pp-ground)" }),
        s("rect", { x: px - side / 2, y: py - side / 2, width: side, height: side, fill: "var(--pp-real)", "fill-opacity": (0.06 + 0.94 * share).toFixed(3) }),
        s("title", {}, `${one.label}: ${valueInWords(one.value, unit)}`)));
      if (one === best) group.append(s("text", { x: px, y: py + 4, "text-anchor": "middle" }, "★"));
      marks.push({ x: px, y: py, numbers: one.numbers });
    }
    y += height + 62;
  }
  marks.sort((a, b) => a.x - b.x || a.y - b.y);
  const shades = [0.06, 0.5, 1].map((opacity, k) => s("rect", { class: "pp-block", x: 5.3 * k, y: 3, width: 5.3, height: 10, fill: "var(--pp-real)", "fill-opacity": opacity }));
  const legend = [[s("g", {}, shades), `pale to full: worst to best (${unit === "NLL" || unit === "promise" ? unit : `${unit} over the projections`})`], [s("text", { x: 2, y: 13 }, "★"), "best so far"]];
  if (summary.chosen) legend.push([s("rect", { class: "pp-block pp-block-chosen", x: 2, y: 2, width: 12, height: 12, fill: "none" }), `chosen: ${summary.chosen}`]);
  if (Object.keys(summary.headroom ?? {}).length) legend.push([s("path", { class: "pp-headroom", d: "M0 12L8 4L16 8" }), "headroom: what the donor's states add before each layer (points, right axis)"]);
  return { height: y - 18, marks, legend, words: mapInWords(rows, summary) };
}

/** The curve behind a map, with an axis of its own on the right. */
function headroomBehind(group, added, sx, { x, y, width, height }) {
  const ys = limits([0, ...added]);
  const sy = scale(ys, [y + height, y]);
  group.append(s("path", { class: "pp-headroom", d: `M${added.map((value, depth) => `${sx(depth)} ${sy(value)}`).join("L")}` }));
  for (const tick of ticks(...ys, 4)) group.append(s("text", { x: x + width + 6, y: sy(tick) + 4 }, signed(tick, Number.isInteger(tick) ? 0 : 1)));
}
