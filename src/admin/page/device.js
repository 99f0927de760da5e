// The page of one device: facts, plots of its readings, when it came and went.

import { commandsOf } from "./commands.js";
import { ago, at, clean, count, duration, milliseconds, NOTHING, plural, rate, stateWord } from "./format.js";
import { WORDS } from "./devices.js";
import { standing, trouble } from "./model.js";
import { make, put } from "./overview.js";
import { Series } from "./plot.js";
import { likely, plausible } from "./span.js";

/** Names that get a card of their own. A device that sends more is shown these, and says so. */
const SERIES = 48;

/** From so many names on they are a list, in which one can search, instead of plots. */
const MANY = 12;

const order = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

/** Connects and drops that are listed; as many as the hub remembers. */
const HISTORY = 32;

const FACTS = [
  ["Last reading", (d, now) => since(d.last_reading, now)],
  ["Usually every", (d) => (d.expect ? `${duration(d.expect)}, expected` : d.usual ? duration(Math.max(1, d.usual)) : NOTHING)],
  ["Last seen", (d, now) => since(d.last_seen, now)],
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

function since(time, now) {
  if (!time) return NOTHING;
  return now - time < 3 ? "now" : `${ago(now - time)} ago`;
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

  // What ends an alarm.
  const actions = make("p", "actions");
  const known = make("button", "", "I know");
  const forget = make("button", "", "Forget this device");
  const outcome = make("span", "outcome");
  outcome.setAttribute("role", "status");
  for (const button of [known, forget]) button.type = "button";
  known.addEventListener("click", () => ask("POST", "/acknowledge", ""));
  forget.addEventListener("click", () => {
    if (confirm(`Forget ${clean(id)}? What is known of it here is gone then.`)) ask("DELETE", "", "Forgotten.");
  });
  actions.append(known, " ", forget, " ", outcome);
  actions.hidden = true;

  async function ask(method, what, done) {
    try {
      const answer = await fetch(`./api/devices/${encodeURIComponent(id)}${what}`, { method });
      put(outcome, answer.ok ? done : clean((await answer.json()).detail ?? answer.status, 240));
    } catch {
      put(outcome, "The hub did not answer.");
    }
    load();
  }

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
  const search = make("label", "search");
  const words_ = make("span", "hidden", "Filter by name of the reading");
  const filter = make("input", "");
  filter.type = "search";
  filter.placeholder = "Filter";
  filter.maxLength = 100;
  search.append(words_, filter);
  search.hidden = true;
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const one of series.values()) {
      const name = one.key.toLowerCase();
      one.card.hidden = !words.every((word) => name.includes(word));
    }
  });
  // Times that cannot be true: how many, and the last one.
  const odd = make("p", "odd");
  odd.hidden = true;
  let odds = 0;
  let opened = null;
  const wait = make("p", "empty", "Waiting for readings.");
  const grid = make("div", "grid");
  const rest = make("p", "empty");
  rest.hidden = true;
  const words = make("div", "grid words");
  readings.append(readingsHead, odd, search, wait, grid, words, rest);

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

  const commands = commandsOf(id);
  root.replaceChildren(back, head, stateLine, actions, facts, readings, commands.root, past);

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
      one.name.addEventListener("click", () => {
        const before = opened;
        opened = opened === one ? null : one;
        for (const changed of [before, one]) {
          if (!changed) continue;
          changed.card.classList.toggle("open", changed === opened);
          changed.name.setAttribute("aria-expanded", String(changed === opened));
          dirty.add(changed);
        }
        paint(performance.now());
      });
      series.set(key, one);
      if (series.size === MANY) {
        grid.classList.add("compact");
        words.classList.add("compact");
        search.hidden = false;
        for (const other of series.values()) dirty.add(other);
      }
      if (compact()) {
        for (const other of series.values()) {
          if (!other.name.disabled) continue;
          other.name.disabled = false;
          other.name.setAttribute("aria-expanded", "false");
        }
      }
      watch.observe(one.card);
    }
    one.add(when(reading), reading.value);
    place(one);
    dirty.add(one);
  }

  /** When a reading was taken; when that cannot be, when it came. */
  function when({ time, received }) {
    const now = model.now();
    if (time === undefined || time === null || plausible(time, now)) return time ?? received;
    odds += 1;
    odd.hidden = false;
    const guess = likely(time, now);
    put(odd, `${plural(odds, "reading")} had a time that cannot be true, and stand where they came. The last was ${time}${guess ? `: ${guess}` : ""}.`);
    return received;
  }

  const compact = () => series.size >= MANY;

  /** Cards stand in the order of their names, plots before texts, so that they are found again. */
  function place(one) {
    const home = one.isText ? words : grid;
    if (one.card.parentNode === home) return;
    wait.hidden = true;
    // flow/3 before flow/11.
    const after = Array.from(home.children).find((card) => order.compare(card.series.key, one.key) > 0);
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
      answer = await fetch(`./api/devices/${encodeURIComponent(id)}`, { cache: "no-store" });
      if (answer.status === 404) {
        put(wait, "The hub knows no device of this name.");
        return;
      }
      if (!answer.ok) return;
      answer = await answer.json();
    } catch {
      return; // The stream's end says that there is no connection.
    }
    if (answer.commands) commands.show(answer.commands);
    model.setDevice(answer.device, performance.now());
    history = answer.history.slice().reverse();
    list();
    // Only into an empty page: after a reconnect they may be drawn already.
    if (series.size === 0) {
      await remember();
      if (series.size === 0) answer.last.forEach(take);
    }
    paint(performance.now());
  }

  /** What the hub remembers of the last hours. */
  async function remember() {
    try {
      const answer = await fetch(`./api/devices/${encodeURIComponent(id)}/readings`, { cache: "no-store" });
      if (!answer.ok) return;
      for (const { name, unit, readings } of await answer.json()) {
        for (const { t, v } of readings) take({ name, unit, time: t, received: t, value: v });
      }
    } catch {
      // The last batch will do.
    }
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
      const stands = standing(d);
      root.dataset.state = stands;
      put(word, WORDS[stands] ?? clean(stands));
      const reason = stands === "online" ? "" : `: ${trouble(d, now)}`;
      const noted = d.acknowledged ? ", and that is known" : "";
      put(why, `since ${at(d.since)}, ${duration(now - d.since)}${reason}${noted}`);
      actions.hidden = d.state === "online" || !model.hello?.changes;
      known.hidden = stands !== "lost";
      const speed = entry.rate.perSecond(ticks);
      FACTS.forEach(([, write], i) => put(values[i], write(d, now, speed)));
    }
    for (const one of dirty) one.paint(compact() && one !== opened);
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
    recolour() {
      for (const one of series.values()) {
        one.drop();
        dirty.add(one);
      }
      paint(performance.now());
    },
    names: () => plural(series.size, "name"),
    close() {
      watch.disconnect();
      resize.disconnect();
      commands.close();
      for (const one of series.values()) one.drop();
      root.replaceChildren();
    },
  };
}
