// ---------------------------------------------------------------------------------------------- the page

// views that not every search has, and what is read out in place of a picture
const NEEDS = { gain: hasGain, map: (rows) => chainsOf(rows) !== null };
const SAID = { depth: inWords, gain: gainInWords, map: mapInWords };

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
    this.upto = null; // trials that are replayed; null: all there are
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
    this.ladder = h("div", { class: "pp-ladder" });
    this.badge = h("strong", { class: "pp-badge" });
    this.numbers = h("span");
    this.progress = h("progress", { max: 1, value: 0, "aria-label": "share of the budget that is spent" });
    this.confirmed = h("progress", { max: 1, value: 0, "aria-label": "share of the confirmation that is done" });
    this.next = h("p", { class: "pp-why" });
    this.message = h("p", { class: "pp-message" });
    this.estimate = h("p", { class: "pp-quiet" });
    this.verdict = h("div", { class: "pp-verdict" });
    this.change = h("section", { class: "pp-box", "aria-label": "What would change this?" });
    this.texts = h("section", { class: "pp-box", "aria-label": "Texts that the layer changes", "aria-live": "polite" });
    this.tabs = Object.entries(VIEWS).map(([name, words]) => h("button", { type: "button", "data-view": name, onclick: () => this.set("view", name) }, words));
    this.figure = h("div", { class: "pp-figure", tabindex: 0, role: "group", "aria-label": "Chart; the arrow keys move from trial to trial" });
    this.legend = h("div", { class: "pp-legend" });
    this.words = h("p", { class: "pp-quiet" });
    this.slider = h("input", { type: "range", min: 1, step: 1, "aria-label": "Replay of the search", oninput: () => this.rewind(Number(this.slider.value)) });
    this.step = h("p", { class: "pp-step" });
    this.replay = h("div", { class: "pp-replay" }, h("span", { "aria-hidden": "true" }, "Replay "), this.slider, this.step);
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
    this.root = h("div", { class: "pp-search" }, this.answer, this.ladder,
      h("div", { class: "pp-told" }, h("div", { class: "pp-status" }, this.badge, this.numbers, this.progress, this.confirmed),
        this.next, this.message, this.estimate),
      h("div", { class: "pp-bar" }, h("div", { role: "group", "aria-label": "View", class: "pp-tabs" }, this.tabs),
        h("div", { role: "group", "aria-label": "Save", class: "pp-save" }, "Save ", save)),
      h("div", { class: "pp-main" }, h("div", { class: "pp-chart" }, this.figure, this.legend, this.words, this.replay), h("div", { class: "pp-aside" }, this.verdict, this.change, this.card, this.texts)),
      h("div", { class: "pp-bar pp-below" }, this.search, this.count),
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
    for (const name of ["facts", "summary", "texts", "selected", "view", "metric"]) this.heard[`change:${name}`] = () => this.draw();
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
    if (row) this.say(`Trial ${row.n}: ${row.label}, ${row.fidelity} run, ${row.state}, NLL ${short(row.value)}`, true);
  }

  /** Show the search as it was after so many trials; at the end it is live again. */
  rewind(upto) {
    const all = this.ordered();
    this.upto = upto >= all.length ? null : Math.max(upto, 1);
    this.set("selected", this.upto === null ? null : all[this.upto - 1].n);
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
    const marks = this.drawn.marks.filter((one) => !one.block); // the same layers stand above the blocks
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
    const all = this.ordered();
    const rows = replayed(all, this.upto);
    const width = Math.max(280, Math.floor(this.root.clientWidth));
    if (!this.root.isConnected || !this.root.clientWidth) return;
    this.root.classList.toggle("pp-wide", width >= 900);
    this.root.classList.toggle("pp-narrow", width < 520);
    this.drawStatus();
    this.drawLadder();
    this.drawReplay(all);
    this.drawChart(rows);
    this.drawChange();
    this.drawCard();
    this.drawTexts();
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

  drawLadder() {
    const { ladder, chosen } = this.get("summary");
    const width = Math.max(280, Math.floor(this.root.clientWidth - 16));
    const told = JSON.stringify([ladder, chosen, width]);
    if (told === this.laddered) return;
    this.laddered = told;
    const drawn = ladderOf(ladder ?? [], Math.min(width, 640));
    this.ladder.replaceChildren(...(drawn ? [drawn] : []));
  }

  drawChange() {
    const { words, offer } = this.get("summary").change ?? {};
    const told = JSON.stringify([words, offer]);
    if (told === this.changed) return; // so that the button keeps the focus
    this.changed = told;
    this.change.hidden = !words;
    const spend = offer && this.model.send ? h("button", { type: "button", onclick: () => this.model.send({ kind: "separate" }) }, offer) : null;
    this.change.replaceChildren(...[h("h3", {}, "What would change this?"), h("p", {}, words ?? ""), spend].filter(Boolean));
  }

  drawTexts() {
    const row = this.rows.get(this.get("selected"));
    const told = row && changes(row) ? this.get("texts")?.[row.label] : null;
    const known = told ? JSON.stringify([row.label, told]) : "";
    if (known === this.texted) return;
    this.texted = known;
    this.texts.hidden = !told;
    this.texts.replaceChildren(...(told ? textsOf(row.label, told) : []));
  }

  drawCard() {
    const row = this.rows.get(this.get("selected"));
    if (row && row === this.carded) return; // so that an open recipe stays open
    this.carded = row;
    this.card.replaceChildren(...card(row).filter(Boolean));
    if (row && !this.get("texts")?.[row.label] && this.model.send && changes(row)) this.model.send({ kind: "texts", label: row.label });
  }

  drawChart(rows) {
    const view = this.view(rows);
    const summary = this.upto === null ? this.get("summary") : { models: this.get("summary").models, headroom: this.get("summary").headroom }; // what is known at the end was not known then
    for (const tab of this.tabs) {
      tab.setAttribute("aria-pressed", tab.dataset.view === view);
      tab.hidden = tab.dataset.view !== view && NEEDS[tab.dataset.view]?.(this.ordered()) === false;
    }
    const width = Math.max(280, Math.floor(this.figure.clientWidth));
    const svg = s("svg", { width, role: "img", "aria-label": SAID[view]?.(rows, summary) ?? VIEWS[view] });
    const drawn = rows.length ? DRAW[view](svg, width, { rows, summary, metric: this.get("metric") }) : null;
    this.drawn = drawn ?? { marks: [] };
    this.svg = drawn ? svg : null;
    this.words.textContent = drawn?.words ?? "";
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

  /** The view that is shown: what was asked for, or what there is most to see in. */
  view(rows) {
    const asked = this.get("view");
    return asked === "auto" ? (NEEDS.map(rows) ? "map" : NEEDS.gain(rows) ? "gain" : "depth") : asked;
  }

  drawReplay(all) {
    this.replay.hidden = all.length < 2;
    const at = this.upto ?? all.length;
    this.slider.max = all.length;
    this.slider.value = at;
    const words = stepInWords(all, at);
    this.slider.setAttribute("aria-valuetext", words);
    this.step.textContent = this.upto === null ? "Move the slider to replay the search trial by trial." : words;
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
