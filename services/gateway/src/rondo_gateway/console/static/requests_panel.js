// Why is this request where it is: its story with the reasons, and where its time went.

import { colour, h, setText } from "./dom.js";
import { ago, count, ms, plural } from "./format.js";

const SHOWN = 60;
/** Parts of the time to the first token, in the order in which they come. */
const PARTS = [
  ["gateway_ms", "gateway", "checked, tokenised", "#8a8f98"],
  ["queue_ms", "admission", "until a scheduler placed it", "#b07aa1"],
  ["bus_ms", "bus", "on its way between programs", "#59a14f"],
  ["wait_ms", "turn", "on the instance, until its prefill began", "#edc948"],
  ["prefill_ms", "prefill", "prefill steps", "--prefill"],
];

export class RequestsPanel {
  constructor(root, store, showLane) {
    Object.assign(this, { root, store, showLane });
    this.chosen = null; // an id
    this.found = null; // what the server found; null: the latest are listed
    this.input = h("input", { type: "search", id: "request-id", placeholder: "Request id, or a part of it", autocomplete: "off", spellcheck: "false" });
    const form = h("form", { class: "search", role: "search", onsubmit: (event) => this.#search(event) },
      h("label", { for: "request-id", class: "sr" }, "Request id"), this.input, h("button", { type: "submit" }, "Find"));
    this.input.addEventListener("input", () => this.input.value || this.#latest());
    this.title = h("h3", { "aria-live": "polite" }, "Latest");
    this.list = h("ul", { class: "list" });
    this.detail = h("section", { "aria-label": "The chosen request" });
    root.append(form, this.title, this.list, this.detail);
    store.addEventListener("requests", () => (this.stale = true));
  }

  async open(id) {
    this.chosen = id;
    this.input.value = id;
    await this.#ask(id);
    this.draw();
  }

  draw() {
    if (this.root.hidden) return;
    this.stale = false;
    const known = this.store.requests;
    const listed = this.found?.map((one) => known.get(one.id) ?? one) ?? [...known.values()].slice(-SHOWN).reverse();
    setText(this.title, this.found ? `${plural(listed.length, "request")} found` : "Latest");
    this.#lines(listed);
    if (!listed.length) this.list.append(h("li", { class: "empty" }, this.found ? "No request with this in its id was heard of while a console was open. An answer's id begins with chatcmpl- or cmpl-." : "Requests appear here as they come."));
    this.#story(known.get(this.chosen) ?? listed.find((one) => one.id === this.chosen));
  }

  /** What is pointed at or has the focus must not run away: then only the states change. */
  #lines(listed) {
    const used = this.list.matches(":hover") || this.list.contains(document.activeElement);
    const known = new Map([...this.list.querySelectorAll("button")].map((button) => [button.dataset.id, button]));
    if (!used || !known.size) {
      const wanted = listed.slice(0, SHOWN).map((one) => known.get(one.id)?.parentElement ?? this.#line(one));
      wanted.forEach((item, index) => this.list.children[index] === item || this.list.insertBefore(item, this.list.children[index] ?? null));
      while (this.list.children.length > wanted.length) this.list.lastChild.remove();
    }
    for (const button of this.list.querySelectorAll("button")) {
      const one = this.store.requests.get(button.dataset.id) ?? listed.find(({ id }) => id === button.dataset.id);
      const [, state, late] = button.children;
      if (one) setText(state, one.state ?? "pending"), (state.dataset.state = one.state ?? "pending"), setText(late, ago(this.store.at - one.at));
      if (button.dataset.id === this.chosen) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  #line(one) {
    return h("li", {}, h("button", { type: "button", "data-id": one.id, "aria-current": one.id === this.chosen ? "true" : null, onclick: () => this.#choose(one.id) },
      h("span", { class: "id", title: one.id }, one.id), h("span", { class: "state", "data-state": one.state ?? "pending" }, one.state ?? "pending"),
      h("span", { class: "late" }, ago(this.store.at - one.at))));
  }

  #choose(id) {
    this.chosen = id;
    this.draw();
  }

  #latest() {
    this.found = null;
    this.draw();
  }

  async #search(event) {
    event.preventDefault();
    const text = this.input.value.trim();
    if (!text) return this.#latest();
    await this.#ask(text);
    this.chosen = this.found?.length === 1 ? this.found[0].id : this.chosen;
    this.draw();
  }

  async #ask(text) {
    // Another gateway may answer than the one that feeds this page, so both are asked.
    const response = await fetch(`api/requests?q=${encodeURIComponent(text)}`).catch(() => null);
    const there = response?.ok ? (await response.json()).requests : [];
    const here = [...this.store.requests.values()].filter((one) => one.id.includes(text)).reverse();
    const known = new Set(here.map((one) => one.id));
    this.found = [...here.slice(0, SHOWN), ...there.filter((one) => !known.has(one.id))];
  }

