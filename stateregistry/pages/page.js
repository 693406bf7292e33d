"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const make = (tag, text, attributes) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    return made;
  };

  // ------------------------------------------------------------ light and dark
  const theme = make("button", "", { type: "button", id: "theme" });
  const names = { "": "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };
  let current = "";
  const paint = () => {
    if (current) document.documentElement.dataset.theme = current;
    else delete document.documentElement.dataset.theme;
    theme.textContent = names[current];
  };
  theme.addEventListener("click", () => { current = { "": "light", light: "dark", dark: "" }[current]; paint(); });
  paint();
  document.querySelector("header").append(theme);

  // ------------------------------------------------------------ what the address names
  const reveal = () => {
    const aim = location.hash.length > 1 ? byId(decodeURIComponent(location.hash.slice(1))) : null;
    for (const cell of document.querySelectorAll(".cells [aria-current]")) cell.removeAttribute("aria-current");
    if (!aim) return;
    for (let up = aim; up; up = up.parentElement) if (up.tagName === "DETAILS") up.open = true;
    for (const cell of document.querySelectorAll(".cells a.cell")) {
      if (cell.getAttribute("href") === location.hash) cell.setAttribute("aria-current", "true");
    }
    if (aim.classList.contains("map")) {
      const first = aim.querySelector(".trail a, .cells a");
      if (first) first.focus({ preventScroll: true });
    } else if (/^[evp]\d+$/.test(aim.id)) {
      const row = aim.querySelector("summary");
      if (row) row.focus({ preventScroll: true });
      aim.scrollIntoView({ block: "center" });
    }
  };
  addEventListener("hashchange", reveal);

  // ------------------------------------------------------------ the map by keyboard: one stop, then arrows
  for (const svg of document.querySelectorAll(".cells")) {
    const links = [...svg.querySelectorAll("a")];
    links.forEach((link, number) => { if (number) link.setAttribute("tabindex", "-1"); });
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const here = links.indexOf(event.target.closest("a"));
      const next = event.key === "Home" ? 0 : event.key === "End" ? links.length - 1 : here + step;
      if (here < 0 || !(next >= 0 && next < links.length)) return;
      event.preventDefault();
      links[here].setAttribute("tabindex", "-1");
      links[next].setAttribute("tabindex", "0");
      links[next].focus({ preventScroll: true });
    });
  }

  // ------------------------------------------------------------ search
  const holder = byId("data"), controls = byId("controls");
  if (holder && controls) {
    const data = JSON.parse(holder.textContent);
    const at = Object.fromEntries(data.columns.map((name, number) => [name, number]));
    const rows = data.entries.map((row) => [row, row[at.key].toLowerCase()]);
    const find = byId("find"), count = byId("count"), found = byId("found"), lines = byId("lines");
    const picks = [...controls.querySelectorAll("select")];
    const most = 200;
    let sort = "", down = false;
    const shown = data.columns.filter((name) => name !== "line" && name !== "what");
    const number = (value) => value.toLocaleString("en-US");
    const draw = (hits) => {
      const table = make("table"), head = make("tr"), body = make("tbody");
      table.append(make("caption", "Entries found", { class: "hidden" }));
      for (const name of shown) {
        const cell = make("th", undefined, { scope: "col" }), button = make("button", name, { type: "button" });
        if (name === sort) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
        if (typeof (hits[0] || [])[at[name]] === "number") cell.className = "n";
        button.addEventListener("click", () => {
          down = sort === name ? !down : typeof (hits[0] || [])[at[name]] === "number";
          sort = name;
          update();
          for (const again of found.querySelectorAll("th button")) if (again.textContent === name) again.focus();
        });
        cell.append(button);
        head.append(cell);
      }
      for (const row of hits.slice(0, most)) {
        const line = make("tr");
        for (const name of shown) {
          const value = row[at[name]];
          const cell = make("td", undefined, typeof value === "number" ? { class: "n" } : {});
          if (name === "key" && row[at.line] !== "") cell.append(make("a", value, { href: `#${row[at.line]}` }));
          else if (name === "key") cell.append(make("bdi", value));
          else cell.textContent = typeof value === "number" ? number(value) : value;
          line.append(cell);
        }
        body.append(line);
      }
      const top = make("thead");
      top.append(head);
      table.append(top, body);
      const wide = make("div", undefined, { class: "wide", tabindex: "0", role: "group", "aria-label": "Entries found" });
      wide.append(table);
      return wide;
    };
    const update = () => {
      const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      const wanted = picks.filter((pick) => pick.value !== "").map((pick) => [at[pick.id], pick.value]);
      const searching = words.length > 0 || wanted.length > 0;
      lines.hidden = searching;
      found.hidden = !searching;
      if (!searching) {
        count.textContent = `${number(rows.length)} ${rows.length === 1 ? "entry" : "entries"}`;
        found.replaceChildren();
        return;
      }
      const hits = [];
      for (const [row, low] of rows) {
        if (words.every((word) => low.includes(word)) && wanted.every(([place, value]) => String(row[place]).split(" ").includes(value))) hits.push(row);
      }
      if (sort) {
        const place = at[sort], sign = down ? -1 : 1;
        hits.sort((a, b) => sign * (typeof a[place] === "number" ? a[place] - b[place] : a[place] < b[place] ? -1 : a[place] > b[place] ? 1 : 0));
      }
      count.textContent = `${number(hits.length)} of ${number(rows.length)}` + (hits.length > most ? `, the first ${most} shown` : "");
      found.replaceChildren(draw(hits));
    };
    let waiting = 0;
    controls.addEventListener("input", () => {
      clearTimeout(waiting);
      if (rows.length > 2000) waiting = setTimeout(update, 80);
      else update();
    });
    controls.addEventListener("submit", (event) => event.preventDefault());
    found.addEventListener("click", (event) => {
      const link = event.target.closest("a");
      if (!link) return;
      find.value = "";
      for (const pick of picks) pick.value = "";
      update();
      if (link.hash === location.hash) { event.preventDefault(); reveal(); }
    });
    addEventListener("keydown", (event) => {
      const typing = /^(input|select|textarea)$/i.test(event.target.tagName || "");
      if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) { event.preventDefault(); find.focus(); }
      if (event.key === "Escape" && event.target === find) { find.value = ""; update(); }
    });
    controls.hidden = false;
    update();
  }
  reveal();
})();
