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

/** A mark: its shape tells the fidelity, hollow: the confirmation. */
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
function panel(svg, { x, y, width, height, xs, ys, title, xName = "", whole = false, xLabels = true, digits: fixed = null }) {
  const sx = scale(xs, [x, x + width]);
  const sy = scale(ys, [y + height, y]);
  const group = s("g");
  for (const tick of ticks(...ys, Math.max(2, Math.round(height / 50))).filter((one) => fixed !== 0 || one % 1 === 0)) {
    const digits = fixed ?? Math.max(0, Math.min(6, 1 - Math.floor(Math.log10((ys[1] - ys[0]) / 2))));
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
