// The verdict and the picture of the way of a reading.

import { NOTHING, ago, at, bytes, clean, count, duration, estimate, plural, rate } from "./format.js";
import { caption, lanes, link, verdict } from "./model.js";

const byId = (id) => document.getElementById(id);

/** Writes only what changed: a node that is not touched costs no layout. */
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A node with its class and its text. */
export function make(kind, className, text) {
  const node = document.createElement(kind);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

function mark(node, name, value) {
  if (node.dataset[name] !== value) node.dataset[name] = value;
}

/** Paints the overview; returns the verdict. `lost`: it is what was, because nothing is heard. */
export function paintOverview(model, ticks, lost) {
  const { status } = model;
  const now = model.now();
  const sum = model.sum(ticks);
  const said = verdict(status, sum, now);
  mark(byId("verdict"), "level", lost ? "unknown" : said.level);
  put(byId("verdict-head"), lost && status ? `Last known: ${said.head}` : said.head);
  put(byId("verdict-detail"), said.detail);
  if (status) paintWay(status, sum, now, model.answered.perSecond(ticks));
  return said;
}

const UPLINK_WORDS = { connected: "Connected", connecting: "Connecting", down: "Down" };

function paintWay(status, sum, now, answered) {
  const { uplink, spool, live, devices } = status;
  const lane = lanes(status);
  const state = link(uplink);
  mark(byId("way"), "uplink", state);
  mark(byId("way"), "spool", lane.spool);
  put(byId("way-caption"), caption(status, sum, lane));

  put(byId("devices-connected"), count(devices.connected));
  put(byId("devices-known"), `of ${count(devices.known)} connected`);
  put(byId("devices-rate"), sum.rate === null ? NOTHING : rate(sum.rate));
  put(byId("devices-evicted"), count(devices.evicted));

  put(byId("live-word"), lane.live);
  put(byId("live-batches"), count(live.batches));
  put(byId("live-flight"), count(uplink.in_flight));
  put(byId("live-rate"), rate(answered).replace(/\/.*/, " batches$&"));

  put(byId("spool-word"), lane.spool);
  put(byId("spool-batches"), count(spool.batches));
  put(byId("spool-eta"), drain(uplink, spool));
  put(byId("spool-oldest"), spool.oldest === null ? NOTHING : ago(now - spool.oldest));
  const perDay = Number.isFinite(spool.flash_per_day) ? `, ${bytes(spool.flash_per_day)} a day` : "";
  put(byId("spool-written"), bytes(spool.written_bytes) + perDay);
  const filling = Number.isFinite(spool.full_in) && spool.state === "ok";
  byId("spool-full-row").hidden = !filling;
  if (filling) put(byId("spool-full"), estimate(spool.full_in));
  byId("spool-dropped-row").hidden = spool.dropped_batches === 0;
  put(byId("spool-dropped"), plural(spool.dropped_batches, "batch", "batches"));
  fill(spool);

  put(byId("uplink-state"), UPLINK_WORDS[state] ?? clean(state));
  put(byId("uplink-since"), `since ${at(uplink.since)}, ${duration(now - uplink.since)}`);
  put(byId("uplink-broker"), uplink.broker ? clean(uplink.broker, 120) : "");
  put(byId("uplink-acknowledged"), plural(uplink.acknowledged, "batch", "batches"));
  put(byId("uplink-sent"), traffic(uplink.sent_bytes, uplink.sent_per_day));
  put(byId("uplink-received"), traffic(uplink.received_bytes, uplink.received_per_day));
  const error = byId("uplink-error");
  error.hidden = uplink.state === "connected" || !uplink.last_error;
  const when = uplink.last_error_at ? `${at(uplink.last_error_at, true)}: ` : "";
  put(error, uplink.last_error ? when + clean(uplink.last_error, 240) : "");
}

/** Bytes since the start, and in a day. */
function traffic(all, perDay) {
  if (!Number.isFinite(all)) return NOTHING;
  return Number.isFinite(perDay) ? `${bytes(all)}, ${bytes(perDay)} a day` : bytes(all);
}

function drain(uplink, spool) {
  if (spool.batches === 0) return NOTHING;
  if (uplink.state !== "connected") return "once the broker is back";
  return spool.drain_eta === null ? "not known yet" : estimate(spool.drain_eta);
}

function fill(spool) {
  const most = spool.max_size;
  const part = Number.isFinite(most) && most > 0 ? Math.min(1, spool.disk_bytes / most) : null;
  const meter = byId("spool-meter");
  meter.hidden = part === null;
  if (part !== null) {
    meter.setAttribute("aria-valuenow", String(Math.round(part * 100)));
    meter.setAttribute("aria-valuetext", `${bytes(spool.disk_bytes)} of ${bytes(most)}`);
    // Through the CSSOM, which the content security policy lets us.
    byId("spool-bar").style.width = part > 0 ? `max(2px, ${part * 100}%)` : "0";
  }
  const of = part === null ? "" : ` of ${bytes(most)}, ${part > 0 && part < 0.01 ? "under 1" : Math.round(part * 100)}\u00a0%`;
  put(byId("spool-fill"), bytes(spool.disk_bytes) + of);
}
