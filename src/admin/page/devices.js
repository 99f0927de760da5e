// The table of devices. Holds a thousand rows: a row is touched only when what it shows changed.

import { NOTHING, ago, clean, count, milliseconds, plural, rate } from "./format.js";
import { standing, trouble } from "./model.js";
import { put } from "./overview.js";
import { currentValues } from "./values.js";

/** Rows shown at first, and added by the button below the table. The rest is a filter away. */
const PAGE = 1000;

/** Rows out of sight that are brought up to date in one paint. */
const SLICE = 100;

/** Rows above and below the window that count as in sight, so that scrolling meets fresh ones. */
const MARGIN = 15;

/** The order follows the numbers at most this often, in ms; rows that jump cannot be read. */
const RESORT = 3_000;

/** The order of the states: those first that somebody should look after. */
const RANKS = ["lost", "silent", "known", "left", "unseen", "asleep", "online"];

const text = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

/** What a column sorts by, and the direction that is useful first. */
const COLUMNS = {
  id: { of: (entry) => entry.report.id, up: true },
  // Those that are not well first.
  state: { of: (entry) => RANKS.indexOf(standing(entry.report)), up: true },
  last_reading: { of: (entry) => entry.report.last_reading, up: true },
  rtt_ms: { of: (entry) => entry.report.rtt_ms, up: false },
  rate: { of: (entry, ticks) => entry.rate.perSecond(ticks), up: false },
  rejected: { of: (entry) => entry.report.rejected, up: false },
};

/** What is read of it. Whether somebody has to look is told by the looks as well. */
export const WORDS = { online: "online", silent: "silent", lost: "offline", known: "offline", left: "offline", asleep: "asleep", unseen: "unseen" };

function cell(row, kind, className) {
  const node = document.createElement(kind);
  node.className = className;
  row.append(node);
  return node;
}

