// The page: tabs, the network that is asked, the camera, and what is said.

import { getJson } from "./api.js";
import { Check } from "./check.js";
import { CameraForm } from "./camera.js";
import { Distance } from "./distance.js";
import { Find } from "./find.js";
import { Train } from "./train.js";

const byId = (id) => document.getElementById(id);

class App {
  constructor({ models, trains, min_judged }, cameras) {
    this.models = models;
    byId("min-judged").value = min_judged;
    this.tab = "find";
    this.camera = new CameraForm(byId("camera"), cameras);
    this.distance = new Distance(byId("distance"));
    this.#models();
    this.#tabs();
    this.find = new Find(this);
    this.check = new Check(this);
    this.train = new Train(this, trains);
    const wanted = byId(`tab-${location.hash.slice(1)}`);
    if (wanted && wanted.id !== "tab-find") wanted.click();
    else if (!models.length && trains) byId("tab-train").click();
    for (const one of [this.camera, this.distance]) one.addEventListener("change", () => this.panel.again());
    for (const id of ["min-score", "min-judged", "tiles"]) byId(id).addEventListener("change", () => this.panel.again());
  }

  get panel() {
    return this[this.tab];
  }

  get model() {
    return this.models.find((one) => one.name === byId("model").value);
  }

  // Says what is missing of what a photo is asked with; nothing = it can be asked.
  get lacks() {
    if (!this.camera.complete) return "Fill in the camera's numbers first.";
    return this.distance.complete ? "" : "Give the nearest and the farthest distance, or neither.";
  }

  // What else a request asks for.
  get options() {
    return { ...this.distance.fields, min_score: byId("min-score").value, min_judged: byId("min-judged").value, tiles: byId("tiles").value };
  }

  // Shows what went wrong; nothing = it is mended.
  fail(text) {
    byId("notice").hidden = !text;
    byId("notice").textContent = text;
  }

  // Tells those who listen instead of looking.
  say(text) {
    byId("spoken").textContent = text;
  }

  // Answers with another network from now on.
  use(model) {
    this.models = [...this.models.filter((one) => one.name !== model.name), model];
    this.#list();
    byId("model").value = model.name;
    localStorage.setItem("codepose.model", model.name);
  }

  // Whether there is a network to ask; says what to do where there is none.
  get asks() {
    if (!this.model) this.fail("There is no network yet: train one, or start the service with a run.");
    return Boolean(this.model);
  }

  #list() {
    byId("model").replaceChildren(...this.models.map((one) => Object.assign(document.createElement("option"), { textContent: one.name, value: one.name })));
    byId("model-choice").hidden = this.models.length < 2;
  }

  #models() {
    const choice = byId("model");
    this.#list();
    const before = localStorage.getItem("codepose.model");
    if (this.models.some((one) => one.name === before)) choice.value = before;
    choice.addEventListener("change", () => {
      localStorage.setItem("codepose.model", choice.value);
      this.panel.again();
    });
  }

  #tabs() {
    const tabs = [...document.querySelectorAll("[role=tab]")];
    const open = (tab) => {
      this.tab = tab.id.replace("tab-", "");
      for (const one of tabs) {
        one.setAttribute("aria-selected", String(one === tab));
        one.tabIndex = one === tab ? 0 : -1;
        byId(one.getAttribute("aria-controls")).hidden = one !== tab;
      }
      tab.focus();
      const panel = byId(tab.getAttribute("aria-controls"));
      (panel.querySelector("[data-camera]") ?? panel.querySelector(".side")).append(byId("camera-card")); // one for all
      this.distance.needed = this.tab === "train";
      this.panel?.opened?.();
      history.replaceState(null, "", `#${this.tab}`);
    };
    tabs.forEach((tab, k) => {
      tab.addEventListener("click", () => open(tab));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (step) open(tabs[(k + step + tabs.length) % tabs.length]);
      });
    });
  }
}

try {
  const [told, { cameras }] = await Promise.all([getJson("v1/models"), getJson("v1/cameras")]);
  window.codepose = new App(told, cameras);
  document.documentElement.dataset.ready = "";
} catch (error) {
  byId("notice").hidden = false;
  byId("notice").textContent = error.message;
}
