// The parts' meshes, each fetched once.

import * as THREE from "./vendor/three.module.min.js";
import { PLYLoader } from "./vendor/PLYLoader.js";
import { request } from "./api.js";

const meshes = new Map();

export function loadPart(object) {
  if (!meshes.has(object.mesh)) meshes.set(object.mesh, load(object.mesh));
  return meshes.get(object.mesh);
}

async function load(path) {
  const geometry = new PLYLoader().parse(await (await request(path)).arrayBuffer());
  if (!geometry.hasAttribute("normal")) geometry.computeVertexNormals();
  return { geometry, creases: new THREE.EdgesGeometry(geometry, 30) };
}

// From the CAD file's frame to three.js's camera: y up, looking along -z.
export function toWorld(R, t) {
  return new THREE.Matrix4().set(
    R[0][0], R[0][1], R[0][2], t[0],
    -R[1][0], -R[1][1], -R[1][2], -t[1],
    -R[2][0], -R[2][1], -R[2][2], -t[2],
    0, 0, 0, 1,
  );
}
