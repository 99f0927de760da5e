// One name of a device's readings: a plot of its numbers, or the times of its other values.

import { at, count, number, scaled, value } from "./format.js";
import { put } from "./overview.js";
import { axis, window as range } from "./span.js";
import { scale } from "./units.js";

/** Points that a plot keeps: about what a screen has columns. */
const POINTS = 1000;

/** Changes of a text or truth value that are kept. */
const CHANGES = 200;

/** Changes that are written out. */
const WRITTEN = 3;

const HEIGHT = 150;

const node = (kind, className, text = "") => {
  const made = document.createElement(kind);
  made.className = className;
  made.textContent = text;
  return made;
};

/** The card of one name and unit. */
export class Series {
  constructor(name, unitName, clean) {
    this.times = [];
    this.values = [];
    this.changes = [];
    this.total = 0;
    this.seen = false;
    this.chart = null;
    this.last = null;
    this.unitName = unitName;
    this.clean = clean;
    this.most = 0;

    this.card = node("section", "series");
    const head = node("h3", "");
    // Opens and closes the row, where the names are a list.
    this.name = node("button", "name");
    this.name.type = "button";
    this.name.disabled = true;
    this.name.append(node("bdi", "", clean(name, 80)));
    head.append(this.name);
    this.now = node("p", "value");
    this.number = node("bdi", "");
    this.unitNode = node("bdi", "unit");
    this.now.append(this.number, " ", this.unitNode);
    this.spark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.spark.setAttribute("class", "spark");
    this.spark.setAttribute("viewBox", "0 0 100 24");
    this.spark.setAttribute("preserveAspectRatio", "none");
    this.spark.setAttribute("aria-hidden", "true");
    this.line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    this.spark.append(this.line);
    this.plot = node("div", "plot");
    this.plot.dataset.points = "0";
    this.plot.hidden = true;
    this.bar = node("div", "bar");
    this.bar.hidden = true;
    this.bar.setAttribute("aria-hidden", "true");
    this.note = node("p", "note");
    this.card.append(head, this.now, this.spark, this.plot, this.bar, this.note);
  }

  get isText() {
    return this.values.length === 0;
  }

  /** Takes a reading; `time` in Unix seconds, of which the caller has made sure. */
  add(time, v) {
    this.total += 1;
    if (!this.last || time >= this.last.time) this.last = { time, v };
    if (typeof v !== "number") return this.change(time, v);
    const { times, values } = this;
    this.most = Math.max(this.most, Math.abs(v));
    // Mostly it is the newest. One that waited in the spool goes to its place, because the plot
    // wants its times ascending.
    let i = times.length;
    while (i > 0 && times[i - 1] > time) i -= 1;
    times.splice(i, 0, time);
    values.splice(i, 0, v);
    if (times.length > POINTS) {
      times.shift();
      values.shift();
    }
  }

  change(time, v) {
    const said = value(v);
    const newest = this.changes[this.changes.length - 1];
    if (newest && (newest.said === said || newest.time > time)) return;
    this.changes.push({ time, said });
    if (this.changes.length > CHANGES) this.changes.shift();
  }

  /** How its numbers are scaled, so that they are short. */
  get scale() {
    return scale(this.unitName, this.most);
  }

  /** Shows what was taken. The canvas is drawn only while it is on the screen. */
  paint(compact) {
    if (!this.last) return;
    const text = this.isText;
    if (!this.chart || this.chart.cursor.idx == null) this.show(this.last.time, this.last.v);
    this.card.classList.toggle("text", text);
    this.spark.toggleAttribute("hidden", text || !compact);
    this.plot.hidden = text || compact;
    this.bar.hidden = !text || this.changes.length < 2;
    if (text) return this.timeline();
    if (this.seen) (compact ? this.sketch : this.draw).call(this);
    this.plot.dataset.points = String(this.total);
  }

  show(time, v) {
    const { by, sign } = this.scale;
    const isNumber = typeof v === "number";
    put(this.number, isNumber ? scaled(v, by) : value(v));
    put(this.unitNode, isNumber ? this.clean(sign, 24) : "");
    const when = at(time, true);
    if (this.isText) {
      const past = this.changes.slice(-1 - WRITTEN, -1).reverse();
      const said = past.map((one) => `${at(one.time, true)} ${this.clean(one.said, 24)}`);
      return put(this.note, [`since ${at(this.changes[this.changes.length - 1]?.time ?? time, true)}`, ...said].join(" · "));
    }
    let low = Infinity;
    let high = -Infinity;
    for (const v of this.values) {
      if (v < low) low = v;
      if (v > high) high = v;
    }
    put(this.note, `${when} · lowest ${scaled(low, by)}, highest ${scaled(high, by)} of ${count(this.values.length)}`);
  }

