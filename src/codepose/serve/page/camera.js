// The camera: stored by the service, remembered by this browser, or guessed.

import { remember, remembered } from "./memory.js";

const OWN = "codepose.cameras", CHOSEN = "codepose.camera";
const FIELDS = [["fx", "fx"], ["fy", "fy"], ["cx", "cx"], ["cy", "cy"]];

export class CameraForm extends EventTarget {
  constructor(form, stored) {
    super();
    this.form = form;
    this.stored = Object.fromEntries(stored.map((camera) => [camera.name, camera]));
    this.own = remembered(OWN, {});
    this.#build();
    this.#choose(localStorage.getItem(CHOSEN) ?? (stored.length ? `stored:${stored[0].name}` : "guess"));
  }

  // What a request says of the camera.
  get fields() {
    const [kind, name] = this.#chosen();
    if (kind === "stored") return { camera: name };
    if (kind === "guess") return { K: `fov=${this.part("fov").value || 60}` };
    const value = (key) => Number(this.part(key).value);
    const given = { K: [[value("fx"), 0, value("cx")], [0, value("fy"), value("cy")], [0, 0, 1]] };
    if (this.part("width").value && this.part("height").value) Object.assign(given, { width: value("width"), height: value("height") });
    return { K: JSON.stringify(given), distortion: this.part("distortion").value.trim().replace(/[\s,;]+/g, ",") };
  }

  // Whether it can be asked for.
  get complete() {
    return this.#chosen()[0] === "stored" || this.form.checkValidity();
  }

  // Whether photos have to be straightened before anything is drawn on them.
  get bends() {
    const [kind, name] = this.#chosen();
    if (kind === "stored") return this.stored[name].distortion.length > 0;
    return kind !== "guess" && /[1-9]/.test(this.part("distortion").value);
  }

  part(name) {
    return this.form.elements.namedItem(name);
  }

  #chosen() {
    const [kind, ...rest] = this.part("which").value.split(":");
    return [kind, rest.join(":")];
  }

  #build() {
    const number = (name, label, more = "") => `<label>${label}<input name="${name}" type="number" step="any" inputmode="decimal" ${more}></label>`;
    this.form.innerHTML = `
      <label>Camera<select name="which"></select></label>
      <p class="quiet small" data-note></p>
      <fieldset data-guess aria-label="Field of view">${number("fov", "Horizontal field of view, degrees", 'min="1" max="150" value="60"')}</fieldset>
      <fieldset data-own aria-label="Calibration">
        <div class="grid2">${FIELDS.map(([name, label]) => number(name, `${label}, pixels`, name[0] === "f" ? 'required min="0.001"' : "required")).join("")}</div>
        <label>Distortion (OpenCV: k1, k2, p1, p2, k3 \u2026)<input name="distortion" inputmode="text" placeholder="none" pattern="[-+.0-9eE,;\\s]*" title="numbers with commas"></label>
        <div class="grid2">${number("width", "Calibrated at width", 'min="1" placeholder="any"')}${number("height", "and height", 'min="1" placeholder="any"')}</div>
        <label>Name<input name="name" maxlength="40" placeholder="left camera"></label>
        <div class="row"><button type="button" data-save>Save in this browser</button><button type="button" data-forget>Forget</button></div>
      </fieldset>`;
    this.#list();
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.part("which").addEventListener("change", () => this.#choose(this.part("which").value, true));
    this.form.addEventListener("change", (event) => {
      if (!["which", "name"].includes(event.target.name)) this.#changed();
    });
    this.form.querySelector("[data-save]").addEventListener("click", () => this.#save());
    this.form.querySelector("[data-forget]").addEventListener("click", () => this.#forget());
  }

  #list() {
    const option = (value, text) => Object.assign(document.createElement("option"), { value, textContent: text });
    const stored = Object.keys(this.stored).map((name) => option(`stored:${name}`, `${name} (stored)`));
    const own = Object.keys(this.own).map((name) => option(`own:${name}`, name));
    this.part("which").replaceChildren(...stored, ...own, option("guess", "Not calibrated: a guess"), option("new", "New calibration \u2026"));
  }

  #choose(value, told = false) {
    const known = [...this.part("which").options].some((one) => one.value === value);
    this.part("which").value = known ? value : "guess";
    const [kind, name] = this.#chosen();
    const camera = kind === "own" ? this.own[name] : kind === "new" ? {} : null;
    const own = this.form.querySelector("[data-own]");
    own.hidden = own.disabled = !camera;
    const guess = this.form.querySelector("[data-guess]");
    guess.hidden = guess.disabled = kind !== "guess";
    if (camera) for (const key of ["fx", "fy", "cx", "cy", "distortion", "width", "height"]) this.part(key).value = camera[key] ?? "";
    this.part("name").value = kind === "own" ? name : "";
    this.form.querySelector("[data-forget]").hidden = kind !== "own";
    const note = this.form.querySelector("[data-note]");
    const size = kind === "stored" && this.stored[name].width ? ` at ${this.stored[name].width} \u00d7 ${this.stored[name].height}` : "";
    note.textContent = {
      guess: "Poses are rough: 1 % of focal length is 1 % of distance.",
      stored: kind === "stored" ? `fx ${this.stored[name].K[0][0].toFixed(1)}, fy ${this.stored[name].K[1][1].toFixed(1)}${size}.` : "",
      own: "Pixels of the upright photo.",
      new: "Pixels of the upright photo, as OpenCV\u2019s calibration gives them.",
    }[kind];
    localStorage.setItem(CHOSEN, this.part("which").value);
    if (told && kind !== "new") this.#changed();
    if (told && kind === "new") this.part("fx").focus();
  }

  #save() {
    if (!this.form.reportValidity()) return;
    const name = this.part("name").value.trim() || "my camera";
    this.own[name] = Object.fromEntries(["fx", "fy", "cx", "cy", "distortion", "width", "height"].map((key) => [key, this.part(key).value]));
    remember(OWN, this.own);
    this.#list();
    this.#choose(`own:${name}`, true);
  }

  #forget() {
    delete this.own[this.#chosen()[1]];
    remember(OWN, this.own);
    this.#list();
    this.#choose("guess", true);
  }

  #changed() {
    if (this.complete) this.dispatchEvent(new Event("change"));
  }
}
