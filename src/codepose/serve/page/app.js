// The page: tabs, the network that is asked, the camera, and what is said.

import { getJson } from "./api.js";
import { Check } from "./check.js";
import { CameraForm } from "./camera.js";
import { Find } from "./find.js";

const byId = (id) => document.getElementById(id);

class App {
  constructor(models, cameras) {
    this.models = models;
    this.tab = "find";
    this.camera = new CameraForm(byId("camera"), cameras);
    this.#models();
    this.#tabs();
    this.find = new Find(this);
    this.check = new Check(this);
    if (location.hash === "#check") byId("tab-check").click();
    this.camera.addEventListener("change", () => this.panel.again());
    for (const id of ["min-score", "min-judged", "tiles"]) byId(id).addEventListener("change", () => this.panel.again());
  }

  get panel() {
    return this[this.tab];
  }

  get model() {
    return this.models.find((one) => one.name === byId("model").value);
  }

  // What else a request asks for.
  get options() {
    return { min_score: byId("min-score").value, min_judged: byId("min-judged").value, tiles: byId("tiles").value };
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

  #models() {
    const choice = byId("model");
    choice.replaceChildren(...this.models.map((one) => Object.assign(document.createElement("option"), { textContent: one.name, value: one.name })));
    const before = localStorage.getItem("codepose.model");
    if (this.models.some((one) => one.name === before)) choice.value = before;
    byId("model-choice").hidden = this.models.length < 2;
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
      byId(tab.getAttribute("aria-controls")).querySelector(".side").append(byId("camera-card")); // one for all
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
  const [{ models }, { cameras }] = await Promise.all([getJson("v1/models"), getJson("v1/cameras")]);
  window.codepose = new App(models, cameras);
  document.documentElement.dataset.ready = "";
} catch (error) {
  byId("notice").hidden = false;
  byId("notice").textContent = error.message;
}
