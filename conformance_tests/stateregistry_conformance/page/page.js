
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const rows = [...document.querySelectorAll("#matrix .row")];
  const bodies = [...document.querySelectorAll("#matrix tbody")];
  const boxes = [...document.querySelectorAll("#statuses input")];
  const find = byId("find"), chapter = byId("chapter"), count = byId("count");

  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    let visible = 0;
    for (const row of rows) {
      const text = row.firstElementChild.textContent.toLowerCase() + " " + row.children[1].textContent.toLowerCase();
      const statuses = [...row.querySelectorAll(".cell")].map((cell) => cell.dataset.status);
      const shown =
        (chapter.value === "" || row.parentElement.dataset.chapter === chapter.value) &&
        words.every((word) => text.includes(word)) &&
        statuses.some((status) => wanted.has(status) || (status === "" && wanted.size === boxes.length));
      row.hidden = !shown;
      visible += shown ? 1 : 0;
    }
    for (const body of bodies) body.hidden = !body.querySelector(".row:not([hidden])");
    count.textContent = visible === rows.length ? `${visible} rows` : `${visible} of ${rows.length} rows`;
  };
  byId("controls").hidden = false;
  byId("controls").addEventListener("input", filter);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  filter();
  const measure = () => document.documentElement.style.setProperty("--top", `${byId("controls").offsetHeight}px`);
  addEventListener("resize", measure);
  measure();

  const box = byId("box"), inside = byId("box-body");
  const open = (anchor) => {
    const why = byId(anchor);
    if (!why) return;
    const copy = why.cloneNode(true);
    copy.removeAttribute("id");
    copy.querySelector("h3").id = "box-title";
    for (const repro of copy.querySelectorAll("pre.repro")) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copy";
      button.textContent = "Copy";
      button.addEventListener("click", () => {
        const done = () => { button.textContent = "Copied"; };
        const select = () => { getSelection().selectAllChildren(repro); button.textContent = "Selected"; };
        navigator.clipboard ? navigator.clipboard.writeText(repro.textContent).then(done, select) : select();
      });
      repro.previousElementSibling.append(button);
    }
    inside.replaceChildren(copy);
    box.showModal();
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.open");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      open(link.hash.slice(1));
    } else if (event.target === box) {
      box.close();
    }
  });

  const theme = document.createElement("button");
  theme.type = "button";
  theme.id = "theme";
  const names = { "": "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };
  let current = "";
  const show = () => {
    if (current) document.documentElement.dataset.theme = current;
    else delete document.documentElement.dataset.theme;
    theme.textContent = names[current];
  };
  theme.addEventListener("click", () => { current = { "": "light", light: "dark", dark: "" }[current]; show(); });
  show();
  document.querySelector("header").append(theme);
})();
