// Runs in the head of every page: the colors must be right before anything is drawn.
"use strict";
const root = document.documentElement;
const remembered = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
if (remembered()) root.dataset.theme = remembered();

document.addEventListener("DOMContentLoaded", () => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const button = document.getElementById("theme");
  const tell = () => button.setAttribute("aria-pressed", isDark());
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* a browser that keeps nothing */ }
    tell();
  });
  system.addEventListener("change", tell);
  tell();

  // a menu closes when something else is wanted
  addEventListener("click", event => {
    for (const menu of document.querySelectorAll(".menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  });
  addEventListener("keydown", event => {
    if (event.key === "Escape") for (const menu of document.querySelectorAll(".menu[open]")) menu.open = false;
  });

  const contents = document.querySelector(".contents");
  if (contents) followReading(contents);

  for (const box of document.querySelectorAll(".scroll, .output_subarea, pre"))
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;  // so that arrow keys can scroll it
});

// Beside the text the list of contents is open and marks where the reader is; above it, it is closed.
function followReading(contents) {
  const wide = matchMedia("(min-width: 68rem)");
  const fit = () => { contents.open = wide.matches; };
  wide.addEventListener("change", fit);
  fit();
  const links = [...contents.querySelectorAll("a")];
  const headings = links.map(link => document.getElementById(decodeURIComponent(link.hash.slice(1))));
  const mark = () => {
    const passed = headings.filter(heading => heading.getBoundingClientRect().top < 120).length;
    const here = links[Math.max(0, passed - 1)];
    links.forEach(link => link === here ? link.setAttribute("aria-current", "true")
                                        : link.removeAttribute("aria-current"));
    if (wide.matches && here) {
      const box = contents.getBoundingClientRect(), line = here.getBoundingClientRect();
      if (line.top < box.top || line.bottom > box.bottom) contents.scrollTop += line.top - box.top - 80;
    }
  };
  addEventListener("scroll", () => requestAnimationFrame(mark), { passive: true });
  mark();
}
