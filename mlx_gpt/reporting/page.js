"use strict";
const told = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);

function made(tag, words = "", kind = "") {
  const element = document.createElement(tag);
  element.textContent = words;
  if (kind) element.className = kind;
  return element;
}
const named = (run) => `${run.stage || ""} ${run.name}`.trim();

// tables: by a column, then the other way; rows without a number come last
function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => row.cells[column].dataset.value;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        return up ? x - y : y - x;
      });
      table.tBodies[0].append(...rows);
    });
  });
}
document.querySelectorAll("table.sortable").forEach(sortable);

// learning curves: one axis at a time, stages brought out by their buttons
function choices(name) {
  const inputs = document.querySelectorAll(`input[name=${name}]`);
  const show = () => document.querySelectorAll(`[data-${name}]`).forEach((part) => {
    part.hidden = part.dataset[name] !== document.querySelector(`input[name=${name}]:checked`).value;
  });
  inputs.forEach((input) => input.addEventListener("change", show));
  if (inputs.length) show();
}
["axis", "frontier", "passing", "length", "where"].forEach(choices);
told.runs.forEach((run) => {
  const button = made("button", named(run));
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => {
    const out = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(out));
    document.querySelectorAll(".track").forEach((track) => {
      if (track.dataset.run === run.run) track.classList.toggle("out", out);
    });
    at("curves").classList.toggle("dimming", document.querySelector(".track.out") !== null);
  });
  at("tracks").append(button);
});
at("tracks").lastElementChild.click(); // one is brought out from the beginning, to show what the buttons do
