// Peers, and all paths to one of them.

import { moved, total } from "./amounts.js";
import { h, chip, remake } from "./dom.js";
import { known, now } from "./daemon.js";
import { peerRows, ways, wayName, wayTone, wayWord } from "./health.js";
import { Table } from "./table.js";
import { ago, bits, bytes, count, micros, nodeName, percent, when } from "./words.js";

export const needs = ["members"];

const loss = (row) => row.used.reduce((most, way) => Math.max(most, way.loss_ppm ?? 0), -1);

export function make() {
  const table = new Table(
    "Peers",
    [
      { name: "Peer", get: (row) => ({ text: nodeName(row.peer.node), href: `#/peers/${row.peer.node.id}`, title: row.peer.node.id }) },
      { name: "State", get: (row) => ({ text: row.peer.state, tone: row.tone }) },
      { name: "Paths in use", get: (row) => [...new Set(row.used.map((way) => (way.kind === "kernel-vxlan" ? "kernel VXLAN" : wayName(way))))].join(", ") },
      { name: "Address", get: (row) => ({ text: row.peer.remote, mono: true }) },
      { name: "Round trip", num: true, get: (row) => micros(row.peer.rtt_us), sort: (row) => row.peer.rtt_us ?? -1 },
      { name: "Loss", num: true, get: (row) => (loss(row) < 0 ? null : percent(loss(row))), sort: loss },
      { name: "Datagram", num: true, get: (row) => (row.peer.datagram_max ? `${count(row.peer.datagram_max)} B` : null), sort: (row) => row.peer.datagram_max ?? -1 },
      { name: "Received", num: true, get: (row) => moved(`peer:${row.peer.node.id}`, row.peer, "rx"), sort: (row) => total(row.peer, "rx") },
      { name: "Sent", num: true, get: (row) => moved(`peer:${row.peer.node.id}`, row.peer, "tx"), sort: (row) => total(row.peer, "tx") },
      { name: "Why", wide: true, get: (row) => row.why },
    ],
    { key: (row) => row.peer.node.id, none: "No peers: this node is alone in its mesh. `meshd invite` makes a token for the next one." },
  );
  const detail = h("div", { class: "detail", hidden: true });
  let chosen = null;
  return {
    element: h("div", { class: "view" }, h("h1", null, "Peers and paths"), detail, table.element),
    open(id) {
      chosen = id ?? null;
      this.draw();
      if (chosen) detail.scrollIntoView({ block: "nearest" });
    },
    draw() {
      const rows = peerRows();
      table.set(rows);
      const row = rows.find((one) => one.peer.node.id === chosen);
      detail.hidden = !chosen;
      if (!chosen) return;
      const member = (known.members ?? []).find((one) => one.id === chosen);
      const shown = row ? { row: { ...row, peer: { ...row.peer, traffic: null, kernel: null } }, member, minute: Math.floor(now() / 10000) } : { chosen };
      remake(detail, shown, () => (row ? one(row, member) : h("p", { class: "empty" }, "This node has no such peer any more.")));
    },
  };
}

function one({ peer, tone, why }, member) {
  const labels = Object.entries(member?.labels ?? {}).map(([name, value]) => `${name}=${value}`);
  const facts = [
    ["Since", peer.since_at_ms ? `${when(peer.since_at_ms)} (${ago(peer.since_at_ms, now())})` : null],
    ["Next try", peer.retry_in_ms !== null && peer.retry_in_ms !== undefined ? `in ${Math.ceil(peer.retry_in_ms / 1000)} s` : null],
    ["Address", peer.remote],
    ["Dialed by", peer.dialed === null || peer.dialed === undefined ? null : peer.dialed ? "this node" : "the peer"],
    ["Networks", member?.networks?.join(", ")],
    ["Labels", labels.join(", ")],
    ["Version", member?.version],
    ["Packets lost", peer.lost_packets === null ? null : count(peer.lost_packets)],
    ["Mended", peer.mended ? count(peer.mended) : null],
    ["Id", peer.node.id],
  ].filter(([, value]) => value);
  return [
    h(
      "div",
      { class: "detail-head" },
      h("h2", null, nodeName(peer.node)),
      chip(tone, peer.state),
      h("a", { href: "#/peers", class: "close", data: { key: "close" } }, "Close"),
    ),
    why ? h("p", { class: "lead" }, why) : null,
    h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", { class: name === "Id" ? "mono" : null }, value)))),
    h("h3", null, "Paths"),
    h("ul", { class: "ways" }, ways(peer.node.id).map(wayCard)),
  ];
}

function wayCard(way) {
  const figures = [
    way.remote && ["to", way.remote],
    way.rtt_us !== null && way.rtt_us !== undefined && ["round trip", micros(way.rtt_us)],
    way.jitter_us !== null && way.jitter_us !== undefined && ["jitter", micros(way.jitter_us)],
    way.loss_ppm !== null && way.loss_ppm !== undefined && ["loss", percent(way.loss_ppm)],
    way.mtu && ["MTU", `${count(way.mtu)} B`],
    way.kernel && ["by the kernel", `${bytes(way.kernel.rx_bytes)} received, ${bytes(way.kernel.tx_bytes)} sent`],
    way.used_kbps !== null && way.used_kbps !== undefined && ["load", `${bits(way.used_kbps * 1000)}${way.avail_kbps ? ` of ${bits(way.avail_kbps * 1000)}` : ""}`],
  ].filter(Boolean);
  const steps = (way.history ?? []).slice(-8).reverse();
  return h(
    "li",
    { class: wayTone(way) },
    h("div", { class: "way-head" }, h("strong", null, wayName(way)), chip(wayTone(way), wayWord(way))),
    figures.length > 0 ? h("p", { class: "figures" }, figures.map(([name, value]) => h("span", null, `${name} `, h("b", null, value)))) : null,
    h("p", null, way.reason, way.evidence ? `: ${way.evidence}` : ""),
    way.remedy ? h("p", { class: "todo" }, `To do: ${way.remedy}`) : null,
    steps.length > 0
      ? h(
          "details",
          null,
          h("summary", { data: { key: `way:${way.id}:${way.network}` } }, "History"),
          h("ol", { class: "history" }, steps.map((step) => h("li", null, h("time", null, when(step.at_ms)), ` ${step.from} → ${step.to}, ${step.reason}`, step.evidence ? `: ${step.evidence}` : ""))),
        )
      : null,
  );
}
