// What would become of a packet: a form, and the route drawn. Nothing is sent.

import { h, s, chip, remake } from "./dom.js";
import { get, known, post } from "./daemon.js";
import { nodeName, natural } from "./words.js";

export const needs = ["members"];

const ENDPOINTS_MAX = 300;

export function make() {
  const network = h("select", { id: "t-network", required: true, onchange: () => suggest() });
  const place = h("select", { id: "t-on", onchange: () => suggest() });
  const proto = h("select", { id: "t-proto", onchange: () => compose() }, ["tcp", "udp", "icmp", "arp"].map((name) => h("option", { value: name }, name.toUpperCase())));
  const field = (id, label, list) => h("input", { id, autocomplete: "off", spellcheck: "false", list, oninput: () => compose(), "aria-label": label, placeholder: label });
  const from = field("t-from", "10.0.0.2", "t-here");
  const to = field("t-to", "10.0.0.3", "t-all");
  const fromPort = h("input", { id: "t-sport", type: "number", min: 0, max: 65535, value: 40000, oninput: () => compose() });
  const toPort = h("input", { id: "t-dport", type: "number", min: 0, max: 65535, value: 80, oninput: () => compose() });
  const packet = h("input", { id: "t-packet", class: "mono", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "t-help" });
  const here = h("datalist", { id: "t-here" });
  const all = h("datalist", { id: "t-all" });
  const go = h("button", { type: "submit", class: "go" }, "Trace");
  const answer = h("div", { class: "answer", "aria-live": "polite" });
  const label = (text, control) => h("div", { class: "field" }, h("label", { for: control.id }, text), control);
  const form = h(
    "form",
    { onsubmit: ask },
    h("div", { class: "fields" }, label("Network", network), label("At node", place), label("Protocol", proto), label("From", from), label("Its port", fromPort), label("To", to), label("Its port", toPort)),
    h("div", { class: "fields last" }, label("Packet", packet), go),
    h("p", { id: "t-help", class: "small" }, "The fields write the packet; you may also write it yourself, as for ", h("code", null, "meshd trace"), "."),
    here,
    all,
  );
  let endpoints = [];
  let touched = false;
  let last = null;
  packet.addEventListener("input", () => {
    touched = true;
  });

  function compose() {
    touched = false;
    const ported = proto.value === "tcp" || proto.value === "udp";
    fromPort.disabled = toPort.disabled = !ported;
    if (!from.value || !to.value) return;
    const end = (ip, port) => (ported ? `${ip.includes(":") ? `[${ip}]` : ip}:${port || 0}` : ip);
    packet.value = `${proto.value} ${end(from.value.trim(), fromPort.value)} > ${end(to.value.trim(), toPort.value)}${proto.value === "tcp" ? " syn" : ""}`;
  }

  async function suggest() {
    if (!network.value) return;
    const chosen = network.value;
    try {
      endpoints = await get(`/v1/fdb?network=${encodeURIComponent(chosen)}`);
    } catch {
      // The form works without: addresses can be written.
      endpoints = [];
    }
    if (chosen !== network.value) return;
    const own = (known.members ?? []).find((one) => one.name === place.value)?.id ?? known.status?.node.id;
    const options = (some) =>
      some
        .filter((entry) => entry.kind !== "service")
        .flatMap((entry) => (entry.ips ?? []).map((ip) => ({ ip, name: [entry.name, nodeName(entry.node)].filter(Boolean).join(" on ") })))
        .sort((a, b) => natural(a.ip, b.ip))
        .slice(0, ENDPOINTS_MAX);
    const mine = options(endpoints.filter((entry) => entry.node.id === own));
    const others = options(endpoints.filter((entry) => entry.node.id !== own));
    const list = (some) => some.map(({ ip, name }) => h("option", { value: ip }, name));
    here.replaceChildren(...list(mine));
    all.replaceChildren(...list([...others, ...mine].slice(0, ENDPOINTS_MAX)));
    const fits = (value, some) => some.some(({ ip }) => ip === value);
    if (!touched) {
      if (!fits(from.value, mine)) from.value = mine[0]?.ip ?? "";
      if (!fits(to.value, [...others, ...mine])) to.value = (others[0] ?? mine.find(({ ip }) => ip !== from.value))?.ip ?? "";
      compose();
    }
  }

  async function ask(event) {
    event.preventDefault();
    go.disabled = true;
    try {
      last = await post("/v1/trace", { network: network.value, packet: packet.value.trim(), ...(place.value ? { on: place.value } : {}) });
      answer.replaceChildren(...report(last));
    } catch (error) {
      last = null;
      answer.replaceChildren(h("div", { class: "refusal", role: "alert" }, h("strong", null, "This cannot be traced."), h("pre", null, error.message)));
    } finally {
      go.disabled = false;
    }
  }

  const narrow = matchMedia("(max-width: 620px)");
  narrow.addEventListener("change", () => {
    if (last) answer.replaceChildren(...report(last));
  });

  return {
    element: h("div", { class: "view" }, h("h1", null, "Trace"), h("p", { class: "lead" }, "What would become of a packet of a port of this node, or of another, and why; peers on its way are asked. Nothing is sent."), form, answer),
    open: () => suggest(),
    draw() {
      const others = (known.members ?? []).filter((one) => one.state === "alive").map((one) => one.name).sort(natural);
      const at = place.value;
      remake(place, others, () => [h("option", { value: "" }, "this node"), others.map((name) => h("option", { value: name, selected: name === at }, name))]);
      const names = (known.networks ?? []).map((one) => one.name).sort(natural);
      const before = network.value;
      remake(network, names, () => names.map((name) => h("option", { value: name, selected: name === before }, name)));
      if (network.value !== before || (!from.value && endpoints.length === 0 && names.length > 0 && !network.asked)) {
        network.asked = true;
        suggest();
      }
    },
  };
}

