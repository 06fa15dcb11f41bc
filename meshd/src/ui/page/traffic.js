// Flows that are decided, and frames that were dropped.

import { h, remake, chip, empty } from "./dom.js";
import { known, now, rate } from "./daemon.js";
import { Table } from "./table.js";
import { ago, bits, bytes, count, many, nodeName, when } from "./words.js";

const TIER = {
  kernel: { text: "kernel", tone: "good", title: "the kernel sees to it by itself" },
  datapath: { text: "daemon", tone: "info", title: "a cached ruling of the daemon" },
  slow: { text: "asked", tone: "warn", title: "each frame is a question of its own" },
};

export function flows() {
  const table = new Table(
    "Flows",
    [
      { name: "Network", get: (f) => f.network },
      { name: "From", get: (f) => f.origin },
      { name: "Flow", wide: true, get: (f) => ({ text: f.flow, mono: true }) },
      { name: "Ruling", get: (f) => (f.action?.startsWith("drop") ? { text: f.action, tone: "bad" } : f.action) },
      { name: "Lives in", get: (f) => TIER[f.lives] ?? f.lives },
      { name: "Frames", num: true, get: (f) => count(f.frames), sort: (f) => f.frames },
      {
        name: "Bytes",
        num: true,
        get: (f) => {
          const perSecond = rate(`f:${f.vni}:${f.origin}:${f.flow}`, f.bytes);
          return { text: bytes(f.bytes), sub: perSecond ? bits(perSecond * 8) : null };
        },
        sort: (f) => f.bytes,
      },
      { name: "Since", get: (f) => ago(f.since_at_ms, now()), sort: (f) => f.since_at_ms },
      { name: "Why not in the kernel", wide: true, get: (f) => f.why },
    ],
    { key: (f) => `${f.vni} ${f.origin} ${f.flow} ${f.action}`, none: "No flows: no frame came lately." },
  );
  return {
    element: h("div", { class: "view" }, h("h1", null, "Flows"), h("p", { class: "lead" }, "Rulings that hold for many frames, and where those are seen to."), table.element),
    draw: () => table.set(known.flows ?? []),
  };
}

function originOf(value) {
  return typeof value === "string" ? value : value?.name ?? (value?.id ? nodeName(value) : JSON.stringify(value));
}

export function drops() {
  const sum = h("p", { class: "lead" });
  const list = h("ul", { class: "drops" });
  return {
    element: h("div", { class: "view" }, h("h1", null, "Drops"), sum, list),
    draw() {
      const rows = (known.drops ?? []).filter((row) => row.count > 0).sort((a, b) => b.count - a.count);
      const total = rows.reduce((all, row) => all + row.count, 0);
      const shown = rows.map((row) => {
        const perSecond = row.recent_ms ? (row.recent * 1000) / row.recent_ms : rate(`d:${row.reason}`, row.count);
        return { ...row, perSecond: Math.round((perSecond ?? 0) * 10) / 10 };
      });
      remake(sum, total, () => [total === 0 ? "No frame was dropped since the daemon started." : `${many(total, "frame")} since the daemon started, by reason.`]);
      remake(list, [shown, Math.floor(now() / 5000)], () => (rows.length === 0 ? empty("Nothing.") : shown.map((row) => item(row, total))));
    },
  };
}

function item(row, total) {
  const bar = h("span", { class: "bar", "aria-hidden": "true" }, h("span"));
  bar.firstChild.style.width = `${Math.max(1, (row.count / total) * 100)}%`;
  const places = (row.places ?? []).filter((place) => place.count > 0);
  const last = row.last;
  return h(
    "li",
    null,
    h(
      "div",
      { class: "drop-head" },
      h("strong", null, row.reason),
      h("span", { class: "figure" }, count(row.count)),
      row.perSecond > 0 ? chip("warn", `${row.perSecond} a second`) : chip("idle", "not now"),
    ),
    bar,
    h("p", null, row.explanation),
    last
      ? h(
          "p",
          { class: "last" },
          h("span", null, `Last ${ago(last.at_ms, now())} (${when(last.at_ms)})${last.network ? ` on ${last.network}` : ""}, from ${originOf(last.origin)}: `),
          h("code", null, last.flow ?? "a frame that could not be read"),
          last.why ? h("span", null, ` (${last.why})`) : null,
        )
      : null,
    places.length > 0
      ? h(
          "details",
          null,
          h("summary", { data: { key: `drop:${row.reason}` } }, `Where: ${many(places.length, "place")}`),
          h("ul", { class: "places" }, places.slice(0, 50).map((place) => h("li", null, `${count(place.count)} on ${place.network ?? "no network"}, from ${place.origin ?? "elsewhere"}`))),
        )
      : null,
  );
}
