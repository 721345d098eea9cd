// Elements of the page, made in one call.

/**
 * An element with attributes and children; `class` and `text` are what they say.
 * @param {string} name
 * @param {Record<string, unknown>} attributes
 * @param {...Node} children
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") made.textContent = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** A share as a percentage with one decimal, on one line. */
export function percent(value) {
  return `${(100 * value).toFixed(1)}\u00a0%`;
}
