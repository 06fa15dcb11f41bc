// The first view: is all well, and if not, what and why.

import { h, chip, remake, say, section, GLYPH } from "./dom.js";
import { events, health, known, now } from "./daemon.js";
import { troubles } from "./health.js";
import { Topology } from "./topology.js";
import { eventList, eventTone } from "./events.js";
import { ago, count, many, span } from "./words.js";

export const needs = ["members", "ports", "plugins"];

export function make() {
  const mark = h("span", { class: "mark", "aria-hidden": "true" });
  const title = h("h1");
  const lead = h("p", { class: "lead" });
  const statement = h("div", { class: "statement", role: "status", data: { tone: "idle" } }, mark, h("div", null, title, lead));
  const list = h("ul", { class: "troubles" });
  const topology = new Topology();
  const facts = h("dl", { class: "facts" });
  const recent = h("ol", { class: "events" });
  const element = h(
    "div",
    { class: "view overview" },
    statement,
    list,
    section("Topology", topology.element),
    section("In figures", facts),
    section("Latest events", recent, h("p", { class: "more" }, h("a", { href: "#/events" }, "All events"))),
  );
  return {
    element,
    draw() {
      const status = known.status;
      if (!status) {
        say(title, health.error ? "The daemon is not heard" : "Asking the daemon");
        say(lead, health.error ? health.error.message : "…");
        statement.dataset.tone = health.error ? "bad" : "idle";
        say(mark, GLYPH[statement.dataset.tone]);
        return;
      }
      const found = troubles().filter((one) => one.tone !== "info");
      const bad = found.filter((one) => one.tone === "bad").length;
      const lost = health.error !== null;
      statement.dataset.tone = lost || bad > 0 ? "bad" : found.length > 0 ? "warn" : "good";
      say(mark, GLYPH[statement.dataset.tone]);
      say(
        title,
        lost
          ? "The daemon is not heard any more"
          : found.length === 0
            ? "All is well"
            : bad > 0
              ? `${many(bad, "thing")} ${bad === 1 ? "is" : "are"} broken`
              : `${many(found.length, "thing")} to look at`,
      );
      const other = Math.max(0, status.members - 1);
      say(
        lead,
        lost
          ? `What you see is of ${ago(health.at, Date.now())}. ${health.error.message}`
          : `${count(status.peers_up)} of ${many(other, "peer")} up, ${count(status.ports_ready)} of ${many(status.ports, "port")} ready, ${many(status.networks, "network")}.`,
      );
      remake(list, found, () =>
        found.map((one) =>
          h(
            "li",
            { class: one.tone },
            chip(one.tone, one.tone === "bad" ? "broken" : "look"),
            h("div", null, one.href ? h("a", { href: one.href }, one.what) : h("strong", null, one.what), one.why ? h("p", null, one.why) : null, one.todo ? h("p", { class: "todo" }, `To do: ${one.todo}`) : null),
          ),
        ),
      );
      topology.draw();
      const rows = [
        ["Members", `${count(status.members_alive)} of ${count(status.members)} alive`],
        ["Networks", count(status.networks)],
        ["Ports here", `${count(status.ports_ready)} of ${count(status.ports)} ready`],
        ["MACs known", count(status.fdb_entries)],
        ["Frames dropped", count(status.dropped), "#/drops"],
        ["Fenced off", count(status.fenced_off), "#/drops"],
        ["Running for", span((now() - status.started_at_ms) / 1000)],
        ["Version", status.version],
        ["Role", `${status.role}${status.has_root ? ", holds the root key" : ""}`],
        ["Reached at", (status.addresses ?? []).join(", ") || "–"],
      ];
      remake(facts, rows, () => rows.map(([name, value, href]) => h("div", null, h("dt", null, name), h("dd", null, href ? h("a", { href }, value) : value))));
      // Paths that could not be and still cannot are no news.
      const last = events.filter((event) => eventTone(event) !== "idle").slice(-8).reverse();
      remake(recent, [last.map((e) => e.seq), Math.floor(now() / 10000)], () => eventList(last));
    },
  };
}