  /** Stretches of equal values, as long as they were. */
  timeline() {
    if (this.bar.hidden) return;
    const end = Math.max(Date.now() / 1000, this.last.time);
    const words = Array.from(new Set(this.changes.map((one) => one.said)));
    this.bar.replaceChildren(
      ...this.changes.map(({ time, said }, i) => {
        const stretch = node("span", `tone-${words.indexOf(said) % 4}`);
        // Through the CSSOM, which the content security policy lets us.
        stretch.style.flexGrow = String(Math.max(0.001, (this.changes[i + 1]?.time ?? end) - time));
        return stretch;
      }),
    );
  }

  /** Where each value stands, from 0 to 1, and the marks beside it. */
  placed() {
    let low = Infinity;
    let high = -Infinity;
    for (const v of this.values) {
      if (v < low) low = v;
      if (v > high) high = v;
    }
    const { by } = this.scale;
    const made = axis(low / by, high / by);
    return { marks: made.marks, places: this.values.map((v) => made.place(v / by)) };
  }

  sketch() {
    const { places } = this.placed();
    const [from, to] = range(this.times[0], this.times[this.times.length - 1]);
    const points = places.map((place, i) => `${(((this.times[i] - from) / (to - from)) * 100).toFixed(2)},${(23 - place * 22).toFixed(2)}`);
    this.line.setAttribute("points", points.join(" "));
  }

  draw() {
    const width = this.plot.clientWidth;
    if (width === 0) return;
    const { marks, places } = this.placed();
    this.marks = marks;
    const data = [this.times, places];
    if (!this.chart) {
      this.chart = new uPlot(options(this, width), data, this.plot);
      const canvas = this.plot.querySelector("canvas");
      // The note below says the same in words.
      canvas.setAttribute("aria-hidden", "true");
    } else {
      if (this.chart.width !== width) this.chart.setSize({ width, height: HEIGHT });
      this.chart.setData(data);
    }
  }

  /** No canvas any more. */
  drop() {
    this.chart?.destroy();
    this.chart = null;
  }
}

/** Pixels of a letter of the axis, about. */
const LETTER = 6.6;

function options(series, width) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const font = "11px system-ui, sans-serif";
  const axis = { stroke: colour("--muted"), font, ticks: { show: false } };
  const grid = { stroke: colour("--line"), width: 1 };
  const labels = () => series.marks.map((mark) => number(mark.v));
  return {
    width,
    height: HEIGHT,
    padding: [8, 26, 0, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
    scales: { x: { time: true, range: () => range(series.times[0], series.times[series.times.length - 1]) }, y: { range: [0, 1] } },
    axes: [
      { ...axis, incrs: STEPS, grid: { show: false }, space: (u, i, low, high) => (high - low < 240 ? 64 : 48), size: 26, values: ticks },
      {
        ...axis,
        grid,
        // As wide as its longest label.
        size: () => 14 + LETTER * Math.max(3, ...labels().map((label) => label.length)),
        splits: () => series.marks.map((mark) => mark.place),
        values: labels,
      },
    ],
    series: [{}, { stroke: colour("--accent"), width: 1.6, points: { size: 4, fill: colour("--accent"), stroke: colour("--accent") } }],
    hooks: {
      setCursor: [
        (u) => {
          const i = u.cursor.idx;
          if (i == null) series.paint(false);
          else series.show(series.times[i], series.values[i]);
        },
      ],
    },
  };
}

/** Steps of the time axis, in seconds; none is finer than its labels. */
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800, 43_200]
  .concat([1, 2, 4, 7, 14, 28, 91, 365].map((days) => days * 86_400));

const clockTime = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const clockSeconds = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const calendar = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** Labels of the time axis, as exact as its steps are. */
function ticks(u, times, axis, space, step) {
  const form = step < 60 ? clockSeconds : step < 86_400 ? clockTime : calendar;
  return times.map((time) => form.format(new Date(time * 1000)));
}
