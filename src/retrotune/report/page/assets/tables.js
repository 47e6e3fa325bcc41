// Tables that sort, filter and hide columns. A number leads to the answers behind it where the explorer has them.
"use strict";
{
  const { element, notes } = retrotune;
  const MARKS = ["", "near", "best"];

  // Labels sort by their order in the table, which is the configuration's: sizes by size, not by name.
  const ranks = (table) => table.columns.map((_, column) => {
    const rank = new Map();
    if (column < table.num_labels) for (const row of table.rows) if (!rank.has(row[column][0])) rank.set(row[column][0], rank.size);
    return rank;
  });

  const place = ([text, number, interval, mark], rank, cell) => {
    const isLabel = rank !== null;
    const shown = element(cell ? "button" : "span", {
      class: [MARKS[mark], cell ? "number" : ""].join(" ").trim() || null,
      title: cell ? `answers of ${cell}` : null,
      onclick: cell ? () => retrotune.explore(cell) : () => {},
    }, text);
    const order = isLabel ? rank : number ?? -Infinity;
    return element(
      "td", { class: isLabel ? "label" : null, "data-order": order, "data-search": text, dir: isLabel ? "auto" : null },
      shown, ...(interval ? [" ", element("span", { class: "interval" }, interval)] : []),
    );
  };

  // `cells` has a cell's name, or null, for each place of the table; null: no place leads anywhere.
  retrotune.table = (table, cells = null) => {
    const label = (column) => (column < table.num_labels ? "label" : null);
    const head = table.columns.map((name, column) => element("th", { class: label(column) }, name));
    const rank = ranks(table);
    const rows = table.rows.map((row, at) => element("tr", {}, ...row.map(
      (value, column) => place(value, column < table.num_labels ? rank[column].get(value[0]) : null, cells?.[at][column]),
    )));
    const feet = table.footers.map((texts) => element(
      "tr", {}, ...texts.map((text, column) => element("td", { class: label(column) }, text)),
    ));
    const made = element(
      "table", { class: "data compact" }, element("thead", {}, element("tr", {}, ...head)),
      element("tbody", {}, ...rows), ...(feet.length ? [element("tfoot", {}, ...feet)] : []),
    );
    const shown = element("div", { class: "table" },
      element("h3", {}, table.title), element("div", { class: "wide" }, made), notes(table.notes));
    if (table.rows.length) retrotune.waiting.push([made, table]);
    return shown;
  };

  // DataTables is a module, which loads after the tables are on the page.
  retrotune.waiting = [];
  retrotune.equip = ($) => {
    for (const [made, table] of retrotune.waiting) {
      const name = table.title.replace(/[^\w]+/g, "-").toLowerCase();
      $(made).DataTable({
        paging: table.rows.length > 60,
        pageLength: 50,
        info: table.rows.length > 60,
        order: [],
        autoWidth: false,
        layout: {
          topStart: { buttons: [
            { extend: "colvis", text: "Columns", background: false },
            { extend: "csvHtml5", text: "CSV", filename: name },
            { extend: "copyHtml5", text: "Copy" },
          ] },
          topEnd: "search",
        },
      });
    }
    retrotune.waiting = [];
    document.documentElement.dataset.tables = "ready";
  };
}
