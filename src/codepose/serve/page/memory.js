// What this browser remembers of a page from one visit to the next.

// What was kept under a name, or ``otherwise``.
export function remembered(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function remember(name, value) {
  localStorage.setItem(name, JSON.stringify(value));
}
