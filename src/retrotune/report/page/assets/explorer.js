// The explorer: the questions of a dataset, one or two cells' answers to them, and the passages behind.
"use strict";
{
  const { element, record, numbersOf, marked } = retrotune;
  const PAGE = 20;
  const HELD_KNOWN = 1, HELD = 2, COPIED = 4, CAP_KNOWN = 8, AT_CAP = 16;

  const FILTERS = {
    all: ["all questions", () => true],
    differ: ["A and B score differently", (q, a, b) => b && a.scores[q] !== b.scores[q]],
    "a-better": ["A better than B", (q, a, b) => b && a.scores[q] > b.scores[q]],
    "b-better": ["B better than A", (q, a, b) => b && b.scores[q] > a.scores[q]],
    "a-right": ["A right", (q, a) => a.scores[q] >= retrotune.index.right],
    "a-wrong": ["A wrong", (q, a) => a.scores[q] < retrotune.index.right],
    "both-right": ["both right", (q, a, b) => b && Math.min(a.scores[q], b.scores[q]) >= retrotune.index.right],
    "both-wrong": ["both wrong", (q, a, b) => b && Math.max(a.scores[q], b.scores[q]) < retrotune.index.right],
    missed: ["A wrong, answer among its passages", (q, a) => a.scores[q] < retrotune.index.right && a.marks[q] & HELD],
    unheld: ["A right, answer not among its passages",
      (q, a) => a.scores[q] >= retrotune.index.right && a.marks[q] & HELD_KNOWN && !(a.marks[q] & HELD)],
    cut: ["A's passages were cut", (q, a) => a.cut[q] > 0],
  };

  const state = { dataset: 0, a: 0, b: null, found: [], page: 0, column: "question", down: false, chosen: null, turn: 0 };
  const parts = {};

  const option = (value, text) => element("option", { value }, text);
  const control = (name, text, made) => { parts[name] = made; return element("label", {}, text, made); };
  const cellsOf = (dataset) => retrotune.index.cells.flatMap((cell, at) => (cell.dataset === dataset ? [at] : []));
  const datasetOf = () => retrotune.index.datasets[state.dataset];

  const offerCells = () => {
    const own = cellsOf(state.dataset);
    const options = () => own.map((at) => option(at, retrotune.index.cells[at].label));
    parts.a.replaceChildren(...options());
    parts.b.replaceChildren(option("", "none"), ...options());
    parts.a.value = own.includes(state.a) ? state.a : own[0];
    parts.b.value = own.includes(state.b) ? state.b : "";
  };

  // Which questions are listed. A search looks at texts, and so opens the dataset's blocks; a newer one ends it.
  const find = async () => {
    const turn = (state.turn += 1);
    state.dataset = Number(parts.dataset.value);
    state.a = Number(parts.a.value);
    state.b = parts.b.value === "" ? null : Number(parts.b.value);
    const { a, b } = state, own = numbersOf(a), other = b === null ? null : numbersOf(b);
    const [, holds] = FILTERS[parts.filter.value];
    const low = parts.low.value === "" ? -1 : Number(parts.low.value);
    const high = parts.high.value === "" ? 101 : Number(parts.high.value);
    const wanted = parts.search.value.trim().toLowerCase();
    const found = [];
    for (let question = 0; question < datasetOf().questions; question += 1) {
      if (own.scores[question] < low || own.scores[question] > high || !holds(question, own, other)) continue;
      if (wanted) {
        const asked = await record(`questions-${state.dataset}`, question);
        const said = [a, b].filter((cell) => cell !== null).map((cell) => record(`answers-${cell}`, question));
        const texts = [asked.id, asked.question, asked.doc_id ?? "", ...asked.answers, ...(await Promise.all(said)).map((one) => one[0])];
        if (turn !== state.turn) return;
        if (!texts.some((text) => text.toLowerCase().includes(wanted))) continue;
      }
      found.push(question);
    }
    if (turn !== state.turn) return;
    state.found = found;
    order();
    state.page = 0;
    await list();
  };

  const valueOf = (question) => {
    const a = numbersOf(state.a).scores[question], b = state.b === null ? 0 : numbersOf(state.b).scores[question];
    return { question, a, b, difference: a - b }[state.column];
  };
  const order = () => state.found.sort((one, other) => (state.down ? -1 : 1) * (valueOf(one) - valueOf(other)) || one - other);

  const summary = () => {
    const a = numbersOf(state.a).scores, mean = (scores) => state.found.reduce((sum, q) => sum + scores[q], 0) / state.found.length;
    const { questions, total, title } = datasetOf();
    const said = [`${state.found.length} of ${questions} questions listed${questions < total ? ` (${total} in the dataset)` : ""}`];
    if (state.found.length) said.push(`A: mean ${title} of these questions ${mean(a).toFixed(1)}`);
    if (state.b !== null && state.found.length) {
      const b = numbersOf(state.b).scores, count = (holds) => state.found.filter(holds).length;
      said.push(`B: ${mean(b).toFixed(1)}`, `A better ${count((q) => a[q] > b[q])}, equal ${count((q) => a[q] === b[q])}, B better ${count((q) => a[q] < b[q])}`);
    }
    return said.join("; ");
  };

  const list = async () => {
    const turn = state.turn, two = state.b !== null, pages = Math.max(1, Math.ceil(state.found.length / PAGE));
    const shown = state.found.slice(state.page * PAGE, (state.page + 1) * PAGE);
    const asked = await Promise.all(shown.map((question) => record(`questions-${state.dataset}`, question)));
    if (turn !== state.turn) return;
    const columns = [["question", "Question", "label"], ["a", "A", "small"], ...(two ? [["b", "B", "small"], ["difference", "A − B", "small"]] : [])];
    const turnTo = (column) => { state.down = state.column === column ? !state.down : column !== "question"; state.column = column; order(); state.page = 0; list(); };
    const head = columns.map(([name, text, kind]) => element("th", {
      class: kind, tabindex: 0, onclick: () => turnTo(name), onkeydown: (event) => { if (event.key === "Enter") turnTo(name); },
      "aria-sort": state.column === name ? (state.down ? "descending" : "ascending") : "none",
    }, text, state.column === name ? (state.down ? " ▾" : " ▴") : ""));
    const rows = shown.map((question, at) => {
      const a = numbersOf(state.a).scores[question], b = two ? numbersOf(state.b).scores[question] : null;
      const show = () => { state.chosen = question; detail(question); list(); };
      return element("tr", {
        tabindex: 0, class: question === state.chosen ? "chosen" : null, onclick: show, "data-question": question,
        onkeydown: (event) => { if (event.key === "Enter") show(); },
      }, element("td", { class: "label", dir: "auto", title: asked[at].id }, asked[at].question), element("td", {}, a.toFixed(1)),
      ...(two ? [element("td", {}, b.toFixed(1)), element("td", {}, (a - b).toFixed(1))] : []));
    });
    const go = (step) => () => { state.page = Math.min(pages - 1, Math.max(0, state.page + step)); list(); };
    parts.list.replaceChildren(
      element("p", { class: "muted", id: "explorer-summary" }, summary()),
      element("table", { class: "data listing", id: "listing" }, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows)),
      element("p", { class: "muted" }, element("button", { class: "plain", onclick: go(-1) }, "‹ before"), ` page ${state.page + 1} of ${pages} `,
        element("button", { class: "plain", onclick: go(1) }, "next ›"), " ",
        element("button", { class: "plain", id: "explorer-csv", onclick: save }, "CSV of the listed questions")),
    );
    document.documentElement.dataset.explorer = `${state.turn}`;
  };

  const answer = (letter, cell, question, said, answers) => {
    const { scores, cut, marks } = numbersOf(cell), flags = marks[question];
    const tags = [
      `score ${scores[question].toFixed(1)}`,
      flags & HELD_KNOWN ? (flags & HELD ? "answer among its passages" : "answer not among its passages") : null,
      flags & COPIED ? "a string of a passage" : null,
      cut[question] ? `${cut[question]} tokens of passages cut` : null,
      flags & CAP_KNOWN && flags & AT_CAP ? "as long as it may be" : null,
    ].filter(Boolean);
    const [prediction, text] = said;
    return element("div", { class: "answer" },
      element("div", { class: "muted" }, `${letter}: ${retrotune.index.cells[cell].name}`),
      element("p", { class: "said", dir: "auto" }, ...(prediction ? marked(prediction, answers) : [element("i", {}, "empty")])),
      text === null || text.trim() === prediction ? null : element("details", {}, element("summary", {}, "generated"), element("p", { class: "said", dir: "auto" }, text)),
      element("div", {}, ...tags.map((tag) => element("span", { class: "tag" }, tag))));
  };

  const detail = async (question) => {
    const turn = state.turn, cells = [state.a, state.b].filter((cell) => cell !== null);
    const asked = await record(`questions-${state.dataset}`, question);
    const said = await Promise.all(cells.map((cell) => record(`answers-${cell}`, question)));
    const retrievals = [...new Set(cells.map((cell) => retrotune.index.cells[cell].retrieval))];
    const passages = await Promise.all(retrievals.map((name) => {
      const at = datasetOf().retrievals.indexOf(name);
      return at < 0 ? [] : record(`passages-${state.dataset}-${at}`, question);
    }));
    if (turn !== state.turn || question !== state.chosen) return;
    const uses = (cell, at, rank) => [[2, "prompt"], [3, "encoder"]].filter(([place]) => said[at][place].includes(rank))
      .map(([, where]) => element("span", { class: "tag" }, `${"AB"[at]}: ${where}`));
    const shown = retrievals.flatMap((name, which) => passages[which].map(([id, title, text], rank) => {
      const tags = cells.flatMap((cell, at) => (retrotune.index.cells[cell].retrieval === name ? uses(cell, at, rank) : []));
      return tags.length ? element("div", { class: "passage" },
        element("div", { class: "muted" }, `${rank + 1}. ${title ?? ""} `, element("span", { class: "tag" }, id), ...(retrievals.length > 1 ? [element("span", { class: "tag" }, name)] : []), ...tags),
        element("div", { class: "said", dir: "auto" }, ...marked(text, asked.answers))) : null;
    })).filter(Boolean);
    parts.detail.replaceChildren(element("div", { class: "detail" },
      element("div", { class: "muted" }, [asked.id, asked.doc_id && `document ${asked.doc_id}`, ...asked.types].filter(Boolean).join(", ")),
      element("h3", { dir: "auto" }, asked.question),
      asked.options.length ? element("ol", { type: "A" }, ...asked.options.map((text) => element("li", { dir: "auto" }, text))) : null,
      element("p", { dir: "auto" }, "Reference: ", asked.answers.join(" | ")),
      element("div", { class: "pair" }, ...cells.map((cell, at) => answer("AB"[at], cell, question, said[at], asked.answers))),
      shown.length ? element("h3", {}, "Passages") : element("p", { class: "muted" }, "No passages were given."), ...shown));
    parts.detail.scrollIntoView({ block: "nearest" });
  };

  const quoted = (value) => `"${String(value).replaceAll('"', '""')}"`;
  const save = async () => {
    const cells = [state.a, state.b].filter((cell) => cell !== null);
    const names = cells.map((cell) => retrotune.index.cells[cell].name);
    const lines = [["question_id", "question", "answers", ...names.flatMap((name) => [`${name} score`, `${name} prediction`])].map(quoted).join(",")];
    for (const question of state.found) {
      const asked = await record(`questions-${state.dataset}`, question);
      const said = await Promise.all(cells.map((cell) => record(`answers-${cell}`, question)));
      const values = cells.flatMap((cell, at) => [numbersOf(cell).scores[question], said[at][0]]);
      lines.push([asked.id, asked.question, asked.answers.join(" | "), ...values].map(quoted).join(","));
    }
    const link = element("a", { href: URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" })), download: "answers.csv" });
    link.click();
    URL.revokeObjectURL(link.href);
  };

  // Leads from a number to the answers behind it.
  retrotune.explore = (name) => {
    const at = retrotune.index?.cells.findIndex((cell) => cell.name === name) ?? -1;
    if (at < 0 || !parts.dataset) return;
    state.dataset = retrotune.index.cells[at].dataset;
    state.b = state.a !== at && retrotune.index.cells[state.a]?.dataset === state.dataset ? state.b : null;
    state.a = at;
    state.chosen = null;
    parts.dataset.value = state.dataset;
    offerCells();
    parts.detail.replaceChildren();
    find();
    document.getElementById("explorer").scrollIntoView();
  };

  retrotune.explorer = (index) => {
    retrotune.index = index;
    if (!index || !index.cells.length) return [element("p", { class: "muted" }, "No cell of this study has answers yet.")];
    if (typeof DecompressionStream === "undefined") {
      return [element("p", { class: "warning" }, "This browser cannot open the texts of this page: it has no DecompressionStream. "
        + "Chrome 80, Firefox 113, Safari 16.4 and later have it. The rest of the page does not need it.")];
    }
    const later = () => { clearTimeout(state.timer); state.timer = setTimeout(find, 250); };
    const again = () => { state.chosen = null; parts.detail.replaceChildren(); find(); };
    const controls = element("div", { class: "controls" },
      control("dataset", "Dataset", element("select", { id: "explorer-dataset", onchange: () => { state.dataset = Number(parts.dataset.value); offerCells(); again(); } },
        ...index.datasets.map((dataset, at) => option(at, dataset.name)))),
      control("a", "Cell A", element("select", { id: "explorer-a", onchange: again })),
      control("b", "Cell B", element("select", { id: "explorer-b", onchange: again })),
      control("filter", "Show", element("select", { id: "explorer-filter", onchange: find }, ...Object.entries(FILTERS).map(([value, [text]]) => option(value, text)))),
      control("low", "A's score from", element("input", { id: "explorer-low", type: "number", min: 0, max: 100, oninput: later })),
      control("high", "to", element("input", { id: "explorer-high", type: "number", min: 0, max: 100, oninput: later })),
      control("search", "Text of question, reference or answer", element("input", { id: "explorer-search", type: "search", oninput: later })));
    parts.list = element("div", { id: "explorer-list" });
    parts.detail = element("div", { id: "explorer-detail" });
    state.a = cellsOf(0)[0];
    offerCells();
    find();
    return [...index.notes.map((note) => element("p", { class: "muted" }, note)), controls, parts.list, parts.detail];
  };
}
