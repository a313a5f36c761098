// Third tab: a CAD file in, a trained network out.

import { getJson, post, request } from "./api.js";
import { chart, words } from "./charts.js";
import { chosen, dropped } from "./files.js";

const byId = (id) => document.getElementById(id);
const CAD = /\.(step|stp|ply|obj|stl|glb|gltf|3mf|off)$/i;
const STATES = {
  ready: "Not trained yet", refused: "Cannot be trained as it is", training: "Training", stopping: "Saving its state",
  stopped: "Stopped", failed: "Failed", done: "Trained",
};
const ROWS = {
  step1: "Step 1 on images that it does not learn from: what it sees, below it what it makes of that, and what it is to make",
  step2: "Step 2 on scenes that it does not learn from: the true box white, the one it finds orange; below them what it sees in that, black where it finds none, and what it is to see",
};
const EVERY_MS = 2000;

const make = (name, textContent, more = {}) => Object.assign(document.createElement(name), { textContent, ...more });
const number = (value) => Number(value.toPrecision(4)).toLocaleString("en");

// How far a training is. What follows a phase may take minutes before it says anything.
function phaseWords({ phase, share, left }, moving) {
  if (share >= 1) return `${phase} is done${moving ? "; more follows" : ""}.`;
  return `${phase}: ${Math.round(100 * share)}\u00a0%${moving && left ? `, ${left} left of it` : ""}`;
}

export class Train {
  constructor(app, allowed) {
    this.app = app;
    this.allowed = allowed;
    this.pictures = {};
    byId("train-off").hidden = allowed;
    for (const id of ["train-work", "train-side"]) byId(id).hidden = !allowed;
    this.#inputs();
  }

  get name() {
    return this.told?.name;
  }

