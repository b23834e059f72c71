// Looks the words up in SECTIONS, which search-index.js brings: [page, lesson, heading, anchor, text].
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const field = document.querySelector("header input[type=search]");
  const list = document.getElementById("results"), count = document.getElementById("count");

  function find(query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return [];
    return SECTIONS.map(section => ({ section, score: score(section, words) }))
      .filter(hit => hit.score > 0).sort((a, b) => b.score - a.score)
      .map(hit => ({ section: hit.section, words: [words.join(" "), ...words] }));
  }

  // Every word must occur; in a heading it weighs as much as ten times in the text, as does the whole phrase.
  function score([, lesson, heading, , text], words) {
    const title = (lesson + " " + heading).toLowerCase(), body = text.toLowerCase();
    let total = words.length > 1 && (title + " " + body).includes(words.join(" ")) ? 10 : 0;
    for (const word of words) {
      const times = body.split(word).length - 1 + (title.includes(word) ? 10 : 0);
      if (!times) return 0;
      total += Math.min(times, 20);
    }
    return total;
  }

  function snippet(text, words) {
    const low = text.toLowerCase();
    const at = Math.max(0, low.indexOf(words.find(word => low.includes(word))));  // the phrase comes first
    const from = at < 90 ? 0 : text.indexOf(" ", at - 90) + 1;
    const cut = (from ? "… " : "") + text.slice(from, from + 260) + (from + 260 < text.length ? " …" : "");
    const line = document.createElement("p");
    const escaped = words.map(word => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    const pattern = new RegExp("(" + escaped.join("|") + ")", "gi");
    cut.split(pattern).forEach((part, n) => {
      line.append(n % 2 ? Object.assign(document.createElement("mark"), { textContent: part }) : part);
    });
    return line;
  }

  function show() {
    const hits = find(field.value);
    count.textContent = field.value.trim()
      ? `${hits.length || "No"} section${hits.length === 1 ? "" : "s"} with “${field.value.trim()}”`
      : "Type one or more words: the lessons' text, code and measurements are searched.";
    list.replaceChildren(...hits.slice(0, 60).map(({ section, words }) => {
      const [page, lesson, heading, anchor, text] = section;
      const link = document.createElement("a");
      link.href = page + (anchor ? "#" + encodeURIComponent(anchor) : "");
      link.textContent = heading || lesson;
      const from = Object.assign(document.createElement("span"), { className: "from", textContent: lesson });
      const item = document.createElement("li");
      item.append(from, link, snippet(text, words));
      return item;
    }));
    history.replaceState(null, "", "?q=" + encodeURIComponent(field.value));
  }

  field.value = new URLSearchParams(location.search).get("q") || "";
  field.form.addEventListener("submit", event => event.preventDefault());
  field.addEventListener("input", show);
  document.addEventListener("keydown", event => {  // arrows walk through the results
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const stops = [field, ...list.querySelectorAll("a")], now = stops.indexOf(document.activeElement);
    const next = stops[now + (event.key === "ArrowDown" ? 1 : -1)];
    if (now >= 0 && next) { event.preventDefault(); next.focus(); }
  });
  field.focus();
  show();
});
