// The picture behind the rows: on one canvas what stands still, on another what moves with time.
//
// The moving one is painted when there is something new, and beyond the present, so that from frame
// to frame it is only shifted: by whole pixels of the screen, without painting anything.

import { fit, h, pixelRatio } from "./dom.js";
import * as paint from "./paint.js";

const AXIS_HEIGHT = 22;
/** Painted beyond the present; steps come more often than this. */
const AHEAD_MS = 1000;
/** From the top of a group to the middle of its rings. */
const RINGS_Y = 24;

export class Picture {
  constructor(store) {
    this.store = store;
    this.still = h("canvas");
    this.moving = h("canvas");
    this.past = h("div", { class: "past" }, this.moving);
    this.element = h("div", { class: "sky", "aria-hidden": "true" }, this.still, this.past);
    this.axis = h("canvas", { class: "axis", "aria-hidden": "true" });
    this.width = 0;
    this.shift = 0; // of the moving canvas, in pixels of the screen
    this.stale();
    store.addEventListener("past", () => (this.pastStale = true));
    store.addEventListener("levels", () => (this.stillStale = true));
  }

  /** Everything is painted anew. */
  stale() {
    this.moved();
    this.axisStale = true;
  }

  /** Lanes have other places, or another one is chosen. */
  moved() {
    this.pastStale = this.stillStale = true;
  }

  /** Takes its room, in CSS pixels: names are left of the axis, what waits is right of it. */
  resize(width, height, gutter) {
    Object.assign(this, { width, height, left: gutter, right: Math.max(gutter + 1, width - paint.EDGE) });
    Object.assign(this.element.style, { height: `${height}px`, marginBottom: `${-height}px` });
    Object.assign(this.past.style, { left: `${this.left}px`, width: `${this.right - this.left}px` });
    Object.assign(this.axis.style, { width: `${width}px`, height: `${AXIS_HEIGHT}px` });
    Object.assign(this.still.style, { width: `${width}px`, height: `${height}px` });
    this.stale();
  }

  /** Shows the lanes of `view` (a layout, `scrollTop`, `span`, `selected`, `colours`) as they were at `now`. */
  draw(now, view) {
    if (!this.width) return;
    const ratio = pixelRatio();
    if (ratio !== this.ratio) this.stale(); // it is on another screen
    this.ratio = ratio;
    const scale = new paint.Scale(now, view.span, this.left, this.right);
    const dots = scale.perMs * ratio; // pixels of the screen a ms
    const at = Math.floor(now * dots) / dots;
    let shift = Math.round((at - this.paintedAt) * dots);
    if (this.pastStale || shift < 0 || shift > this.ahead) {
      this.ahead = Math.ceil(AHEAD_MS * dots);
      this.#paintPast(at, this.ahead / dots, view);
      shift = 0;
    }
    if (this.stillStale) this.#paintStill(scale, view);
    if (this.axisStale) this.#paintAxis(scale, view);
    if (shift !== this.shift) this.moving.style.transform = `translateX(${-shift / ratio}px)`;
    this.shift = shift;
  }

  #paintPast(at, aheadMs, { layout, scrollTop, span, colours }) {
    const width = (this.right - this.left) * (1 + aheadMs / span);
    const context = fit(this.moving, width, this.height);
    Object.assign(this.moving.style, { width: `${width}px`, height: `${this.height}px` });
    context.clearRect(0, 0, width, this.height);
    const scale = new paint.Scale(at + aheadMs, span + aheadMs, 0, width);
    const height = layout.laneHeight;
    const rows = layout.rows(scrollTop, this.height);
    const shown = new Map(rows.map(({ lane, y }) => [lane, y]));
    for (const { macro, lanes } of layout.groups) {
      const turns = this.store.turns.get(macro.id) ?? [];
      paint.paintTurns(context, scale, turns, shown, height, lanes.length, colours);
    }
    paint.paintLanes(context, scale, rows, height, colours);
    paint.paintMarks(context, scale, rows, height, colours);
    paint.paintNotes(context, scale, this.store.notes, this.height, colours);
    this.paintedAt = at;
    this.pastStale = false;
  }

  #paintStill(scale, { layout, scrollTop, selected, colours }) {
    const context = fit(this.still, this.width, this.height);
    context.clearRect(0, 0, this.width, this.height);
    const height = layout.laneHeight;
    const rows = layout.rows(scrollTop, this.height);
    const chosen = rows.find(({ lane }) => lane === selected);
    if (chosen) {
      context.fillStyle = colours.pick;
      context.fillRect(0, chosen.y, this.width, height);
    }
    paint.paintGrid(context, scale, this.height, colours);
    paint.paintBases(context, scale, rows, height, colours);
    paint.paintWaiting(context, scale, rows, height, colours);
    for (const { macro, top } of layout.groups) {
      const y = top + RINGS_Y - scrollTop;
      if (y > -20 && y < this.height) paint.paintPending(context, scale, y, this.store.pending[macro.id] ?? 0, colours);
    }
    this.stillStale = false;
  }

  #paintAxis(scale, { colours }) {
    const context = fit(this.axis, this.width, AXIS_HEIGHT);
    paint.paintAxis(context, scale, this.width, AXIS_HEIGHT, colours);
    this.axisStale = false;
  }
}
