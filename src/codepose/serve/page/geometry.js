// Poses as the service gives them: R, 3 x 3, and t, mm, from the CAD file's frame to OpenCV's camera frame.

export const multiply = (A, B) => A.map((row) => B[0].map((_, j) => row.reduce((sum, a, k) => sum + a * B[k][j], 0)));
export const apply = (A, v) => A.map((row) => row.reduce((sum, a, k) => sum + a * v[k], 0));
export const add = (a, b) => a.map((x, k) => x + b[k]);

// Where a camera-frame point is seen, in continuous pixels: the first pixel is [0, 1).
export function project(K, p) {
  return [(K[0][0] * p[0]) / p[2] + K[0][2] + 0.5, (K[1][1] * p[1]) / p[2] + K[1][2] + 0.5];
}

// Rotation by an angle in radians around an axis of the camera: 0, 1 or 2.
export function turn(axis, angle) {
  const [i, j] = [(axis + 1) % 3, (axis + 2) % 3];
  const R = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
  R[i][i] = R[j][j] = Math.cos(angle);
  R[j][i] = Math.sin(angle);
  R[i][j] = -R[j][i];
  return R;
}

// (x, y, z, w), w >= 0.
export function quaternion(R) {
  const [[a, b, c], [d, e, f], [g, h, i]] = R;
  const q = [0, 0, 0, 0];
  const choice = [1 + a - e - i, 1 - a + e - i, 1 - a - e + i, 1 + a + e + i];
  const best = choice.indexOf(Math.max(...choice));
  const s = 2 * Math.sqrt(choice[best]);
  if (best === 3) q.splice(0, 4, (h - f) / s, (c - g) / s, (d - b) / s, s / 4);
  else if (best === 0) q.splice(0, 4, s / 4, (b + d) / s, (c + g) / s, (h - f) / s);
  else if (best === 1) q.splice(0, 4, (b + d) / s, s / 4, (f + h) / s, (c - g) / s);
  else q.splice(0, 4, (c + g) / s, (f + h) / s, s / 4, (d - b) / s);
  return q[3] < 0 ? q.map((x) => -x) : q;
}
