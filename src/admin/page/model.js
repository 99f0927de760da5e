// What the page knows of the hub, and what follows from it. No document here.

import { at, clean, count, duration, estimate, plural } from "./format.js";

/** Rates are averages over this time, in ms. */
const WINDOW = 30_000;

/** Offline devices that the verdict names, those that went last. */
const NAMED = 3;

/**
 * How a device stands, in one word: `online`, `silent` (no readings for unusually long), `lost`
 * (gone without a word), `known` (the same, and somebody knows it), `left` (it said goodbye),
 * `asleep`, `unseen` (not here since the hub started).
 */
export function standing(report) {
  if (report.state === "online") return report.silent ? "silent" : "online";
  if (report.lost) return report.acknowledged ? "known" : "lost";
  return report.state === "offline" ? "left" : report.state;
}

/** What is to be said of a device that is not well, beside its name. */
export function trouble(report, now) {
  if (report.silent) {
    const since = duration(now - (report.last_reading ?? report.since));
    const most = report.expect ? `expected every ${duration(report.expect)}` : `usually every ${duration(Math.max(1, report.usual))}`;
    return `no reading for ${since}, ${most}`;
  }
  if (report.refused && report.state !== "online") return `refused: ${clean(report.refused.why, 120)}`;
  return clean(report.reason, 60);
}

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

  /** How many devices are online, which are not well, and their readings a second. */
  sum(now) {
    const sum = { online: 0, lost: [], silent: [], unseen: 0, gone: 0, rate: null };
    for (const { report, rate } of this.devices.values()) {
      const stands = standing(report);
      if (report.state === "online") sum.online += 1;
      if (stands === "lost") sum.lost.push(report);
      else if (stands === "silent") sum.silent.push(report);
      else if (stands === "unseen") sum.unseen += 1;
      else if (stands !== "online") sum.gone += 1;
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
  const reason = spool.reason ? `${clean(spool.reason, 240)}. ` : "";
  if (spool.state === "failed") {
    return {
      level: "bad",
      head: "The spool cannot be written",
      detail: `${reason}What cannot go straight to the broker is not acknowledged; devices keep it.`,
    };
  }
  if (spool.state === "unusable") {
    return {
      level: "bad",
      head: "The spool cannot be used",
      detail: `${reason}While the broker is there nothing is lost; without it nothing could be acknowledged.`,
    };
  }
  if (spool.state === "full") {
    return {
      level: "bad",
      head: "The spool is full",
      detail: `${reason}Old batches are given up or new ones refused, as configured, until the uplink is back or there is more room.`,
    };
  }
  if (uplink.twins) {
    return {
      level: "bad",
      head: `Another hub has the id ${clean(status.hub, 64)}`,
      detail: "Each ends the other's connection to the broker, and consumers take the two for one. Is its card a copy of another one? Write another [hub] id (or uplink.client_id) into the configuration of one of them, and restart it.",
    };
  }
  const waiting = `${plural(spool.batches, "batch", "batches")} wait${spool.batches === 1 ? "s" : ""} on disk`;
  const state = link(uplink);
  if (state !== "connected") {
    const since = `${duration(now - uplink.since)}, since ${at(uplink.since)}`;
    const why = uplink.last_error ? `: ${clean(uplink.last_error, 160)}` : "";
    const full = Number.isFinite(spool.full_in) ? ` The spool is full in ${estimate(spool.full_in)} at this rate.` : "";
    return {
      level: "warn",
      head: state === "down" ? "The uplink is down" : "Connecting to the broker",
      detail: `For ${since}${why}. ${spool.batches > 0 ? `Nothing is lost: ${waiting}.` : "New batches will wait on disk."}${full}`,
    };
  }
  if (spool.batches > 0) {
    const left = spool.drain_eta === null ? "How long that takes is not known yet." : `Done in ${estimate(spool.drain_eta)}.`;
    return { level: "busy", head: "Catching up", detail: `${waiting}. ${left} New readings go out at once.` };
  }
  // Those that went without a word come before those that are here and say nothing.
  for (const [devices, word] of [[sum.lost, "offline"], [sum.silent, "silent"]]) {
    if (devices.length === 0) continue;
    const names = devices.sort((a, b) => b.since - a.since).slice(0, NAMED);
    const list = names.map((device) => `${clean(device.id)} (${trouble(device, now)})`).join(", ");
    return {
      level: "warn",
      head: devices.length === 1 ? `One device is ${word}` : `${count(devices.length)} devices are ${word}`,
      detail: `${list}${devices.length > NAMED ? " and others" : ""}. The hub itself is well: the uplink is up, nothing waits.`,
    };
  }
  const rest = [];
  if (sum.unseen > 0) rest.push(`${plural(sum.unseen, "device has", "devices have")} not come since the hub started`);
  if (sum.gone > 0) rest.push(`${plural(sum.gone, "device is", "devices are")} away, and that is known`);
  const others = rest.length > 0 ? ` ${rest.join("; ")}.` : "";
  if (sum.online === 0) {
    return { level: "ok", head: "The hub is well", detail: others ? `No device is connected.${others}` : "No device has connected yet." };
  }
  const here = others ? plural(sum.online, "device is", "devices are") : sum.online === 1 ? "The device is" : `All ${count(sum.online)} devices are`;
  return {
    level: "ok",
    head: "All is well",
    detail: `${here} connected, the uplink is up, nothing waits.${others}`,
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
