// Tables of any length: a page of rows at a time, sorted and filtered; only what changed is drawn again.

import { h, say, chip } from "./dom.js";
import { count, natural } from "./words.js";

const PAGE = 100;

/**
 * columns: [{ name, get(row) -> cell, sort?(row) -> value, num?, wide? }]; a cell is text, or
 * { text, tone?, href?, title?, mono?, sub? }, or null.
 */
export class Table {
  constructor(label, columns, { key, none = "Nothing.", filter = true, tools = [] }) {
    this.columns = columns;
    this.key = key;
    this.rows = [];
    this.page = 0;
    this.sorted = null;
    this.shown = new Map();
    this.text = "";
    this.none = none;
    this.head = columns.map((column, index) => {
      const button = h("button", { type: "button", onclick: () => this.sort(index) }, column.name);
      return h("th", { scope: "col", class: column.num ? "num" : null, "aria-sort": "none" }, button);
    });
    this.body = h("tbody");
    this.input = h("input", { type: "search", placeholder: "Filter", "aria-label": `Filter ${label}`, oninput: () => this.filter() });
    this.total = h("span", { class: "total", role: "status" });
    this.back = h("button", { type: "button", class: "quiet", onclick: () => this.turn(-1) }, "Previous");
    this.next = h("button", { type: "button", class: "quiet", onclick: () => this.turn(1) }, "Next");
    this.pager = h("div", { class: "pager" }, this.back, this.next);
    this.blank = h("p", { class: "empty", hidden: true });
    this.table = h("table", null, h("caption", { class: "away" }, label), h("thead", null, h("tr", null, this.head)), this.body);
    this.element = h(
      "div",
      { class: "listing" },
      h("div", { class: "tools" }, filter ? this.input : null, tools, this.total, this.pager),
      h("div", { class: "scroll" }, this.table),
      this.blank,
    );
  }

  set(rows) {
    this.rows = rows;
    this.draw();
  }

  filter() {
    this.text = this.input.value.trim().toLowerCase();
    this.page = 0;
    this.draw();
  }

  sort(index) {
    this.sorted = this.sorted?.index === index ? (this.sorted.down ? null : { index, down: true }) : { index, down: false };
    this.draw();
  }

  turn(by) {
    this.page += by;
    this.draw();
    this.table.scrollIntoView({ block: "nearest" });
  }

  matches(row) {
    return this.columns.some((column) => {
      const cell = column.get(row);
      const text = typeof cell === "object" && cell !== null ? `${cell.text ?? ""} ${cell.sub ?? ""}` : String(cell ?? "");
      return text.toLowerCase().includes(this.text);
    });
  }

  draw() {
    let rows = this.text ? this.rows.filter((row) => this.matches(row)) : this.rows;
    if (this.sorted) {
      const { index, down } = this.sorted;
      const column = this.columns[index];
      const value = column.sort ?? ((row) => {
        const cell = column.get(row);
        return typeof cell === "object" && cell !== null ? cell.text : cell ?? "";
      });
      const sign = down ? -1 : 1;
      rows = rows
        .map((row) => [value(row), row])
        .sort(([a], [b]) => sign * (typeof a === "number" && typeof b === "number" ? a - b : natural(a ?? "", b ?? "")))
        .map(([, row]) => row);
    }
    this.head.forEach((th, index) => {
      th.setAttribute("aria-sort", this.sorted?.index === index ? (this.sorted.down ? "descending" : "ascending") : "none");
    });
    const pages = Math.max(1, Math.ceil(rows.length / PAGE));
    this.page = Math.min(Math.max(0, this.page), pages - 1);
    const from = this.page * PAGE;
    const seen = rows.slice(from, from + PAGE);
    const range = pages > 1 ? `${count(from + 1)}–${count(from + seen.length)} of ` : "";
    say(this.total, `${range}${count(rows.length)}${this.text ? ` (of ${count(this.rows.length)})` : ""}`);
    this.pager.hidden = pages === 1;
    this.back.disabled = this.page === 0;
    this.next.disabled = this.page === pages - 1;
    this.blank.hidden = rows.length > 0;
    say(this.blank, this.text && this.rows.length > 0 ? "Nothing fits the filter." : this.none);
    this.table.hidden = rows.length === 0;
    this.patch(seen);
  }

  patch(rows) {
    const left = new Map();
    let before = null;
    for (const row of rows) {
      let key = String(this.key(row));
      while (left.has(key)) key += "'";
      const line = this.shown.get(key) ?? this.line();
      left.set(key, line);
      this.columns.forEach((column, index) => this.cell(line.cells[index], column.get(row)));
      const place = before ? before.nextSibling : this.body.firstChild;
      if (place !== line.tr) this.body.insertBefore(line.tr, place);
      before = line.tr;
    }
    for (const [key, line] of this.shown) if (!left.has(key)) line.tr.remove();
    this.shown = left;
  }

  line() {
    const cells = this.columns.map((column) =>
      h("td", { class: [column.num ? "num" : "", column.wide ? "wide" : ""].join(" ").trim() || null, data: { name: column.name } }),
    );
    return { tr: h("tr", null, cells), cells };
  }

  cell(td, value) {
    const is = JSON.stringify(value ?? null);
    if (td.made === is) return;
    td.made = is;
    td.replaceChildren(...render(value));
  }
}

function render(value) {
  if (value === null || value === undefined || value === "") return [h("span", { class: "none" }, "–")];
  if (typeof value !== "object") return [String(value)];
  const { text, tone, href, title, mono, sub } = value;
  const shown = text ?? "–";
  let main = tone ? chip(tone, shown, title) : h("span", { class: mono ? "mono" : null, title }, shown);
  if (href) main = h("a", { href, title }, shown);
  return sub ? [main, h("span", { class: "sub" }, sub)] : [main];
}
