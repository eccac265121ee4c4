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
// Words and kinds hide rows of the tables in the form's section; a heading goes with the last row of its group.
document.querySelectorAll("form[data-filter]").forEach(function (form) {
  var list = function (found) { return Array.prototype.slice.call(found); };
  var tables = list(form.closest("section").querySelectorAll("table[data-sortable]"));
  var output = form.querySelector("output");
  var reset = form.querySelector("button[type=reset]");
  function apply() {
    var words = form.elements.namedItem("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    var boxes = list(form.querySelectorAll("input[name=kind]"));
    var kinds = boxes.filter(function (box) { return box.checked; }).map(function (box) { return box.value; });
    var active = words.length > 0 || kinds.length < boxes.length;
    tables.forEach(function (table, number) {
      var rows = list(table.querySelectorAll("tr[data-row]"));
      rows.forEach(function (row) {
        var named = !words.length || words.some(function (word) { return row.dataset.name.indexOf(word) >= 0; });
        row.hidden = !named || (boxes.length > 0 && kinds.indexOf(row.dataset.kind) < 0);
      });
      list(table.tBodies).forEach(function (body) {
        var heading = body.querySelector("tr.group");
        if (heading) heading.hidden = !body.querySelector("tr[data-row]:not([hidden])");
      });
      if (number === 0) {
        var shown = rows.filter(function (row) { return !row.hidden; }).length;
        output.textContent = !active ? "" : shown ? shown + " of " + rows.length + " rows" : "no row matches";
      }
    });
    form.classList.toggle("active", active);
    reset.disabled = !active;
  }
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  form.addEventListener("input", apply);
  form.addEventListener("reset", function () { setTimeout(apply); });
  form.hidden = false;
  apply();
});
// A printed report shows every model, not only the open one.
window.addEventListener("beforeprint", function () {
  document.querySelectorAll("details").forEach(function (item) { item.open = true; });
});
