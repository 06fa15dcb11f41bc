// Elements. All text goes in as text, never as markup: names come from peers and containers.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An HTML element: `h("p", { class: "x" }, "text", other)`. */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** An SVG element. */
export function s(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

export function byId(id) {
  return document.getElementById(id);
}

/** Sets text only if it changed, so that a selection in it stays. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Puts `make()` into `place` when `of` is not what it was: what has not changed keeps its focus and selection. */
export function remake(place, of, make) {
  const now = JSON.stringify(of);
  if (place.made === now) return;
  place.made = now;
  const focused = place.contains(document.activeElement) ? document.activeElement : null;
  const key = focused?.dataset?.key ?? focused?.getAttribute("href");
  place.replaceChildren(...[make()].flat(Infinity).filter(Boolean));
  if (!focused || !key) return;
  for (const again of place.querySelectorAll("[data-key],[href]")) {
    if ((again.dataset.key ?? again.getAttribute("href")) === key) {
      again.focus({ preventScroll: true });
      break;
    }
  }
}

/** A state as a word with a mark: never by colour alone. */
export function chip(tone, text, title) {
  return h("span", { class: `chip ${tone}`, title }, h("span", { class: "glyph", "aria-hidden": "true" }, GLYPH[tone] ?? "·"), text);
}

export const GLYPH = { good: "●", warn: "▲", bad: "■", idle: "○", info: "◆" };

/** A part of a page with a heading. */
export function section(title, ...children) {
  return h("section", null, h("h2", null, title), ...children);
}

export function empty(text) {
  return h("p", { class: "empty" }, text);
}
