// Tables that a reader sorts: each head becomes a button. A cell counts by the number that it begins with, else by its text;
// the first column has names.
document.addEventListener("DOMContentLoaded", () => {
  const key = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = column > 0 && text.match(/^[-\u2212]?[\d,]*\.?\d+(?![\w.])/);
    return number ? Number(number[0].replace("\u2212", "-").replaceAll(",", "")) : text;
  };
  const missing = (one) => one === "" || one === "\u2014";
  const compare = (a, b, sign) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b); // those without a value are last either way
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    return sign * String(a).localeCompare(String(b), "en", { numeric: true });
  };
  for (const table of document.querySelectorAll(".sortable table")) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      if (!button.textContent.trim()) button.ariaLabel = "name";
      head.append(button);
      head.ariaSort = "none";
      button.addEventListener("click", () => {
        const order = { none: "ascending", ascending: "descending", descending: "none" }[head.ariaSort];
        for (const other of heads) other.ariaSort = "none";
        head.ariaSort = order;
        const sign = order === "descending" ? -1 : 1;
        const sorted = [...rows]; // a third click brings back the order of print
        if (order !== "none") sorted.sort((one, two) => compare(key(one, column), key(two, column), sign));
        body.append(...sorted);
      });
    });
  }
});
