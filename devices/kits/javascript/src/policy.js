// When to come back, in seconds, by how the last attempt ended. `random` gives numbers in 0..1.

const span = (first, longest, failures) => Math.min(first * 2 ** Math.min(failures, 20), longest);

/** Exponential with jitter: from the upper half of a span that doubles from 1 s to a minute. */
export function backoff(failures, random) {
  return span(1, 60, failures) * (0.5 + 0.5 * random());
}

/** The pause after a close code, or after the end of a connection without one (`null`). The result
 *  `null` means: do not come back. */
export function afterClose(code, failures, random) {
  if (code === 4002) return null;
  if (code === 4001) return 60 + 15 * random();
  const usual = backoff(failures, random);
  if (code === 1001 || code === 1009 || code === 1013) {
    // Grows only when it happens again and again.
    return Math.max(1 + 4 * random(), failures > 2 ? usual : 0);
  }
  if ([1002, 1003, 1007, 1008, 4003].includes(code)) {
    return span(60, 900, failures) * (1 + 0.25 * random());
  }
  return usual;
}

/** The pause after an HTTP answer in place of the upgrade. A browser does not tell of it. */
export function afterRefusal(status, retryAfter, failures, random) {
  const usual = backoff(failures, random);
  if (retryAfter !== null) {
    return Math.max(Math.min(Math.max(retryAfter, 0), 3600) * (1 + 0.1 * random()), usual);
  }
  if (status === 429 || status < 400 || status >= 500) return usual;
  // A person has to mend it.
  return 3600 * (1 + 0.25 * random());
}
