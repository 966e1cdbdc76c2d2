// The rhythm: one lane per instance on a moving time axis.
//
// Only what is visible exists: rows are a few recycled elements (so they can be read aloud, clicked
// and reached by keys), and everything that moves is on one canvas behind them.

import { colour, fit, h, setText } from "./dom.js";
import { count, plural } from "./format.js";
import { Layout } from "./layout.js";
import * as paint from "./paint.js";
import { FUSED, PHASE_NAMES, PREFILL } from "./store.js";

const AXIS_HEIGHT = 22;
/** Rows outside of the view that are kept ready. */
const MARGIN = 60;
const SMALL_ROW = 19;
/** A macro-instance is new for so long. */
const NEW_MS = 8000;
/** Labels are brought up to date this often; the canvas at each frame. */
const LABEL_MS = 250;
/** With prefers-reduced-motion the axis moves in steps. */
const STILL_MS = 500;
const MAX_FRAMES = 1200;

export class Rhythm {
  constructor(root, store, feed, onSelect) {
    Object.assign(this, { root, store, feed, onSelect });
    this.layout = new Layout();
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
    this.canvas = h("canvas", { "aria-hidden": "true" });
    this.rows = h("div", { class: "rows" });
    this.lanes = h("div", {
      class: "lanes", id: "lanes", role: "listbox", tabindex: "0",
      "aria-label": "Instances by macro-instance. Arrow keys choose one.",
    }, this.canvas, this.rows);
    this.axis = h("canvas", { class: "axis", "aria-hidden": "true" });
    this.empty = h("div", { class: "none" }, h("b", {}, "No instance yet"),
      h("span", {}, "Lanes appear as soon as a worker has joined."));
    this.lanes.append(this.empty);
    this.root.append(this.lanes, this.axis);
    this.elements = new Map(); // lane or macro id -> row in use
    this.spare = { lane: [], group: [] };
  }

  themed() {
    const names = ["ink", "soft", "line", "lane", "sheet", "prefill", "decode", "bad", "pick"];
    this.colours = Object.fromEntries(names.map((name) => [name, colour(`--${name}`)]));
    this.colours.font = colour("--sans");
    this.gutter = parseInt(getComputedStyle(this.root).getPropertyValue("--gutter"), 10);
  }

  set(options) {
    Object.assign(this, options);
    this.stale = true;
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
    this.gutter = parseInt(getComputedStyle(this.root).getPropertyValue("--gutter"), 10);
    this.width = this.lanes.clientWidth;
    this.height = this.lanes.clientHeight;
    this.canvas.style.width = `${this.width}px`;
    this.canvas.style.height = `${this.height}px`;
    this.canvas.style.marginBottom = `${-this.height}px`;
    this.axis.style.width = `${this.width}px`;
    this.stale = true;
  }

  #frame(at, before) {
    requestAnimationFrame((next) => this.#frame(next, at));
    if (this.reduced.matches && at - (this.drawnMs ?? 0) < STILL_MS && !this.stale && !this.moved) return;
    this.drawnMs = at;
    const begun = performance.now();
    if (this.width) this.#draw(at, at - before);
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
    if (this.stale || this.moved || gliding || due) this.#label(due || this.stale);
    if (due) this.labelledMs = at;
    this.stale = this.moved = false;
    this.#paint();
  }

  #paint() {
    const { layout, colours, store } = this;
    const context = fit(this.canvas, this.width, this.height);
    context.clearRect(0, 0, this.width, this.height);
    const now = this.heldAt ?? this.feed.now();
    const scale = new paint.Scale(now, this.span, this.gutter, this.width - paint.EDGE);
    const height = layout.laneHeight;
    const rows = [];
    const shown = new Map();
    for (const lane of layout.lanes) {
      const y = lane.y - this.scrollTop;
      if (y < -height || y > this.height) continue;
      rows.push({ lane, y });
      shown.set(lane, y);
    }
    if (this.selected && shown.has(this.selected)) {
      context.fillStyle = colours.pick;
      context.fillRect(0, shown.get(this.selected), this.width, height);
    }
    const instants = paint.paintGrid(context, scale, this.height, colours);
    context.save();
    context.beginPath();
    context.rect(scale.left, 0, scale.right - scale.left, this.height);
    context.clip();
    for (const { macro, lanes } of layout.groups) {
      const turns = store.turns.get(macro.id) ?? [];
      paint.paintTurns(context, scale, turns, shown, height, lanes.length, colours);
    }
    paint.paintLanes(context, scale, rows, height, colours);
    paint.paintMarks(context, scale, rows, height, colours);
    paint.paintNotes(context, scale, store.notes, this.height, colours);
    context.restore();
    paint.paintWaiting(context, scale, rows, height, colours);
    for (const { macro, top } of layout.groups) {
      const y = top + 24 - this.scrollTop;
      if (y > -20 && y < this.height) paint.paintPending(context, scale, y, store.pending[macro.id] ?? 0, colours);
    }
    const axis = fit(this.axis, this.width, AXIS_HEIGHT);
    paint.paintAxis(axis, scale, instants, this.width, colours);
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
    row.element.style.transform = `translateY(${top}px)`;
    row.element.style.height = `${headHeight}px`;
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
    const style = row.element.style;
    style.transform = `translateY(${lane.y}px)`;
    if (!fresh && !begun) return;
    style.height = `${this.layout.laneHeight}px`;
    row.element.id = `lane-${lane.number}`;
    row.element.classList.toggle("small", this.layout.laneHeight < SMALL_ROW);
    row.element.classList.toggle("turn", lane.phase === PREFILL || lane.phase === FUSED);
    row.element.classList.toggle("draining", lane.draining || lane.goneAt !== null);
    row.element.setAttribute("aria-selected", lane === this.selected);
    row.element.setAttribute("aria-posinset", index + 1);
    row.element.setAttribute("aria-setsize", this.layout.lanes.length);
    row.element.setAttribute("aria-label", describe(lane));
    setText(row.name, lane.id);
    setText(row.num, lane.goneAt === null ? count(lane.running) : "gone");
    row.fill.style.transform = `scaleX(${lane.total_blocks ? lane.used / lane.total_blocks : 0})`;
    if (lane === this.selected) this.lanes.setAttribute("aria-activedescendant", row.element.id);
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
