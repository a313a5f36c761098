// First tab: one photo in, its parts out.

import { post } from "./api.js";
import { chosen, dropped } from "./files.js";
import { copy, toJson, toMatrix, toRos } from "./formats.js";
import { remember, remembered } from "./memory.js";
import { loadPart } from "./parts.js";
import { photoUrl } from "./photo.js";
import { LAYERS, Stage } from "./stage.js";
import { Viewer } from "./viewer.js";

const byId = (id) => document.getElementById(id);
const COLOR = "#38d6f5", OTHER = "#d5dde4";

// As ``Detection.sureness`` says it, and how good that is.
export function sureness({ confidence, judged, score }) {
  if (confidence !== null) return { kind: confidence >= 0.8 ? "good" : confidence >= 0.5 ? "fair" : "bad", text: `${(100 * confidence).toFixed(0)} % sure` };
  return { kind: "unknown", text: judged === null ? `score ${score.toFixed(2)}` : `judged ${judged.toFixed(1)}` };
}

// What the stage and the viewer draw of an answer's detections.
export async function drawn(detections, objects, selected) {
  return Promise.all(
    detections.map(async (one, index) => {
      const object = objects.find((o) => o.label === one.label);
      return {
        object, part: await loadPart(object), R: one.R_cam_obj, t: one.t_cam_obj_mm, box: one.box_xyxy,
        color: index === selected ? COLOR : OTHER, selected: index === selected, title: `${one.label} \u00b7 ${sureness(one).text}`,
        reconstruction: one.reconstruction && (await picture(one)),
      };
    }),
  );
}

async function picture(one) {
  const image = new Image();
  image.src = one.reconstruction;
  await image.decode();
  return image;
}

export class Find {
  constructor(app) {
    this.app = app;
    this.stage = new Stage(byId("find-stage"), { onPick: (index) => this.select(index) });
    this.viewer = new Viewer(byId("viewer"));
    this.selected = 0;
    this.#layers();
    this.#inputs();
    byId("viewer-reset").addEventListener("click", () => this.viewer.reset());
    for (const [id, text, name] of [
      ["copy-json", () => JSON.stringify({ ...this.answer, detections: this.answer.detections.map((d) => JSON.parse(toJson(d))) }, null, 2), "JSON"],
      ["copy-ros", () => toRos(this.answer.detections, this.app.model.objects), "The ROS message"],
      ["copy-matrix", () => toMatrix(this.answer.detections[this.selected]), "The matrix"],
    ]) {
      byId(id).addEventListener("click", async () => {
        await copy(text());
        this.app.say(`${name} is copied.`);
        const button = byId(id), before = button.textContent;
        button.textContent = "Copied";
        setTimeout(() => (button.textContent = before), 1200);
      });
    }
  }

