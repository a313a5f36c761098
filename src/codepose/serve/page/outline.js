// Outlines and creases of posed parts, as the photo's camera would see them.

import * as THREE from "./vendor/three.module.min.js";
import { toWorld } from "./parts.js";

const EDGE = `
  uniform sampler2D mask; uniform vec2 pixel; uniform float width; varying vec2 at;
  void main() {
    vec4 here = texture2D(mask, at), found = vec4(0.0);
    for (int i = 0; i < 16; i++) {
      float angle = 0.3926991 * float(i);
      for (int ring = 1; ring <= 2; ring++) {
        vec4 there = texture2D(mask, at + pixel * width * (0.5 * float(ring)) * vec2(cos(angle), sin(angle)));
        if (there.a > found.a && distance(there.rgb, here.rgb) + abs(there.a - here.a) > 0.05) found = there;
      }
    }
    if (found.a < 0.5) discard;
    gl_FragColor = vec4(found.rgb, 1.0);
  }`;
const PLACE = "varying vec2 at; void main() { at = uv; gl_Position = vec4(position.xy, 0.0, 1.0); }";

class Outliner {
  constructor() {
    this.renderer = new THREE.WebGLRenderer({ alpha: true, antialias: true, preserveDrawingBuffer: true });
    this.renderer.autoClear = false;
    this.renderer.outputColorSpace = THREE.LinearSRGBColorSpace; // colours pass through as they are
    this.target = new THREE.WebGLRenderTarget(1, 1, { samples: 0 });
    this.camera = new THREE.Camera();
    const uniforms = { mask: { value: this.target.texture }, pixel: { value: new THREE.Vector2() }, width: { value: 2 } };
    this.edge = new THREE.ShaderMaterial({ uniforms, vertexShader: PLACE, fragmentShader: EDGE, depthTest: false, depthWrite: false });
    this.screen = new THREE.Scene();
    const sheet = new THREE.Mesh(new THREE.PlaneGeometry(2, 2), this.edge);
    sheet.frustumCulled = false;
    this.screen.add(sheet);
  }

  // items: {part, R, t, color}; K of the drawn view, whose size is width x height in device pixels.
  draw(items, K, width, height, ratio) {
    const { renderer, camera } = this;
    renderer.setSize(width, height, false);
    this.target.setSize(width, height);
    const depths = items.map((item) => item.t[2]);
    const near = Math.max(1, 0.05 * Math.min(...depths)), far = 20 * Math.max(...depths);
    const [fx, fy, cx, cy] = [K[0][0], K[1][1], K[0][2] + 0.5, K[1][2] + 0.5];
    camera.projectionMatrix.set(
      (2 * fx) / width, 0, 1 - (2 * cx) / width, 0,
      0, (2 * fy) / height, (2 * cy) / height - 1, 0,
      0, 0, -(far + near) / (far - near), (-2 * far * near) / (far - near),
      0, 0, -1, 0,
    );
    camera.projectionMatrixInverse.copy(camera.projectionMatrix).invert();
    const masks = new THREE.Scene(), lines = new THREE.Scene();
    const used = [];
    for (const { part, R, t, color: name } of items) {
      const color = new THREE.Color().setStyle(name, THREE.LinearSRGBColorSpace);
      const plain = new THREE.MeshBasicMaterial({ color, side: THREE.DoubleSide });
      const hidden = new THREE.MeshBasicMaterial({ colorWrite: false, side: THREE.DoubleSide, polygonOffset: true, polygonOffsetFactor: 2, polygonOffsetUnits: 2 });
      const thin = new THREE.LineBasicMaterial({ color, transparent: true, opacity: 0.45 });
      for (const [scene, thing] of [
        [masks, new THREE.Mesh(part.geometry, plain)],
        [lines, new THREE.Mesh(part.geometry, hidden)],
        [lines, new THREE.LineSegments(part.creases, thin)],
      ]) {
        thing.matrixAutoUpdate = false;
        thing.matrix.copy(toWorld(R, t));
        thing.frustumCulled = false;
        scene.add(thing);
      }
      used.push(plain, hidden, thin);
    }
    renderer.setClearColor(0x000000, 0);
    renderer.setRenderTarget(this.target);
    renderer.clear();
    renderer.render(masks, camera);
    renderer.setRenderTarget(null);
    renderer.clear();
    renderer.render(lines, camera);
    this.edge.uniforms.pixel.value.set(1 / width, 1 / height);
    this.edge.uniforms.width.value = 2.2 * ratio;
    renderer.render(this.screen, camera);
    for (const material of used) material.dispose();
    return renderer.domElement;
  }
}

let shared;
// Null where the browser has no WebGL: boxes and axes are drawn all the same.
export function outliner() {
  if (shared === undefined) {
    try {
      shared = new Outliner();
    } catch {
      shared = null;
    }
  }
  return shared;
}