/** How a step stands: the end of the frame, a plugin's word, or the way of all frames. */
function stepTone(step, report) {
  const what = step.what.toLowerCase();
  if (what === "drop" || what.startsWith("drop")) return "bad";
  if (what.startsWith("policy")) return / drop\b|: drop/.test(step.detail) ? "bad" : "good";
  return report.drop && step === report.steps.at(-1) ? "bad" : "good";
}

/** Steps that say where the frame would be kept or how it travels are beside its route. */
const BESIDE = new Set(["kernel", "ways", "connection", "cached"]);

function report(told) {
  const far = told.far ?? [];
  const stopped = far.find((one) => isDrop(one.report));
  const dropped = isDrop(told);
  const tone = dropped || stopped ? "bad" : "good";
  const word = dropped ? "dropped" : stopped ? `dropped at ${nodeName(stopped.node)}` : "goes through";
  const asked = told.node && told.node.id !== known.status?.node.id ? ` (asked of ${nodeName(told.node)})` : "";
  return [
    h("div", { class: "verdict", data: { tone } }, chip(tone, word), h("strong", null, `${dropped || !stopped ? told.verdict : stopped.report.verdict}${asked}`)),
    part(told),
    far.map((one) => [
      h("h2", null, `On ${nodeName(one.node)}`),
      one.report
        ? [h("div", { class: "verdict far" }, chip(isDrop(one.report) ? "bad" : "good", isDrop(one.report) ? "dropped" : "goes through"), one.report.verdict), part(one.report)]
        : h("p", { class: "todo" }, `It did not say: ${one.failure ?? "no reason was given"}`),
    ]),
  ]
    .flat(Infinity)
    .filter(Boolean);
}

function isDrop(told) {
  return told?.drop !== null && told?.drop !== undefined;
}

