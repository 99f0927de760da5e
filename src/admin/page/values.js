// What devices say now, for the rows of the table: asked for those in sight, and for those whose
// readings have a name that the filter has a word of.

import { clean, scaled, value as written } from "./format.js";
import { scale } from "./units.js";

/** Values are asked for anew after so long, in ms. */
const EVERY = 5_000;

/** Rows that come into sight, and words that are typed, wait so long for others, in ms. */
const GATHER = 300;

/** Rows that are asked for at a time: more than a tall screen has. Their ids fit into a request. */
const ROWS = 100;

/** Readings that are written into a row. */
const SHOWN = 3;

/** One reading as a row has it: its name without what is the device's, its value and its sign. */
export function brief(id, { name, unit, value }) {
  const short = name.startsWith(`${id}/`) || name.startsWith(`${id}:`) ? name.slice(id.length + 1) : name;
  if (typeof value !== "number") return `${clean(short, 40)} ${typeof value === "boolean" ? (value ? "on" : "off") : written(value)}`.trim();
  const { by, sign } = scale(unit, value);
  return `${clean(short, 40)} ${scaled(value, by)}${sign ? `\u00a0${clean(sign, 12)}` : ""}`;
}

const order = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

/** `changed()`: something is to be painted anew, `found()`: the filter finds other devices. */
export function currentValues(changed, found) {
  let rows = new Map(); // Of those in sight, by id.
  let asked = []; // The ids in sight.
  let words = [];
  let matches = new Map(); // By word: a map by id.
  let timer = 0;
  let due = 0;

  async function get(query) {
    try {
      const answer = await fetch(`./api/values?${query}`, { cache: "no-store" });
      return answer.ok ? new Map(Object.entries(await answer.json())) : null;
    } catch {
      return null; // The stream's end says that there is no connection.
    }
  }

  async function ask() {
    timer = 0;
    due = 0;
    if (!document.hidden) {
      const now = words;
      const answers = await Promise.all(now.map((word) => get(`name=${encodeURIComponent(word)}`)));
      if (now === words) {
        matches = new Map(now.map((word, i) => [word, answers[i] ?? matches.get(word) ?? new Map()]));
        if (now.length > 0) found();
      }
      if (asked.length > 0) rows = (await get(asked.map((id) => `device=${encodeURIComponent(id)}`).join("&"))) ?? rows;
      changed();
    }
    later(EVERY);
  }

  function later(wait) {
    const at = performance.now() + wait;
    if (timer && due <= at) return;
    clearTimeout(timer);
    due = at;
    timer = setTimeout(ask, wait);
  }

  return {
    /** These rows are in sight. */
    inSight(ids) {
      asked = ids.slice(0, ROWS);
      later(asked.some((id) => !rows.has(id)) ? GATHER : EVERY);
    },
    /** The filter has these words. */
    filter(typed) {
      words = typed.slice(0, 4);
      later(GATHER);
    },
    /** Whether a reading of the device has the word in its name. */
    has: (id, word) => matches.get(word)?.has(id) ?? false,
    /** What its row says: first what the filter has found. */
    of(id) {
      const hit = words.map((word) => matches.get(word)?.get(id)).find(Boolean);
      const all = hit ?? rows.get(id) ?? [];
      const sorted = all.slice().sort((a, b) => order.compare(a.name, b.name));
      return sorted.slice(0, SHOWN).map((one) => brief(id, one)).join(", ") + (sorted.length > SHOWN ? ", …" : "");
    },
    /** Nobody looks at the table. */
    rest() {
      clearTimeout(timer);
      timer = 0;
    },
  };
}
