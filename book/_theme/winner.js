// "Which layer is best?": recorded accuracies of every layer, one seed at a time. Nothing is fetched, and whatever is
// shown goes through text nodes and attributes.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const [WIDE, HIGH, LEFT, TOP, FOOT] = [760, 310, 64, 14, 56];

  function make(tag, attributes = {}, ...children) {
    const svg = ["svg", "g", "path", "line", "rect", "circle", "text", "title"].includes(tag);
    const made = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  /** A real layer is a square, here as in every other picture. */
  const square = (name, x, y, size) => make("rect", { class: name, x: x - size / 2, y: y - size / 2, width: size, height: size });
  const share = (value) => `${value.toFixed(1)} %`;
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;

  /** What the seed says of a layer, and what the other seeds say of the same one. */
  function told(data, seed, layer) {
    const lead = (one) => data.accuracy[one][layer] - mean(data.accuracy[one]);
    const others = data.seeds.map((_, one) => one).filter((one) => one !== seed);
    const mixed = data.layers.map((_, one) => mean(others.map((other) => data.accuracy[other][one])));
    const rank = 1 + mixed.filter((value) => value > mixed[layer]).length;
    return { here: lead(seed), there: mean(others.map(lead)), rank };
  }

  function start(figure) {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const all = [...data.accuracy.flat(), ...Object.values(data.controls).flat()];
    const [low, high] = [Math.floor(Math.min(...all)) - 0.5, Math.ceil(Math.max(...all)) + 0.5];
    const last = data.layers.length - 1;
    const winner = (seed) => data.accuracy[seed].indexOf(Math.max(...data.accuracy[seed]));
    const state = { seed: 0, layer: winner(0) };
    const x = (place) => LEFT + 12 + (place / last) * (WIDE - LEFT - 24);
    const y = (value) => TOP + (1 - (value - low) / (high - low)) * (HIGH - TOP - FOOT);
    const svg = make("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img" });
    const slider = make("input", { type: "range", min: 0, max: last, step: 1, "aria-label": "layer" });
    const button = make("button", { type: "button" }, "Another seed");
    const words = make("p", { class: "pifi-told", role: "status" });
    const legend = make("p", { class: "pifi-legend" });

    function draw() {
      const { seed, layer } = state;
      const best = winner(seed);
      const found = told(data, seed, layer);
      const accuracy = data.accuracy[seed];
      const parts = [];
      for (let tick = Math.ceil(low); tick <= high; tick++) {
        if (tick % 2) continue;
        parts.push(make("line", { class: "grid", x1: LEFT, x2: WIDE, y1: y(tick), y2: y(tick) }),
          make("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, `${tick} %`));
      }
      for (let place = 0; place <= last; place += 5) parts.push(make("text", { x: x(place), y: HIGH - 32, "text-anchor": "middle" }, String(data.layers[place])));
      parts.push(make("text", { x: (LEFT + WIDE) / 2, y: HIGH - 6, "text-anchor": "middle" }, "layer"));
      const twins = [data.controls.random[seed], data.controls.shuffled[seed]].map(y);
      parts.push(make("rect", { class: "twins", x: LEFT, width: WIDE - LEFT, y: Math.min(...twins) - 1.5, height: Math.abs(twins[0] - twins[1]) + 3 }));
      for (const kind of ["vanilla", "linear"]) parts.push(make("line", { class: kind, x1: LEFT, x2: WIDE, y1: y(data.controls[kind][seed]), y2: y(data.controls[kind][seed]) }));
      data.accuracy.forEach((own, other) => {
        if (other !== seed) own.forEach((value, place) => parts.push(square("other", x(place), y(value), 4.5)));
      });
      accuracy.forEach((value, place) => {
        const drawn = square(place === layer ? "real chosen" : "real", x(place), y(value), place === layer ? 14 : 9);
        drawn.append(make("title", {}, `layer ${data.layers[place]}: ${value.toFixed(1)} %`));
        drawn.addEventListener("click", () => { state.layer = place; draw(); });
        parts.push(drawn);
      });
      parts.push(make("path", { class: "crown", d: `M${x(best)} ${y(accuracy[best]) - 12}l-6 -9h12z` }));
      svg.replaceChildren(...parts);
      svg.setAttribute("aria-label", `Accuracy of every layer with seed ${data.seeds[seed]}; layer ${data.layers[best]} is the highest.`);
      slider.value = layer;
      slider.setAttribute("aria-valuetext", `layer ${data.layers[layer]}`);
      const name = `Seed ${data.seeds[seed]}: layer ${data.layers[layer]}${layer === best ? " wins" : ""} with ${accuracy[layer].toFixed(1)} %, ${signed(found.here)} points against the average layer.`;
      const { vanilla, random, shuffled } = data.controls;
      words.textContent = `${name} With the other seeds the same layer has ${signed(found.there)} points and is number ${found.rank} of ${last + 1}. ` +
        `With this seed the encoder alone has ${share(vanilla[seed])}; the twins of layer ${data.layers[last]} have ${share(random[seed])} (random) and ${share(shuffled[seed])} (shuffled).`;
    }

    slider.addEventListener("input", () => { state.layer = Number(slider.value); draw(); });
    button.addEventListener("click", () => {
      state.seed = (state.seed + 1) % data.seeds.length;
      state.layer = winner(state.seed);
      draw();
    });
    const signs = { real: "a layer, this seed", other: "other seeds", twins: "random and shuffled twin", linear: "two projections", vanilla: "encoder alone", crown: "the winner" };
    for (const [kind, said] of Object.entries(signs)) {
      const sign = { real: () => square(kind, 9, 7, 9), other: () => square(kind, 9, 7, 4.5), twins: () => make("rect", { class: kind, x: 0, y: 3, width: 18, height: 8 }),
        crown: () => make("path", { class: kind, d: "M9 12l-6 -9h12z" }) }[kind] ?? (() => make("line", { class: kind, x1: 0, x2: 18, y1: 7, y2: 7 }));
      legend.append(make("span", {}, make("svg", { width: 18, height: 14, "aria-hidden": "true" }, sign()), ` ${said}`));
    }
    const wiring = data.table.slice(data.table.lastIndexOf("-") + 1); // a table is named by task and wiring
    const source = make("p", {}, `All runs are in the ${wiring} wiring, tested on ${data.texts.toLocaleString("en")} texts.`);
    figure.replaceChildren(svg, make("div", { class: "pifi-steer" }, make("label", {}, "layer ", slider), button), words, legend, source);
    draw();
  }

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".pifi-winner").forEach(start));
})();
