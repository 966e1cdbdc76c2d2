// The rhythm: one lane per instance on a moving time axis.
//
// Only what is visible exists: rows are a few recycled elements (so they can be read aloud, clicked
// and reached by keys), and everything that moves is in the picture behind them.

import { colour, h, setAttribute, setStyle, setText } from "./dom.js";
import { count, plural } from "./format.js";
import { Layout } from "./layout.js";
import { Picture } from "./picture.js";
import { FUSED, PHASE_NAMES, PREFILL } from "./store.js";

/** Rows outside of the view that are kept ready. */
const MARGIN = 60;
const SMALL_ROW = 19;
/** A macro-instance is new for so long. */
const NEW_MS = 8000;
/** Labels are brought up to date this often; the picture at each frame. */
const LABEL_MS = 250;
/** With prefers-reduced-motion the axis moves in steps. */
const STILL_MS = 500;
const MAX_FRAMES = 1200;

export class Rhythm {
  constructor(root, store, feed, onSelect) {
    Object.assign(this, { root, store, feed, onSelect });
    this.layout = new Layout();
    this.picture = new Picture(store);
    this.span = 10_000;
    this.size = 0;
    this.heldAt = null;
    this.selected = null; // a lane
    this.frames = []; // [interval, time spent drawing] in ms, of the latest frames
    this.reduced = matchMedia("(prefers-reduced-motion: reduce)");
    this.#build();
    store.addEventListener("layout", () => (this.stale = true));
    new ResizeObserver(() => this.#resized()).observe(this.lanes);
    this.lanes.addEventListener("scroll", () => (this.moved = true), { passive: true });
    this.lanes.addEventListener("keydown", (event) => this.#key(event));
    this.lanes.addEventListener("click", (event) => this.#click(event));
    this.themed();
    requestAnimationFrame((at) => this.#frame(at, at));
  }

  #build() {
    this.rows = h("div", { class: "rows" });
    this.lanes = h("div", {
      class: "lanes", id: "lanes", role: "listbox", tabindex: "0",
      "aria-label": "Instances by macro-instance. Arrow keys choose one.",
    }, this.picture.element, this.rows);
    this.empty = h("div", { class: "none" }, h("b", {}, "No instance yet"),
      h("span", {}, "Lanes appear as soon as a worker has joined."));
    this.lanes.append(this.empty);
    this.root.append(this.lanes, this.picture.axis);
    this.elements = new Map(); // lane or macro id -> row in use
    this.spare = { lane: [], group: [] };
  }

  themed() {
    const names = ["ink", "soft", "line", "lane", "sheet", "prefill", "decode", "bad", "pick"];
    this.colours = Object.fromEntries(names.map((name) => [name, colour(`--${name}`)]));
    this.colours.font = colour("--sans");
    this.picture.stale();
  }

  set(options) {
    Object.assign(this, options);
    this.stale = true;
    this.picture.stale();
  }

  /** Stops the axis, or lets it go on. */
  hold(held) {
    this.heldAt = held ? this.feed.now() : null;
  }

  select(lane, bringIntoView = true) {
    this.selected = lane;
    if (lane && bringIntoView) this.#reveal(lane);
    this.stale = true;
    this.onSelect(lane);
  }

  #resized() {
    const gutter = parseInt(getComputedStyle(this.root).getPropertyValue("--gutter"), 10);
    this.height = this.lanes.clientHeight;
    this.picture.resize(this.lanes.clientWidth, this.height, gutter);
    this.stale = true;
  }

  #frame(at, before) {
    requestAnimationFrame((next) => this.#frame(next, at));
    if (this.reduced.matches && at - (this.drawnMs ?? 0) < STILL_MS && !this.stale && !this.moved) return;
    this.drawnMs = at;
    const begun = performance.now();
    if (this.height) this.#draw(at, at - before);
    this.frames.push([at - before, performance.now() - begun]);
    if (this.frames.length > MAX_FRAMES) this.frames.splice(0, MAX_FRAMES / 2);
  }

  #draw(at, spentMs) {
    if (this.stale) {
      this.layout.arrange(this.store.groups(), this.size, this.height);
      this.rows.style.height = `${this.layout.height}px`;
      this.empty.hidden = this.layout.lanes.length > 0;
      this.empty.style.display = this.empty.hidden ? "none" : "";
    }
    if (this.stale || this.moved) this.scrollTop = this.lanes.scrollTop;
    const gliding = this.layout.glide(spentMs, this.reduced.matches);
    const due = at - (this.labelledMs ?? 0) > LABEL_MS;
    const placed = this.stale || this.moved || gliding;
    if (placed || due) this.#label(due || this.stale);
    if (due) this.labelledMs = at;
    if (placed) this.picture.moved();
    this.stale = this.moved = false;
    this.picture.draw(this.heldAt ?? this.feed.now(), this);
  }

  // Rows

  #label(fresh) {
    const used = new Set();
    const [from, to] = [this.scrollTop - MARGIN, this.scrollTop + this.height + MARGIN];
    for (const group of this.layout.groups) {
      if (group.top < to && group.top + group.headHeight > from) this.#groupRow(group, used, fresh);
    }
    this.layout.lanes.forEach((lane, index) => {
      if (lane.y < to && lane.y + this.layout.laneHeight > from) this.#laneRow(lane, index, used, fresh);
    });
    for (const [key, row] of this.elements) {
      if (used.has(key)) continue;
      this.elements.delete(key);
      row.element.remove();
      this.spare[row.kind].push(row);
    }
  }

