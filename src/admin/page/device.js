// The page of one device: facts, plots of its readings, when it came and went.

import { ago, at, clean, count, duration, milliseconds, NOTHING, plural, rate, stateWord } from "./format.js";
import { put } from "./overview.js";
import { Series } from "./plot.js";

/** Names that get a card of their own. A device that sends more is shown these, and says so. */
const SERIES = 48;

/** Connects and drops that are listed; as many as the hub remembers. */
const HISTORY = 32;

const FACTS = [
  ["Last seen", (d, now) => (now - d.last_seen < 3 ? "now" : `${ago(now - d.last_seen)} ago`)],
  ["Round trip", (d) => milliseconds(d.rtt_ms)],
  ["Readings", (d, now, speed) => `${count(d.readings)}${d.state === "online" && speed > 0 ? `, ${rate(speed)}` : ""}`],
  ["Batches", (d) => count(d.batches)],
  ["Rejects", (d) => count(d.rejected)],
  ["Records without a value", (d) => count(d.dropped_records ?? 0)],
  ["Model", (d) => (d.model ? clean(d.model, 80) : NOTHING)],
  ["Firmware", (d) => (d.firmware ? clean(d.firmware, 80) : NOTHING)],
  ["Address", (d) => clean(d.remote)],
  ["Stream", (d) => (d.stream ? clean(d.stream, 64) : NOTHING)],
  ["Sequence number", (d) => count(d.seq)],
];

function make(kind, className, text) {
  const node = document.createElement(kind);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

/** Builds the page of the device `id` into `root`. */
export function devicePage(root, model, id) {
  const series = new Map();
  let unlisted = 0;
  const dirty = new Set();
  let history = [];

  const back = make("a", "back", "All devices");
  back.href = "#/";
  const head = make("h1");
  head.tabIndex = -1;
  const name = make("bdi", "", clean(id));
  head.append(name);
  const stateLine = make("p", "device-state");
  const word = make("span", "state-word");
  const why = make("bdi", "why");
  stateLine.append(word, " ", why);

  const facts = make("dl", "facts");
  const values = FACTS.map(([label]) => {
    const pair = make("div");
    const dd = make("dd");
    const bdi = make("bdi", "", NOTHING);
    dd.append(bdi);
    pair.append(make("dt", "", label), dd);
    facts.append(pair);
    return bdi;
  });

  const readings = make("section");
  const readingsHead = make("h2", "", "Readings");
  const wait = make("p", "empty", "Waiting for readings.");
  const grid = make("div", "grid");
  const rest = make("p", "empty");
  rest.hidden = true;
  const words = make("div", "grid words");
  readings.append(readingsHead, wait, grid, words, rest);

  const past = make("section");
  past.append(make("h2", "", "Connects and drops"));
  const table = make("table", "history");
  const caption = make("caption", "hidden", "When the device came and went, newest first");
  const thead = make("thead");
  const tr = make("tr");
  for (const label of ["Time", "State", "Reason"]) {
    const th = make("th", "", label);
    th.scope = "col";
    tr.append(th);
  }
  thead.append(tr);
  const body = make("tbody");
  table.append(caption, thead, body);
  past.append(table);

  root.replaceChildren(back, head, stateLine, facts, readings, past);

  // Plots outside the screen are not drawn.
  const watch = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) {
      const one = target.series;
      one.seen = isIntersecting;
      if (isIntersecting) dirty.add(one);
    }
  }, { rootMargin: "200px" });
  const resize = new ResizeObserver(() => series.forEach((one) => dirty.add(one)));
  resize.observe(grid);

  function take(reading) {
    const key = `${reading.name}\u0000${reading.unit ?? ""}`;
    let one = series.get(key);
    if (!one) {
      if (series.size >= SERIES) {
        unlisted += 1;
        rest.hidden = false;
        put(rest, `Only the first ${SERIES} names are shown; the device sends more.`);
        return;
      }
      one = new Series(reading.name, reading.unit, clean);
      one.key = key;
      one.card.series = one;
      series.set(key, one);
      watch.observe(one.card);
    }
    one.add(reading.time ?? reading.received, reading.value);
    place(one);
    dirty.add(one);
  }

  /** Cards stand in the order of their names, plots before texts, so that they are found again. */
  function place(one) {
    const home = one.values.length > 0 ? grid : words;
    if (one.card.parentNode === home) return;
    wait.hidden = true;
    const after = Array.from(home.children).find((card) => card.series.key > one.key);
    home.insertBefore(one.card, after ?? null);
  }

  function list() {
    body.replaceChildren(
      ...history.slice(0, HISTORY).map((entry) => {
        const row = make("tr");
        row.dataset.state = entry.state === "online" ? "online" : "offline";
        const state = make("td");
        state.append(make("span", "state-word", stateWord(entry.state)));
        const reason = make("td");
        reason.append(make("bdi", "", clean(entry.reason, 120)));
        row.append(make("td", "num", at(entry.time, true)), state, reason);
        return row;
      }),
    );
    past.hidden = history.length === 0;
  }
  list();

  /** Asks for what was before the stream began. */
  async function load() {
    let answer;
    try {
      answer = await fetch(`/api/devices/${encodeURIComponent(id)}`, { cache: "no-store" });
      if (answer.status === 404) {
        put(wait, "The hub knows no device of this name.");
        return;
      }
      if (!answer.ok) return;
      answer = await answer.json();
    } catch {
      return; // The stream's end says that there is no connection.
    }
    model.setDevice(answer.device, performance.now());
    history = answer.history.slice().reverse();
    list();
    // Only into an empty page: after a reconnect they may be drawn already.
    if (series.size === 0) answer.last.forEach(take);
    paint(performance.now());
  }

  function change(event) {
    const newest = history[0];
    if (newest && newest.time === event.time && newest.state === event.state) return;
    history.unshift(event);
    list();
  }

  function paint(ticks) {
    const entry = model.devices.get(id);
    if (entry) {
      const d = entry.report;
      const now = model.now();
      root.dataset.state = d.state === "online" ? "online" : "offline";
      put(word, stateWord(d.state));
      put(why, `since ${at(d.since)}, ${duration(now - d.since)}${d.state === "online" ? "" : `: ${clean(d.reason, 120)}`}`);
      const speed = entry.rate.perSecond(ticks);
      FACTS.forEach(([, write], i) => put(values[i], write(d, now, speed)));
    }
    for (const one of dirty) one.paint();
    dirty.clear();
  }

  /** Another hub process counts and remembers anew; the plots stay, their times are absolute. */
  function restarted() {
    history = [];
    list();
  }

  return {
    id,
    head,
    take,
    change,
    load,
    paint,
    restarted,
    recolour: () => series.forEach((one) => one.recolour()),
    names: () => plural(series.size, "name"),
    close() {
      watch.disconnect();
      resize.disconnect();
      for (const one of series.values()) if (one.chart) one.chart.destroy();
      root.replaceChildren();
    },
  };
}
