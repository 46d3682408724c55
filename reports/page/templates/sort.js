// Tables sort by a click on a heading: numbers as numbers, missing values last; a second click turns the order round.
(function () {
  "use strict";
  function sort(table, column, heading) {
    const down = heading.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0], rows = Array.from(body.rows), key = (row) => row.cells[column].dataset.sort;
    const numeric = rows.every((row) => !Number.isNaN(Number(key(row))));
    const compare = (a, b) => (numeric ? a - b : a.localeCompare(b, undefined, {numeric: true}));
    rows.sort((p, q) => {
      const a = key(p), b = key(q);
      if (!a || !b) return (a ? 0 : 1) - (b ? 0 : 1);
      return down ? compare(b, a) : compare(a, b);
    });
    body.append(...rows);
  }
  document.querySelectorAll("table.sortable").forEach((table) => {
    table.querySelectorAll("th").forEach((heading, column) => {
      heading.querySelector("button").addEventListener("click", () => sort(table, column, heading));
    });
  });
  // On paper everything is open.
  const unfold = () => document.querySelectorAll("details").forEach((each) => { each.open = true; });
  window.addEventListener("beforeprint", unfold);
})();
