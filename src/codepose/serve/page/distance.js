// How far away the part may be: asked for with every photo, and what a training is for; this browser remembers it.

import { remember, remembered } from "./memory.js";

const KEPT = "codepose.distance";

export class Distance extends EventTarget {
  constructor(form) {
    super();
    this.form = form;
    this.ends = ["nearest", "farthest"].map((name) => form.elements.namedItem(name));
    const before = remembered(KEPT, {});
    for (const end of this.ends) end.value = before[end.name] ?? "";
    this.needed = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => this.#check());
    form.addEventListener("change", () => {
      remember(KEPT, this.fields);
      if (this.complete) this.dispatchEvent(new Event("change")); // one end is typed after the other
    });
  }

  // Whether nothing can be done without it, as in training.
  set needed(needed) {
    this.always = needed;
    for (const end of this.ends) end.placeholder = needed ? "" : "any";
    this.#check();
  }

  // What a request says of it; empty = any.
  get fields() {
    return Object.fromEntries(this.ends.filter((end) => end.value).map((end) => [end.name, end.value]));
  }

  // At the end of what is said of a photo in which nothing is.
  get words() {
    const { nearest, farthest } = this.fields;
    return nearest ? `, ${nearest} to ${farthest} mm away` : "";
  }

  // Whether it can be asked for: both ends are there, or none.
  get complete() {
    return this.form.checkValidity();
  }

  // As ``complete``; what is wrong is said at its field.
  tell() {
    return this.form.reportValidity();
  }

  #check() {
    const [nearest, farthest] = this.ends, given = this.ends.some((end) => end.value || end.validity.badInput);
    for (const end of this.ends) end.required = this.always || given;
    farthest.setCustomValidity(nearest.value && farthest.value && Number(farthest.value) < Number(nearest.value) ? "This is nearer than the nearest." : "");
  }
}
