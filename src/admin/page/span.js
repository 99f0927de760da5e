// What a plot is given to draw. Pure functions: any two numbers that a device can send make an axis
// that can be drawn, with ends that are apart and a handful of marks between them.

/** The earliest time that can be true, Unix seconds: 2020. The hub marks by the same limits. */
const EARLIEST = 1_577_836_800;

/** How far ahead of the hub's clock a time can be true, in seconds. */
const AHEAD = 86_400;

/** Whether a reading's time can be true; `now`: the hub's. */
export const plausible = (time, now) => Number.isFinite(time) && time >= EARLIEST && time <= now + AHEAD;

/** What a time that cannot be true looks like, in words, or nothing. */
export function likely(time, now) {
  for (const [unit, factor] of [["milliseconds", 1e3], ["microseconds", 1e6], ["nanoseconds", 1e9]]) {
    if (plausible(time / factor, now)) return `it looks like ${unit}`;
  }
  if (time >= 0 && time < EARLIEST) return "it looks like a clock that was never set";
  return "";
}

/** Steps between two marks that fit into an axis, at most. */
const STEPS = 5;

/** The least part of a value's size that an axis shows: what labels of six digits can tell apart with room to spare. */
const FINEST = 1e-4;

/** Above this the way from one number to another may be none that a double holds. */
const HUGE = 1e300;

/**
 * The axis of values from `low` to `high`. `place(v)` is where a value stands, from 0 to 1;
 * `marks` are round numbers within, with their places.
 */
export function axis(low, high) {
  if (!Number.isFinite(low) || !Number.isFinite(high) || low > high) return axis(0, 1);
  const size = Math.max(Math.abs(low), Math.abs(high));
  const scale = size > HUGE ? 2 ** -8 : 1;
  const least = size > 0 ? Math.max(size * scale * FINEST, Number.MIN_VALUE * 1e6) : 0.5;
  // A little air above and below.
  const half = Math.max((high * scale - low * scale) * 0.62, least);
  const from = (low * scale) / 2 + (high * scale) / 2 - half;
  const place = (v) => Math.min(1, Math.max(0, (v * scale - from) / (2 * half)));
  return { place, marks: marks(from, 2 * half).map((at) => ({ v: at / scale, place: place(at / scale) })) };
}

/** Round numbers from `from` on. */
function marks(from, length) {
  const unit = 10 ** (Math.floor(Math.log10(length)) - 1);
  for (const round of [1, 2, 5, 10, 20, 50]) {
    const step = round * unit;
    // Among the smallest numbers there is no power of ten to count in.
    if (!(step > 0) || length / step > STEPS) continue;
    const first = Math.ceil(from / step);
    const count = Math.floor((from + length) / step) - first + 1;
    // Without the noise of the last digits: 0.30000000000000004 is 0.3.
    return Array.from({ length: Math.min(count, STEPS + 1) }, (_, n) => Number(((first + n) * step).toPrecision(12)));
  }
  return [];
}

/** The range of a time axis: never so short that its marks would say the same. */
export function window(first, last) {
  const short = 60 - (last - first);
  return short > 0 ? [first - short / 2, last + short / 2] : [first, last];
}
