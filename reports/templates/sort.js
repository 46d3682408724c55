// Tables sort by a click on a heading: numbers as numbers, missing values last; a second click turns the order round.
(function () {
  "use strict";
  function compare(a, b) {
    const x = Number(a), y = Number(b);
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  }
  function sort(table, column, heading) {
    const down = heading.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const key = (row) => row.cells[column].dataset.sort;
    const rows = Array.from(body.rows).sort((p, q) => {
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
  // A link to something folded away opens it; on paper everything is open.
  const unfold = () => document.querySelectorAll("details").forEach((each) => { each.open = true; });
  window.addEventListener("beforeprint", unfold);
})();
