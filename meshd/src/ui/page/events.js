// What happened, newest first.

import { h, chip, remake, say } from "./dom.js";
import { events, now } from "./daemon.js";
import { ago, count, when } from "./words.js";

export const needs = [];

const BAD = /^(peer-down|link-down|node-dead|port-failed|kernel-trouble|state-unkept|port-blocked)$/;
const WARN = /^(peer-refused|invite-refused|refused|path-shrank|plugin-quarantined|mac-flaps|held-back|bridge-filtered|port-gone|port-narrow|service-refused|service-differs|service-hidden|member-revoked|network-removed)$|-conflict$/;
const GOOD = /^(peer-up|link-up|node-alive|port-ready|port-mended|port-unblocked|state-kept|member-joined|bridge-unfiltered|kernel-repaired|network-added)$/;

export function eventTone(event) {
  const kind = event.event ?? "";
  if (kind === "path") return event.to === "up" ? "good" : event.to === "held" ? "bad" : event.from === "up" ? "warn" : "idle";
  if (kind === "port-far-end") return event.up ? "good" : "warn";
  if (kind === "plugin") return event.state === "failing" ? "bad" : event.state === "well" ? "good" : "info";
  if (kind === "device") return event.to === "failed" ? "bad" : "info";
  if (kind === "started") return event.clean ? "info" : "warn";
  if (BAD.test(kind)) return "bad";
  if (WARN.test(kind)) return "warn";
  return GOOD.test(kind) ? "good" : "info";
}

export function eventList(list) {
  return list.length === 0
    ? [h("li", { class: "empty" }, "Nothing has happened yet.")]
    : list.map((event) =>
        h(
          "li",
          { data: { event: event.event, seq: event.seq } },
          h("time", { datetime: new Date(event.at_ms).toISOString(), title: ago(event.at_ms, now()) }, when(event.at_ms)),
          chip(eventTone(event), event.event ?? "event"),
          h("span", { class: "what" }, event.text),
        ),
      );
}

export function make() {
  const input = h("input", { type: "search", placeholder: "Filter", "aria-label": "Filter events", oninput: () => draw() });
  const only = h("input", { type: "checkbox", onchange: () => draw() });
  const total = h("span", { class: "total", role: "status" });
  const list = h("ol", { class: "events" });
  function draw() {
    const text = input.value.trim().toLowerCase();
    const seen = events.filter(
      (event) => (!only.checked || ["bad", "warn"].includes(eventTone(event))) && (!text || `${event.event} ${event.text}`.toLowerCase().includes(text)),
    );
    say(total, seen.length === events.length ? count(seen.length) : `${count(seen.length)} of ${count(events.length)}`);
    const last = seen.slice(-200).reverse();
    remake(list, last.map((event) => event.seq), () => eventList(last));
  }
  return {
    element: h("div", { class: "view" }, h("h1", null, "Events"), h("div", { class: "tools" }, input, h("label", { class: "check" }, only, "only trouble"), total), list),
    draw,
  };
}