/** What one node would do. */
function part(told) {
  const all = told.steps ?? [];
  const steps = all.filter((step) => !BESIDE.has(step.what));
  const narrow = matchMedia("(max-width: 620px)").matches;
  const kept = told.cached ?? [];
  return [
    route(told, steps, isDrop(told), narrow),
    h(
      "ol",
      { class: "steps" },
      all.map((step) => h("li", { class: BESIDE.has(step.what) ? "beside" : stepTone(step, told) }, h("strong", null, step.what), h("span", null, step.detail))),
    ),
    (told.plugins ?? []).length > 0
      ? [
          h("h3", null, "Plugins"),
          h(
            "ol",
            { class: "asked" },
            told.plugins.map((plugin) =>
              h(
                "li",
                null,
                h("div", { class: "way-head" }, h("strong", null, plugin.plugin), chip(answerTone(plugin.answer), plugin.answer), plugin.decides ? chip("info", "decides") : null),
                h("p", { class: "small" }, `${plugin.direction}, port ${plugin.port}; ${plugin.stage}, order ${plugin.order}`),
                plugin.reason ? h("p", null, `Reason: ${plugin.reason}`) : null,
                plugin.failure ? h("p", { class: "todo" }, plugin.failure) : null,
                plugin.read ? h("p", { class: "mono small" }, `read: ${plugin.read}`) : null,
                plugin.wants ? h("p", { class: "small" }, `wants: ${plugin.wants}`) : null,
              ),
            ),
          ),
        ]
      : [],
    kept.length > 0 ? h("p", { class: "small" }, `Cached at the moment: ${kept.join("; ")}`) : null,
    told.cached_as ? h("p", { class: "small" }, "The same holds for: ", h("code", null, told.cached_as)) : h("p", { class: "small" }, "It holds for no other frame."),
  ];
}

function answerTone(answer) {
  return { pass: "good", accept: "good", place: "info", drop: "bad", failed: "warn" }[answer] ?? "idle";
}

function clip(text, max) {
  return text.length > max ? `${text.slice(0, max - 1)}…` : text;
}

/** Stations on a line: across, or down where the screen is narrow. */
function route(told, steps, dropped, narrow) {
  const end = dropped ? `✕ ${told.drop}` : told.verdict.replace(/^forwarded to /, "→ ").replace(/ \(.*$/, "");
  const stations = [
    { text: told.origin.replace(/ \(.*/, ""), sub: (/\((.*)\)/.exec(told.origin) ?? [])[1] ?? "", tone: "good", big: true },
    ...steps.filter((step) => !/^(drop|forward)/.test(step.what)).map((step) => ({ text: step.what, sub: step.what.startsWith("policy") ? step.detail.replace(/^port \d+: /, "") : "", detail: step.detail, tone: stepTone(step, told) })),
    { text: end, sub: told.network, tone: dropped ? "bad" : "good", big: true },
  ];
  const title = `Route: ${stations.map((station) => station.text).join(", ")}`;
  const cut = stations.findIndex((station) => station.tone === "bad");
  const past = (index) => cut >= 0 && index > cut && index < stations.length - 1;
  const line = (d, index) => s("path", { class: `leg ${cut >= 0 && index >= cut ? "bad" : "good"}`, d });
  const dot = (x, y, station, index) =>
    station.big
      ? s("rect", { class: `stop ${station.tone}`, x: x - 8, y: y - 8, width: 16, height: 16, rx: 4 })
      : s("circle", { class: `stop ${past(index) ? "idle" : station.tone}`, cx: x, cy: y, r: 6 });
  if (narrow) {
    const row = 46;
    return s(
      "svg",
      { class: "route", viewBox: `0 0 320 ${stations.length * row}`, width: 340, role: "img", "aria-label": title },
      stations.slice(1).map((_, index) => line(`M18 ${index * row + 20}V${(index + 1) * row + 20}`, index)),
      stations.map((station, index) => [
        dot(18, index * row + 20, station, index),
        s("text", { class: "name", x: 38, y: index * row + 19 }, clip(station.text, 34)),
        s("text", { class: "sub", x: 38, y: index * row + 34 }, clip(station.sub, 44)),
      ]),
    );
  }
  const gap = 160;
  const x = (index) => 80 + index * gap;
  return s(
    "svg",
    { class: "route", viewBox: `0 0 ${stations.length * gap} 84`, width: stations.length * gap, role: "img", "aria-label": title },
    stations.slice(1).map((_, index) => line(`M${x(index)} 24H${x(index + 1)}`, index)),
    stations.map((station, index) => [
      s("title", null, station.detail ?? station.sub),
      dot(x(index), 24, station, index),
      s("text", { class: "name", x: x(index), y: 52, "text-anchor": "middle" }, clip(station.text, 18)),
      s("text", { class: "sub", x: x(index), y: 68, "text-anchor": "middle" }, clip(station.sub, 24)),
    ]),
  );
}
