// Second tab: photos one after the other; each pose is nudged, accepted or rejected, and kept as a label.

import { post, request } from "./api.js";
import { chosen } from "./files.js";
import { sureness } from "./find.js";
import { add, apply, multiply, turn } from "./geometry.js";
import { loadPart } from "./parts.js";
import { photoUrl } from "./photo.js";
import { Stage } from "./stage.js";
import { showSummary } from "./summary.js";

const byId = (id) => document.getElementById(id);
const COLORS = { open: "#38d6f5", accepted: "#4ade80", rejected: "#f87171" };
const TURNED = [[1, 0, 0], [0, -1, 0], [0, 0, -1]];
const DEGREE = Math.PI / 180;

// What keys and buttons do; the nudges get their step: 1, 10 with Shift, 0.1 with Alt.
const NUDGES = {
  ArrowLeft: (check, step) => check.shift(-step, 0), ArrowRight: (check, step) => check.shift(step, 0),
  ArrowUp: (check, step) => check.shift(0, -step), ArrowDown: (check, step) => check.shift(0, step),
  PageUp: (check, step) => check.approach(1.002 ** step), PageDown: (check, step) => check.approach(1.002 ** -step),
  q: (check, step) => check.rotate(2, -step), e: (check, step) => check.rotate(2, step),
  w: (check, step) => check.rotate(0, step), s: (check, step) => check.rotate(0, -step),
  a: (check, step) => check.rotate(1, step), d: (check, step) => check.rotate(1, -step),
};
const ACTIONS = {
  f: (check) => check.snap(), Enter: (check) => check.decide("accepted"), Delete: (check) => check.decide("rejected"),
  Backspace: (check) => check.decide("rejected"), n: (check) => check.addPart(), u: (check) => check.undo(), v: (check) => check.peek(),
  ",": (check) => check.go(-1), ".": (check) => check.go(1), "]": (check) => check.next(1), "[": (check) => check.next(-1),
  "+": (check) => check.stage.zoom(1.5), "-": (check) => check.stage.zoom(1 / 1.5), 0: (check) => check.stage.fit(),
};

export class Check {
  constructor(app) {
    this.app = app;
    this.photos = [];
    this.at = -1;
    this.stage = new Stage(byId("check-stage"), { onPick: (index) => this.select(index) });
    this.stage.layers = new Set(["outline", "axes"]);
    this.#inputs();
    byId("check-stage").addEventListener("keydown", (event) => this.#key(event));
    for (const button of byId("panel-check").querySelectorAll("[data-key]")) {
      button.addEventListener("click", (event) => this.#do(button.dataset.key, event));
    }
    byId("download").addEventListener("click", () => this.#download());
    addEventListener("beforeunload", (event) => {
      if (this.photos.some((photo) => photo.poses?.some((pose) => pose.verdict) && !photo.saved)) event.preventDefault();
    });
  }

  get photo() {
    return this.photos[this.at];
  }

  get pose() {
    return this.photo?.poses?.[this.selected];
  }

  // When the tab is opened.
  async opened() {
    const { photo } = this, { camera, model, options } = this.app;
    if (!model) return undefined;
    const other = photo?.poses && (photo.model !== model || JSON.stringify([photo.fields, photo.options]) !== JSON.stringify([camera.fields, options]));
    if (other && !photo.saved) return this.again();
    showSummary(await (await request(`v1/labels?model=${encodeURIComponent(this.app.model.name)}`)).json());
  }

  #inputs() {
    const card = byId("check-drop");
    const take = (files) => {
      const found = [...files].filter((file) => file.type.startsWith("image/") || /\.(heic|heif|tiff?|jp2|avif)$/i.test(file.name));
      if (!found.length) return this.app.fail("There is no photo among these.");
      if (!this.app.asks) return undefined;
      found.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
      const first = this.photos.length;
      this.photos.push(...found.map((file) => ({ file })));
      this.open(first);
    };
    for (const [button, input] of [["check-choose", "check-files"], ["check-more", "check-files"], ["check-folder", "check-directory"]]) {
      byId(button).addEventListener("click", () => byId(input).click());
    }
    chosen(["check-files", "check-directory"], take);
    card.addEventListener("dragover", (event) => event.preventDefault());
    card.addEventListener("drop", (event) => {
      event.preventDefault();
      take(event.dataTransfer.files);
    });
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.target.closest("button")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key in NUDGES || key in ACTIONS) {
      event.preventDefault();
      this.#do(key, event);
    }
  }

  #do(key, event) {
    if (!this.photo?.poses) return;
    const step = event.shiftKey ? 10 : event.altKey ? 0.1 : 1;
    if (key in ACTIONS) ACTIONS[key](this);
    else if (this.pose) {
      this.#remember();
      NUDGES[key](this, step);
      this.#moved();
    }
  }

  // Another photo, before or after.
  go(step) {
    const place = this.at + step;
    if (place >= 0 && place < this.photos.length) this.open(place);
    else this.app.say(step > 0 ? "This was the last photo." : "This is the first photo.");
  }

