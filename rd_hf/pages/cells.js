// The images behind a cell of the confusion matrix.
(() => {
  const data = JSON.parse(document.getElementById("values").textContent);
  const panel = document.getElementById("cell");
  if (!data.cells || !panel) return;
  const WORDS = ["rightly absent", "false alarm", "missed", "found"];
  const make = (name, text) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  function picture(position) {
    if (data.thumbnails[position]) return data.thumbnails[position];
    const shown = document.querySelector(`img[data-position="${position}"]`);
    return shown ? shown.src : null;
  }

  function item([position, , , probability]) {
    const made = make("li"), source = picture(position), file = make("p");
    if (source) {
      const image = make("img");
      image.src = source;
      image.alt = data.files[position];
      made.append(image);
    }
    const name = make("bdi", data.files[position]);
    file.append(name);
    made.append(file, make("p", `p = ${probability.toFixed(3)}`));
    return made;
  }

  function open(button) {
    const [row, column] = button.dataset.cell.split(",").map(Number);
    const found = data.cells.filter((entry) => entry[1] === row && entry[2] === column);
    const total = Number(button.textContent);
    const title = data.kind === "single" ? `${data.names[row]}, answered ${data.names[column]}` : `${data.names[row]}: ${WORDS[column]}`;
    const list = make("ul");
    list.className = "thumbs";
    list.append(...found.map(item));
    const rest = total > found.length ? `${found.length} of ${total} ${data.unit}s, the surest answers first.` : `${total} ${data.unit}${total === 1 ? "" : "s"}, the surest answers first.`;
    const note = make("p", rest);
    note.className = "note";
    panel.replaceChildren(make("h3", title), note, list);
    panel.hidden = false;
    for (const other of document.querySelectorAll("[data-cell][aria-pressed]")) other.removeAttribute("aria-pressed");
    button.setAttribute("aria-pressed", "true");
    panel.focus({ preventScroll: true });
    panel.scrollIntoView({ block: "nearest" });
  }

  for (const button of document.querySelectorAll("[data-cell]")) button.addEventListener("click", () => open(button));
})();
