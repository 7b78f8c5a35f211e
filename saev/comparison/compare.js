"use strict";
// Wires the shipped table (Tabulator) to comparison.data.js: one pair of dictionaries at a time.
window.addEventListener("DOMContentLoaded", () => {
  const { keys, pairs, names, pages, roots, fdr } = window.ATLAS;
  const number = (digits) => (cell) => (cell.getValue() === null ? "–" : String(+cell.getValue().toPrecision(digits)));
  const column = (title, field, tip, digits = 2) => ({ title, field, headerTooltip: tip, hozAlign: "right", sorter: "number", sorterParams: { alignEmptyValues: "bottom" }, formatter: number(digits) });
  const paged = Object.fromEntries(Object.entries(pages).map(([name, list]) => [name, new Set(list)]));
  const latent = (side) => (cell) => {
    const id = cell.getValue(), name = current()[side];
    if (!paged[name].has(id)) return String(id);
    const link = document.createElement("a");
    link.href = `${roots[name]}/${id}.html`; link.textContent = id;
    return link;
  };
  const select = document.getElementById("pair"), search = document.getElementById("search");
  const significant = document.getElementById("significant"), count = document.getElementById("count");
  pairs.forEach((pair, i) => select.add(new Option(`${pair.a} → ${pair.b}`, i)));
  const current = () => pairs[+select.value];
  const rows = () => current().rows.map((row) => {
    const record = Object.fromEntries(keys.map((key, i) => [key, row[i]]));
    record.name_a = names[current().a][record.latent_a] || "";
    record.name_b = names[current().b][record.latent_b] || "";
    return record;
  });
  const named = Object.values(names).some((one) => Object.keys(one).length);
  const table = new Tabulator("#table", {
    data: rows(), height: 420, layout: "fitDataStretch", placeholder: "No latent matches.",
    initialSort: [{ column: "correlation", dir: "desc" }],
    columns: [
      { title: "latent", field: "latent_a", sorter: "number", formatter: latent("a") },
      { title: "its name", field: "name_a", visible: named, width: 150 },
      { title: "partner", field: "latent_b", sorter: "number", formatter: latent("b") },
      { title: "its name", field: "name_b", visible: named, width: 150 },
      column("correlation", "correlation", "of the codes over images"),
      column("mis-paired", "correlation_null", "95 % level of the control"),
      column("q", "q", "of the correlation against the control"),
      { title: "mutual", field: "mutual", formatter: (cell) => (cell.getValue() ? "yes" : "") },
      column("Jaccard", "jaccard", "overlap of the two latents' 16 strongest images"),
      { title: "partner by exemplars", field: "exemplar_partner", sorter: "number", formatter: latent("b") },
      column("Jaccard", "exemplar_jaccard", "overlap with that partner's strongest images"),
      column("mis-paired", "exemplar_null", "95 % level of the control"),
      column("q", "exemplar_q", "of the overlap against the control"),
    ],
  });
  table.on("dataFiltered", (filters, kept) => { count.textContent = `${kept.length.toLocaleString("en")} latents`; });
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    table.setFilter((row) => {
      const text = `${row.latent_a} ${row.name_a} ${row.latent_b} ${row.name_b}`.toLowerCase();
      return words.every((word) => text.includes(word)) && (!significant.checked || (row.q !== null && row.q <= fdr));
    });
  };
  search.addEventListener("input", filter);
  significant.addEventListener("change", filter);
  select.addEventListener("change", () => table.setData(rows()).then(filter));
});
