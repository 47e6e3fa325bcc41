// Figures, drawn when they come into view: a page of many figures opens at once. The menu of each saves svg or png.
"use strict";
{
  const { element } = retrotune;
  const LOG_ERRORS = 1; // Vega warns of each scale that has no data at first
  const draw = async (frame, specification) => {
    const options = { logLevel: LOG_ERRORS, renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false } };
    try {
      // in an element of its own, which Vega makes as wide as the figure: the frame stays as wide as the page
      await vegaEmbed(frame.appendChild(element("div")), specification, options);
      frame.style.minHeight = "";
      frame.dataset.drawn = "yes";
    } catch (error) {
      frame.textContent = `This figure cannot be drawn: ${error.message}`;
    }
  };
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting)) {
      observer.unobserve(entry.target);
      draw(entry.target, retrotune.data(entry.target.dataset.figure));
    }
  }, { rootMargin: "300px" });

  retrotune.figure = (name) => {
    const frame = element("div", { class: "figure", "data-figure": `figure-${name}` });
    frame.style.minHeight = "12rem";
    observer.observe(frame);
    return frame;
  };
}
