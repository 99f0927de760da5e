// Units as people read them. SenML's names (RFC 8428, RFC 8798) say what was measured; what is shown
// has a scale in which the number is short. Pure functions.

const times = (unit) => [[1, unit]];

/** From the largest: a scale is used from its own size on. */
const si = (unit, from = -3, to = 9) =>
  [[9, "G"], [6, "M"], [3, "k"], [0, ""], [-3, "m"], [-6, "µ"]]
    .filter(([power]) => power <= to && power >= from)
    .map(([power, prefix]) => [10 ** power, prefix + unit]);

const binary = (unit) => [[2 ** 40, `Ti${unit}`], [2 ** 30, `Gi${unit}`], [2 ** 20, `Mi${unit}`], [2 ** 10, `Ki${unit}`], [1, unit]];

const percent = [[0.01, "%"]];

/** The scales of each unit: how much of the unit one of what is shown is, and its sign. */
const SCALES = {
  m: [[1000, "km"], [1, "m"], [0.01, "cm"], [0.001, "mm"]],
  kg: [[1000, "t"], [1, "kg"], [0.001, "g"]],
  g: [[1000, "kg"], [1, "g"]],
  s: [[172_800, "d", 86_400], [7_200, "h", 3_600], [120, "min", 60], [1, "s"], [0.001, "ms"]],
  ms: [[1000, "s"], [1, "ms"]],
  min: times("min"), h: times("h"),
  A: si("A"), mA: [[1000, "A"], [1, "mA"]],
  V: si("V"), mV: [[1000, "V"], [1, "mV"]],
  W: si("W"), kW: si("W").map(([of, sign]) => [of / 1000, sign]),
  J: si("J", 0), Wh: si("Wh", 0), kWh: [[1000, "MWh"], [1, "kWh"]],
  VA: si("VA", 0), var: si("var", 0), VAh: si("VAh", 0), varh: si("varh", 0), kVA: times("kVA"), kvar: times("kvar"),
  Hz: si("Hz", 0), MHz: times("MHz"),
  Pa: [[1e6, "MPa"], [1000, "hPa", 100], [1, "Pa"]], hPa: times("hPa"),
  K: times("K"), Cel: times("°C"), degF: times("°F"), deg: times("°"), rad: times("rad"),
  lx: times("lx"), lm: times("lm"), cd: times("cd"), N: si("N", 0), Ohm: si("Ω", 0), C: si("C"), F: si("F", -6), S: si("S", -6), H: si("H", -6), T: si("T", -6), Wb: times("Wb"),
  m2: times("m²"), m3: times("m³"), l: [[1, "L"], [0.001, "mL"]],
  "m/s": times("m/s"), "m/s2": times("m/s²"), "km/h": times("km/h"), "m3/s": times("m³/s"), "l/s": times("L/s"), "kg/s": times("kg/s"), "mm/h": times("mm/h"),
  "W/m2": times("W/m²"), "kg/m3": times("kg/m³"), "ug/m3": times("µg/m³"), "S/m": times("S/m"), "W/K": times("W/K"),
  "/": percent, "%": times("%"), "/100": times("%"), "/1000": times("‰"), "%RH": times("%"), "%EL": times("%"), EL: [[1, "s"]],
  count: times(""), "/min": times("/min"), "beat/min": times("/min"), "1/s": times("/s"), "1/min": times("/min"), beats: times(""),
  pH: times("pH"), ppm: times("ppm"), dB: times("dB"), dBW: times("dBW"), dBm: times("dBm"), dBV: times("dBV"),
  bit: si("bit", 0), "bit/s": si("bit/s", 0), "Mbit/s": times("Mbit/s"),
  B: binary("B"), KiB: binary("B").map(([of, sign]) => [of / 1024, sign]), GB: times("GB"), "B/s": binary("B/s"), "MB/s": times("MB/s"),
  lat: times("°"), lon: times("°"), NTU: times("NTU"), Bq: times("Bq"), Gy: times("Gy"), Sv: times("Sv"),
};

/**
 * The scale for values of this unit up to `most`: `by` is what a value is divided by, `sign` stands
 * behind it. Of a unit that is not known the values are as they come.
 */
export function scale(unit, most) {
  const scales = unit && Object.hasOwn(SCALES, unit) ? SCALES[unit] : null;
  if (!scales) return { by: 1, sign: unit ?? "" };
  const size = Math.abs(most);
  const fits = (Number.isFinite(size) && size > 0 && scales.find(([from]) => size >= from)) || scales.find(([of]) => of === 1) || scales[scales.length - 1];
  const smallest = scales[scales.length - 1];
  const [from, sign, by] = size > 0 && size < smallest[0] ? smallest : fits;
  return { by: by ?? from, sign };
}
