// Headers become buttons that sort the rows inside each group; rows never leave their group, so kinds are never mixed.
document.querySelectorAll("table[data-sortable]").forEach(function (table) {
  var heads = Array.prototype.slice.call(table.tHead.rows[0].cells);
  heads.forEach(function (head, column) {
    var button = document.createElement("button");
    button.type = "button";
    while (head.firstChild) button.appendChild(head.firstChild);
    head.appendChild(button);
    button.addEventListener("click", function () {
      var up = head.getAttribute("aria-sort") === "descending";
      heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      Array.prototype.forEach.call(table.tBodies, function (body) {
        var rows = Array.prototype.filter.call(body.rows, function (row) { return row.hasAttribute("data-row"); });
        rows.map(function (row) {
          var cell = row.cells[column];
          var text = cell ? cell.getAttribute("data-key") : null;
          var key = text === null || text === "" ? null : isNaN(Number(text)) ? text : Number(text);
          if (text === "-inf") key = -Infinity;
          return { row: row, key: key };
        }).sort(function (a, b) {
          if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
          return (a.key < b.key ? -1 : a.key > b.key ? 1 : 0) * (up ? 1 : -1);
        }).forEach(function (item) { body.appendChild(item.row); });
      });
    });
  });
});
// A printed report shows every model, not only the open one.
window.addEventListener("beforeprint", function () {
  document.querySelectorAll("details").forEach(function (item) { item.open = true; });
});
