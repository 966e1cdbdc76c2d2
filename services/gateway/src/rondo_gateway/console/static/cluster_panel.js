// The chosen instance, and what happened to the cluster: who came and went, splits, merges, scaling.

import { h, setText } from "./dom.js";
import { ago, count, percent, plural } from "./format.js";
import { PHASE_NAMES } from "./store.js";

const SHOWN_NOTES = 60;
const SHOWN_REQUESTS = 12;
const TITLES = { mitosis: "Mitosis", scaling: "Scaling", instance: "Instance", owner: "Ownership" };

export class ClusterPanel {
  constructor(root, store, openRequest) {
    Object.assign(this, { root, store, openRequest });
    this.lane = null;
    this.chosen = h("section", { "aria-live": "polite" });
    this.log = h("ol", { class: "log" });
    this.quiet = h("p", { class: "empty" }, "Nothing has happened since this page was opened. Instances that come and go, splits, merges and scaling are told here, with their reasons.");
    root.append(this.chosen, h("h3", {}, "What happened"), this.quiet, this.log);
    for (const kind of ["notes", "layout"]) store.addEventListener(kind, () => this.draw());
  }

  choose(lane) {
    this.lane = lane;
    this.draw();
  }

  /** Once a second, and when something happened. */
  draw() {
    if (this.root.hidden) return;
    this.#lane();
    const notes = this.store.notes.slice(-SHOWN_NOTES).reverse();
    this.quiet.hidden = notes.length > 0;
    this.log.replaceChildren(...notes.map((note) => h("li", {},
      h("time", {}, ago(this.store.at - note.at)),
      h("span", {}, TITLES[note.kind] ?? note.kind, h("span", { class: "why" }, note.text)))));
  }

  #lane() {
    const lane = this.lane;
    if (!lane) {
      this.facts = null;
      const { lanes, macros } = this.store;
      const text = `${plural(lanes.size, "instance")} in ${plural(macros.length, "macro-instance")}. Choose a lane to see its instance here.`;
      if (this.chosen.textContent !== text) this.chosen.replaceChildren(h("p", { class: "empty" }, text));
      return;
    }
    if (this.facts?.lane !== lane) this.#begin(lane);
    const { cells, used, reserved } = this.facts;
    setText(cells.doing, lane.goneAt !== null ? "gone" : PHASE_NAMES[lane.phase] + (lane.draining ? ", draining" : ""));
    setText(cells.turn, `${lane.turn}`);
    setText(cells.macro, lane.macro || "none");
    setText(cells.running, `${count(lane.running)} of ${count(lane.max_running)} at most`);
    setText(cells.waiting, count(lane.waiting));
    const share = lane.total_blocks ? lane.used / lane.total_blocks : 0;
    setText(cells.kv, `${count(lane.used)} of ${count(lane.total_blocks)} blocks, ${percent(share)}`);
    setText(cells.growth, `${count(lane.reserved)} blocks`);
    used.style.width = `${100 * share}%`;
    reserved.style.width = `${Math.min(100 - 100 * share, (100 * lane.reserved) / Math.max(1, lane.total_blocks))}%`;
  }

  #begin(lane) {
    const cells = {};
    const rows = [["doing", "Does"], ["macro", "Macro-instance"], ["turn", "Latest turn"], ["running", "Running"], ["waiting", "Waiting here"], ["kv", "KV in use"], ["growth", "Expected growth"]];
    const facts = h("dl", { class: "facts" });
    for (const [key, title] of rows) facts.append(h("dt", {}, title), (cells[key] = h("dd")));
    facts.append(h("dt", {}, "Engine"), h("dd", {}, `${lane.engine}, model ${lane.model}`));
    const [used, reserved] = [h("i"), h("i")];
    used.style.background = "var(--deep)";
    reserved.style.background = "color-mix(in srgb, var(--deep) 35%, transparent)";
    this.facts = { lane, cells, used, reserved };
    const latest = [...this.store.requests.values()].filter((one) => one.instance === lane.id).slice(-SHOWN_REQUESTS).reverse();
    const list = h("ul", { class: "list" }, ...latest.map((one) => h("li", {}, h("button", { type: "button", onclick: () => this.openRequest(one.id) },
      h("span", { class: "id" }, one.id), h("span", { class: "state", "data-state": one.state }, one.state), h("span", { class: "late" }, ago(this.store.at - one.at))))));
    const none = h("p", { class: "empty" }, "None was heard of since this page was opened.");
    this.chosen.replaceChildren(h("h2", {}, lane.id), h("div", { class: "bar", role: "img", "aria-label": "KV blocks: used, then what live requests are expected to grow by" }, used, reserved), facts,
      h("h3", {}, "Its latest requests"), latest.length ? list : none);
  }
}
