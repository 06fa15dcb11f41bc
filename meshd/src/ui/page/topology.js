// The mesh as this node sees it: itself, its peers, and what lies between. Many peers: those in trouble first, the rest as one.

import { h, s, byId, remake, GLYPH } from "./dom.js";
import { known } from "./daemon.js";
import { peerRows, wayTone, worse } from "./health.js";
import { count, many, micros, natural, nodeName } from "./words.js";

const NARROW = 620;
const CAP = { wide: 24, narrow: 12 };

export class Topology {
  constructor() {
    this.network = null;
    this.filters = h("div", { class: "filters", role: "group", "aria-label": "Show the nodes of one network" });
    this.place = h("div", { class: "map" });
    this.legend = h(
      "ul",
      { class: "legend" },
      [
        ["line quic", "QUIC"],
        ["line kernel", "kernel VXLAN"],
        ["line link", "link"],
        ["line warn", "lossy or on its way"],
        ["line bad", "down"],
      ].map(([kind, text]) => h("li", null, s("svg", { class: "key", viewBox: "0 0 26 8", "aria-hidden": "true" }, s("path", { class: kind, d: "M1 4h24" })), text)),
    );
    this.element = h("div", { class: "topology" }, this.filters, this.place, this.legend);
    this.width = 0;
    this.watch = new ResizeObserver(([entry]) => {
      const width = Math.round(entry.contentRect.width);
      if (Math.abs(width - this.width) < 2) return;
      this.width = width;
      this.draw();
    });
    this.watch.observe(this.place);
  }

  draw() {
    const networks = (known.networks ?? []).slice().sort((a, b) => b.endpoints - a.endpoints || natural(a.name, b.name)).slice(0, 10);
    if (this.network && !networks.some((network) => network.name === this.network)) this.network = null;
    remake(this.filters, [networks.map((n) => n.name), this.network], () =>
      networks.length < 2
        ? []
        : [null, ...networks.map((n) => n.name)].map((name) =>
            h(
              "button",
              {
                type: "button",
                class: "pill",
                "aria-pressed": String(this.network === name),
                data: { key: `net:${name ?? ""}` },
                onclick: () => {
                  this.network = name;
                  this.draw();
                },
              },
              name ?? "All networks",
            ),
          ),
    );
    if (!known.status || !known.peers || this.width === 0) return;
    const narrow = this.width < NARROW;
    const nodes = new Map((known.networks ?? []).map((n) => [n.name, new Set((n.nodes ?? []).map((node) => node.id))]));
    const of = (id) => [...nodes].filter(([, members]) => members.has(id)).length;
    const inside = (id) => !this.network || nodes.get(this.network)?.has(id);
    const rows = peerRows();
    rows.sort((a, b) => worse(a.tone, b.tone) || Number(inside(b.peer.node.id)) - Number(inside(a.peer.node.id)));
    const cap = narrow ? CAP.narrow : CAP.wide;
    const shown = rows.length > cap ? rows.slice(0, cap - 1) : rows;
    const rest = rows.slice(shown.length);
    const peers = shown
      .map((row) => ({
        href: `#/peers/${row.peer.node.id}`,
        name: nodeName(row.peer.node),
        sub: row.peer.state === "up" ? [micros(row.peer.rtt_us), many(of(row.peer.node.id), "network")].join(" · ") : row.peer.state,
        tone: row.tone,
        far: !inside(row.peer.node.id),
        lines: lines(row),
      }))
      .sort((a, b) => natural(a.name, b.name));
    if (rest.length > 0) {
      const bad = rest.filter((row) => row.tone !== "good").length;
      peers.push({
        href: "#/peers",
        name: `${count(rest.length)} others`,
        sub: bad > 0 ? `${count(bad)} in trouble` : "all up",
        tone: bad > 0 ? "warn" : "good",
        far: false,
        lines: [bad > 0 ? "warn" : "quic"],
        others: true,
      });
    }
    const self = {
      name: nodeName(known.status.node),
      sub: `this node · ${many(known.status.ports, "port")}`,
      far: !inside(known.status.node.id),
    };
    remake(this.place, [this.width, peers, self], () => (narrow ? tree : peers.length > 8 ? columns : ring)(this.width, self, peers));
  }
}

/** One line a kind of path that carries frames, or says why there is none. */
function lines(row) {
  if (row.peer.state !== "up") return [row.tone];
  const kinds = new Set();
  for (const way of row.used) {
    if (wayTone(way) === "warn") kinds.add("warn");
    else kinds.add(way.kind === "kernel-vxlan" ? "kernel" : way.kind === "link" ? "link" : "quic");
  }
  return kinds.size > 0 ? [...kinds] : ["warn"];
}

function svg(width, height, self, peers, children) {
  const bad = peers.filter((peer) => peer.tone !== "good");
  const label = `${self.name} and ${many(peers.length, "peer")}${bad.length > 0 ? `; in trouble: ${bad.map((p) => p.name).join(", ")}` : ", all well"}`;
  return s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": label }, children);
}

function clip(text, max) {
  return text.length > max ? `${text.slice(0, max - 1)}…` : text;
}

