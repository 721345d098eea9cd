// ROC and precision-recall curves of a class, and the operating point that the reader moves along them.
(() => {
  const data = JSON.parse(document.getElementById("values").textContent);
  if (!data.curves) return;
  const find = (id) => document.getElementById(id);
  const SIDE = 360, LEFT = 48, BOTTOM = SIDE - 44, TOP = 10, RIGHT = SIDE - 10;
  const x = (value) => LEFT + (RIGHT - LEFT) * value, y = (value) => BOTTOM - (BOTTOM - TOP) * value;
  const percent = (value) => `${value > 0 && value < 0.001 ? Number((100 * value).toPrecision(2)) : (100 * value).toFixed(1)} %`;
  const three = (value) => (value === null ? "undefined" : value.toFixed(3));
  const range = (bounds) => (bounds ? `${three(bounds[0])} to ${three(bounds[1])}` : "");
  const decoded = new Map();
  let chosen = data.first, at = 0, exact = null, dots = [];

  function numbers(text, Kind) {
    return new Kind(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  }

  function curve() {
    if (!decoded.has(chosen)) {
      const raw = data.curves[chosen];
      decoded.set(chosen, { ...raw, t: numbers(raw.t, Float64Array), tp: numbers(raw.tp, Uint32Array), fp: numbers(raw.fp, Uint32Array) });
    }
    return decoded.get(chosen);
  }

  // Counts at the point; place -1 lies above every probability, where no image is answered with the class.
  const counts = (place) => (place < 0 ? [0, 0] : [curve().tp[place], curve().fp[place]]);

  function axes(svg, xTitle, yTitle) {
    svg.replaceChildren();
    for (const tick of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
      svg.append(charts.element("line", { class: "grid", x1: LEFT, x2: RIGHT, y1: y(tick), y2: y(tick) }));
      svg.append(charts.element("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, tick));
      svg.append(charts.element("text", { x: x(tick), y: BOTTOM + 18, "text-anchor": "middle" }, tick));
    }
    svg.append(charts.element("text", { class: "title", x: (LEFT + RIGHT) / 2, y: SIDE - 6, "text-anchor": "middle" }, xTitle));
    svg.append(charts.element("text", { class: "title", transform: `translate(12 ${(TOP + BOTTOM) / 2}) rotate(-90)`, "text-anchor": "middle" }, yTitle));
  }

  function line(svg, points) {
    let last = "";
    const steps = [];
    for (const [across, up] of points) {
      const step = `${x(across).toFixed(1)} ${y(up).toFixed(1)}`;
      if (step !== last) steps.push(step);
      last = step;
    }
    if (steps.length) svg.append(charts.element("path", { class: "line s0", d: `M${steps.join("L")}` }));
  }

  function points() {
    const { tp, fp, positives, negatives } = curve();
    const roc = [[0, 0]], pr = [];
    for (let place = 0; place < tp.length; place++) {
      roc.push([fp[place] / negatives, tp[place] / positives]);
      if (tp[place] + fp[place]) pr.push([tp[place] / positives, tp[place] / (tp[place] + fp[place])]);
    }
    return { roc, pr };
  }

  function draw() {
    const { positives, negatives, auroc, ap } = curve();
    const both = positives > 0 && negatives > 0, found = both ? points() : { roc: [], pr: [] };
    axes(find("roc"), "1 − specificity", "sensitivity");
    axes(find("pr"), "recall (sensitivity)", "precision (PPV)");
    find("roc").append(charts.element("line", { class: "chance", x1: x(0), y1: y(0), x2: x(1), y2: y(1) }));
    const share = positives / (positives + negatives || 1);
    find("pr").append(charts.element("line", { class: "chance", x1: x(0), y1: y(share), x2: x(1), y2: y(share) }));
    dots = ["roc", "pr"].map((id) => {
      line(find(id), found[id]);
      const dot = charts.element("circle", { class: "here", r: 7, visibility: "hidden" });
      find(id).append(dot);
      if (!both) find(id).append(charts.element("text", { x: SIDE / 2 + 18, y: SIDE / 2, "text-anchor": "middle" }, "no curve: one kind of image only"));
      return dot;
    });
    find("auroc").textContent = ` · AUROC ${three(auroc)}`;
    find("ap").textContent = ` · average precision ${three(ap)}`;
    const kept = curve().t.length;
    find("thinned").textContent = curve().all > kept
      ? `Of ${curve().all} different thresholds this file holds ${kept}, with exact counts at each; between them the curve is a straight line.` : "";
    find("point").min = -1;
    find("point").max = kept - 1;
    find("stored").hidden = curve().stored === null;
  }

  function put(dot, across, up) {
    const defined = Number.isFinite(across) && Number.isFinite(up);
    dot.setAttribute("visibility", defined ? "visible" : "hidden");
    if (defined) { dot.setAttribute("cx", x(across)); dot.setAttribute("cy", y(up)); }
  }

  function show() {
    const { positives, negatives, t } = curve(), [tp, fp] = counts(at);
    const typed = curve().all > t.length && at >= 0 ? null : exact; // the counts are those of a kept threshold
    const threshold = typed ?? (at < 0 ? t[0] : t[at]), where = at < 0 && typed === null ? "Above" : "From";
    const found = statistics.rates(tp, fp, positives, negatives);
    const prevalence = Math.min(1, Math.max(0, Number(find("prevalence").value) / 100));
    const [ppv, npv] = statistics.atPrevalence(found, prevalence);
    const of = { PPV: ppv, NPV: npv };
    put(dots[0], fp / negatives, tp / positives);
    put(dots[1], tp / positives, tp / (tp + fp));
    find("point").value = at;
    find("value").value = statistics.floored(threshold);
    find("point").setAttribute("aria-valuetext", `threshold ${threshold.toPrecision(3)}, sensitivity ${three(found[0].value)}, specificity ${three(found[1].value)}`);
    find("sentence").textContent = `${where} ${threshold.toPrecision(4)}${where === "From" ? " on" : ""}, ${tp + fp} of ${positives + negatives} ${data.unit}s are answered “${data.names[chosen]}”: ${tp} rightly, ${fp} wrongly. ${positives - tp} are missed.`;
    find("rates").replaceChildren(...found.map((rate) => {
      const row = document.createElement("tr"), head = document.createElement("th");
      head.scope = "row";
      const counted = document.createElement("small");
      counted.textContent = `${rate.k} of ${rate.n}`;
      head.append(rate.name, counted);
      const there = of[rate.name];
      const same = rate.name in of ? null : rate;
      row.append(head, estimate(rate), estimate(there ?? same));
      return row;
    }));
    people(found, prevalence);
  }

  function estimate(rate) {
    const cell = document.createElement("td"), value = document.createElement("b"), bounds = document.createElement("span");
    value.textContent = three(rate ? rate.value : null);
    bounds.className = "ci";
    bounds.textContent = rate ? range(rate.interval) : "";
    cell.append(value, bounds);
    return cell;
  }

  // The same in whole numbers, which are read more surely than shares (Gigerenzer and Hoffrage 1995).
  function people(found, prevalence) {
    const [sensitivity, specificity] = found;
    if (sensitivity.value === null || specificity.value === null) { find("people").textContent = ""; return; }
    const all = prevalence > 0 && prevalence < 0.005 ? 100000 : 1000;
    const sick = Math.round(all * prevalence), well = all - sick;
    const hits = Math.round(sick * sensitivity.value), alarms = Math.round(well * (1 - specificity.value));
    find("people").textContent = `Of ${all} ${data.unit}s at a prevalence of ${percent(prevalence)}, ${sick} have the class: ${hits} are found and ${sick - hits} missed. Of the ${well} others, ${alarms} are false alarms.`;
  }

  function move(place, threshold = null) {
    at = Math.min(Math.max(place, -1), curve().t.length - 1);
    exact = threshold;
    show();
  }

  const moveTo = (threshold) => move(statistics.placeOf(curve().t, threshold), threshold);
  const youden = () => move(statistics.youden(curve().tp, curve().fp, curve().positives || 1, curve().negatives || 1));

  function sampled() {
    const { positives, negatives } = curve();
    find("prevalence").value = Number(((100 * positives) / (positives + negatives || 1)).toPrecision(4));
  }

  function start() {
    draw();
    sampled();
    if (curve().stored !== null) moveTo(curve().stored); else moveTo(0.5);
  }

  function click(event, id) {
    const svg = find(id), box = svg.getBoundingClientRect();
    const across = ((event.clientX - box.left) / box.width) * SIDE, up = ((event.clientY - box.top) / box.height) * SIDE;
    const { tp, fp, positives, negatives } = curve();
    let best = at, least = Infinity;
    for (let place = -1; place < tp.length; place++) {
      const [hits, alarms] = counts(place);
      const [one, two] = id === "roc" ? [alarms / negatives, hits / positives] : [hits / positives, hits / (hits + alarms)];
      const distance = (x(one) - across) ** 2 + (y(two) - up) ** 2;
      if (distance < least) { least = distance; best = place; }
    }
    if (best !== at) move(best);
  }

  find("class").value = chosen;
  find("class").addEventListener("change", (event) => { chosen = Number(event.target.value); start(); });
  find("point").addEventListener("input", (event) => move(Number(event.target.value)));
  find("value").addEventListener("change", (event) => event.target.value !== "" && moveTo(Number(event.target.value)));
  find("prevalence").addEventListener("input", show);
  find("stored").addEventListener("click", () => moveTo(curve().stored));
  find("half").addEventListener("click", () => moveTo(0.5));
  find("youden").addEventListener("click", youden);
  find("sampled").addEventListener("click", () => { sampled(); show(); });
  for (const id of ["roc", "pr"]) {
    find(id).addEventListener("pointerdown", (event) => { find(id).setPointerCapture(event.pointerId); click(event, id); });
    find(id).addEventListener("pointermove", (event) => event.buttons && click(event, id));
  }
  start();
})();
