// What the daemon tells: views that are asked for again and again, and the events that say when to ask at once.
//
// The token stands behind `#` in the address that `meshd ui` printed. It is kept for this tab and leaves the address line.

const KEY = "meshd-token";
const EVENTS_MAX = 500;
/** Between two rounds, in ms, when nothing happens; longer, if a round takes long: a large mesh is not asked without pause. */
const ROUND = 2000;
const ROUND_MAX = 15000;
const SHARE = 12;
/** Between two rounds, in ms, when very much happens. */
const PAUSE = 250;

export const known = {};
export const events = [];
export const health = { stream: "wait", error: null, at: 0 };
/** Frames and bytes a second since the round before, by a key that a view chooses. */
const samples = new Map();
/** ETags of the views that are known: what is as it was is not sent again. */
const tags = new Map();

let token = null;
let wanted = [];
let core = [];
let changed = () => {};
let round = null;
let timer = null;
let due = 0;
let started = -1000;
let took = 0;
let again = false;

export function takeToken() {
  const told = /[#&]token=([A-Za-z0-9_-]+)/.exec(location.hash);
  if (told) {
    sessionStorage.setItem(KEY, told[1]);
    history.replaceState(null, "", `${location.pathname}#/`);
  }
  token = sessionStorage.getItem(KEY);
  return token !== null;
}

class Refused extends Error {
  constructor(code, message, status) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { authorization: `Bearer ${token}`, ...options.headers }, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("gone", "`meshd ui` does not answer: it was ended, or the way to it is cut. Start it again and open the address that it prints.", 0);
  }
  if (answer.ok || answer.status === 304) return answer;
  let told = {};
  try {
    told = await answer.json();
  } catch {
    // Not of the daemon; the status says what there is to say.
  }
  throw new Refused(told.code ?? "failed", told.message ?? `HTTP status ${answer.status}`, answer.status);
}

export async function get(path) {
  return (await ask(path)).json();
}

export async function post(path, body) {
  const answer = await ask(path, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } });
  return answer.json();
}

/** Begins. `always` are views that are asked for whatever is shown; `told` is called when something may be new. */
export function begin(always, told) {
  core = always;
  changed = told;
  follow();
  refresh(0);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) refresh(0);
  });
}

/** The views that the page in sight needs beside. */
export function want(views) {
  wanted = views;
  refresh(0);
}

/** A round in so many ms, or sooner if one is due sooner; but never without a pause behind the one before. */
export function refresh(delay = 0) {
  if (round) {
    again = true;
    return;
  }
  const at = Math.max(performance.now() + delay, started + Math.max(PAUSE, took * 2));
  if (timer && due <= at) return;
  clearTimeout(timer);
  due = at;
  timer = setTimeout(turn, at - performance.now());
}

async function turn() {
  timer = null;
  started = performance.now();
  again = false;
  round = Promise.all([...new Set([...core, ...wanted])].map(one));
  const errors = (await round).filter(Boolean);
  round = null;
  health.error = errors[0] ?? null;
  if (errors.length === 0) health.at = Date.now();
  changed();
  took = performance.now() - started;
  if (again) refresh(0);
  // Whoever is not looked at asks nothing; events go on.
  else if (!document.hidden) refresh(Math.min(ROUND_MAX, Math.max(ROUND, took * SHARE)));
}

async function one(view) {
  try {
    const tag = tags.get(view);
    const answer = await ask(`/v1/${view}`, tag ? { headers: { "if-none-match": tag } } : {});
    if (answer.status !== 304) {
      known[view] = await answer.json();
      tags.set(view, answer.headers.get("etag"));
    }
    return null;
  } catch (error) {
    // A daemon of another release may not have it: what it has is shown.
    if (error.status === 404) {
      known[view] ??= [];
      return null;
    }
    return error;
  }
}

/** Now, by the clock of the daemon as far as it is known: its start and how long it runs. */
export function now() {
  const status = known.status;
  if (!status) return Date.now();
  return Math.max(Date.now(), status.started_at_ms + status.uptime_s * 1000);
}

export function rate(key, value) {
  const at = performance.now();
  const last = samples.get(key);
  if (!last) {
    samples.set(key, { at, value, rate: null });
    return null;
  }
  if (at - last.at < 900) return last.rate;
  const perSecond = value >= last.value ? ((value - last.value) * 1000) / (at - last.at) : null;
  samples.set(key, { at, value, rate: perSecond });
  if (samples.size > 20000) samples.clear();
  return perSecond;
}

function pause(ms) {
  return new Promise((done) => setTimeout(done, ms));
}

/** Follows the events for as long as the page lives; after a break all that is remembered is read anew. */
async function follow() {
  for (let wait = 500; ; wait = Math.min(wait * 2, 5000)) {
    try {
      const past = await (await ask(`/v1/events?last=${EVENTS_MAX}`)).json();
      events.splice(0, events.length, ...past.slice(-EVENTS_MAX));
      const after = past.at(-1)?.seq ?? 0;
      const answer = await ask(`/v1/events?follow=true&after=${after}`);
      health.stream = "live";
      wait = 250;
      refresh(0);
      await read(answer.body);
      throw new Refused("gone", "the daemon ended", 0);
    } catch (error) {
      const refused = error.status === 401 || error.status === 403;
      health.stream = refused ? "refused" : "gone";
      if (refused) health.error = error;
      changed();
      if (refused) return;
    }
    await pause(wait);
  }
}

/** Server-sent events (WHATWG HTML §9.2); `EventSource` cannot send the token. */
async function read(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    let some = false;
    for (const block of blocks) {
      const lines = block.split("\n");
      const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length === 0 || lines.includes("event: missed")) continue;
      const event = JSON.parse(data.join("\n"));
      events.push({ ...event, arrived: Date.now() });
      some = true;
    }
    if (events.length > EVENTS_MAX) events.splice(0, events.length - EVENTS_MAX);
    if (some) {
      changed();
      // Several come together: one round for them.
      refresh(60);
    }
  }
}