  // Where the camera, the network or an option was changed, what is not saved is looked at anew.
  again() {
    for (const photo of this.photos) if (!photo.saved) Object.assign(photo, { poses: null, looked: null });
    this.opened(); // with nothing left that is of another camera, network or option
    if (this.photo) this.open(this.at);
  }

  async open(place) {
    this.at = place;
    const photo = this.photo;
    this.app.fail("");
    for (const id of ["check-bar", "check-tools"]) byId(id).hidden = false;
    byId("check-where").textContent = `${place + 1} of ${this.photos.length}: ${photo.file.name}`;
    byId("check-back").disabled = place === 0;
    byId("check-next").disabled = place === this.photos.length - 1;
    byId("check-list").replaceChildren();
    byId("check-state").textContent = "Looking \u2026";
    try {
      const url = await photoUrl(photo.file, this.app.camera);
      if (this.photo !== photo) return;
      await this.stage.show(url);
      this.stage.busy("Looking \u2026");
      await this.#look(photo);
      if (this.photo !== photo) return;
      if (photo.answer.width !== this.stage.width || photo.answer.height !== this.stage.height) {
        await this.stage.show(await photoUrl(photo.file, this.app.camera, undefined, true));
      }
      this.selected = Math.max(0, photo.poses.findIndex((pose) => !pose.verdict));
      this.#show();
      byId("check-stage").focus();
      if (this.photos[place + 1]) this.#look(this.photos[place + 1]).catch(() => {}); // while this one is looked at
    } catch (error) {
      if (this.photo === photo) {
        this.app.fail(error.message);
        byId("check-state").textContent = "";
      }
    } finally {
      if (this.photo === photo) this.stage.busy("");
    }
  }

