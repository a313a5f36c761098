// Files that are chosen, or dropped on a card.

export function chosen(ids, take) {
  for (const id of ids) {
    document.getElementById(id).addEventListener("change", (event) => {
      if (event.target.files.length) take(event.target.files);
      event.target.value = "";
    });
  }
}

export function dropped(card, take) {
  card.addEventListener("dragover", (event) => {
    event.preventDefault();
    card.classList.add("over");
  });
  card.addEventListener("dragleave", () => card.classList.remove("over"));
  card.addEventListener("drop", (event) => {
    event.preventDefault();
    card.classList.remove("over");
    take(event.dataTransfer.files);
  });
}
