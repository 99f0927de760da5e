// The page: which view is shown, what the hub's events do, and when it is painted.

import { deviceTable } from "./devices.js";
import { devicePage } from "./device.js";
import { at, clean, duration } from "./format.js";
import { drawLinks } from "./links.js";
import { Model, link, standing } from "./model.js";
import { paintOverview, put } from "./overview.js";
import { connect } from "./stream.js";

/** Paints are at least so far apart, in ms: four a second look live and leave a phone its battery. */
const PAINT = 250;

/** So long after a reconnect, in ms, a device that was not named again is taken for forgotten. */
const SWEEP = 5_000;

/** A verdict that holds so long, in ms, is announced; a device that flaps is not. */
const SETTLE = 3_000;

const byId = (id) => document.getElementById(id);
const model = new Model();
const table = deviceTable(model, announce, () => soon());
let page = null; // The device page, while it is shown.
let lostSince = null; // Unix seconds by this computer's clock.
let lostTicks = 0; // The same by the page's clock, in ms.
let announced = ""; // The kind of verdict that the screen reader has heard, and the coming one.
let next = "";
let telling = 0;

function announce(text) {
  put(byId("announcer"), text);
}

// ---- events ------------------------------------------------------------------------------------

let sweep = 0;
const open = connect({
  hello(hello) {
    if (model.hello?.started !== hello.started) {
      model.clear(hello);
      table.arrangeSoon();
      page?.restarted();
    }
    if (lostSince !== null) announce("Connected to the hub again.");
    lostSince = null;
    model.frozen = null;
    document.body.dataset.link = "live";
    byId("banner").hidden = true;
    put(byId("hub"), clean(hello.hub, 64));
    put(byId("version"), `telehub ${clean(hello.version, 32)}`);
    setClock();
    page?.load();
    clearTimeout(sweep);
    const began = performance.now();
    if (!page) sweep = setTimeout(() => forgetUnnamed(began), SWEEP);
  },
  status(status) {
    model.setStatus(status, performance.now());
    soon();
  },
  device(report) {
    const before = model.devices.get(report.id)?.report;
    model.setDevice(report, performance.now());
    if (!before || standing(before) !== standing(report)) table.arrangeSoon();
    else table.touch(report.id);
    soon();
  },
  forgotten({ id }) {
    model.devices.delete(id);
    table.arrangeSoon();
    soon();
  },
  change(event) {
    if (page?.id === event.device) page.change(event);
    soon();
  },
  reading(reading) {
    if (page?.id !== reading.device) return;
    page.take(reading);
    soon();
  },
  lost() {
    if (lostSince !== null) return;
    lostSince = Date.now() / 1000;
    lostTicks = performance.now();
    model.frozen = lostSince;
    document.body.dataset.link = "lost";
    byId("banner").hidden = false;
    announce("No connection to the hub.");
    soon();
  },
});

function forgetUnnamed(began) {
  for (const [id, entry] of model.devices) if (entry.named < began) model.devices.delete(id);
  table.arrangeSoon();
  soon();
}

/** A hub's clock may be wrong for days; ages are told by its own. */
async function setClock() {
  try {
    const answer = await fetch("./api/status", { method: "HEAD", cache: "no-store" });
    const date = Date.parse(answer.headers.get("date"));
    // The header's seconds are cut off.
    if (!Number.isNaN(date)) model.ahead = (date + 500 - Date.now()) / 1000;
    if (Math.abs(model.ahead) < 2) model.ahead = 0;
  } catch {
    // Without a connection the stream's end says so.
  }
}

// ---- painting ----------------------------------------------------------------------------------

let painted = -Infinity;
let waiting = 0;

/** Paints at the next good moment. A hidden page gets no animation frames and does no work. */
function soon() {
  if (waiting) return;
  waiting = setTimeout(() => requestAnimationFrame(paint), Math.max(0, painted + PAINT - performance.now()));
}

function paint() {
  waiting = 0;
  painted = performance.now();
  // Ages and rates stand still while nothing is heard.
  const ticks = lostSince === null ? painted : lostTicks;
  const said = paintOverview(model, ticks, lostSince !== null);
  if (page) page.paint(ticks);
  else if (table.paint(ticks)) soon();
  const pill = byId("pill");
  pill.hidden = !page;
  pill.dataset.level = said.level;
  put(pill, lostSince === null ? said.head : "No connection");
  if (model.status) {
    put(byId("uptime"), `up ${duration((ticks - model.began) / 1000)}`);
    byId("clock").hidden = model.status.clock?.state !== "unsynced";
  }
  if (lostSince !== null) {
    put(byId("banner-text"), `Since ${at(lostSince, true)}; it is tried again and again. What you see is from then.`);
  }
  tell(said);
}

/** The title and the screen reader hear of a new verdict, not of every number. */
function tell(said) {
  const hub = model.hello ? clean(model.hello.hub, 64) : "telehub";
  const head = lostSince === null ? said.head : "No connection";
  put(document.querySelector("title"), page ? `${clean(page.id)} · ${hub}` : `${head} · ${hub}`);
  const kind = lostSince === null ? `${said.level} ${model.status && link(model.status.uplink)}` : "lost";
  if (kind === next) return;
  next = kind;
  clearTimeout(telling);
  telling = setTimeout(() => {
    // The first one is read with the page, the loss of the connection is told where it is noticed.
    if (announced && announced !== kind && kind !== "lost") announce(`${said.head}. ${said.detail}`);
    announced = kind;
  }, SETTLE);
}

setInterval(soon, 1000);

// ---- routes ------------------------------------------------------------------------------------

function route(first) {
  const hash = location.hash;
  // `#main` of the skip link is no route.
  if (!first && hash !== "" && !hash.startsWith("#/")) return;
  const found = /^#\/device\/(.+)$/.exec(hash);
  let id = null;
  try {
    id = found && decodeURIComponent(found[1]);
  } catch {
    // Not a name that a link here could have.
  }
  if (page) page.close();
  page = id === null ? null : devicePage(byId("device"), model, id);
  byId("device").hidden = !page;
  byId("overview").hidden = Boolean(page);
  if (page) table.rest();
  // One stream a page: browsers have few connections to one host, and other tabs want some.
  open(page ? `./api/events?device=${encodeURIComponent(id)}` : "./api/events");
  if (!first) {
    scrollTo(0, 0);
    (page ? page.head : byId("verdict-head")).focus({ preventScroll: true });
  }
  table.arrangeSoon();
  painted = -Infinity;
  soon();
}

addEventListener("hashchange", () => route(false));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => page?.recolour());
drawLinks();
route(true);
