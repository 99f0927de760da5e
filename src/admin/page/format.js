// How numbers, times and foreign text are written. Pure functions.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumSignificantDigits: 6 });

/** What stands where there is nothing to say. */
export const NOTHING = "–";

// Control characters, and those that turn or hide what stands beside them (bidi embeddings,
// overrides and isolates, zero-width characters, line and paragraph separators, tags).
const UNSEEN =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;

/** Text of a device, fit to stand beside ours: every character seen, no longer than `most`. */
export function clean(text, most = 160) {
  let seen = String(text).slice(0, most * 4).replace(UNSEEN, "\u00b7");
  // Stacks of combining marks reach into the lines above and below.
  seen = seen.replace(/(\p{M}{3})\p{M}+/gu, "$1");
  const letters = Array.from(seen);
  return letters.length > most ? letters.slice(0, most - 1).join("") + "…" : seen;
}

/** The word for a device's state. */
export const stateWord = (state) => (["online", "asleep", "unseen"].includes(state) ? state : "offline");

/** 12,345 */
export const count = (n) => (Number.isFinite(n) ? whole.format(n) : NOTHING);

/** `1 batch`, `2 batches` */
export const plural = (n, one, many = one + "s") => `${count(n)} ${n === 1 ? one : many}`;

/** 1.2 MiB, as the configuration and the command line have it. */
export function bytes(n) {
  if (!Number.isFinite(n)) return NOTHING;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return `${unit > 0 && n < 10 ? n.toFixed(1) : whole.format(n)}\u00a0${units[unit]}`;
}

/** 8 s, 4 min, 2 h 14 min, 3 d 4 h */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return NOTHING;
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  const min = Math.floor(s / 60);
  if (min < 60) return `${min} min`;
  const h = Math.floor(min / 60);
  if (h < 24) return min % 60 ? `${h} h ${min % 60} min` : `${h} h`;
  const d = Math.floor(h / 24);
  return h % 24 && d < 10 ? `${d} d ${h % 24} h` : `${d} d`;
}

/** An estimate: under 10 s, about 4 min */
export const estimate = (seconds) =>
  seconds < 10 ? "under 10 s" : `about ${duration(seconds < 60 ? Math.ceil(seconds / 10) * 10 : seconds)}`;

/** now, 8 s, 4 min: how long ago, in steps coarse enough to be still. */
export function ago(seconds) {
  if (!Number.isFinite(seconds)) return NOTHING;
  if (seconds < 3) return "now";
  if (seconds < 20) return `${Math.round(seconds)} s`;
  if (seconds < 60) return `${Math.floor(seconds / 10) * 10} s`;
  return duration(seconds);
}

const time = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const exact = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const year = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** 14:05; 3 Nov, 14:05 when that is not today; with the year when it is another one. */
export function at(unix, seconds = false) {
  const date = new Date(unix * 1000);
  if (!Number.isFinite(unix) || Number.isNaN(date.getTime())) return NOTHING;
  const clock = (seconds ? exact : time).format(date);
  const today = new Date();
  if (date.toDateString() === today.toDateString()) return clock;
  return `${(date.getFullYear() === today.getFullYear() ? day : year).format(date)}, ${clock}`;
}

/** 12.4/s, 3/min, 2/h */
export function rate(perSecond) {
  if (perSecond === null || !Number.isFinite(perSecond)) return NOTHING;
  if (perSecond === 0) return "0";
  const [n, unit] =
    perSecond >= 0.95 ? [perSecond, "s"] : perSecond * 60 >= 0.95 ? [perSecond * 60, "min"] : [perSecond * 3600, "h"];
  return `${n < 9.95 ? n.toFixed(1) : whole.format(n)}/${unit}`;
}

/** 0.8 ms, 12 ms, 1.2 s */
export function milliseconds(ms) {
  if (ms === null || !Number.isFinite(ms)) return NOTHING;
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return ms < 10 ? `${ms.toFixed(1)} ms` : `${whole.format(ms)} ms`;
}

/** A number, to six digits. */
export function number(v) {
  const size = Math.abs(v);
  return size !== 0 && (size >= 1e16 || size < 1e-4) ? v.toExponential(3) : size >= 1e6 ? whole.format(v) : fine.format(v);
}

/** A number in another scale: no more digits than one reads. */
export const scaled = (v, by) => number(by === 1 ? v : Number((v / by).toPrecision(4)));

/** A reading's value that is no number, as text. */
export function value(v) {
  if (typeof v === "number") return number(v);
  return clean(typeof v === "string" ? v : JSON.stringify(v) ?? "", 400);
}
