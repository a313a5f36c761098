// A photo that can be zoomed and moved, and what is drawn over it.

import { project } from "./geometry.js";
import { outliner } from "./outline.js";

export const LAYERS = { outline: "Outline", axes: "Axes", box: "Box", label: "Confidence", reconstruction: "Reconstruction" };
const AXES = ["#e5484d", "#30a46c", "#3b82f6"];
const MOST_ZOOM = 24;

export class Stage {
  constructor(element, { onPick, onDrag } = {}) {
    this.element = element;
    this.layers = new Set(Object.keys(LAYERS));
    this.items = [];
    this.image = new Image();
    this.image.alt = "";
    this.canvas = document.createElement("canvas");
    this.busyNote = Object.assign(document.createElement("div"), { className: "busy", hidden: true });
    this.zoomBar = this.#zoomBar();
    this.onPick = onPick;
    this.onDrag = onDrag;
    new ResizeObserver(() => this.fit()).observe(element);
    element.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.pointers = new Map();
    for (const kind of ["pointerdown", "pointermove", "pointerup", "pointercancel"]) {
      element.addEventListener(kind, (event) => this.#pointer(kind, event));
    }
  }

  #zoomBar() {
    const bar = Object.assign(document.createElement("div"), { className: "zoom" });
    for (const [text, name, action] of [
      ["+", "Zoom in", () => this.zoom(1.5)], ["\u2212", "Zoom out", () => this.zoom(1 / 1.5)], ["\u2922", "Whole photo", () => this.fit()],
    ]) {
      const button = Object.assign(document.createElement("button"), { textContent: text, title: name, type: "button" });
      button.setAttribute("aria-label", name);
      button.addEventListener("click", action);
      bar.append(button);
    }
    return bar;
  }

  // Shows a photo; resolves when it can be seen, with its size in pixels.
  async show(url) {
    const image = new Image();
    image.alt = "";
    image.src = url;
    await image.decode();
    this.element.classList.remove("empty");
    this.element.replaceChildren(image, this.canvas, this.busyNote, this.zoomBar);
    this.image = image;
    this.width = image.naturalWidth;
    this.height = image.naturalHeight;
    this.items = [];
    this.element.style.aspectRatio = `${this.width} / ${this.height}`;
    this.fit();
    return [this.width, this.height];
  }

  busy(text) {
    this.busyNote.textContent = text;
    this.busyNote.hidden = !text;
    this.element.setAttribute("aria-busy", String(Boolean(text)));
  }

  // items: {part, object, R, t, box, color, selected, title, reconstruction}
  set(K, items) {
    this.K = K;
    this.items = items;
    this.draw();
  }

  fit() {
    if (!this.width) return;
    const { clientWidth, clientHeight } = this.element;
    this.scale = this.least = Math.min(clientWidth / this.width, clientHeight / this.height);
    this.left = (clientWidth - this.scale * this.width) / 2;
    this.top = (clientHeight - this.scale * this.height) / 2;
    this.draw();
  }

  // Zooms around a point of the stage, or its middle.
  zoom(factor, x = this.element.clientWidth / 2, y = this.element.clientHeight / 2) {
    const scale = Math.min(MOST_ZOOM * this.least, Math.max(this.least, this.scale * factor));
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    if (scale === this.least) this.fit();
    this.draw();
  }

