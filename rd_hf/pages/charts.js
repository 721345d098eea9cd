// Charts that are drawn already: the pointer or the arrow keys move a cursor, and a line under the chart says the values.
const charts = (() => {
  const SPACE = "http://www.w3.org/2000/svg";

  function element(name, attributes, inside) {
    const made = document.createElementNS(SPACE, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (inside !== undefined) made.textContent = inside;
    return made;
  }

  const shown = (value) => (Math.abs(value) >= 1000 || Number.isInteger(value) ? String(value) : value.toPrecision(4));

  function walk(svg) {
    const series = JSON.parse(svg.dataset.series), [left, top, right, bottom, x0, x1, y0, y1] = JSON.parse(svg.dataset.frame);
    const stops = [...new Set(series.flatMap((one) => one.x))].sort((a, b) => a - b);
    const cursor = element("line", { class: "cursor", y1: top, y2: bottom, visibility: "hidden" });
    svg.append(cursor);
    const readout = svg.parentElement.querySelector(".readout");
    let at = -1;

    function go(place) {
      at = Math.min(Math.max(place, 0), stops.length - 1);
      const x = left + ((right - left) * (stops[at] - x0)) / (x1 - x0);
      for (const key of ["x1", "x2"]) cursor.setAttribute(key, x);
      cursor.setAttribute("visibility", "visible");
      const values = series.flatMap((one) => {
        const place = one.x.indexOf(stops[at]);
        return place < 0 ? [] : [`${one.title} ${shown(one.y[place])}`];
      });
      const text = `${svg.dataset.x} ${shown(stops[at])}: ${values.join(", ")}`;
      readout.textContent = text;
      svg.setAttribute("aria-valuenow", at);
      svg.setAttribute("aria-valuetext", text);
    }

    function hide() {
      cursor.setAttribute("visibility", "hidden");
      readout.textContent = "";
    }

    svg.setAttribute("role", "slider");
    svg.setAttribute("tabindex", "0");
    svg.setAttribute("aria-valuemin", 0);
    svg.setAttribute("aria-valuemax", stops.length - 1);
    svg.setAttribute("aria-valuenow", 0);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const across = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      const value = x0 + ((across - left) / (right - left)) * (x1 - x0);
      let best = 0;
      for (let place = 1; place < stops.length; place++) {
        if (Math.abs(stops[place] - value) < Math.abs(stops[best] - value)) best = place;
      }
      go(best);
    });
    svg.addEventListener("pointerleave", () => document.activeElement === svg || hide());
    svg.addEventListener("focus", () => go(at < 0 ? stops.length - 1 : at));
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1, Home: 0, End: stops.length - 1 };
      if (event.key in moves) { go(moves[event.key]); event.preventDefault(); }
    });
  }

  if (typeof document !== "undefined") document.querySelectorAll("svg[data-series]").forEach(walk);
  return { element };
})();