  #look(photo) {
    photo.looked ??= this.#ask(photo).catch((error) => {
      photo.looked = null;
      throw error;
    });
    return photo.looked;
  }

  async #ask(photo) {
    const { camera, model } = this.app;
    if (this.app.lacks) throw new Error(this.app.lacks);
    const fields = camera.fields, { options } = this.app;
    const answer = await (await post("v1/poses", { image: photo.file, ...fields, model: model.name, ...options })).json();
    const poses = answer.detections.map((one) => ({
      index: model.objects.findIndex((object) => object.label === one.label), R: one.R_cam_obj, t: one.t_cam_obj_mm,
      found: one, verdict: null, history: [],
    }));
    await Promise.all(model.objects.map(async (object, index) => (photo.parts = { ...photo.parts, [index]: await loadPart(object) })));
    Object.assign(photo, { answer, fields, options, model, poses, saved: false });
  }

  select(index) {
    this.selected = index;
    this.#show();
  }

  next(step) {
    const count = this.photo.poses.length;
    if (count) this.select((this.selected + step + count) % count);
  }

  peek() {
    this.stage.layers = new Set(this.stage.layers.size ? [] : ["outline", "axes"]);
    this.stage.draw();
  }

  // --- nudges, in photo pixels, shares of the distance, half degrees

  #middle() {
    return add(this.pose.t, apply(this.pose.R, this.#object().center_mm));
  }

  #object() {
    return this.photo.model.objects[this.pose.index];
  }

  #place(R, middle) {
    this.pose.R = R;
    this.pose.t = add(middle, apply(R, this.#object().center_mm).map((x) => -x));
  }

  shift(x, y) {
    const m = this.#middle(), K = this.photo.answer.K;
    this.#place(this.pose.R, [m[0] + (x * m[2]) / K[0][0], m[1] + (y * m[2]) / K[1][1], m[2]]);
  }

  approach(factor) {
    this.#place(this.pose.R, this.#middle().map((x) => x * factor));
  }

  rotate(axis, step) {
    this.#place(multiply(turn(axis, 0.5 * step * DEGREE), this.pose.R), this.#middle());
  }

  #remember() {
    const { R, t, verdict, history } = this.pose;
    if (history.length > 200) history.shift();
    history.push({ R, t, verdict });
  }

  undo() {
    const before = this.pose?.history.pop();
    if (before) Object.assign(this.pose, before);
    this.photo.saved = false;
    this.#show();
  }

  #moved() {
    this.pose.verdict = null;
    this.photo.saved = false;
    this.#show();
  }

  // --- what the service does

  async snap() {
    const { photo, pose } = this;
    if (!pose) return;
    this.stage.busy("Snapping to the edges \u2026");
    try {
      const given = JSON.stringify({ R_cam_obj: pose.R, t_cam_obj_mm: pose.t });
      const fields = { image: photo.file, ...photo.fields, model: photo.model.name, index: pose.index, pose: given };
      const answer = await (await post("v1/refine", fields)).json();
      if (JSON.stringify({ R_cam_obj: pose.R, t_cam_obj_mm: pose.t }) !== given) return; // it was moved meanwhile
      pose.history.push({ R: pose.R, t: pose.t, verdict: pose.verdict });
      Object.assign(pose, { R: answer.R_cam_obj, t: answer.t_cam_obj_mm, verdict: null });
      photo.saved = false;
      this.app.say(`Snapped; the contour fits by ${answer.contour.toFixed(2)}.`);
      if (this.photo === photo) this.#show();
    } catch (error) {
      this.app.fail(error.message);
    } finally {
      this.stage.busy("");
    }
  }

  addPart() {
    const { photo } = this;
    const like = this.pose, index = like?.index ?? 0, object = photo.model.objects[index], K = photo.answer.K;
    const distance = like ? like.t[2] : (K[0][0] * object.diameter_mm) / (0.3 * photo.answer.width);
    const [x, y] = [(photo.answer.width / 2 - K[0][2]) / K[0][0], (photo.answer.height / 2 - K[1][2]) / K[1][1]];
    photo.poses.push({ index, R: like?.R ?? TURNED, t: [0, 0, distance], found: null, verdict: null, history: [] });
    this.selected = photo.poses.length - 1;
    this.#place(this.pose.R, [x * distance, y * distance, distance]);
    this.#moved();
    this.app.say("A part was added in the middle of the photo.");
  }

  // Accepts or rejects the chosen part; when all are decided the photo is saved.
  decide(verdict) {
    const { photo, pose } = this;
    if (pose) {
      this.#remember();
      pose.verdict = verdict;
      photo.saved = false;
      if (verdict === "rejected" && !pose.found) photo.poses.splice(this.selected, 1); // added by hand, and away again
      this.app.say(`${photo.model.objects[pose.index].label} ${verdict}.`);
    }
    const open = photo.poses.findIndex((one) => !one.verdict);
    this.selected = open >= 0 ? open : Math.min(this.selected, Math.max(0, photo.poses.length - 1));
    this.#show();
    if (open < 0) this.save();
  }

  async save() {
    const { photo } = this;
    const plain = (one) => ({ R_cam_obj: one.R_cam_obj, t_cam_obj_mm: one.t_cam_obj_mm });
    const labels = photo.poses.filter((one) => one.verdict === "accepted").map((one) => ({
      index: one.index, R_cam_obj: one.R, t_cam_obj_mm: one.t, found: one.found && plain(one.found),
    }));
    const rejected = photo.poses.filter((one) => one.verdict === "rejected").length;
    try {
      const fields = { image: photo.file, ...photo.fields, model: photo.model.name, labels: JSON.stringify(labels), rejected };
      const answer = await (await post("v1/labels", fields)).json();
      photo.saved = photo.poses.every((one) => one.verdict);
      showSummary(answer);
      this.app.say("The photo is saved.");
      this.#state();
    } catch (error) {
      this.app.fail(`Not saved: ${error.message}`);
    }
  }

  async #download() {
    try {
      const blob = await (await request(`v1/labels.zip?model=${encodeURIComponent(this.app.model.name)}`)).blob();
      const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: `${this.app.model.name}-labels.zip` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    } catch (error) {
      this.app.fail(error.message);
    }
  }

  // --- what is seen

  #show() {
    const { photo } = this;
    const items = photo.poses.map((pose, index) => ({
      part: photo.parts[pose.index], object: photo.model.objects[pose.index], R: pose.R, t: pose.t, box: pose.found?.box_xyxy,
      color: COLORS[pose.verdict ?? "open"], selected: index === this.selected,
    }));
    this.stage.set(photo.answer.K, items);
    byId("check-list").replaceChildren(...photo.poses.map((pose, index) => this.#entry(pose, index)));
    this.#state();
  }

  #state() {
    const { photo } = this, open = photo.poses.filter((pose) => !pose.verdict).length;
    byId("check-state").textContent = photo.saved ? "Saved. Is a part missing? Add it." : open ? `${open} to decide.` : photo.poses.length ? "Not saved yet." : "The network found nothing here.";
    byId("check-none").hidden = photo.poses.length > 0 || photo.saved;
    for (const button of byId("check-tools").querySelectorAll("[data-pose]")) button.disabled = !this.pose;
  }

  #entry(pose, index) {
    const item = document.createElement("li"), button = document.createElement("button");
    const span = (className, textContent) => Object.assign(document.createElement("span"), { className, textContent });
    const sure = pose.found ? sureness(pose.found) : { kind: "unknown", text: "added" };
    const words = { accepted: "accepted", rejected: "rejected" }[pose.verdict] ?? (pose.history.length ? "moved" : "to decide");
    button.append(span(`dot ${pose.verdict ?? "open"}`, ""), span("name", this.photo.model.objects[pose.index].label), span(`sure ${sure.kind}`, sure.text), span("detail", words));
    button.setAttribute("aria-pressed", String(index === this.selected));
    button.addEventListener("click", () => {
      this.select(index);
      byId("check-stage").focus();
    });
    item.append(button);
    return item;
  }
}
