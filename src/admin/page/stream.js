// The hub's server-sent events, for as long as the page is open.

const EVENTS = ["hello", "status", "device", "forgotten", "change", "reading"];

/** Pause before a new try where the browser does not try by itself, in ms. */
const RETRY = 2000;

/**
 * Without an event for so long, in ms, the hub is asked whether it is there: a connection that
 * died without a word looks like a quiet hub, because scripts do not see the keep-alive comments.
 */
const SILENCE = 20_000;

/**
 * A page that nobody sees for so long, in ms, gives its stream back: browsers have six connections
 * to one host for all their tabs, and the hub has few for readers of events.
 */
const HIDDEN = 10_000;

/** How long that question may take, in ms. */
const PATIENCE = 5_000;

/**
 * Opens the stream and keeps it open. `on` has a function for every event, called with its data,
 * and `lost()`, called when the connection breaks and at every failed try.
 * Returns `open(url)`, which changes over to another stream.
 */
export function connect(on) {
  let source = null;
  let url = null;
  let retry = 0;
  let heard = 0;
  let hiding = 0;

  function open(next) {
    url = next;
    again();
  }

  function again() {
    clearTimeout(retry);
    if (source) source.close();
    source = null;
    if (!url || document.hidden) return; // Opened when somebody looks.
    const mine = new EventSource(url);
    source = mine;
    heard = performance.now();
    for (const name of EVENTS) {
      mine.addEventListener(name, (event) => {
        // What a closed stream still had in its queue is about another page.
        if (mine !== source) return;
        heard = performance.now();
        on[name](JSON.parse(event.data));
      });
    }
    mine.onerror = () => {
      if (mine !== source) return;
      on.lost();
      // After a broken connection the browser tries again; after an answer that is an error
      // (503 while the hub is full, 401) it gives up, so we do it.
      if (mine.readyState === EventSource.CLOSED) retry = setTimeout(again, RETRY);
    };
  }

  async function probe() {
    if (!source || source.readyState !== EventSource.OPEN || performance.now() - heard < SILENCE) return;
    const mine = source;
    const control = new AbortController();
    const timer = setTimeout(() => control.abort(), PATIENCE);
    try {
      await fetch("./api/status", { method: "HEAD", cache: "no-store", signal: control.signal });
      heard = performance.now();
    } catch {
      if (mine === source) {
        on.lost();
        again();
      }
    } finally {
      clearTimeout(timer);
    }
  }
  setInterval(probe, PATIENCE);
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiding);
    if (!document.hidden) {
      if (!source) again();
      return;
    }
    hiding = setTimeout(() => {
      clearTimeout(retry);
      if (source) source.close();
      source = null;
    }, HIDDEN);
  });
  return open;
}