  #story(one) {
    if (!one) {
      this.detail.replaceChildren(h("p", { class: "empty" }, this.store.requests.size ? "Choose a request to see what was decided about it, and why." : ""));
      return;
    }
    const lane = this.store.byId.get(one.instance);
    const where = one.instance ? h("span", {}, one.instance, " ", lane ? h("button", { type: "button", onclick: () => this.showLane(lane) }, "Show its lane") : null) : "no instance yet";
    const facts = [["State", one.outcome ? `${one.state}: ${one.outcome}` : one.state ?? "pending"], ["Where", where], ["Scheduler", one.macro || "–"],
      ["Tokens", `${count(one.prompt_tokens ?? 0)} of prompt, ${count(one.tokens ?? 0)} of answer`]];
    this.detail.replaceChildren(
      h("h3", {}, "Request"), h("p", { class: "id-full" }, one.id),
      h("dl", { class: "facts" }, ...facts.flatMap(([title, value]) => [h("dt", {}, title), h("dd", {}, value)])),
      h("h3", {}, "Why it is where it is"),
      h("ol", { class: "log" }, ...(one.story ?? []).map(([at, what, why]) => h("li", {}, h("time", {}, `+${ms(at - one.at)}`), h("span", {}, what, why ? h("span", { class: "why" }, why) : null)))),
      ...latencies(one), ...ledger(one.ledger ?? {}));
  }
}

function latencies(one) {
  const rows = [["TTFT", one.predicted_ttft_ms, one.ledger?.ttft_ms, one.limit_ttft_ms], ["TPOT", one.predicted_tpot_ms, one.ledger?.tpot_ms, one.limit_tpot_ms]];
  const body = rows.map(([name, predicted, measured, limit]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, ms(predicted)),
    h("td", { class: measured > limit ? "bad" : null }, ms(measured)), h("td", {}, ms(limit))));
  return [h("h3", {}, "Latency"), h("table", {}, h("thead", {}, h("tr", {}, h("td"), ...["predicted", "measured", "limit"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, ...body))];
}

function ledger(parts) {
  if (parts.ttft_ms === undefined) return [];
  const bar = h("div", { class: "bar", "aria-hidden": "true" });
  const rows = PARTS.filter(([key]) => parts[key] !== undefined).map(([key, name, what, ink]) => {
    const shade = ink.startsWith("--") ? colour(ink) : ink;
    const [piece, swatch] = [h("i"), h("span", { class: "swatch" })];
    piece.style.width = `${(100 * parts[key]) / parts.ttft_ms}%`;
    piece.style.background = swatch.style.background = shade;
    bar.append(piece);
    return h("tr", {}, h("th", { scope: "row" }, swatch, name), h("td", { class: "text" }, what), h("td", {}, ms(parts[key])));
  });
  rows.push(h("tr", {}, h("th", { scope: "row" }, "first token"), h("td", { class: "text" }, "their sum, as its client saw it"), h("td", {}, ms(parts.ttft_ms))));
  if (parts.decode_ms !== undefined) rows.push(h("tr", {}, h("th", { scope: "row" }, "decode"), h("td", { class: "text" }, "first token to last"), h("td", {}, ms(parts.decode_ms))));
  return [h("h3", {}, "Where the time went"), bar, h("table", {}, h("tbody", {}, ...rows))];
}
