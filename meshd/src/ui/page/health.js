// What is well and what is not, out of what the daemon tells; the worst first.

import { known } from "./daemon.js";
import { byteText, many, natural, nodeName, percent } from "./words.js";

const RANK = { bad: 0, warn: 1, info: 2, good: 3, idle: 4 };

export function worse(a, b) {
  return RANK[a] - RANK[b];
}

const LOSS_PPM = 10000;

export function peerTone(peer) {
  if (peer.state === "up") return "good";
  return peer.state === "greeting" || peer.state === "dialing" ? "warn" : "bad";
}

/** Of a path: does it carry, could it, or did it fail? */
export function wayTone(way) {
  if (way.active) return (way.loss_ppm ?? 0) > LOSS_PPM ? "warn" : "good";
  const last = way.history?.at(-1)?.to;
  if (last === "held") return "warn";
  if (last === "proving") return "info";
  if (way.kind === "kernel-vxlan") return "idle";
  const peer = (known.peers ?? []).find((one) => one.node.id === way.node.id);
  if (peer && peer.state !== "up") return "bad";
  return way.remedy || way.kind === "link" ? "warn" : "idle";
}

export function wayWord(way) {
  const tone = wayTone(way);
  if (way.active) return tone === "warn" ? "lossy" : "in use";
  return { bad: "down", warn: "failed", info: "proving", idle: "spare" }[tone];
}

const KINDS = { "quic-direct": "QUIC", "kernel-vxlan": "kernel VXLAN", link: "link" };

export function wayName(way) {
  const kind = KINDS[way.kind] ?? way.kind;
  return [kind, way.link ?? way.network].filter(Boolean).join(" · ");
}

let waysOf = null;
let waysFrom = null;

/** The paths to a peer; looked up in one table, since a mesh may have thousands. */
export function ways(id) {
  const paths = known.paths ?? [];
  if (waysFrom !== paths) {
    waysFrom = paths;
    waysOf = new Map();
    for (const path of paths) {
      const list = waysOf.get(path.node.id);
      if (list) list.push(path);
      else waysOf.set(path.node.id, [path]);
    }
  }
  return waysOf.get(id) ?? [];
}

/** A peer with all that bears on it, as the topology and the list of peers show it. */
export function peerRow(peer) {
  const all = ways(peer.node.id);
  const used = all.filter((way) => way.active);
  const lossy = used.find((way) => wayTone(way) === "warn");
  const held = all.find((way) => way.history?.at(-1)?.to === "held");
  let tone = peerTone(peer);
  let why = peer.reason;
  if (tone === "good" && lossy) {
    tone = "warn";
    why = `${wayName(lossy)} loses ${percent(lossy.loss_ppm)}`;
  } else if (tone === "good" && held) {
    why = `${wayName(held)}: ${held.reason}`;
  }
  return { peer, all, used, tone, why, kernel: used.some((way) => way.kind === "kernel-vxlan") };
}

/** All peers, those in trouble first. */
export function peerRows() {
  return (known.peers ?? []).map(peerRow).sort((a, b) => worse(a.tone, b.tone) || natural(nodeName(a.peer.node), nodeName(b.peer.node)));
}

const LISTED = 6;

/** What somebody should look at: { tone, what, why?, todo?, href? }. */
export function troubles() {
  const out = [];
  const status = known.status;
  if (!status) return out;
  for (const problem of status.problems ?? []) out.push({ tone: "bad", what: problem });
  for (const c of status.conflicts ?? []) {
    out.push({
      tone: "warn",
      what: `${c.kind} ${c.what} on ${c.network} is claimed twice`,
      why: `${nodeName(c.holder)} keeps it, ${nodeName(c.other)} claims it too`,
      todo: "change one of the two",
      href: "#/endpoints",
    });
  }
  const rows = peerRows().filter((row) => row.tone !== "good");
  for (const row of rows.slice(0, LISTED)) {
    const name = nodeName(row.peer.node);
    const word = row.tone === "bad" ? "is not reached" : row.peer.state === "up" ? "is reached with losses" : "is being reached";
    out.push({ tone: row.tone, what: `${name} ${word}`, why: row.why, href: `#/peers/${row.peer.node.id}` });
  }
  if (rows.length > LISTED) {
    out.push({ tone: "bad", what: `${many(rows.length - LISTED, "more peer")} in trouble`, href: "#/peers" });
  }
  for (const member of known.members ?? []) {
    if (member.state !== "suspect" && member.state !== "dead") continue;
    if (rows.some((row) => row.peer.node.id === member.id)) continue;
    out.push({ tone: "warn", what: `${member.name} is ${member.state}`, why: "others do not hear of it", href: "#/peers" });
    if (out.length > 20) break;
  }
  const ports = (known.ports ?? []).filter((port) => port.state !== "ready");
  for (const port of ports.slice(0, LISTED)) {
    const bad = port.state === "failed" || port.state === "blocked";
    out.push({
      tone: bad ? "bad" : "info",
      what: `port ${port.id} (${port.name ?? byteText(port.ifname)}) on ${port.network} is ${port.state}`,
      why: port.reason,
      href: "#/ports",
    });
  }
  if (ports.length > LISTED) out.push({ tone: "warn", what: `${many(ports.length - LISTED, "more port")} not ready`, href: "#/ports" });
  for (const plugin of known.plugins ?? []) {
    if (plugin.trouble) out.push({ tone: "bad", what: `plugin ${plugin.name} cannot be used`, why: plugin.trouble, href: "#/plugins" });
    for (const at of plugin.attachments ?? []) {
      if (at.trouble) out.push({ tone: "bad", what: `plugin ${plugin.name} on ${at.network}: fail mode ${at.fail} answers`, why: at.trouble, href: "#/plugins" });
      else if (at.quarantine) out.push({ tone: "warn", what: `plugin ${plugin.name} on ${at.network} is quarantined`, why: at.quarantine, href: "#/plugins" });
    }
  }
  return out.sort((a, b) => worse(a.tone, b.tone));
}
