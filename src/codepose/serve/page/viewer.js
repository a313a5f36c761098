// The parts in 3-D, as they lie, to be turned with the mouse, a finger or the arrow keys.

import * as THREE from "./vendor/three.module.min.js";
import { OrbitControls } from "./vendor/OrbitControls.js";
import { add, apply } from "./geometry.js";
import { toWorld } from "./parts.js";

export class Viewer {
  constructor(element) {
    this.element = element;
    this.items = [];
    try {
      this.renderer = new THREE.WebGLRenderer({ alpha: true, antialias: true });
    } catch {
      element.textContent = "This browser has no WebGL: there is nothing to see in 3-D.";
      return;
    }
    this.renderer.setPixelRatio(Math.min(2, devicePixelRatio));
    element.append(this.renderer.domElement);
    this.camera = new THREE.PerspectiveCamera();
    this.scene = new THREE.Scene();
    this.scene.add(new THREE.HemisphereLight(0xffffff, 0x8a8f96, 1.6));
    const lamp = new THREE.DirectionalLight(0xffffff, 1.6);
    lamp.position.set(0.4, 0.7, 0.6);
    this.scene.add(lamp);
    this.parts = new THREE.Group();
    this.scene.add(this.parts);
    this.controls = new OrbitControls(this.camera, this.renderer.domElement);
    this.controls.enablePan = false;
    this.controls.addEventListener("change", () => this.render());
    element.tabIndex = 0;
    element.addEventListener("keydown", (event) => this.#turn(event));
    new ResizeObserver(() => this.resize()).observe(element);
  }

  #turn(event) {
    const [across, down] = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key] ?? [0, 0];
    if (!across && !down) return;
    event.preventDefault();
    const { target } = this.controls;
    const place = new THREE.Spherical().setFromVector3(this.camera.position.clone().sub(target));
    place.theta -= 0.15 * across;
    place.phi = Math.min(3, Math.max(0.14, place.phi - 0.15 * down));
    this.camera.position.setFromSpherical(place).add(target);
    this.controls.update();
    this.render();
  }

  // items: {part, object, R, t, selected}
  show(items) {
    this.items = items;
    if (!this.renderer) return;
    this.parts.clear();
    for (const { part, object, R, t, selected } of items) {
      const material = new THREE.MeshStandardMaterial({
        vertexColors: part.geometry.hasAttribute("color"), roughness: 0.65, metalness: 0.05, side: THREE.DoubleSide,
        transparent: !selected, opacity: selected ? 1 : 0.28,
      });
      const mesh = new THREE.Mesh(part.geometry, material);
      const axes = new THREE.AxesHelper(0.4 * object.diameter_mm);
      for (const thing of selected ? [mesh, axes] : [mesh]) {
        thing.matrixAutoUpdate = false;
        thing.matrix.copy(toWorld(R, t));
        this.parts.add(thing);
      }
    }
    this.reset();
  }

  // Back to where the photo's camera stands.
  reset() {
    const chosen = this.items.find((item) => item.selected) ?? this.items[0];
    if (!chosen || !this.renderer) return;
    const middle = add(chosen.t, apply(chosen.R, chosen.object.center_mm));
    const distance = Math.hypot(...middle);
    this.controls.target.set(middle[0], -middle[1], -middle[2]);
    this.camera.position.set(0, 0, 0);
    this.camera.fov = (360 / Math.PI) * Math.atan((0.62 * chosen.object.diameter_mm) / distance);
    this.camera.near = 0.01 * distance;
    this.camera.far = 20 * distance;
    this.resize();
    this.controls.update();
    this.render();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (!width || !height) return;
    this.renderer.setSize(width, height);
    this.camera.aspect = width / height;
    this.camera.updateProjectionMatrix();
    this.render();
  }

  render() {
    if (this.items.length) this.renderer.render(this.scene, this.camera);
  }
}
