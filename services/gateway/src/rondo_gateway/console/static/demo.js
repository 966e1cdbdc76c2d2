// Load and faults, where the cluster is a demonstration.

import { h, setText } from "./dom.js";

const FAULTS = [
  ["kill", "Kill", "the process dies at once; its answers go on elsewhere"],
  ["pause", "Pause", "it hangs for 6 s: long enough to be taken for lost"],
  ["drain", "Drain", "it leaves in order: takes nothing new, ends what it has"],
];
/** The load ends by itself when nobody asks for it any more. */
const RENEW_MS = 30_000;

export class Demo {
  constructor(root, store, about) {
    this.store = store;
    this.rate = h("input", { type: "range", id: "demo-rate", min: "0", max: String(Math.min(100, about.load.most)), step: "1", value: String(about.load.rate) });
    this.shown = h("output", { for: "demo-rate" });
    this.instance = h("select", { id: "demo-instance" });
    this.said = h("p", { class: "hint", role: "status" });
    this.rate.addEventListener("input", () => this.#label());
    this.rate.addEventListener("change", () => this.#load());
    const buttons = FAULTS.map(([fault, title, what]) => h("button", { type: "button", title: what, class: fault === "kill" ? "danger" : null, onclick: () => this.#fault(fault) }, title));
    root.append(h("section", { class: "demo form", "aria-label": "Demonstration" }, h("h3", {}, "Demonstration"),
      h("div", { class: "line" }, h("label", { for: "demo-rate" }, "Load"), this.rate, this.shown),
      h("div", { class: "line" }, h("label", { for: "demo-instance" }, "Instance"), this.instance, ...buttons),
      h("ul", { class: "hint" }, ...FAULTS.map(([, title, what]) => h("li", {}, `${title}: ${what}.`))), this.said));
    this.#label();
    store.addEventListener("layout", () => this.#instances());
    this.#instances();
    setInterval(() => Number(this.rate.value) > 0 && this.#load(), RENEW_MS);
  }

  choose(lane) {
    if (lane) this.instance.value = lane.id;
  }

  #label() {
    setText(this.shown, `${this.rate.value} requests/s`);
  }

  #instances() {
    const chosen = this.instance.value;
    const ids = [...this.store.lanes.values()].filter((lane) => lane.goneAt === null).map((lane) => lane.id).sort();
    this.instance.replaceChildren(...ids.map((id) => h("option", {}, id)));
    if (ids.includes(chosen)) this.instance.value = chosen;
  }

  async #load() {
    await this.#post("load", { rate: Number(this.rate.value) });
  }

  async #fault(fault) {
    const instance = this.instance.value;
    if (instance && (await this.#post("fault", { instance, fault }))) setText(this.said, `${instance}: ${fault} was ordered.`);
  }

  async #post(what, body) {
    try {
      const response = await fetch(`api/${what}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
      if (response.ok) return true;
      setText(this.said, (await response.json()).error.message);
    } catch {
      setText(this.said, "The gateway did not answer.");
    }
    return false;
  }
}