  // When the tab is opened.
  async opened() {
    if (!this.allowed) return;
    await this.#try(async () => {
      await this.#list();
      if (!this.told && this.all.length) await this.#choose(this.all.find((one) => one.state === "training") ?? this.all[0]);
    });
    this.#watch();
  }

  // Where the camera or the distance was changed: the preview is of another one.
  again() {
    byId("train-share").textContent = "";
  }

  #inputs() {
    const card = byId("train-drop");
    const take = (files) => {
      const file = [...files].find((one) => CAD.test(one.name));
      if (file) this.#send(file);
      else this.app.fail("That is no CAD file: STEP, PLY, OBJ, STL, GLB and 3MF are read.");
    };
    for (const id of ["train-choose", "train-another"]) byId(id).addEventListener("click", () => byId("train-file").click());
    chosen(["train-file"], take);
    dropped(card, (files) => this.allowed && take(files));
    for (const id of ["train-unit", "train-body"]) byId(id).addEventListener("change", () => this.#look());
    byId("train-preview-button").addEventListener("click", () => this.#preview());
    byId("train-start").addEventListener("click", () => this.#start());
    byId("train-stop").addEventListener("click", () => this.#act("stop", "Stopping \u2026"));
    byId("train-use").addEventListener("click", () => this.#use());
  }

  // Does something that may fail; what it says while it works is shown and spoken.
  async #try(work, busy = "") {
    this.app.fail("");
    byId("train-busy").textContent = busy;
    byId("train-busy").hidden = !busy;
    byId("panel-train").setAttribute("aria-busy", String(Boolean(busy)));
    if (busy) this.app.say(busy);
    const focused = document.activeElement, before = [...byId("train-side").querySelectorAll("button, select.looks")].filter((one) => !one.disabled);
    if (busy) for (const one of before) one.disabled = true;
    try {
      await work();
    } catch (error) {
      this.app.fail(error.message);
    } finally {
      byId("train-busy").hidden = true;
      byId("panel-train").setAttribute("aria-busy", "false");
      if (busy) for (const one of before) one.disabled = false;
      this.#enable();
      if (document.activeElement === document.body) focused.focus(); // what is disabled loses it
    }
  }

  // Whether its part, camera and time can still be chosen.
  get #fresh() {
    return !this.told?.begun && !["training", "stopping"].includes(this.told?.state);
  }

  // Lets be pressed what can be done as it stands.
  #enable() {
    byId("train-unit").disabled = byId("train-body").disabled = !this.#fresh;
    byId("train-start").disabled = !this.told || this.told.state === "refused";
  }

  #send(file) {
    return this.#try(async () => {
      try {
        this.told = await (await post("v1/trainings", { file, unit: byId("train-unit").value })).json();
      } catch (error) {
        await this.#list();
        const [kept] = this.all; // a file in the wrong unit is kept: another unit may do
        if (kept?.file !== file.name || kept.state !== "refused") throw error;
        this.told = kept;
        await this.#show();
        throw error;
      }
      await this.#list();
      await this.#show();
      this.app.say(`${this.name} is looked over.`);
    }, "Looking the file over \u2026 this takes a while.");
  }

  #look() {
    if (!this.told || !this.#fresh) return undefined;
    const fields = { unit: byId("train-unit").value, body: byId("train-body").value };
    return this.#try(async () => {
      try {
        await post(`v1/trainings/${this.name}/part`, fields);
      } finally {
        this.told = await getJson(`v1/trainings/${this.name}`);
        await this.#show();
      }
    }, "Looking the file over \u2026 this takes a while.");
  }

  // What is asked for: the camera, the distances and the time.
  get #fields() {
    const { camera, distance } = this.app;
    if (!camera.complete || !distance.tell() || !byId("train-form").reportValidity()) return null;
    return { ...camera.fields, ...distance.fields, minutes: byId("train-minutes").value };
  }

  #preview() {
    const fields = this.#fields;
    if (!fields) return undefined;
    return this.#try(async () => {
      this.told = await (await post(`v1/trainings/${this.name}/preview`, fields)).json();
      const [small, large] = this.told.framing.share.map((share) => `${Math.round(100 * share)}\u00a0%`);
      const tiles = this.told.framing.tiles > 1 ? ` It is small: find it with ${this.told.framing.tiles} tiles.` : "";
      byId("train-share").textContent = `The part takes ${small} to ${large} of the photo\u2019s longer side.${tiles}`;
      await this.#show(true);
      this.app.say("Training images are drawn.");
    }, "Drawing training images \u2026 this takes a while.");
  }

  #start() {
    const fields = this.told.begun ? {} : this.#fields;
    return fields ? this.#act("start", "Starting \u2026", fields) : undefined;
  }

  #act(what, busy, fields = {}) {
    return this.#try(async () => {
      this.told = await (await post(`v1/trainings/${this.name}/${what}`, fields)).json();
      await this.#list();
      await this.#show();
      this.#watch();
      this.app.say(`${this.name}: ${STATES[this.told.state]}.`);
    }, busy);
  }

  #use() {
    return this.#try(async () => {
      const model = await (await post(`v1/trainings/${this.name}/use`, {})).json();
      this.app.use(model);
      this.app.say(`The first tab answers with ${model.name} now.`);
      byId("train-note").textContent = `The first tab answers with ${model.name} now.`;
    }, "Loading the network \u2026");
  }

  // Asks again and again how the training stands, while it is looked at.
  #watch() {
    clearTimeout(this.timer);
    const moving = ["training", "stopping"].includes(this.told?.state);
    if (!moving || this.app.tab !== "train") return;
    this.timer = setTimeout(async () => {
      const { name, told } = this;
      try {
        const now = await getJson(`v1/trainings/${name}`);
        if (this.told !== told) return;
        this.told = now;
        await this.#show();
        if (now.state !== told.state) {
          this.app.say(`${name}: ${STATES[now.state]}.`);
          await this.#list();
        }
      } catch (error) {
        this.app.fail(error.message);
      }
      this.#watch();
    }, EVERY_MS);
  }

  async #list() {
    this.all = (await getJson("v1/trainings")).trainings;
    byId("train-list").replaceChildren(
      ...this.all.map((one) => {
        const item = make("li", ""), button = make("button", "");
        button.setAttribute("aria-pressed", String(one.name === this.name));
        button.append(make("span", one.name, { className: "name" }), make("span", STATES[one.state], { className: `sure ${one.state === "done" ? "good" : ""}` }));
        button.addEventListener("click", () => this.#try(() => this.#choose(one)));
        item.append(button);
        return item;
      }),
    );
    byId("train-so-far").hidden = !this.all.length;
  }

  async #choose(one) {
    this.told = await getJson(`v1/trainings/${one.name}`);
    byId("train-share").textContent = byId("train-note").textContent = "";
    await this.#list();
    await this.#show();
    this.#watch();
  }

  async #show(drawn = false) {
    const { told } = this;
    if (!told) return;
    byId("train-invite").hidden = true;
    byId("train-another").hidden = false;
    byId("train-pictures").hidden = false;
    this.#part(told);
    const moving = ["training", "stopping"].includes(told.state), fresh = this.#fresh;
    byId("train-form").hidden = !fresh;
    byId("panel-train").classList.toggle("begun", !fresh); // how it stands comes first, and the camera is decided
    this.#enable();
    const start = byId("train-start");
    start.hidden = moving || told.state === "done";
    start.textContent = fresh ? "Start training" : "Go on";
    byId("train-stop").hidden = told.state !== "training";
    byId("train-use").hidden = told.state !== "done";
    byId("train-state").textContent = told.message ? `${STATES[told.state]}: ${told.message}` : `${STATES[told.state]}.`;
    const progress = fresh || told.state === "done" ? null : told.progress;
    byId("train-progress").hidden = !progress;
    byId("train-bar").value = progress?.share ?? 0;
    byId("train-phase").textContent = progress ? phaseWords(progress, moving) : "";
    const { charts, picture } = fresh ? { charts: [], picture: null } : await getJson(`v1/trainings/${told.name}/curves`);
    if (this.told !== told) return;
    byId("train-charts").replaceChildren(...charts.map(chart));
    byId("train-charts-card").hidden = !charts.length;
    if (picture) this.#describe(charts, picture);
    await this.#picture(told, "validation", picture && `${told.name}/${picture.stage}/${picture.step}`);
    for (const which of ["sheet", "preview"]) {
      const key = told.pictures.includes(which) && `${told.name}/${told.unit}/${told.body}`;
      await this.#picture(told, which, key, drawn && which === "preview");
    }
  }

  // What is to be seen in the picture, and, for who does not see it, how good it is.
  #describe(charts, { stage, step }) {
    byId("train-validation-caption").textContent = `${ROWS[stage]}.`;
    const good = charts.filter((one) => one.stage === stage).map(words);
    byId("train-validation").alt = [`What the network makes of validation images after ${step.toLocaleString("en")} iterations`, ...good].join(". ");
  }

  #part(told) {
    byId("train-title").textContent = told.name;
    byId("train-unit").value = told.unit ?? "mm";
    const { report } = told, names = report?.names ?? [];
    byId("train-body").replaceChildren(new Option("all of the file", ""), ...names.map((name) => new Option(name, name)));
    byId("train-body").value = told.body ?? "";
    byId("train-body-choice").hidden = !names.length;
    const rows = report ? [
      ["File", told.file], ["Size, mm", report.size_mm.map(number).join(" \u00d7 ")], ["Across, mm", number(report.diameter_mm)],
      ["Faces", report.faces.toLocaleString("en")], ["Looks the same after", report.looks_the_same_after],
    ] : [];
    byId("train-numbers").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
    byId("train-findings").replaceChildren(...(report?.findings ?? []).map((text) => make("li", text)));
    byId("train-findings-note").hidden = !report?.findings.some((text) => text.includes("--"));
  }

  // Fetched rather than linked: a link brings no token. The key says which picture it is; without one there is none.
  async #picture(told, which, key, anew = false) {
    const image = byId(`train-${which}`);
    byId(`train-${which}-figure`).hidden = !key;
    if (!key || (this.pictures[which] === key && !anew)) return;
    const data = await (await request(`v1/trainings/${told.name}/${which}.png`)).blob();
    if (this.told !== told) return;
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(data);
    this.pictures[which] = key;
  }
}
