// Puts the page together from its data.
"use strict";
{
  const { element, data, fill } = retrotune;
  const content = data("content");
  document.getElementById("title").textContent = content.title;
  document.getElementById("summary").textContent = content.summary;
  const shown = (table) => (table ? retrotune.table(table.table, table.cells) : null);
  const finding = ({ says, cells, evidence, remedy }) => {
    const numbers = Object.entries(evidence).map(([name, value]) => `${name} ${Number(value.toPrecision(4))}`).join(", ");
    const lead = element("button", { class: "number", onclick: () => retrotune.explore(cells[0]) }, cells[0]);
    return element("li", {}, says, element("div", { class: "muted" }, lead, `: ${numbers}`), element("div", { class: "muted" }, `What to do: ${remedy}`));
  };
  const figures = (names) => names.filter((name) => content.figures.includes(name)).map(retrotune.figure);

  fill("verdicts", ...retrotune.verdicts(content.claims, content.claim_notes));
  fill("tables", ...content.tables.map(shown));
  fill("figures", ...figures(content.figures.filter((name) => !["cost", "quadrants"].includes(name))));
  fill("diagnosis",
    content.findings.length
      ? element("ol", { class: "findings" }, ...content.findings.map(finding))
      : element("p", { class: "muted" }, "No known pattern of trouble was found."),
    ...figures(["quadrants"]), ...content.diagnosis.map(shown));
  fill("cost", ...figures(["cost"]), ...content.cost.map(shown));
  fill("explorer", ...retrotune.explorer(data("explorer-index")));
  fill("provenance", retrotune.notes(content.provenance_notes), ...content.provenance.map(shown));

  document.querySelector("nav").append(...[...document.querySelectorAll("main > section")].map(
    (section) => element("a", { href: `#${section.id}` }, section.querySelector("h2").textContent)));
  const source = new Blob([retrotune.bytes("datatables")], { type: "text/javascript" });
  import(URL.createObjectURL(source)).then((module) => retrotune.equip(module.jQuery)).catch((error) => {
    document.getElementById("tables")?.append(element("p", { class: "warning" }, `Tables cannot be sorted or filtered here: ${error.message}`));
    document.documentElement.dataset.tables = "plain";
  });
}
