// The table of devices. Holds a thousand rows: a row is touched only when what it shows changed.

import { ago, clean, count, milliseconds, plural, rate } from "./format.js";
import { put } from "./overview.js";

/** Rows shown at first, and added by the button below the table. The rest is a filter away. */
const PAGE = 1000;

/** The order follows the numbers at most this often, in ms; rows that jump cannot be read. */
const RESORT = 3_000;

const text = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

/** What a column sorts by, and the direction that is useful first. */
const COLUMNS = {
  id: { of: (entry) => entry.report.id, up: true },
  // Those that are not well first.
  state: { of: (entry) => (entry.report.state === "online" ? 1 : 0), up: true },
  last_seen: { of: (entry) => entry.report.last_seen, up: true },
  rtt_ms: { of: (entry) => entry.report.rtt_ms, up: false },
  rate: { of: (entry, ticks) => entry.rate.perSecond(ticks), up: false },
  rejected: { of: (entry) => entry.report.rejected, up: false },
};

function cell(row, kind, className) {
  const node = document.createElement(kind);
  node.className = className;
  row.append(node);
  return node;
}

/** Builds the table's behaviour. `announce(text)` tells a screen reader. */
export function deviceTable(model, announce) {
  const table = document.getElementById("devices");
  const body = table.tBodies[0];
  const heads = Array.from(table.tHead.rows[0].cells);
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
    return words.every((word) => line.includes(word));
  }

  function make(id) {
    const row = document.createElement("tr");
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
      seen: cell(row, "td", "c-seen num"),
      rtt: cell(row, "td", "c-rtt num"),
      rate: cell(row, "td", "c-rate num"),
      rejected: cell(row, "td", "c-rejected num"),
      shows: {},
    };
    rows.set(id, made);
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
    if (made.shows.state !== report.state) {
      made.shows.state = report.state;
      made.row.dataset.state = online ? "online" : "offline";
    }
    write(made, "word", online ? "online" : "offline");
    write(made, "why", online ? "" : clean(report.reason, 80));
    write(made, "seen", ago(now - report.last_seen));
    write(made, "rtt", online ? milliseconds(report.rtt_ms) : "–");
    write(made, "rate", online ? rate(speed.perSecond(ticks)) : "–");
    write(made, "rejected", count(report.rejected));
    made.row.classList.toggle("rejects", report.rejected > 0);
  }

  /** Brings the rows up to date, and into order when it is time for that. */
  function paint(ticks) {
    const now = model.now();
    // A row under somebody's finger or focus stays where it is.
    const held = body.contains(document.activeElement) || body.matches(":hover");
    if (asked || (!held && ticks - sorted >= RESORT)) arrange(ticks);
    for (const row of body.rows) {
      const entry = model.devices.get(row.dataset.id);
      if (entry) fillRow(rows.get(row.dataset.id), entry, ticks, now);
    }
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
      const made = rows.get(id) ?? make(id);
      made.row.dataset.id = id;
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

  return { paint, arrangeSoon: () => (asked = true) };
}

/** Numbers and text each in their order; what is not there comes last when ascending is reversed too. */
function compare(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return -1;
  if (b === null || b === undefined) return 1;
  return typeof a === "string" ? text.compare(a, b) : a - b;
}