  #row(key, kind, make, used) {
    used.add(key);
    let row = this.elements.get(key);
    if (row) return [row, false];
    row = this.spare[kind].pop() ?? make();
    this.elements.set(key, row);
    this.rows.append(row.element);
    return [row, true];
  }

  #groupRow({ macro, lanes, top, headHeight }, used, fresh) {
    const [row, begun] = this.#row(macro.id, "group", newGroupRow, used);
    setStyle(row.element, "transform", `translateY(${top}px)`);
    setStyle(row.element, "height", `${headHeight}px`);
    if (!fresh && !begun) return;
    const pending = this.store.pending[macro.id] ?? 0;
    setText(row.name, macro.id || "in no macro-instance");
    const owner = macro.owner ? `owner ${macro.owner}, epoch ${macro.epoch}` : macro.id ? "no owner now" : "";
    const waiting = pending ? `${count(pending)} waiting for admission` : "";
    setText(row.facts, [plural(lanes.length, "instance"), owner, waiting].filter(Boolean).join(" · "));
    const age = this.store.at - (this.store.groupsSince.get(macro.id) ?? -1e9);
    row.element.classList.toggle("new", age < NEW_MS);
  }

  #laneRow(lane, index, used, fresh) {
    const [row, begun] = this.#row(lane, "lane", newLaneRow, used);
    setStyle(row.element, "transform", `translateY(${lane.y}px)`);
    if (!fresh && !begun) return;
    setStyle(row.element, "height", `${this.layout.laneHeight}px`);
    setAttribute(row.element, "id", `lane-${lane.number}`);
    row.element.classList.toggle("small", this.layout.laneHeight < SMALL_ROW);
    row.element.classList.toggle("turn", lane.phase === PREFILL || lane.phase === FUSED);
    row.element.classList.toggle("draining", lane.draining || lane.goneAt !== null);
    setAttribute(row.element, "aria-selected", String(lane === this.selected));
    setAttribute(row.element, "aria-posinset", String(index + 1));
    setAttribute(row.element, "aria-setsize", String(this.layout.lanes.length));
    setAttribute(row.element, "aria-label", describe(lane));
    setText(row.name, lane.id);
    setText(row.num, lane.goneAt === null ? count(lane.running) : "gone");
    const percents = lane.total_blocks ? Math.round((100 * lane.used) / lane.total_blocks) : 0;
    setStyle(row.fill, "transform", `scaleX(${percents / 100})`);
    if (lane === this.selected) setAttribute(this.lanes, "aria-activedescendant", row.element.id);
  }

  // Choosing

  #reveal(lane) {
    const height = this.layout.laneHeight;
    const top = lane.targetY ?? 0;
    const { scrollTop, clientHeight } = this.lanes;
    if (top < scrollTop + 40) this.lanes.scrollTop = top - 40;
    else if (top + height > scrollTop + clientHeight) this.lanes.scrollTop = top + height - clientHeight + 8;
  }

  #click(event) {
    const y = event.clientY - this.lanes.getBoundingClientRect().top + this.lanes.scrollTop;
    const lane = this.layout.lanes.find((one) => y >= one.y && y < one.y + this.layout.laneHeight);
    this.select(lane === this.selected ? null : lane ?? null, false);
  }

  #key(event) {
    const { lanes, laneHeight } = this.layout;
    const page = Math.max(1, Math.floor(this.height / laneHeight) - 2);
    const way = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -1e9, End: 1e9 }[event.key];
    if (event.key === "Escape") this.select(null);
    if (way === undefined || !lanes.length) return;
    event.preventDefault();
    const index = this.selected ? lanes.indexOf(this.selected) + way : event.key === "End" ? way : 0;
    this.select(lanes[Math.max(0, Math.min(lanes.length - 1, index))]);
  }
}

/** A lane in words. */
export function describe(lane) {
  const share = lane.total_blocks ? Math.round((100 * lane.used) / lane.total_blocks) : 0;
  const doing = lane.goneAt !== null ? "gone" : PHASE_NAMES[lane.phase];
  return `${lane.id}: ${doing}, ${lane.running} running, ${lane.waiting} waiting, KV ${share} % used`;
}

function newLaneRow() {
  const name = h("span", { class: "name" });
  const fill = h("i");
  const num = h("span", { class: "num" });
  const element = h("div", { class: "row lane", role: "option" }, name, h("span", { class: "meter" }, fill), num);
  return { kind: "lane", element, name, fill, num };
}

function newGroupRow() {
  const [name, facts] = [h("b"), h("span")];
  return { kind: "group", element: h("div", { class: "row group", role: "presentation" }, name, facts), name, facts };
}
