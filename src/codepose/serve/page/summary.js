// How good the network is on the photos so far.

const byId = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

export function showSummary(told) {
  const missed = told.parts - told.found, wrong = told.found - told.right;
  byId("download").disabled = told.photos === 0;
  byId("kept").textContent = told.kept_in ? `Kept in ${told.kept_in}.` : told.photos ? "Kept until the service stops: download them." : "";
  const bar = byId("sofar-bar");
  bar.hidden = told.parts === 0;
  if (told.parts === 0) {
    byId("sofar").textContent = told.photos ? "No part in the photos so far." : "Nothing is checked yet.";
    byId("sofar-more").textContent = "";
    return;
  }
  byId("sofar").textContent = `${told.right} of ${told.parts} parts right`;
  const [low, high] = told.interval;
  for (const [name, value] of [["right", told.right], ["wrong", wrong], ["missed", missed]]) {
    bar.querySelector(`.${name}`).style.flexGrow = String(value);
    bar.querySelector(`.${name}`).hidden = value === 0;
  }
  bar.setAttribute("aria-label", `${told.right} right, ${wrong} wrong, ${missed} missed`);
  const lines = [
    `${percent(told.right / told.parts)}; on more photos like these, between ${percent(low)} and ${percent(high)}.`,
    `${wrong} found but wrong, ${missed} missed, ${told.rejected} false alarm${told.rejected === 1 ? "" : "s"}, in ${told.photos} photo${told.photos === 1 ? "" : "s"}.`,
  ];
  if (told.median_mm !== null) lines.push(`Half of what was found is off by at most ${told.median_mm.toFixed(1)} mm.`);
  byId("sofar-more").textContent = lines.join(" ");
}
