"use strict";
// Heads of sortable tables become buttons; without this script the tables are as they were written.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const value = (row, at) => {
    const cell = row.cells[at], text = cell.textContent.trim();
    const number = parseFloat(cell.dataset.number ?? text.replaceAll(",", "").replace("−", "-"));
    return heads[at].classList.contains("text") ? text : Number.isNaN(number) ? -Infinity : number;
  };
  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const text = head.classList.contains("text");
      const down = head.ariaSort ? head.ariaSort === "ascending" : !text;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((one, other) => {
        const [a, b] = [value(one, at), value(other, at)];
        return text ? a.localeCompare(b) : a === b ? 0 : a < b ? -1 : 1;
      });
      body.append(...(down ? rows.reverse() : rows));
    });
  });
}