  #wheel(event) {
    if (!this.width) return;
    event.preventDefault();
    const box = this.element.getBoundingClientRect();
    this.zoom(Math.exp(-0.0015 * event.deltaY), event.clientX - box.left, event.clientY - box.top);
  }

  #pointer(kind, event) {
    if (!this.width || event.target.closest("button")) return;
    const at = [event.clientX, event.clientY];
    if (kind === "pointerdown") {
      this.pointers.set(event.pointerId, at);
      this.moved = 0;
      this.element.setPointerCapture(event.pointerId);
    } else if (kind === "pointermove" && this.pointers.has(event.pointerId)) {
      const before = this.pointers.get(event.pointerId);
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
      this.pointers.set(event.pointerId, at);
      this.moved += Math.hypot(at[0] - before[0], at[1] - before[1]);
      this.left += (at[0] - before[0]) / (other ? 2 : 1);
      this.top += (at[1] - before[1]) / (other ? 2 : 1);
      const box = this.element.getBoundingClientRect();
      const spread = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]);
      if (other) this.zoom(spread(at) / Math.max(1, spread(before)), (at[0] + other[0]) / 2 - box.left, (at[1] + other[1]) / 2 - box.top);
      this.draw();
    } else if (kind !== "pointermove" && this.pointers.delete(event.pointerId) && kind === "pointerup" && this.moved < 5) {
      const box = this.element.getBoundingClientRect();
      this.#pick((event.clientX - box.left - this.left) / this.scale, (event.clientY - box.top - this.top) / this.scale);
    }
  }

  #pick(x, y) {
    const inside = this.items
      .map((item, index) => ({ index, box: item.box }))
      .filter(({ box }) => box && x >= box[0] && x <= box[2] && y >= box[1] && y <= box[3])
      .sort((a, b) => (a.box[2] - a.box[0]) * (a.box[3] - a.box[1]) - (b.box[2] - b.box[0]) * (b.box[3] - b.box[1]));
    if (inside.length) this.onPick?.(inside[0].index);
  }

  // The photo's camera as the stage shows it, in device pixels.
  #view(ratio) {
    const s = this.scale * ratio;
    const shifted = (c, offset) => (c + 0.5) * s + offset * ratio - 0.5;
    return [[this.K[0][0] * s, 0, shifted(this.K[0][2], this.left)], [0, this.K[1][1] * s, shifted(this.K[1][2], this.top)], [0, 0, 1]];
  }

  draw() {
    if (!this.width) return;
    this.image.style.transform = `translate(${this.left}px, ${this.top}px) scale(${this.scale})`;
    this.image.style.imageRendering = this.scale > 3 ? "pixelated" : "auto";
    const ratio = Math.min(2, devicePixelRatio);
    const width = Math.round(this.element.clientWidth * ratio), height = Math.round(this.element.clientHeight * ratio);
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    const shown = this.items.filter((item) => item.t[2] > 0);
    if (!shown.length || !width || !height) return;
    const K = this.#view(ratio);
    if (this.layers.has("outline") && outliner()) {
      const ordered = [...shown].sort((a, b) => Number(a.selected) - Number(b.selected)).filter((item) => item.part);
      if (ordered.length) context.drawImage(outliner().draw(ordered, K, width, height, ratio), 0, 0);
    }
    for (const item of shown) this.#marks(context, item, K, ratio);
  }

  #marks(context, item, K, ratio) {
    const place = (x, y) => [(x * this.scale + this.left) * ratio, (y * this.scale + this.top) * ratio];
    if (this.layers.has("axes") && item.object) {
      const length = 0.3 * item.object.diameter_mm;
      const from = project(K, item.t);
      for (const axis of [0, 1, 2]) {
        const to = project(K, item.t.map((x, k) => x + length * item.R[k][axis]));
        stroke(context, [from, to], AXES[axis], (item.selected ? 3 : 2) * ratio);
      }
    }
    if (!item.box) return;
    const [x1, y1] = place(item.box[0], item.box[1]), [x2, y2] = place(item.box[2], item.box[3]);
    if (this.layers.has("box")) {
      stroke(context, [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]], item.color, (item.selected ? 1.6 : 1) * ratio, [5 * ratio, 4 * ratio]);
    }
    if (this.layers.has("reconstruction") && item.selected && item.reconstruction?.complete) {
      const side = Math.min(0.24 * Math.min(context.canvas.width, context.canvas.height), 150 * ratio), gap = 10 * ratio;
      context.drawImage(item.reconstruction, gap, context.canvas.height - side - gap, side, side);
      context.lineWidth = ratio;
      context.strokeStyle = "#ffffffb0";
      context.strokeRect(gap, context.canvas.height - side - gap, side, side);
    }
    if (this.layers.has("label") && item.title) {
      context.font = `560 ${13 * ratio}px system-ui, sans-serif`;
      const wide = context.measureText(item.title).width + 12 * ratio, high = 21 * ratio;
      const x = Math.max(0, Math.min(x1, context.canvas.width - wide)), y = Math.max(0, y1 - high);
      context.fillStyle = item.color;
      context.fillRect(x, y, wide, high);
      context.fillStyle = "#10161b";
      context.fillText(item.title, x + 6 * ratio, y + 15 * ratio);
    }
  }
}

function stroke(context, points, color, width, dash = []) {
  context.beginPath();
  points.forEach(([x, y], k) => (k ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.lineJoin = context.lineCap = "round";
  context.setLineDash([]);
  context.lineWidth = width + 2;
  context.strokeStyle = "#00000070";
  context.stroke();
  context.setLineDash(dash);
  context.lineWidth = width;
  context.strokeStyle = color;
  context.stroke();
  context.setLineDash([]);
}
