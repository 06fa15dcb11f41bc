// Networks of the mesh, ports of this node, and where each endpoint is.

import { moved, total } from "./amounts.js";
import { h } from "./dom.js";
import { known, now } from "./daemon.js";
import { Table } from "./table.js";
import { ago, byteText, count, kindName, nodeName, span } from "./words.js";

function view(title, lead, table) {
  return h("div", { class: "view" }, h("h1", null, title), h("p", { class: "lead" }, lead), table.element);
}

export function networks() {
  const table = new Table(
    "Networks",
    [
      { name: "Network", get: (n) => ({ text: n.name, sub: n.domain }) },
      { name: "VNI", num: true, get: (n) => String(n.vni), sort: (n) => n.vni },
      { name: "Subnets", get: (n) => ({ text: (n.subnets ?? []).join(", "), mono: true }) },
      { name: "MTU", num: true, get: (n) => count(n.mtu), sort: (n) => n.mtu },
      { name: "Ports here", num: true, get: (n) => count(n.ports_here), sort: (n) => n.ports_here },
      { name: "Endpoints", num: true, get: (n) => ({ text: count(n.endpoints), href: "#/endpoints" }), sort: (n) => n.endpoints },
      { name: "Nodes", wide: true, get: (n) => ({ text: count((n.nodes ?? []).length), sub: (n.nodes ?? []).slice(0, 6).map(nodeName).join(", ") + ((n.nodes ?? []).length > 6 ? " …" : "") }), sort: (n) => (n.nodes ?? []).length },
      { name: "Plugins", num: true, get: (n) => (n.plugins ? { text: count(n.plugins), href: "#/plugins" } : null), sort: (n) => n.plugins },
      { name: "Names at", get: (n) => ({ text: (n.service ?? []).join(", "), mono: true }) },
      { name: "Defined", get: (n) => ({ text: ago(n.since_at_ms, now()), sub: `by ${nodeName(n.author)}` }), sort: (n) => n.since_at_ms },
    ],
    { key: (n) => n.vni, none: "No networks yet. `meshd network add NAME --subnet 10.0.0.0/24` makes one." },
  );
  return { element: view("Networks", "Layer 2 segments of the mesh.", table), draw: () => table.set(known.networks ?? []) };
}

const PORT_TONE = { ready: "good", wiring: "warn", leaving: "info", blocked: "bad", failed: "bad" };

export function ports() {
  const table = new Table(
    "Ports",
    [
      { name: "Port", num: true, get: (p) => String(p.id), sort: (p) => p.id },
      { name: "Name", get: (p) => ({ text: p.name, sub: p.domain_name }) },
      { name: "State", get: (p) => (p.state === "ready" && p.link === false ? { text: "far end down", tone: "warn" } : { text: p.state, tone: PORT_TONE[p.state] ?? "info" }) },
      { name: "Why", wide: true, get: (p) => p.reason },
      { name: "Network", get: (p) => p.network },
      { name: "Addresses", get: (p) => ({ text: (p.ips ?? []).join(", "), mono: true }) },
      { name: "MAC", get: (p) => ({ text: p.mac, mono: true, sub: p.learned ? `and ${count(p.learned)} learned` : null }) },
      { name: "Where", get: (p) => ({ text: `${byteText(p.netns).split("/").pop()}:${byteText(p.ifname)}`, title: byteText(p.netns), sub: kindName(p.kind) }) },
      { name: "From it", num: true, get: (p) => moved(`port:${p.id}`, p, "rx"), sort: (p) => total(p, "rx") },
      { name: "To it", num: true, get: (p) => moved(`port:${p.id}`, p, "tx"), sort: (p) => total(p, "tx") },
      { name: "Dropped", num: true, get: (p) => count(p.traffic.dropped), sort: (p) => p.traffic.dropped },
      { name: "Labels", wide: true, get: (p) => Object.entries(p.labels ?? {}).map(([k, v]) => `${k}=${v}`).join(", ") },
    ],
    { key: (p) => p.id, none: "No ports here. `meshd attach NETWORK --netns NAME` makes one." },
  );
  return { element: view("Ports", "Ports of this node: where containers and machines are plugged in.", table), draw: () => table.set(known.ports ?? []) };
}

export function endpoints() {
  const table = new Table(
    "Endpoints",
    [
      { name: "Name", get: (e) => e.name },
      { name: "Addresses", get: (e) => ({ text: (e.ips ?? []).join(", "), mono: true }) },
      { name: "MAC", get: (e) => ({ text: e.mac, mono: true }) },
      { name: "Network", get: (e) => e.network },
      { name: "Node", get: (e) => (e.node.id === known.status?.node.id ? { text: nodeName(e.node), sub: e.port ? `port ${e.port}, here` : "here" } : { text: nodeName(e.node), href: `#/peers/${e.node.id}` }) },
      { name: "Known as", get: (e) => e.kind },
      { name: "Idle", num: true, get: (e) => (e.idle_s === null || e.idle_s === undefined ? null : span(e.idle_s)), sort: (e) => e.idle_s ?? -1 },
    ],
    { key: (e) => `${e.vni} ${e.mac} ${e.node.id}`, none: "No endpoints are known." },
  );
  return { element: view("Endpoints", "Where each MAC is: the FDB of this node.", table), draw: () => table.set(known.fdb ?? []) };
}
