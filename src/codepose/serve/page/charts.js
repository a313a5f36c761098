// Curves as SVG: one chart with a few lines over the steps of training.

const SPACE = "http://www.w3.org/2000/svg";
const WIDE = 420, HIGH = 180, LEFT = 46, RIGHT = 12, TOP = 10, BOTTOM = 24;

function element(name, attributes, text = "") {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  made.textContent = text;
  return made;
}

const short = (value, scale) => (scale === "share" ? value.toFixed(2) : value >= 0.01 || value === 0 ? String(Number(value.toPrecision(2))) : value.toExponential(0));

// The numbers beside which a line is drawn: 1, 2 and 5 times powers of ten, or shares.
function marks(low, high, scale) {
  if (scale === "share") return [0, 0.5, 1];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const step of [1, 2, 5]) found.push(step * 10 ** power);
  }
  const inside = found.filter((value) => value >= low && value <= high);
  return inside.length > 4 ? inside.filter((_, k) => k % Math.ceil(inside.length / 4) === 0) : inside;
}

function bounds(lines, scale) {
  if (scale === "share") return [0, 1];
  const values = lines.flatMap((line) => line.values).filter((value) => value > 0);
  if (!values.length) return [0.1, 1];
  return [Math.min(...values) / 1.15, Math.max(...values) * 1.15];
}

// A chart in words.
export function words({ title, scale, lines }) {
  return `${title}: ${lines.map((line) => `${line.name} ${short(line.values.at(-1), scale)}`).join(", ")}`;
}

export function chart({ title, scale, lines }) {
  const figure = document.createElement("figure");
  figure.className = "chart";
  const svg = element("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": words({ title, scale, lines }) });
  const [low, high] = bounds(lines, scale), most = Math.max(1, ...lines.flatMap((line) => line.steps));
  const bend = scale === "log" ? (value) => Math.log(Math.max(value, low)) : (value) => value;
  const x = (step) => LEFT + (step / most) * (WIDE - LEFT - RIGHT);
  const y = (value) => HIGH - BOTTOM - ((bend(value) - bend(low)) / (bend(high) - bend(low))) * (HIGH - TOP - BOTTOM);
  for (const value of marks(low, high, scale)) {
    svg.append(element("line", { class: "grid", x1: LEFT, x2: WIDE - RIGHT, y1: y(value), y2: y(value) }));
    svg.append(element("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value, scale)));
  }
  svg.append(element("text", { x: LEFT, y: HIGH - 6 }, "0"));
  svg.append(element("text", { x: WIDE - RIGHT, y: HIGH - 6, "text-anchor": "end" }, `${most.toLocaleString("en")} iterations`));
  lines.forEach((line) => {
    const points = line.steps.map((step, k) => [x(step), y(line.values[k])]);
    if (points.length > 1) svg.append(element("polyline", { class: `line ${line.name}`, points: points.map((p) => p.map((v) => v.toFixed(1)).join(",")).join(" ") }));
    if (points.length < 12) for (const [cx, cy] of points) svg.append(element("circle", { class: `dot ${line.name}`, cx, cy, r: 3 }));
  });
  const caption = document.createElement("figcaption");
  caption.append(Object.assign(document.createElement("strong"), { textContent: title }));
  for (const line of lines) caption.append(Object.assign(document.createElement("span"), { className: `key ${line.name}`, textContent: `${line.name} ${short(line.values.at(-1), scale)}` }));
  figure.append(caption, svg);
  return figure;
}
