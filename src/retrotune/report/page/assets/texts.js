// What the explorer shows: texts in gzip blocks, which are opened when they are looked at; scores as typed arrays.
"use strict";
{
  const { element } = retrotune;
  const KEPT = 60; // blocks in memory

  const opened = new Map();
  const open = (id) => {
    if (!opened.has(id)) {
      if (opened.size >= KEPT) opened.delete(opened.keys().next().value);
      const stream = new Blob([retrotune.bytes(id)]).stream().pipeThrough(new DecompressionStream("gzip"));
      opened.set(id, new Response(stream).json());
    }
    const found = opened.get(id);
    opened.delete(id); // the block used last goes last
    opened.set(id, found);
    return found;
  };
  // A question's record in the blocks of a prefix.
  retrotune.record = async (prefix, question) => {
    const size = retrotune.index.block;
    return (await open(`${prefix}-${Math.floor(question / size)}`))[question % size];
  };

  const numbers = new Map();
  // Scores, tokens cut and marks of a cell's answers, by question.
  retrotune.numbersOf = (cell) => {
    if (!numbers.has(cell)) {
      const count = retrotune.index.datasets[retrotune.index.cells[cell].dataset].questions;
      const { buffer } = retrotune.bytes(`numbers-${cell}`);
      numbers.set(cell, {
        scores: new Float32Array(buffer, 0, count),
        cut: new Uint32Array(buffer, 4 * count, count),
        marks: new Uint8Array(buffer, 8 * count, count),
      });
    }
    return numbers.get(cell);
  };

  // Tokens as retrieval is measured with (DPR's): runs of letters, numbers and marks, or single other characters.
  const TOKEN = /[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]/gu;
  const pattern = (answers) => {
    const wanted = answers.map((answer) => (answer.normalize("NFC").match(TOKEN) ?? [])
      .map((token) => token.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&")).join("[\\p{Z}\\p{C}]*")).filter(Boolean);
    const word = "[\\p{L}\\p{N}\\p{M}]";
    return wanted.length ? new RegExp(`(?<!${word})(?:${wanted.join("|")})(?!${word})`, "giu") : null;
  };
  // A text with its answers marked.
  retrotune.marked = (text, answers) => {
    const found = pattern(answers), plain = text.normalize("NFC"), parts = [];
    let last = 0;
    for (const match of found ? plain.matchAll(found) : []) {
      parts.push(plain.slice(last, match.index), element("mark", {}, match[0]));
      last = match.index + match[0].length;
    }
    return [...parts, plain.slice(last)];
  };
}
