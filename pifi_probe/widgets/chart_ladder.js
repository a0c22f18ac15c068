// ---------------------------------------------------------------------------------------------- the ladder
// Colours and shapes of the groups are those of every ladder of the package (reporting/ladder.py).

const GROUPS = {
  vanilla: { name: "encoder alone", shape: "diamond", colour: "var(--pp-ink)" },
  linear: { name: "+ two projections", shape: "circle", colour: "var(--pp-linear)" },
  twins: { name: "+ a random twin", shape: "up", colour: "var(--pp-twin)" },
  real: { name: "+ the real layer", shape: "square", colour: "var(--pp-real)" },
};

/** The steps from the encoder alone to the real layer as an SVG, which says the same in words; null without any. */
function ladderOf(steps, width) {
  const own = Object.keys(GROUPS).map((name) => steps.find((one) => one.group === name)).filter(Boolean);
  if (own.length < 2) return null;
  const [left, right, step] = [124, width < 480 ? 12 : 152, 24];
  const height = own.length * step + 42;
  const svg = s("svg", { width, height, role: "img", "aria-label": ladderInWords(own) });
  const bounds = own.flatMap((one) => [one.low, one.high, one.mean]);
  const pad = (Math.max(...bounds) - Math.min(...bounds) || 1) * 0.05;
  const xs = [Math.min(...bounds) - pad, Math.max(...bounds) + pad];
  const sx = scale(xs, [left, width - right]);
  for (const tick of ticks(...xs, width < 480 ? 3 : 5)) {
    svg.append(s("line", { class: tick === 0 ? "pp-axis" : "pp-grid", x1: sx(tick), x2: sx(tick), y1: 4, y2: own.length * step + 4 }),
      s("text", { x: sx(tick), y: own.length * step + 18, "text-anchor": "middle" }, String(+tick.toPrecision(4))));
  }
  own.forEach((one, k) => {
    const { name, shape, colour } = GROUPS[one.group];
    const y = 16 + k * step;
    const base = one.group === "vanilla";
    svg.append(s("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, name));
    if (!base) svg.append(s("line", { x1: sx(one.low), x2: sx(one.high), y1: y, y2: y, stroke: colour, "stroke-width": 2.4 }));
    svg.append(mark(shape, sx(one.mean), y, colour, { hollow: !base && one.low <= 0 && one.high >= 0 }));
    if (right > 100 && !base) svg.append(s("text", { x: width - right + 8, y: y + 4 }, `${signed(one.mean)} ${interval(one)}`));
  });
  svg.append(s("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" },
    width < 480 ? `${own[0].unit} over the encoder alone` : `difference to the encoder alone (${own[0].unit}); filled: the interval leaves out zero`));
  return svg;
}
