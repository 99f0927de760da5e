// What a device can be told to do: a form with the names that its entry in the registry allows, and
// how the last commands ended.

import { at, clean, milliseconds } from "./format.js";
import { make, put } from "./overview.js";

/** How often the list is looked at again while it is seen, in milliseconds: others send too. */
const AGAIN = 5000;

/** Seconds that a device has, unless the form says otherwise; as on the command line. */
const TIMEOUT = 30;

/** The part of a device's page about its commands. */
export function commandsOf(id) {
  const url = `./api/devices/${encodeURIComponent(id)}/commands`;
  const root = make("section", "commands");
  root.hidden = true;

  const form = make("form");
  const label = (text, field) => {
    const node = make("label", "");
    node.append(make("span", "", text), field);
    return node;
  };
  // The exact names in a list; where patterns are allowed, a free field that offers them.
  const list = make("select");
  const free = make("input");
  const offers = make("datalist");
  offers.id = "command-names";
  free.setAttribute("list", offers.id);
  free.maxLength = 64;
  free.spellcheck = false;
  free.autocomplete = "off";
  const name = label("Command", list);
  const args = make("input", "args");
  args.placeholder = "JSON, or nothing";
  args.spellcheck = false;
  args.autocomplete = "off";
  const timeout = make("input");
  timeout.type = "number";
  timeout.min = "0.1";
  timeout.max = "3600";
  timeout.step = "any";
  timeout.value = String(TIMEOUT);
  const again = make("input");
  again.type = "checkbox";
  const send = make("button", "", "Send");
  send.type = "submit";
  const outcome = make("p", "outcome");
  outcome.setAttribute("role", "status");
  form.append(
    name,
    label("Arguments", args),
    label("Seconds for the answer", timeout),
    label("May be done twice", again),
    send,
  );

  const table = make("table", "ends");
  const thead = make("thead");
  const tr = make("tr");
  for (const text of ["Time", "Command", "How it ended", "Asked by"]) {
    const th = make("th", "", text);
    th.scope = "col";
    tr.append(th);
  }
  thead.append(tr);
  const body = make("tbody");
  table.append(make("caption", "hidden", "How the last commands ended, newest first"), thead, body);
  root.append(make("h2", "", "Commands"), form, outcome, table);

  let offered = "";
  function offer(takes) {
    const now = takes.join(" ");
    if (now === offered) return;
    offered = now;
    const exact = takes.filter((one) => !one.includes("*"));
    const field = exact.length < takes.length ? free : list;
    free.placeholder = takes.join(", ");
    (field === free ? offers : list).replaceChildren(
      ...exact.map((one) => {
        const option = make("option", "", one);
        option.value = one;
        return option;
      }),
    );
    name.replaceChildren(name.firstChild, field, ...(field === free ? [offers] : []));
  }

  function ended({ state, error, took, late }) {
    const why = error ? `: ${clean(error, 160)}` : "";
    return `${clean(state, 20)}${why}${late ? ", late" : ""}${took > 0 ? `, ${milliseconds(took * 1000)}` : ""}`;
  }

  function show(page) {
    form.hidden = !(page.admin && page.takes.length > 0);
    offer(page.takes);
    body.replaceChildren(
      ...page.last.reverse().map((end) => {
        const row = make("tr");
        const cell = (text) => {
          const td = make("td");
          td.append(make("bdi", "", text));
          return td;
        };
        row.append(
          make("td", "num", at(end.time, true)),
          cell(clean(end.name, 64)),
          cell(ended(end)),
          cell(clean(end.who, 160)),
        );
        return row;
      }),
    );
    table.hidden = page.last.length === 0;
    root.hidden = form.hidden && table.hidden;
  }

  async function load() {
    try {
      const answer = await fetch(url, { cache: "no-store" });
      if (answer.ok) show(await answer.json());
    } catch {
      // The stream's end says that there is no connection.
    }
  }

  /** The body as text: numbers in the arguments reach the device as they were written. */
  function written() {
    const value = name.querySelector("select, input").value.trim();
    const parts = [`"name":${JSON.stringify(value)}`];
    const text = args.value.trim();
    if (text) {
      JSON.parse(text);
      parts.push(`"args":${text}`);
    }
    parts.push(`"timeout":${Number(timeout.value) || TIMEOUT}`, `"idempotent":${again.checked}`);
    return `{${parts.join(",")}}`;
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    let text;
    try {
      text = written();
    } catch {
      put(outcome, "The arguments are no JSON; a text needs its own quotes.");
      return;
    }
    send.disabled = true;
    put(outcome, "Sent. Waiting for its end.");
    try {
      const headers = { "Content-Type": "application/json" };
      const answer = await fetch(url, { method: "POST", headers, body: text });
      const said = await answer.json();
      if (answer.ok) {
        const value = said.value === undefined ? "" : ` ${clean(JSON.stringify(said.value), 2000)}`;
        put(outcome, `${clean(said.name, 64)}: ${ended(said)}${value}`);
      } else {
        put(outcome, clean(said.detail ?? answer.status, 240));
      }
    } catch {
      put(outcome, "No answer came. It is not known whether it was carried out.");
    }
    send.disabled = false;
    load();
  });

  const timer = setInterval(() => {
    if (!document.hidden && !root.hidden) load();
  }, AGAIN);

  return { root, show, close: () => clearInterval(timer) };
}
