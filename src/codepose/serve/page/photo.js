// A photo's picture as poses are drawn on it: upright, without its lens distortion.

import { post } from "./api.js";

let last = null;

export async function photoUrl(file, camera, signal, always = false) {
  if (last) URL.revokeObjectURL(last);
  last = null;
  const own = URL.createObjectURL(file);
  const straight = !always && !(camera.bends && camera.complete);
  if (straight && (await readable(own))) return (last = own);
  URL.revokeObjectURL(own);
  const fields = camera.complete ? camera.fields : {};
  return (last = URL.createObjectURL(await (await post("v1/photo", { image: file, ...fields }, signal)).blob()));
}

async function readable(url) {
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
    return true;
  } catch {
    return false;
  }
}