  #layers() {
    const off = new Set(remembered("codepose.off", []));
    for (const [name, text] of [["all", "Overlay"], ...Object.entries(LAYERS)]) {
      const label = Object.assign(document.createElement("label"), { className: "check" });
      const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !off.has(name), name });
      label.append(box, text);
      byId("find-layers").append(label);
      box.addEventListener("change", () => this.#switch());
    }
    this.#switch();
  }

  #switch() {
    const boxes = [...byId("find-layers").querySelectorAll("input")];
    const off = boxes.filter((box) => !box.checked).map((box) => box.name);
    remember("codepose.off", off);
    const all = !off.includes("all");
    for (const box of boxes) if (box.name !== "all") box.disabled = !all;
    this.stage.layers = new Set(all ? Object.keys(LAYERS).filter((name) => !off.includes(name)) : []);
    this.stage.draw();
  }

  #inputs() {
    const card = byId("find-drop");
    const take = (files) => {
      const file = [...files].find((one) => one.type.startsWith("image/") || /\.(heic|heif|tiff?|jp2|avif)$/i.test(one.name));
      if (file) this.look(file);
      else this.app.fail("That is no photo.");
    };
    for (const id of ["find-choose", "find-another"]) byId(id).addEventListener("click", () => byId("find-file").click());
    chosen(["find-file", "find-capture"], take);
    dropped(card, take);
    document.addEventListener("paste", (event) => {
      if (this.app.tab === "find" && event.clipboardData.files.length) take(event.clipboardData.files);
    });
    for (const id of ["find-camera", "find-camera-again"]) byId(id).addEventListener("click", () => this.#live());
    byId("live-take").addEventListener("click", () => this.#shoot());
    byId("live-stop").addEventListener("click", () => this.#endLive());
  }

  // The camera in the page where the browser lets it; else the telephone's own camera program.
  async #live() {
    const mobile = matchMedia("(pointer: coarse)").matches;
    if (mobile || !navigator.mediaDevices?.getUserMedia) return byId("find-capture").click();
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
    } catch {
      return this.app.fail("There is no camera, or this page may not use it.");
    }
    byId("live-video").srcObject = this.stream;
    byId("live").hidden = false;
    byId("live-take").focus();
  }

  #shoot() {
    const video = byId("live-video"), canvas = document.createElement("canvas");
    Object.assign(canvas, { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    this.#endLive();
    canvas.toBlob((blob) => this.look(new File([blob], "camera.jpg", { type: "image/jpeg" })), "image/jpeg", 0.95);
  }

  #endLive() {
    this.stream?.getTracks().forEach((track) => track.stop());
    byId("live").hidden = true;
    byId("find-camera").focus();
  }

  // Looks anew where the camera or the network was changed.
  again() {
    if (this.file) this.look(this.file);
  }

  async look(file) {
    this.pending?.abort();
    const pending = (this.pending = new AbortController());
    this.app.fail("");
    if (!this.app.asks) return;
    this.file = file;
    this.#show(null);
    try {
      const { camera, model } = this.app;
      const url = await photoUrl(file, camera, pending.signal);
      const [width, height] = await this.stage.show(url);
      if (pending.signal.aborted) return;
      byId("find-bar").hidden = false;
      byId("find-stage").setAttribute("aria-label", `Photo ${file.name}`);
      if (this.app.lacks) return this.app.fail(this.app.lacks);
      this.stage.busy("Looking \u2026");
      byId("found-note").textContent = "Looking \u2026";
      const fields = { image: file, ...camera.fields, model: model.name, ...this.app.options, reconstructions: true };
      const answer = await (await post("v1/poses", fields, pending.signal)).json();
      if (answer.width !== width || answer.height !== height) await this.stage.show(await photoUrl(file, camera, pending.signal, true));
      this.answer = answer;
      await this.#show(answer);
    } catch (error) {
      if (error.name !== "AbortError") {
        this.app.fail(error.message);
        byId("found-note").textContent = "No answer.";
      }
    } finally {
      if (this.pending === pending) this.stage.busy("");
    }
  }

  async #show(answer) {
    const found = answer?.detections ?? [];
    this.selected = 0;
    byId("found-more").hidden = !found.length;
    byId("found").replaceChildren(...found.map((one, index) => this.#entry(one, index)));
    if (!answer) {
      this.answer = null;
      return this.stage.set(null, []);
    }
    const count = found.length === 1 ? "One part" : `${found.length} parts`;
    byId("found-note").textContent = found.length ? `${count} in ${(answer.time_ms / 1000).toFixed(1)} s.` : `Nothing was found in this photo${this.app.distance.words}.`;
    this.app.say(found.length ? `${count} found: ${found.map((one) => `${one.label}, ${sureness(one).text}`).join("; ")}` : "Nothing was found.");
    if (found.length) await this.select(0);
    else this.stage.set(answer.K, []);
  }

  #entry(one, index) {
    const item = document.createElement("li"), button = document.createElement("button"), sure = sureness(one);
    const span = (className, textContent) => Object.assign(document.createElement("span"), { className, textContent });
    const thumb = Object.assign(document.createElement("img"), { className: "thumb", src: one.reconstruction ?? "", alt: "" });
    button.append(thumb, span("name", one.label), span(`sure ${sure.kind}`, sure.text), span("detail", `${(one.t_cam_obj_mm[2] / 10).toFixed(1)} cm away`));
    button.addEventListener("click", () => this.select(index));
    item.append(button);
    return item;
  }

  async select(index) {
    this.selected = index;
    [...byId("found").querySelectorAll("button")].forEach((button, k) => button.setAttribute("aria-pressed", String(k === index)));
    const answer = this.answer, one = answer.detections[index];
    const items = await drawn(answer.detections, this.app.model.objects, index);
    if (this.answer !== answer || this.selected !== index) return;
    this.stage.set(answer.K, items);
    this.viewer.show(items);
    byId("viewer").setAttribute("aria-label", `${one.label} in 3-D, as it lies; arrow keys turn it`);
    const t = one.t_cam_obj_mm.map((x) => x.toFixed(1)).join(", ");
    const rows = [["Position, mm", t], ["Detector\u2019s score", one.score.toFixed(3)], ["Right with probability", one.confidence === null ? "not calibrated" : `${(100 * one.confidence).toFixed(0)} %`]];
    if (one.judged !== null) rows.push(["Judged", one.judged.toFixed(1)]);
    if (one.contour !== null) rows.push(["Contour fits", one.contour.toFixed(2)]);
    byId("numbers").replaceChildren(...rows.flatMap(([name, value]) => [Object.assign(document.createElement("dt"), { textContent: name }), Object.assign(document.createElement("dd"), { textContent: value })]));
  }
}
