// What the page knows of the hub, and what follows from it. No document here.

import { at, clean, count, duration, estimate, plural } from "./format.js";

/** Rates are averages over this time, in ms. */
const WINDOW = 30_000;

/** Offline devices that the verdict names, those that went last. */
const NAMED = 3;

/** A sample of a counter is kept every so many ms. */
const STEP = 2_000;

/** The speed of a counter. */
export class Rate {
  constructor() {
    this.samples = [];
    this.latest = 0;
  }

  /** The counter stood at `n` at `now` (ms). */
  add(n, now) {
    if (n < this.latest) this.samples = []; // It began anew.
    this.latest = n;
    const last = this.samples[this.samples.length - 1];
    if (!last || now - last.at >= STEP) this.samples.push({ at: now, n });
  }

  /** Per second, or null while nothing can be said. */
  perSecond(now) {
    // The youngest sample that is older than the window is where the average begins.
    while (this.samples.length > 1 && now - this.samples[1].at >= WINDOW) this.samples.shift();
    const first = this.samples[0];
    const passed = first ? now - first.at : 0;
    if (passed < 1000) return null;
    return ((this.latest - first.n) / passed) * 1000;
  }
}

/** Everything that the events have told. */
export class Model {
  constructor() {
    /** The hub's own clock minus this computer's, in seconds. */
    this.ahead = 0;
    /** While nothing is heard: when that began, Unix seconds by this computer's clock. */
    this.frozen = null;
    this.clear(null);
  }

  /** Another hub process: nothing of the old one holds. */
  clear(hello) {
    this.hello = hello;
    this.status = null;
    /** When the hub started, by the page's own clock, in ms. */
    this.began = 0;
    this.devices = new Map();
    this.answered = new Rate();
  }

  /** The hub's time, Unix seconds. */
  now() {
    return (this.frozen ?? Date.now() / 1000) + this.ahead;
  }

  setStatus(status, now) {
    this.status = status;
    this.began = now - status.uptime * 1000;
    this.answered.add(status.uplink.acknowledged, now);
  }

  /** Takes a device's report; returns its entry. */
  setDevice(report, now) {
    let entry = this.devices.get(report.id);
    if (!entry) {
      entry = { report, rate: new Rate(), named: 0 };
      this.devices.set(report.id, entry);
    }
    entry.report = report;
    entry.named = now;
    entry.rate.add(report.readings, now);
    return entry;
  }

  /** How many devices are online, which are not, and their readings a second. */
  sum(now) {
    const sum = { online: 0, away: [], rate: null };
    for (const { report, rate } of this.devices.values()) {
      if (report.state === "online") sum.online += 1;
      else sum.away.push(report);
      const perSecond = rate.perSecond(now);
      if (perSecond !== null) sum.rate = (sum.rate ?? 0) + perSecond;
    }
    return sum;
  }
}

/**
 * The answer to "is it well?": a level (`ok`, `busy`, `warn`, `bad`, `unknown`), a headline and a
 * sentence. The worst thing comes first.
 */
export function verdict(status, sum, now) {
  if (!status) return { level: "unknown", head: "Waiting for the hub", detail: "" };
  const { uplink, spool } = status;
  if (spool.state === "failed") {
    return {
      level: "bad",
      head: "The spool cannot be written",
      detail: "What cannot go straight to the broker is not acknowledged; devices keep it. Look at the disk and the log.",
    };
  }
  if (spool.state === "unusable") {
    return {
      level: "bad",
      head: "The spool must not be used",
      detail: "Its directory is not the hub's own. What cannot go straight to the broker is not acknowledged; devices keep it. The log says what to do.",
    };
  }
  if (spool.state === "full") {
    return {
      level: "bad",
      head: "The spool is full",
      detail: "Old batches are given up or new ones refused, as configured, until the uplink is back or there is more room.",
    };
  }
  const waiting = `${plural(spool.batches, "batch", "batches")} wait${spool.batches === 1 ? "s" : ""} on disk`;
  const state = link(uplink);
  if (state !== "connected") {
    const since = `${duration(now - uplink.since)}, since ${at(uplink.since)}`;
    return {
      level: "warn",
      head: state === "down" ? "The uplink is down" : "Connecting to the broker",
      detail: `For ${since}. ${spool.batches > 0 ? `Nothing is lost: ${waiting}.` : "New batches will wait on disk."}`,
    };
  }
  if (spool.batches > 0) {
    const left = spool.drain_eta === null ? "How long that takes is not known yet." : `Done in ${estimate(spool.drain_eta)}.`;
    return { level: "busy", head: "Catching up", detail: `${waiting}. ${left} New readings go out at once.` };
  }
  const away = sum.away.length;
  if (away > 0) {
    const names = sum.away.sort((a, b) => b.since - a.since).slice(0, NAMED);
    const list = names.map((device) => `${clean(device.id)} (${clean(device.reason, 60)})`).join(", ");
    return {
      level: "warn",
      head: away === 1 ? "One device is offline" : `${count(away)} devices are offline`,
      detail: `${list}${away > NAMED ? " and others" : ""}. The hub itself is well: the uplink is up, nothing waits.`,
    };
  }
  if (sum.online === 0) return { level: "ok", head: "The hub is well", detail: "No device has connected yet." };
  return {
    level: "ok",
    head: "All is well",
    detail: `${sum.online === 1 ? "The device is" : `All ${count(sum.online)} devices are`} connected, the uplink is up, nothing waits.`,
  };
}

/**
 * The uplink as a person sees it: `connected`, `connecting` (for the first time), or `down`. The
 * hub's tries while it is down are no news.
 */
export function link(uplink) {
  return uplink.state === "connecting" && uplink.last_error ? "down" : uplink.state;
}

/** How each part of the picture is doing, in words; the words choose the looks as well. */
export function lanes(status) {
  const up = status.uplink.state === "connected";
  const backlog = status.spool.batches > 0;
  return {
    live: up ? "in use" : "resting",
    spool:
      status.spool.state !== "ok" ? status.spool.state : up ? (backlog ? "draining" : "empty") : backlog ? "filling" : "ready",
  };
}

/** The picture in one paragraph, for those who do not see it. */
export function caption(status, sum, lane) {
  const { uplink, spool } = status;
  return (
    `The way of a reading: ${plural(status.devices.connected, "device")} of ${count(status.devices.known)} connected. ` +
    `Live lane in memory ${lane.live}, ${plural(status.live.batches, "batch", "batches")} in it. ` +
    `Spool on disk ${lane.spool}, ${plural(spool.batches, "batch", "batches")} in it. ` +
    `Broker ${link(uplink)} since ${at(uplink.since)}` +
    (uplink.state !== "connected" && uplink.last_error ? `, last error: ${clean(uplink.last_error)}.` : ".")
  );
}
