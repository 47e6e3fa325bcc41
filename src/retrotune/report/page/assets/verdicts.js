// Verdicts of the claims: effect and interval as numbers and as a picture, and the cells that each one rests on.
"use strict";
{
  const { element } = retrotune;
  const SIGNS = { supported: "✓", contradicted: "✗", undecided: "?" };
  const round = (value, digits) => (value === null ? "–" : value.toFixed(digits));
  const signed = (value) => `${value > 0 ? "+" : ""}${value.toFixed(1)}`;

  // One scale for all claims of a unit, so that lengths can be compared.
  const scaleOf = (claims) => {
    const ends = claims.flatMap((claim) => (claim.interval ? [...claim.interval, claim.margin] : [])).concat(0);
    const low = Math.min(...ends), span = Math.max(...ends) - low || 1;
    return (value) => 4 + (192 * (value - low)) / span;
  };

  const picture = (claim, at) => {
    const svg = (tag, attributes) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
      return made;
    };
    const [low, high] = claim.interval;
    const drawn = svg("svg", { width: 200, height: 22, role: "img" });
    const label = svg("title", {});
    label.textContent = `effect ${signed(claim.effect)}, interval ${signed(low)} to ${signed(high)}, margin ${claim.margin}`;
    drawn.append(
      label,
      svg("line", { x1: at(claim.margin), x2: at(claim.margin), y1: 1, y2: 21, stroke: "currentColor", "stroke-dasharray": "3 2" }),
      svg("line", { x1: at(low), x2: at(high), y1: 11, y2: 11, stroke: "currentColor", "stroke-width": 2 }),
      svg("circle", { cx: at(claim.effect), cy: 11, r: 4, fill: "currentColor" }),
    );
    return drawn;
  };

  const restsOn = (claim) => {
    const names = [...new Set(claim.cells.flatMap((weights) => Object.keys(weights)))];
    if (!names.length) return null;
    return element("details", {}, element("summary", {}, `${names.length} cells`), element("div", { class: "cells" },
      ...names.map((name) => element("div", {}, element("button", { class: "number", onclick: () => retrotune.explore(name) }, name)))));
  };

  retrotune.verdicts = (claims, notes) => {
    if (!claims.length) return [element("p", { class: "muted" }, "This study tests no claims.")];
    const scales = new Map();
    for (const unit of new Set(claims.map((claim) => claim.unit))) {
      scales.set(unit, scaleOf(claims.filter((claim) => claim.unit === unit)));
    }
    const head = ["Verdict", "Claim", "Effect and interval", "", "p (Holm)", "Pairs", "Rests on"];
    const rows = claims.map((claim) => {
      const known = claim.effect !== null;
      const kind = claim.verdict in SIGNS ? claim.verdict : "untestable";
      return element("tr", {},
        element("td", { class: "label" }, element("span", { class: `badge ${kind}` }, `${SIGNS[kind] ?? "–"} ${claim.verdict}`)),
        element("td", { class: "label" }, claim.says, element("div", { class: "muted" },
          claim.problem ?? `expected ${claim.direction} ${claim.margin} ${claim.unit}${claim.source ? `; ${claim.source}` : ""}`)),
        element("td", {}, ...(known ? [signed(claim.effect), " ", element("span", { class: "interval" },
          `[${signed(claim.interval[0])}, ${signed(claim.interval[1])}]`)] : ["–"])),
        element("td", { class: "label" }, ...(known ? [picture(claim, scales.get(claim.unit))] : [])),
        element("td", {}, round(claim.p_adjusted, 4)),
        element("td", {}, claim.num_pairs === null ? "–" : `${claim.num_pairs} of ${claim.num_expected_pairs}`),
        element("td", { class: "label" }, restsOn(claim)));
    });
    return [
      element("div", { class: "wide" }, element("table", { class: "data", id: "claims" },
        element("thead", {}, element("tr", {}, ...head.map((name, at) => element("th", { class: [0, 1, 3, 6].includes(at) ? "label" : null }, name)))),
        element("tbody", {}, ...rows))),
      retrotune.notes([...notes, "Dashed: the claim's margin. Dot and line: effect and interval; claims of one unit share a scale."]),
    ];
  };
}
