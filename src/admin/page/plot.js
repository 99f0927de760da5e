// One name of a device's readings: a plot of its numbers, or its last value as text.

import { at, count, unit, value } from "./format.js";
import { put } from "./overview.js";

/** Points that a plot keeps: about what a screen has columns. */
const POINTS = 1000;

const HEIGHT = 150;

/** The card of one name and unit. */
export class Series {
  constructor(name, unitName, clean) {
    this.times = [];
    this.values = [];
    this.total = 0;
    this.seen = false;
    this.chart = null;
    this.last = null;
    this.unit = unit(unitName);

    this.card = document.createElement("section");
    this.card.className = "series";
    const head = document.createElement("h3");
    const bdi = document.createElement("bdi");
    bdi.textContent = clean(name, 80);
    head.append(bdi);
    this.now = document.createElement("p");
    this.now.className = "value";
    this.number = document.createElement("bdi");
    this.unitNode = document.createElement("bdi");
    this.unitNode.className = "unit";
    this.unitNode.textContent = this.unit;
    this.now.append(this.number, " ", this.unitNode);
    this.plot = document.createElement("div");
    this.plot.className = "plot";
    this.plot.dataset.points = "0";
    this.plot.hidden = true;
    this.note = document.createElement("p");
    this.note.className = "note";
    this.card.append(head, this.now, this.plot, this.note);
  }

  /** Takes a reading; `time` in Unix seconds. */
  add(time, v) {
    this.total += 1;
    if (!this.last || time >= this.last.time) this.last = { time, v };
    if (typeof v !== "number") return;
    const { times, values } = this;
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

  /** Shows what was taken. The canvas is drawn only while it is on the screen. */
  paint() {
    if (!this.last) return;
    const numbers = this.values.length > 0;
    if (!this.chart || this.chart.cursor.idx == null) this.show(this.last.time, this.last.v);
    this.card.classList.toggle("text", !numbers);
    this.plot.hidden = !numbers;
    if (!numbers) return;
    if (this.seen) this.draw();
    this.plot.dataset.points = String(this.total);
  }

  show(time, v) {
    put(this.number, value(v));
    this.unitNode.hidden = typeof v !== "number";
    const when = at(time, true);
    if (this.values.length === 0) return put(this.note, when);
    let low = Infinity;
    let high = -Infinity;
    for (const v of this.values) {
      if (v < low) low = v;
      if (v > high) high = v;
    }
    put(this.note, `${when} · lowest ${value(low)}, highest ${value(high)} of ${count(this.values.length)}`);
  }

  draw() {
    const width = this.plot.clientWidth;
    if (width === 0) return;
    const data = [this.times, this.values];
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

  /** Other colours: the canvas has to be drawn anew. */
  recolour() {
    if (!this.chart) return;
    this.chart.destroy();
    this.chart = null;
    this.paint();
  }
}

function options(series, width) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const font = "11px system-ui, sans-serif";
  const axis = { stroke: colour("--muted"), font, ticks: { show: false } };
  const grid = { stroke: colour("--line"), width: 1 };
  return {
    width,
    height: HEIGHT,
    padding: [8, 26, 0, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
    scales: { x: { time: true }, y: { range: (u, low, high) => span(low, high) } },
    axes: [
      { ...axis, incrs: STEPS, grid: { show: false }, space: (u, i, low, high) => (high - low < 240 ? 64 : 48), size: 26, values: ticks },
      { ...axis, grid, space: 32, size: 52, values: (u, marks) => marks.map(value) },
    ],
    series: [{}, { stroke: colour("--accent"), width: 1.6, points: { size: 4, fill: colour("--accent"), stroke: colour("--accent") } }],
    hooks: {
      setCursor: [
        (u) => {
          const i = u.cursor.idx;
          if (i == null) series.paint();
          else series.show(u.data[0][i], u.data[1][i]);
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

/** The range of the axis: the values with a little air, and never nothing. */
function span(low, high) {
  if (low === null || high === null) return [0, 1];
  const air = high > low ? (high - low) * 0.12 : Math.abs(high) * 0.05 || 1;
  return [low - air, high + air];
}
