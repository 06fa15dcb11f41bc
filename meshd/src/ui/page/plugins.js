// The policy chain of each network, and what each plugin of it costs.

import { h, s, chip, remake, empty } from "./dom.js";
import { known } from "./daemon.js";
import { count, nanos, natural } from "./words.js";

export const needs = ["plugins", "plugin-stats"];

const STAGES = ["guard", "classify", "forward", "observe"];

export function make() {
  const chains = h("div", { class: "chains" });
  const installed = h("ul", { class: "installed" });
  return {
    element: h("div", { class: "view" }, h("h1", null, "Plugins"), h("p", { class: "lead" }, "Who is asked about a frame on this node, in order, and how long the answer takes."), chains, h("h2", null, "Installed"), installed),
    draw() {
      const plugins = known.plugins ?? [];
      const stats = new Map((known["plugin-stats"] ?? []).map((one) => [`${one.vni} ${one.plugin}`, one]));
      const byNetwork = new Map();
      for (const plugin of plugins) {
        for (const at of plugin.attachments ?? []) {
          const links = byNetwork.get(at.network) ?? [];
          links.push({ plugin: plugin.name, at, stats: stats.get(`${at.vni} ${plugin.name}`) ?? null });
          byNetwork.set(at.network, links);
        }
      }
      const shown = [...byNetwork].sort(([a], [b]) => natural(a, b));
      for (const [, links] of shown) {
        links.sort((a, b) => STAGES.indexOf(a.at.stage) - STAGES.indexOf(b.at.stage) || a.at.order - b.at.order || natural(a.plugin, b.plugin));
      }
      remake(chains, shown, () =>
        shown.length === 0
          ? empty("No plugin decides: all frames pass. `meshd plugin attach NAME NETWORK` puts one into a chain.")
          : shown.map(([network, links]) => h("section", null, h("h2", null, network), h("ol", { class: "chain" }, h("li", { class: "end" }, "a frame"), links.map(card), h("li", { class: "end" }, "forwarded")))),
      );
      remake(installed, plugins.map(({ calls, attachments, ...rest }) => [rest, attachments?.length]), () =>
        plugins.length === 0
          ? empty("None is installed.")
          : plugins.map((plugin) =>
              h(
                "li",
                null,
                h("strong", null, plugin.name),
                " ",
                plugin.trouble ? chip("bad", "cannot be used") : (plugin.attachments?.length ?? 0) > 0 ? chip("good", "attached") : chip("idle", "not attached"),
                h("p", null, plugin.manifest ? `${plugin.manifest.name} ${plugin.manifest.version}${plugin.manifest.description ? `: ${plugin.manifest.description}` : ""}` : "without a manifest"),
                plugin.trouble ? h("p", { class: "todo" }, plugin.trouble) : null,
                h("p", { class: "mono small" }, plugin.digest.slice(0, 16)),
              ),
            ),
      );
    },
  };
}

function card({ plugin, at, stats }) {
  const tone = at.trouble ? "bad" : at.quarantine || at.failed > 0 ? "warn" : "good";
  const word = at.trouble ? "does not answer" : at.quarantine ? "quarantined" : at.failed > 0 ? "failed at times" : "answers";
  const figures = [
    ["asked", count(at.asked)],
    ["refused", count(at.dropped)],
    ["failed", count(at.failed)],
    ["mean", nanos(stats?.calls ? stats.mean_ns : null)],
    ["half below", nanos(stats?.p50_below_ns)],
    ["99 % below", nanos(stats?.p99_below_ns)],
  ];
  return h(
    "li",
    { class: `link ${tone}` },
    h("div", { class: "way-head" }, h("strong", null, plugin), chip(tone, word)),
    h("p", { class: "small" }, `${at.stage}, order ${at.order}; fails ${at.fail}`),
    h("dl", { class: "cost" }, figures.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value)))),
    stats?.calls ? times(stats.times) : null,
    [at.trouble, at.quarantine, at.last_fault && `last fault: ${at.last_fault}`].filter(Boolean).map((text) => h("p", { class: "todo" }, text)),
    at.shadow ? h("p", { class: "small" }, `shadow: ${count(at.shadow.differ)} of ${count(at.shadow.compared)} answers differ`) : null,
    h("details", null, h("summary", { data: { key: `config:${at.vni}:${plugin}` } }, "Config"), h("pre", null, pretty(at.config))),
  );
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Calls by how long they took. */
function times(buckets) {
  const [w, hgt, gap] = [22, 40, 4];
  const most = Math.max(...buckets.map((bucket) => bucket.calls), 1);
  const label = buckets.map((b) => `${count(b.calls)} ${b.below_ns ? `below ${nanos(b.below_ns)}` : "longer"}`).join(", ");
  return s(
    "svg",
    { class: "times", viewBox: `0 0 ${buckets.length * (w + gap)} ${hgt + 12}`, width: Math.min(260, buckets.length * (w + gap)), role: "img", "aria-label": `Calls by time: ${label}` },
    buckets.map((bucket, index) => {
      const tall = Math.max(2, (bucket.calls / most) * hgt);
      const x = index * (w + gap);
      return [
        s("rect", { x, y: hgt - tall, width: w, height: tall, rx: 2 }, s("title", null, `${count(bucket.calls)} ${bucket.below_ns ? `below ${nanos(bucket.below_ns)}` : "longer"}`)),
        s("text", { x: x + w / 2, y: hgt + 10, "text-anchor": "middle" }, bucket.below_ns ? nanos(bucket.below_ns).replace(/ (.).*/, "$1") : "∞"),
      ];
    }),
  );
}
