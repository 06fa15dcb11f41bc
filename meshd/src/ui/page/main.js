// The page: which view is in sight, and what stands above all of them.

import { h, byId, say } from "./dom.js";
import { begin, events, health, known, takeToken, want } from "./daemon.js";
import { troubles } from "./health.js";
import { ago, nodeName } from "./words.js";
import * as overview from "./overview.js";
import * as peers from "./peers.js";
import { networks, ports, endpoints } from "./networks.js";
import { flows, drops } from "./traffic.js";
import * as plugins from "./plugins.js";
import * as trace from "./trace.js";
import * as eventsView from "./events.js";

const ALWAYS = ["status", "peers", "paths", "networks"];
const VIEWS = [
  ["", "Overview", overview.make, overview.needs],
  ["peers", "Peers", peers.make, peers.needs],
  ["networks", "Networks", networks, []],
  ["ports", "Ports", ports, ["ports"]],
  ["endpoints", "Endpoints", endpoints, ["fdb"]],
  ["flows", "Flows", flows, ["flows"]],
  ["drops", "Drops", drops, ["drops"]],
  ["plugins", "Plugins", plugins.make, plugins.needs],
  ["trace", "Trace", trace.make, trace.needs],
  ["events", "Events", eventsView.make, eventsView.needs],
];

const made = new Map();
let current = null;

function route() {
  const [, name = "", ...rest] = location.hash.replace(/^#/, "").split("/");
  const view = VIEWS.find(([key]) => key === name) ?? VIEWS[0];
  const [key, title, make, needs] = view;
  if (!made.has(key)) made.set(key, make());
  const shown = made.get(key);
  const moved = current?.key !== key;
  current = { key, title, shown };
  for (const link of byId("tabs").querySelectorAll("a")) {
    if (link.dataset.view === key) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ block: "nearest", inline: "nearest" });
    } else link.removeAttribute("aria-current");
  }
  if (moved) {
    const main = byId("main");
    main.replaceChildren(shown.element);
    main.dataset.view = key || "overview";
    want(needs);
    scrollTo(0, 0);
  }
  shown.open?.(rest.length > 0 ? decodeURIComponent(rest.join("/")) : undefined);
  draw();
}

function draw() {
  const status = known.status;
  if (status) {
    say(byId("node"), nodeName(status.node));
    say(byId("mesh"), `mesh ${status.mesh_name}`);
    say(byId("foot"), `meshd ${status.version} · node ${status.node.id.slice(0, 8)} · what is in sight is read, never changed, by this page`);
  }
  const state = health.error ? "bad" : health.stream === "live" ? "good" : "wait";
  const text = { good: "live", wait: "connecting", bad: health.stream === "refused" ? "refused" : "not heard" }[state];
  byId("live").dataset.state = state;
  say(byId("live-text"), text);
  const notice = byId("notice");
  // The overview says it by itself.
  notice.hidden = !health.error || current?.key === "";
  if (health.error) say(notice, `${health.at ? `What you see is of ${ago(health.at, Date.now())}. ` : ""}${health.error.message}`);
  const bad = health.error ? 1 : troubles().filter((one) => one.tone === "bad").length;
  const name = status ? `${nodeName(status.node)} · ${status.mesh_name}` : "meshd";
  document.title = `${bad > 0 ? `(${bad}) ` : ""}${current?.title ? `${current.title} · ` : ""}${name}`;
  current?.shown.draw();
  // For tests and the curious: how far the page has read.
  document.documentElement.dataset.seq = String(events.at(-1)?.seq ?? 0);
}

const THEMES = [
  ["", "Auto"],
  ["light", "Light"],
  ["dark", "Dark"],
];

function theme(step) {
  let at = THEMES.findIndex(([name]) => name === (localStorage.getItem("meshd-theme") ?? ""));
  at = (Math.max(0, at) + step) % THEMES.length;
  const [name, text] = THEMES[at];
  localStorage.setItem("meshd-theme", name);
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  say(byId("theme"), text);
  byId("theme").setAttribute("aria-label", `Colours: ${text}`);
}

function start() {
  theme(0);
  byId("theme").addEventListener("click", () => theme(1));
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId("main").focus();
  });
  if (!takeToken()) {
    byId("live").dataset.state = "bad";
    say(byId("live-text"), "no token");
    byId("main").replaceChildren(
      h("div", { class: "view gate" }, h("h1", null, "This page needs its token"), h("p", { class: "lead" }, "Run ", h("code", null, "meshd ui"), " on the node and open the whole address that it prints: the part behind # is the token. It is good until that command ends.")),
    );
    return;
  }
  byId("tabs").append(...VIEWS.map(([key, title]) => h("li", null, h("a", { href: `#/${key}`, data: { view: key } }, title))));
  addEventListener("hashchange", () => {
    // Another address of `meshd ui`, pasted into this tab.
    if (location.hash.includes("token=")) {
      takeToken();
      location.reload();
      return;
    }
    route();
  });
  route();
  begin(ALWAYS, draw);
}

start();
