// Figures and names as people read them.

const WHOLE = new Intl.NumberFormat("en");

export function count(n) {
  return n === null || n === undefined ? "–" : WHOLE.format(n);
}

export function many(n, one, more = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : more}`;
}

function scaled(n, base, units) {
  let at = 0;
  while (n >= base && at < units.length - 1) {
    n /= base;
    at += 1;
  }
  return `${n < 10 && at > 0 ? n.toFixed(1) : Math.round(n)} ${units[at]}`;
}

export function bytes(n) {
  return n === null || n === undefined ? "–" : scaled(n, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]);
}

export function bits(perSecond) {
  return scaled(perSecond, 1000, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"]);
}

/** A span of ns. */
export function nanos(n) {
  if (n === null || n === undefined) return "–";
  if (n < 1000) return `${n} ns`;
  if (n < 1e6) return `${(n / 1000).toFixed(n < 1e4 ? 1 : 0)} µs`;
  return `${(n / 1e6).toFixed(1)} ms`;
}

export function micros(us) {
  return us === null || us === undefined ? "–" : us < 1000 ? `${us} µs` : `${(us / 1000).toFixed(us < 10000 ? 1 : 0)} ms`;
}

export function percent(ppm) {
  if (ppm === null || ppm === undefined) return "–";
  return ppm === 0 ? "0 %" : `${(ppm / 10000).toFixed(2)} %`;
}

export function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** How long ago an instant was, by the clock of the daemon. */
export function ago(ms, now) {
  if (ms === null || ms === undefined) return "–";
  return now - ms < 2000 ? "now" : `${span((now - ms) / 1000)} ago`;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** An instant, by the clock on the wall of who reads; the day, if it is not today. */
export function when(ms) {
  const at = new Date(ms);
  const today = new Date().toDateString() === at.toDateString();
  return today ? CLOCK.format(at) : `${DAY.format(at)} ${CLOCK.format(at)}`;
}

/** A node by name, or by the start of its id. */
export function nodeName(node) {
  return node?.name ?? node?.id?.slice(0, 8) ?? "?";
}

/** `{"text", "hex"}` of the API. */
export function byteText(value) {
  return value?.text ?? "";
}

/** A kind such as "veth", {"macvlan": {…}}. */
export function kindName(kind) {
  return typeof kind === "string" ? kind : Object.keys(kind ?? {})[0] ?? "?";
}

export function natural(a, b) {
  return String(a).localeCompare(String(b), "en", { numeric: true });
}