function box(x, y, w, hgt, node, isSelf) {
  const left = x - w / 2;
  const chars = Math.floor((w - 34) / 7.4);
  const parts = [
    s("title", null, `${node.name}: ${node.sub}`),
    s("rect", { x: left, y: y - hgt / 2, width: w, height: hgt, rx: 10 }),
    isSelf
      ? s("circle", { class: "core", cx: left + 16, cy: y - 6, r: 4.5 })
      : s("text", { class: `mark ${node.tone}`, x: left + 16, y: y - 2, "text-anchor": "middle" }, GLYPH[node.tone]),
    s("text", { class: "name", x: left + 28, y: y - 2 }, clip(node.name, chars)),
    s("text", { class: "sub", x: left + 28, y: y + 13 }, clip(node.sub, chars + 4)),
  ];
  const cls = ["node", isSelf ? "self" : node.tone, node.far ? "far" : "", node.others ? "others" : ""].join(" ");
  return isSelf ? s("g", { class: cls }, parts) : s("a", { class: cls, href: node.href, "aria-label": `${node.name}: ${node.sub}` }, parts);
}

/** Few peers stand around this node. */
function ring(width, self, peers) {
  const [w, hgt] = [158, 46];
  const height = peers.length > 6 ? 440 : peers.length > 2 ? 340 : 180;
  const [cx, cy] = [width / 2, height / 2];
  const [rx, ry] = [Math.min(width / 2 - w / 2 - 6, 430), height / 2 - hgt / 2 - 6];
  const start = peers.length <= 2 ? 0 : peers.length === 3 ? -Math.PI / 2 : -Math.PI / 2 + Math.PI / peers.length;
  const spots = peers.map((peer, index) => {
    const angle = start + (index * 2 * Math.PI) / peers.length;
    return { peer, x: cx + Math.cos(angle) * rx, y: cy + Math.sin(angle) * ry };
  });
  const edges = spots.flatMap(({ peer, x, y }) =>
    edge(peer, (offset) => {
      const length = Math.hypot(x - cx, y - cy) || 1;
      const [ox, oy] = [(-(y - cy) / length) * offset, ((x - cx) / length) * offset];
      return `M${(cx + ox).toFixed(1)} ${(cy + oy).toFixed(1)}L${(x + ox).toFixed(1)} ${(y + oy).toFixed(1)}`;
    }),
  );
  const top = Math.min(cy - 25, ...spots.map(({ y }) => y - hgt / 2)) - 6;
  const bottom = Math.max(cy + 25, ...spots.map(({ y }) => y + hgt / 2)) + 6;
  return svg(width, bottom - top, self, peers, s("g", { transform: `translate(0 ${-top})` }, edges, spots.map(({ peer, x, y }) => box(x, y, w, hgt, peer, false)), box(cx, cy, 172, 50, self, true)));
}

/** More stand in a column on either side. */
function columns(width, self, peers) {
  const [w, hgt, row] = [178, 42, 50];
  const half = Math.ceil(peers.length / 2);
  const height = Math.max(half * row, 120) + 10;
  const [cx, cy] = [width / 2, height / 2];
  const spots = peers.map((peer, index) => {
    const left = index < half;
    const of = left ? half : peers.length - half;
    const at = left ? index : index - half;
    return { peer, left, x: left ? w / 2 + 6 : width - w / 2 - 6, y: cy + (at - (of - 1) / 2) * row };
  });
  const edges = spots.flatMap(({ peer, left, x, y }) =>
    edge(peer, (offset) => {
      const [from, to] = left ? [cx - 86, x + w / 2] : [cx + 86, x - w / 2];
      const bend = (to - from) * 0.5;
      return `M${from} ${cy + offset}C${from + bend} ${cy + offset} ${to - bend} ${y + offset} ${to} ${y + offset}`;
    }),
  );
  return svg(width, height, self, peers, [edges, spots.map(({ peer, x, y }) => box(x, y, w, hgt, peer, false)), box(cx, cy, 172, 50, self, true)]);
}

function tree(width, self, peers) {
  const [row, hgt, trunk] = [52, 42, 26];
  const top = 30;
  const w = width - trunk - 34;
  const height = top + 34 + peers.length * row;
  const spots = peers.map((peer, index) => ({ peer, x: width - w / 2 - 2, y: top + 30 + row / 2 + index * row }));
  const edges = spots.flatMap(({ peer, x, y }) =>
    edge(peer, (offset) => {
      const t = trunk + offset;
      return `M${t} ${top}V${y - 12}Q${t} ${y + offset} ${t + 12} ${y + offset}H${x - w / 2}`;
    }),
  );
  return svg(width, height, self, peers, [edges, spots.map(({ peer, x, y }) => box(x, y, w, hgt, peer, false)), box((width - 34) / 2 + 2, top - 4, width - 38, 46, self, true)]);
}

function edge(peer, path) {
  return peer.lines.map((kind, index) => s("path", { class: `line ${kind} ${peer.far ? "far" : ""}`, d: path((index - (peer.lines.length - 1) / 2) * 5) }));
}
