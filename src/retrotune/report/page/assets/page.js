// What all parts of the page share: data by id, elements whose texts are never markup, the dark look, sections.
"use strict";
const retrotune = {};

retrotune.text = (id) => document.getElementById(id)?.textContent ?? null;
retrotune.data = (id) => { const text = retrotune.text(id); return text === null ? null : JSON.parse(text); };

retrotune.bytes = (id) => Uint8Array.from(atob(retrotune.text(id)), (char) => char.charCodeAt(0));

// An element: attributes, then children. Strings become text nodes, so that no text of data can be markup.
retrotune.element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
};

retrotune.notes = (notes) => {
  const { element } = retrotune;
  return notes.length ? element("ul", { class: "notes" }, ...notes.map((note) => element("li", {}, note))) : null;
};

// A section without anything to show goes, so that the page has no empty headings.
retrotune.fill = (id, ...children) => {
  const section = document.getElementById(id);
  const shown = children.filter((child) => child !== null && child !== undefined);
  if (shown.length) section.append(...shown);
  else section.remove();
};

{
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const follow = () => document.documentElement.classList.toggle("dark", dark.matches);
  dark.addEventListener("change", follow);
  follow();
}
