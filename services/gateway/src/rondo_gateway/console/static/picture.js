// The picture behind the rows: the lanes' past on a canvas that moves, and beside it what waits.
//
// The moving canvas is painted when there is something new, and beyond the present, so that from
// frame to frame it is only shifted: by whole pixels of the screen, without painting anything. It is
// opaque, with all on it that is the same from left to right, so that nothing is blended either.

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
    this.moving = h("canvas");
    this.grid = h("div");
    this.past = h("div", { class: "past" }, this.moving, this.grid);
    this.waiting = h("canvas");
    this.element = h("div", { class: "sky", "aria-hidden": "true" }, this.past, this.waiting);
    this.axis = h("canvas", { class: "axis", "aria-hidden": "true" });
    this.width = 0;
    this.shift = 0; // of the moving canvas, in pixels of the screen
    this.stale();
    store.addEventListener("past", () => (this.pastStale = true));
    store.addEventListener("levels", () => (this.waitingStale = true));
  }

  /** Everything is painted anew. */
  stale() {
    this.moved();
    this.axisStale = true;
  }

  /** Lanes have other places, or another one is chosen. */
  moved() {
    this.pastStale = this.waitingStale = true;
  }

  /** Takes its room, in CSS pixels: names are left of the axis, what waits is right of it. */
  resize(width, height, gutter) {
    Object.assign(this, { width, height, left: gutter, right: Math.max(gutter + 1, width - paint.EDGE) });
    Object.assign(this.element.style, { height: `${height}px`, marginBottom: `${-height}px` });
    Object.assign(this.past.style, { left: `${this.left}px`, width: `${this.right - this.left}px` });
    place(this.waiting, paint.EDGE, height);
    this.waiting.style.left = `${this.right}px`;
    place(this.axis, width, AXIS_HEIGHT);
    this.stale();
  }

  /** Shows the lanes of `view` (a layout, `scrollTop`, `span`, `selected`, `colours`) as they were at `now`. */
  draw(now, view) {
    if (!this.width) return;
    const ratio = pixelRatio();
    if (ratio !== this.ratio) this.stale(); // it is on another screen
    this.ratio = ratio;
    const dots = ((this.right - this.left) / view.span) * ratio; // pixels of the screen a ms
    const at = Math.floor(now * dots) / dots;
    let shift = Math.round((at - this.paintedAt) * dots);
    if (this.pastStale || shift < 0 || shift > this.ahead) {
      this.ahead = Math.ceil(AHEAD_MS * dots);
      this.#paintPast(at, this.ahead / dots, view);
      shift = 0;
    }
    if (this.waitingStale) this.#paintWaiting(view);
    if (this.axisStale) this.#paintAxis(view);
    if (shift !== this.shift) this.moving.style.transform = `translateX(${-shift / ratio}px)`;
    this.shift = shift;
  }

  #paintPast(at, aheadMs, { layout, scrollTop, span, selected, colours }) {
    const width = (this.right - this.left) * (1 + aheadMs / span);
    const context = fit(this.moving, width, this.height, true);
    place(this.moving, width, this.height);
    context.fillStyle = colours.sheet;
    context.fillRect(0, 0, width, this.height);
    const scale = new paint.Scale(at + aheadMs, span + aheadMs, 0, width);
    const height = layout.laneHeight;
    const rows = layout.rows(scrollTop, this.height);
    const shown = new Map(rows.map(({ lane, y }) => [lane, y]));
    paint.paintChosen(context, rows, width, height, selected, colours);
    paint.paintBases(context, rows, width, height, colours);
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

  #paintWaiting({ layout, scrollTop, selected, colours }) {
    const context = fit(this.waiting, paint.EDGE, this.height, true);
    context.fillStyle = colours.sheet;
    context.fillRect(0, 0, paint.EDGE, this.height);
    const rows = layout.rows(scrollTop, this.height);
    paint.paintChosen(context, rows, paint.EDGE, layout.laneHeight, selected, colours);
    paint.paintWaiting(context, rows, layout.laneHeight, colours);
    for (const { macro, top } of layout.groups) {
      const y = top + RINGS_Y - scrollTop;
      if (y > -20 && y < this.height) paint.paintPending(context, y, this.store.pending[macro.id] ?? 0, colours);
    }
    this.waitingStale = false;
  }

  #paintAxis({ span, colours }) {
    const scale = new paint.Scale(0, span, this.left, this.right);
    paint.paintAxis(fit(this.axis, this.width, AXIS_HEIGHT), scale, this.width, AXIS_HEIGHT, colours);
    const lines = paint.instants(scale).map(([, x]) => {
      const line = h("i");
      line.style.left = `${Math.min(Math.round(x), this.right - 1) - this.left}px`;
      return line;
    });
    this.grid.replaceChildren(...lines);
    this.axisStale = false;
  }
}

function place(canvas, width, height) {
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
}
