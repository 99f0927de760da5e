// The lines of the picture: from the devices through the lanes to the broker, drawn to where the
// boxes really are, so that they meet them in the wide and in the narrow layout.

const LINES = [
  ["to-live", "node-devices", "node-live"],
  ["to-spool", "node-devices", "node-spool"],
  ["from-live", "node-live", "node-broker"],
  ["from-spool", "node-spool", "node-broker"],
];

/** Length of an arrow's tip, in pixels. */
const TIP = 6;

/** Draws the lines, now and whenever a box moves or grows. */
export function drawLinks() {
  const picture = document.getElementById("way");
  const drawing = document.getElementById("links");
  const node = (id) => document.getElementById(id);

  function draw() {
    const at = picture.getBoundingClientRect();
    if (at.width === 0) return;
    for (const [name, from, to] of LINES) {
      const a = node(from).getBoundingClientRect();
      const b = node(to).getBoundingClientRect();
      const [line, tip] = drawing.querySelector(`.${name}`).children;
      if (b.left >= a.right) {
        const [x, y] = [a.right - at.left, (a.top + a.bottom) / 2 - at.top];
        const [u, v] = [b.left - at.left - 2, (b.top + b.bottom) / 2 - at.top];
        const half = (x + u) / 2;
        line.setAttribute("d", `M${x} ${y}C${half} ${y} ${half} ${v} ${u} ${v}`);
        tip.setAttribute("d", `M${u - TIP} ${v - TIP}L${u} ${v}L${u - TIP} ${v + TIP}`);
      } else {
        const [x, y] = [middle(a, b) - at.left, a.bottom - at.top];
        const [u, v] = [middle(b, a) - at.left, b.top - at.top - 2];
        const half = (y + v) / 2;
        line.setAttribute("d", `M${x} ${y}C${x} ${half} ${u} ${half} ${u} ${v}`);
        tip.setAttribute("d", `M${u - TIP} ${v - TIP}L${u} ${v}L${u + TIP} ${v - TIP}`);
      }
    }
  }

  const watch = new ResizeObserver(draw);
  watch.observe(picture);
  for (const id of new Set(LINES.flatMap(([, from, to]) => [from, to]))) watch.observe(node(id));
}

/** Where a line leaves or enters a box from above or below: over the middle of the narrower one. */
function middle(a, b) {
  const narrow = a.width < b.width ? a : b;
  return (narrow.left + narrow.right) / 2;
}
