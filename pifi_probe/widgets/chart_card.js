// ---------------------------------------------------------------------------------------------- table and card

const COLUMNS = [
  ["n", "trial", (row) => String(row.n)],
  ["label", "candidate", (row) => row.label],
  ["fidelity", "fidelity", (row) => row.fidelity],
  ["seed", "seed", (row) => String(row.seed)],
  ["phase", "phase", (row) => row.phase],
  ["state", "state", (row) => row.state],
  ["value", "NLL", (row) => short(row.value)],
  ["accuracy", "accuracy", (row) => short(row.accuracy, 3)],
  ["cost", "cost", (row) => row.cost.toFixed(3)],
  ["seconds", "time", (row) => clock(row.seconds) || "–"],
];
const TEXTS = ["label", "fidelity", "phase", "state"];

function tableRow(row, select) {
  const pick = h("button", { type: "button", "aria-label": `trial ${row.n}, ${row.label}`, onclick: () => select(row.n) }, String(row.n));
  const cells = COLUMNS.slice(1).map(([name, , text]) => h("td", { class: TEXTS.includes(name) ? null : "pp-number" }, text(row)));
  return h("tr", { class: `pp-${row.state}`, "data-trial": row.n, onclick: () => select(row.n) }, h("td", {}, pick), cells);
}

function card(row) {
  if (!row) return [h("p", { class: "pp-quiet" }, "Select a trial in the chart or in the table to see its recipe, curve and cost.")];
  const facts = [
    ["state", row.state], ["fidelity, seed", `${row.fidelity}, ${row.seed}`],
    [row.fidelity === "estimator" ? "minus the score" : "NLL (nats)", short(row.value)], ["accuracy", short(row.accuracy, 3)],
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

/** Whether it can change texts against the projections: layers do, on fresh seeds or not. */
const changes = (row) => row.state === "complete" && !row.control && row.kind !== "one-shot";

/** Texts that a layer fixes and breaks against the projections alone. */
function textsOf(label, { words, fixed, broken }) {
  const list = (title, found) => (found.length ? [h("h4", {}, title), h("ul", {}, found.map((one) =>
    h("li", {}, h("q", {}, one.text), h("span", { class: "pp-quiet" }, ` ${one.label}; ${one.runs}`))))] : []);
  return [h("h3", {}, "Against the projections alone"), h("p", {}, words), ...list("It fixes", fixed), ...list("It breaks", broken)];
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
