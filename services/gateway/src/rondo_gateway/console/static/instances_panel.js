// All instances as a table: for reading aloud, for sorting, and for those who like numbers.

import { h, setText } from "./dom.js";
import { count, percentNumber } from "./format.js";
import { PHASE_NAMES } from "./store.js";

const PAGE = 50;
const COLUMNS = [
  ["id", "Instance", (lane) => lane.id, (lane) => lane.id],
  ["phase", "Does", (lane) => lane.phase, (lane) => (lane.draining ? "drains" : ["idle", "decode", "prefill", "fused"][lane.phase])],
  ["turn", "Turn", (lane) => lane.turn, (lane) => count(lane.turn)],
  ["running", "Runs", (lane) => lane.running, (lane) => count(lane.running)],
  ["waiting", "Waits", (lane) => lane.waiting, (lane) => count(lane.waiting)],
  ["kv", "KV %", share, (lane) => percentNumber(share(lane))],
];

export class InstancesPanel {
  constructor(root, store, showLane) {
    Object.assign(this, { root, store, showLane });
    this.order = { column: "id", down: false };
    this.page = 0;
    this.heads = COLUMNS.map(([key, title]) => h("th", { scope: "col" }, h("button", { type: "button", onclick: () => this.#sort(key) }, title)));
    this.body = h("tbody");
    this.where = h("span", { "aria-live": "polite" });
    const turn = (way) => () => ((this.page += way), this.draw());
    this.pager = h("p", { class: "search" }, h("button", { type: "button", onclick: turn(-1) }, "Back"), this.where, h("button", { type: "button", onclick: turn(1) }, "On"));
    this.empty = h("p", { class: "empty" }, "No instance yet. Lanes appear as soon as a worker has joined.");
    root.append(h("table", {}, h("caption", { class: "sr" }, "All instances"), h("thead", {}, h("tr", {}, ...this.heads)), this.body), this.empty, this.pager);
  }

  draw() {
    if (this.root.hidden) return;
    const [, , key] = COLUMNS.find(([name]) => name === this.order.column);
    const sign = this.order.down ? -1 : 1;
    const lanes = [...this.store.lanes.values()].filter((lane) => lane.goneAt === null);
    lanes.sort((a, b) => sign * (typeof key(a) === "string" ? key(a).localeCompare(key(b), "en", { numeric: true }) : key(a) - key(b)) || a.number - b.number);
    const last = Math.max(0, Math.ceil(lanes.length / PAGE) - 1);
    this.page = Math.max(0, Math.min(last, this.page));
    const seen = lanes.slice(this.page * PAGE, (this.page + 1) * PAGE);
    this.#rows(seen.length);
    seen.forEach((lane, index) => {
      const row = this.body.children[index];
      row.lane = lane;
      COLUMNS.forEach(([, , , text], column) => setText(column ? row.children[column] : row.firstChild.firstChild, text(lane)));
      row.children[1].setAttribute("title", PHASE_NAMES[lane.phase]);
    });
    COLUMNS.forEach(([name], column) => {
      if (name === this.order.column) this.heads[column].setAttribute("aria-sort", this.order.down ? "descending" : "ascending");
      else this.heads[column].removeAttribute("aria-sort");
    });
    this.empty.hidden = lanes.length > 0;
    this.pager.hidden = lanes.length <= PAGE;
    setText(this.where, `${this.page * PAGE + 1}–${this.page * PAGE + seen.length} of ${count(lanes.length)}`);
  }

  #rows(number) {
    while (this.body.children.length > number) this.body.lastChild.remove();
    while (this.body.children.length < number) {
      const row = h("tr");
      const name = h("button", { type: "button", onclick: () => this.showLane(row.lane) });
      row.append(h("th", { scope: "row" }, name), ...COLUMNS.slice(1).map(([key]) => h("td", { class: key === "phase" ? "text" : null })));
      this.body.append(row);
    }
  }

  #sort(column) {
    this.order = { column, down: column === this.order.column ? !this.order.down : column !== "id" };
    this.draw();
  }
}

function share(lane) {
  return lane.total_blocks ? lane.used / lane.total_blocks : 0;
}
