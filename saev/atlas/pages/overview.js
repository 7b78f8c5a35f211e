"use strict";
// Wires the shipped table (Tabulator) and plot (uPlot) to overview.data.js.
window.addEventListener("DOMContentLoaded", () => {
  const { keys, rows, pages } = window.ATLAS;
  const paged = new Set(pages);
  const data = rows.map((row) => Object.fromEntries(keys.map((key, i) => [key, row[i]])));
  const number = (digits) => (cell) => (cell.getValue() === null ? "–" : String(+cell.getValue().toPrecision(digits)));
  // Tabulator sets a string as HTML, and names may hold anything
  const words = (otherwise) => (cell) => document.createTextNode(cell.getValue() || otherwise);
  const column = (title, field, tip, digits = 3) => ({ title, field, headerTooltip: tip, hozAlign: "right", sorter: "number", sorterParams: { alignEmptyValues: "bottom" }, formatter: number(digits) });
  const table = new Tabulator("#table", {
    data, height: 520, layout: "fitDataStretch", placeholder: "No latent matches.",
    initialSort: [{ column: "importance", dir: "desc" }, { column: "name_confidence", dir: "desc" }],
    columns: [
      { title: "latent", field: "latent", sorter: "number", formatter: (cell) => {
        const id = cell.getValue();
        if (!paged.has(id)) return String(id);
        const link = document.createElement("a");
        link.href = `latent/${id}.html`; link.textContent = id;
        return link;
      } },
      { title: "name", field: "name", formatter: words("unnamed"), width: 190 },
      column("confidence", "name_confidence", "of the name, on held-out images", 2),
      { title: "by", field: "proposer", formatter: words("") },
      { title: "best concept", field: "best_concept", formatter: words("–"), width: 150 },
      column("AUROC", "concept_auroc", "of its best concept, test split"),
      column("F1", "concept_f1", "of its best concept, test split", 2),
      column("q", "concept_q", "of that AUROC, adjusted for the number of concepts", 2),
      { ...column("images", "rate_image", "share of images on which it fires"), formatter: (cell) => `${+(100 * cell.getValue()).toPrecision(cell.getValue() < 0.1 ? 2 : 3)} %` },
      column("MS", "ms", "monosemanticity score"),
      column("support", "ms_support", "effective number of images behind the score"),
      column("entropy", "label_entropy", "of labels, nats", 2),
      column("position", "position_information", "share of its entropy explained by the place in the image", 2),
      column("importance", "importance", "share of the energy of all codes", 2),
    ],
  });
  const count = document.getElementById("count");
  table.on("dataFiltered", (filters, kept) => { count.textContent = `${kept.length.toLocaleString("en")} of ${data.length.toLocaleString("en")} latents`; });

  const proposed = document.getElementById("proposed");
  proposed.addEventListener("change", () => filter());
  const search = document.getElementById("search"), clear = document.getElementById("clear");
  const axis = document.getElementById("axis"), host = document.getElementById("scatter");
  let box = null;
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    table.setFilter((row) => {
      const text = `${row.latent} ${row.name || "unnamed"} ${row.best_concept || ""} ${proposed.checked ? row.proposals || "" : ""}`.toLowerCase();
      return words.every((word) => text.includes(word)) && (box === null || box.has(row.latent));
    });
  };
  // the address holds the search and the axis, so that a view can be passed on
  const remember = () => {
    const state = new URLSearchParams();
    if (search.value) state.set("q", search.value);
    if (axis.selectedIndex > 0) state.set("axis", axis.value);
    history.replaceState(null, "", `#${state}`);
  };
  search.addEventListener("input", () => { filter(); remember(); });
  search.addEventListener("keydown", (event) => {
    const first = event.key === "Enter" && table.getRows("active")[0];
    if (first && paged.has(first.getData().latent)) location.href = `latent/${first.getData().latent}.html`;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.matches("input, select, textarea")) { event.preventDefault(); search.focus(); }
  });
  clear.addEventListener("click", () => { box = null; clear.hidden = true; plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false); filter(); });

  let plot = null, shown = [];
  const points = (u, s, i0, i1) => {
    const ratio = devicePixelRatio, radius = 2.4 * ratio, [xs, ys] = u.data[1];
    u.ctx.save(); u.ctx.fillStyle = "#31688e99"; u.ctx.beginPath();
    for (let i = 0; i < xs.length; i++) {
      const x = u.valToPos(xs[i], "x", true), y = u.valToPos(ys[i], "y", true);
      u.ctx.moveTo(x + radius, y); u.ctx.arc(x, y, radius, 0, 2 * Math.PI);
    }
    u.ctx.fill(); u.ctx.restore();
    return null;
  };
  const draw = () => {
    const key = axis.value;
    // a monosemanticity score of fewer than ten images says nothing
    shown = data.filter((row) => row.rate_image > 0 && row[key] !== null && (key !== "ms_corrected" || row.ms_support >= 10));
    const xs = shown.map((row) => Math.log10(row.rate_image)), ys = shown.map((row) => row[key]);
    if (plot) plot.destroy();
    plot = new uPlot({
      mode: 2, width: host.clientWidth, height: 330, legend: { show: false },
      cursor: { drag: { x: true, y: true, uni: 8, setScale: false }, points: { show: false } },
      scales: { x: { time: false, range: [Math.min(-1, xs.reduce((a, b) => Math.min(a, b), 0)) - 0.1, 0.03] }, y: { range: (u, min, max) => { const [, y] = u.data[1]; const low = y.reduce((a, b) => Math.min(a, b), Infinity), high = y.reduce((a, b) => Math.max(a, b), -Infinity), pad = (high - low) * 0.05 || 1; return [low - pad, high + pad]; } } },
      axes: [{ label: "share of images on which it fires", splits: (u, i, low) => [1, 2, 5].flatMap((m) => Array.from({ length: 8 }, (_, k) => Math.log10(m) - k)).filter((t) => t >= low && t <= 0).sort((a, b) => a - b), values: (u, ticks) => ticks.map((t) => `${+(100 * 10 ** t).toPrecision(1)} %`) }, { label: axis.selectedOptions[0].text, size: 60 }],
      series: [{}, { facets: [{ scale: "x", auto: true }, { scale: "y", auto: true }], paths: points }],
      hooks: { setSelect: [(u) => {
        const { left, top, width, height } = u.select;
        if (width < 4 && height < 4) return;
        const x0 = u.posToVal(left, "x"), x1 = u.posToVal(left + width, "x"), y1 = u.posToVal(top, "y"), y0 = u.posToVal(top + height, "y");
        box = new Set(shown.filter((row, i) => xs[i] >= x0 && xs[i] <= x1 && ys[i] >= y0 && ys[i] <= y1).map((row) => row.latent));
        clear.hidden = false; filter();
      }] },
    }, [null, [xs, ys]], host);
    plot.over.addEventListener("click", (event) => {
      const px = event.offsetX, py = event.offsetY;
      let best = -1, distance = 100;
      xs.forEach((x, i) => { const d = (plot.valToPos(x, "x") - px) ** 2 + (plot.valToPos(ys[i], "y") - py) ** 2; if (d < distance) { distance = d; best = i; } });
      if (best >= 0 && paged.has(shown[best].latent) && plot.select.width < 4) location.href = `latent/${shown[best].latent}.html`;
    });
  };
  axis.addEventListener("change", () => { draw(); remember(); });
  window.addEventListener("resize", draw);
  const asked = new URLSearchParams(location.hash.slice(1));
  if ([...axis.options].some((option) => option.value === asked.get("axis"))) axis.value = asked.get("axis");
  draw();
  table.on("tableBuilt", () => {
    if (asked.get("q")) { search.value = asked.get("q"); filter(); }
    performance.mark("overview"); // the first view stands
  });
});