/** The table's behaviour. `announce(text)` tells a screen reader, `soon()` has it painted. */
export function deviceTable(model, announce, soon) {
  const table = document.getElementById("devices");
  const body = table.tBodies[0];
  const heads = Array.from(table.tHead.rows[0].cells).filter((head) => head.dataset.key);
  const filter = document.getElementById("filter");
  const more = document.getElementById("more");
  const rows = new Map();
  let key = "state";
  let up = true;
  let state = "all";
  let words = [];
  let most = PAGE;
  let sorted = -Infinity;
  let asked = true;
  let turn = 0;
  const changed = new Set();
  const values = currentValues(soon, () => (asked = true));

  for (const head of heads) {
    head.firstElementChild.addEventListener("click", () => {
      const chosen = head.dataset.key;
      up = chosen === key ? !up : COLUMNS[chosen].up;
      key = chosen;
      order();
      announce(`Sorted by ${head.textContent}, ${up ? "ascending" : "descending"}`);
    });
  }
  filter.addEventListener("input", () => {
    words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    values.filter(words);
    chosen();
  });
  for (const radio of document.querySelectorAll('input[name="state"]')) {
    radio.addEventListener("change", () => {
      state = radio.value;
      chosen();
    });
  }
  more.addEventListener("click", () => {
    most += PAGE;
    order();
  });

  let saying = 0;
  function chosen() {
    most = PAGE;
    order();
    // Once, when the typing rests.
    clearTimeout(saying);
    saying = setTimeout(() => announce(`${plural(body.rows.length, "device")} shown`), 600);
  }

  function order() {
    asked = true;
    paint(performance.now());
  }

  function shown({ report }) {
    if (state !== "all" && (report.state === "online") !== (state === "online")) return false;
    if (words.length === 0) return true;
    const all = [report.id, report.state, report.reason, report.model, report.firmware, report.remote];
    const line = all.filter(Boolean).join(" ").toLowerCase();
    return words.every((word) => line.includes(word) || values.has(report.id, word));
  }

  function make(id, ticks) {
    const row = document.createElement("tr");
    row.dataset.id = id;
    const name = cell(row, "th", "c-id");
    name.scope = "row";
    const link = document.createElement("a");
    link.href = `#/device/${encodeURIComponent(id)}`;
    const bdi = document.createElement("bdi");
    bdi.textContent = clean(id);
    link.append(bdi);
    name.append(link);
    const stateCell = cell(row, "td", "c-state");
    const word = cell(stateCell, "span", "state-word");
    const why = cell(stateCell, "bdi", "why");
    const made = {
      row,
      word,
      why,
      now: cell(cell(row, "td", "c-now"), "bdi", ""),
      reading: cell(row, "td", "c-reading num"),
      rtt: cell(row, "td", "c-rtt num"),
      rate: cell(row, "td", "c-rate num"),
      rejected: cell(row, "td", "c-rejected num"),
      shows: {},
    };
    rows.set(id, made);
    fillRow(made, model.devices.get(id), ticks, model.now());
    return made;
  }

  /** Writes a cell if its text is another one; comparing strings is cheaper than asking the document. */
  function write(made, name, words) {
    if (made.shows[name] === words) return;
    made.shows[name] = words;
    made[name].textContent = words;
  }

  function fillRow(made, { report, rate: speed }, ticks, now) {
    const online = report.state === "online";
    const stands = standing(report);
    if (made.shows.state !== stands) {
      made.shows.state = stands;
      made.row.dataset.state = stands;
    }
    write(made, "word", WORDS[stands] ?? clean(stands));
    write(made, "why", stands === "online" ? "" : trouble(report, now));
    write(made, "now", values.of(report.id) || NOTHING);
    write(made, "reading", report.last_reading ? ago(now - report.last_reading) : NOTHING);
    write(made, "rtt", online ? milliseconds(report.rtt_ms) : "–");
    write(made, "rate", online ? rate(speed.perSecond(ticks)) : "–");
    write(made, "rejected", count(report.rejected));
    made.row.classList.toggle("rejects", report.rejected > 0);
  }

  /**
   * Brings rows up to date, and into order when it is time for that: at once those in sight, then
   * some of those that changed, then some whose ages went on. Whether changed ones are left.
   */
  function paint(ticks) {
    const now = model.now();
    // A row under somebody's finger or focus stays where it is.
    const held = body.contains(document.activeElement) || body.matches(":hover");
    if (asked || (!held && ticks - sorted >= RESORT)) arrange(ticks);
    const fresh = (id) => {
      changed.delete(id);
      const [made, entry] = [rows.get(id), model.devices.get(id)];
      if (made && entry) fillRow(made, entry, ticks, now);
    };
    const list = body.children;
    // All rows are about as high. Asked before anything is written, this costs no layout.
    const { top, height } = body.getBoundingClientRect();
    const high = height / list.length || 1;
    const first = Math.max(0, Math.floor(-top / high) - MARGIN);
    const last = Math.min(list.length, Math.ceil((innerHeight - top) / high) + MARGIN);
    const inSight = Array.from(list).slice(first, last).map((row) => row.dataset.id);
    inSight.forEach(fresh);
    values.inSight(inSight);
    let left = SLICE;
    for (const id of changed) {
      fresh(id);
      if ((left -= 1) === 0) break;
    }
    for (let i = Math.min(left, list.length); i > 0; i -= 1) {
      turn = (turn + 1) % list.length;
      fresh(list[turn].dataset.id);
    }
    return changed.size > 0;
  }

  function arrange(ticks) {
    asked = false;
    sorted = ticks;
    const { of } = COLUMNS[key];
    const counts = { all: 0, online: 0, offline: 0 };
    const list = [];
    for (const entry of model.devices.values()) {
      counts.all += 1;
      counts[entry.report.state === "online" ? "online" : "offline"] += 1;
      if (shown(entry)) list.push({ by: of(entry, ticks), id: entry.report.id });
    }
    list.sort((a, b) => compare(a.by, b.by) * (up ? 1 : -1) || text.compare(a.id, b.id));

    let next = body.firstElementChild;
    for (const { id } of list.slice(0, most)) {
      const made = rows.get(id) ?? make(id, ticks);
      if (made.row === next) next = next.nextElementSibling;
      else body.insertBefore(made.row, next);
    }
    while (next) {
      const gone = next;
      next = next.nextElementSibling;
      gone.remove();
    }
    for (const id of rows.keys()) if (!model.devices.has(id)) rows.delete(id);

    for (const head of heads) {
      const mine = head.dataset.key === key;
      if (mine) head.setAttribute("aria-sort", up ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
    for (const name of Object.keys(counts)) put(document.getElementById(`count-${name}`), count(counts[name]));
    more.hidden = list.length <= most;
    put(more, `Show more of ${plural(list.length - most, "further device")}`);
    const empty = document.getElementById("empty");
    empty.hidden = list.length > 0;
    table.hidden = counts.all === 0;
    put(empty, counts.all === 0 ? "No device has connected yet." : "No device matches.");
  }

  return {
    paint,
    /** Another page is shown. */
    rest: values.rest,
    /** Rows came or went, or changed between online and offline. */
    arrangeSoon: () => (asked = true),
    /** The device's row is to be brought up to date. */
    touch: (id) => changed.add(id),
  };
}

/** Numbers and text each in their order; what is not there comes last when ascending is reversed too. */
function compare(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return -1;
  if (b === null || b === undefined) return 1;
  return typeof a === "string" ? text.compare(a, b) : a - b;
}
