// The picture: a click marks one patch, a drag several, with Shift or Ctrl they are added or taken away;
// arrow keys, space and Escape do the same. The server hears of it when the hand is lifted.
const cells = () => [...element.querySelectorAll("[data-patch]")];
const marked = () => cells().filter((c) => c.classList.contains("marked")).map((c) => +c.dataset.patch);
const tell = () => trigger("select", { patches: marked() });
let stroke = null;
let cursor = 0;

const under = (event) => {
  const found = document.elementFromPoint(event.clientX, event.clientY);
  return found && element.contains(found) ? found.closest("[data-patch]") : null;
};
const paint = (cell) => {
  if (!cell || stroke.seen.has(cell)) return;
  stroke.seen.add(cell);
  cell.classList.toggle("marked", stroke.on);
};

element.addEventListener("pointerdown", (event) => {
  const cell = event.target.closest("[data-patch]");
  if (!cell || event.button) return;
  event.preventDefault();
  element.querySelector("svg").focus({ preventScroll: true });
  const adds = event.shiftKey || event.ctrlKey || event.metaKey;
  const before = marked();
  const alone = before.length === 1 && before[0] === +cell.dataset.patch;
  if (!adds) cells().forEach((c) => c.classList.remove("marked"));
  stroke = { on: adds ? !before.includes(+cell.dataset.patch) : !alone, seen: new Set() };
  cursor = +cell.dataset.patch;
  paint(cell);
});
window.addEventListener("pointermove", (event) => {
  if (stroke) paint(under(event));
});
window.addEventListener("pointerup", () => {
  if (stroke) tell();
  stroke = null;
});
window.addEventListener("pointercancel", () => {
  stroke = null;
});

const show = () => cells().forEach((c) => c.classList.toggle("cursor", +c.dataset.patch === cursor));
element.addEventListener("focusin", (event) => event.target.matches("svg:focus-visible") && show());
element.addEventListener("focusout", () => cells().forEach((c) => c.classList.remove("cursor")));
element.addEventListener("keydown", (event) => {
  const svg = event.target.closest("svg.patches");
  if (!svg) return;
  const columns = +svg.dataset.columns;
  const rows = +svg.dataset.rows;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (step) {
    const sideways = Math.abs(step) === 1 && columns > 1;
    const column = (cursor % columns) + (sideways ? step : 0);
    const next = cursor + step;
    if (next >= 0 && next < rows * columns && column >= 0 && column < columns) cursor = next;
    show();
  } else if (event.key === " " || event.key === "Enter") {
    cells()[cursor].classList.toggle("marked");
    tell();
  } else if (event.key === "Escape") {
    cells().forEach((c) => c.classList.remove("marked"));
    tell();
  } else return;
  event.preventDefault();
});
