// What is copied.

import { add, apply, quaternion } from "./geometry.js";

const number = (x) => String(Math.round(x * 1e9) / 1e9);
const xyz = (v) => `{x: ${number(v[0])}, y: ${number(v[1])}, z: ${number(v[2])}}`;
const pose = (R, t) => {
  const q = quaternion(R);
  return `{position: ${xyz(t.map((x) => x / 1000))}, orientation: {x: ${number(q[0])}, y: ${number(q[1])}, z: ${number(q[2])}, w: ${number(q[3])}}}`;
};

export function toJson(detection) {
  const { reconstruction, ...rest } = detection;
  return JSON.stringify(rest, null, 2);
}

// 4 x 4, mm: from the CAD file's frame to the camera's.
export function toMatrix(detection) {
  const rows = detection.R_cam_obj.map((row, k) => [...row, detection.t_cam_obj_mm[k]]);
  return JSON.stringify([...rows, [0, 0, 0, 1]]).replaceAll("],[", "],\n [");
}

// vision_msgs/Detection3DArray as `ros2 topic pub` takes it: metres, the camera's optical frame.
export function toRos(detections, objects) {
  const lines = ["header: {frame_id: camera}", "detections:"];
  for (const one of detections) {
    const part = objects.find((o) => o.label === one.label);
    const R = one.R_cam_obj;
    const middle = add(one.t_cam_obj_mm, apply(R, part.center_mm));
    lines.push(
      "- header: {frame_id: camera}",
      "  results:",
      `  - hypothesis: {class_id: ${JSON.stringify(one.label)}, score: ${number(one.confidence ?? one.score)}}`,
      `    pose: {pose: ${pose(R, one.t_cam_obj_mm)}}`,
      "  bbox:",
      `    center: ${pose(R, middle)}`,
      `    size: ${xyz(part.size_mm.map((x) => x / 1000))}`,
    );
  }
  return lines.join("\n") + "\n";
}

export async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea"); // pages without encryption have no clipboard
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
