// Requests to the service; errors carry its one line.

const TOKEN = "codepose.token";

async function askForToken() {
  const dialog = document.getElementById("token-dialog");
  if (!dialog.open) dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  sessionStorage.setItem(TOKEN, document.getElementById("token").value);
}

export async function request(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer. Is it still running?");
  }
  if (answer.status === 401) {
    await askForToken();
    return request(path, options);
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Error(told.detail ?? `The service answered with status ${answer.status}.`);
  }
  return answer;
}

export async function getJson(path) {
  return (await request(path)).json();
}

export async function post(path, fields, signal) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined || value === null || value === "") continue;
    if (value instanceof Blob) form.append(name, value, value.name ?? "photo.jpg");
    else form.append(name, String(value));
  }
  return request(path, { method: "POST", body: form, signal });
}
