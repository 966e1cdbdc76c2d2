// Draws the visible lanes onto a canvas. Knows nothing of the page around it.

import { ADMITTED, DECODE, FAILED, FUSED, PREFILL } from "./store.js";

/** Right of the present: what waits. */
export const EDGE = 58;
/** Lines between turns only where they can be told apart. */
const MIN_LINKED_HEIGHT = 14;
const MAX_LINKED_LANES = 64;
/** ... and where turns are not closer than this, on average. */
const MIN_LINK_PX = 14;
const MAX_DOTS = 5;
const RING_X = 9;
const NOTE_NAMES = { mitosis: "mitosis", scaling: "scaling", owner: "new owner" };
const NOTE_PAUSE_MS = 2000;

/** Where instants are: `x` of an instant, for the frame that is being drawn. */
export class Scale {
  constructor(now, span, left, right) {
    Object.assign(this, { now, span, left, right, from: now - span });
    this.perMs = (right - left) / span;
  }

  x(at) {
    return this.right - (this.now - at) * this.perMs;
  }
}

/** The chosen lane of `rows` ({ lane, y }), from edge to edge. */
export function paintChosen(context, rows, width, height, chosen, colours) {
  const row = rows.find(({ lane }) => lane === chosen);
  context.fillStyle = colours.pick;
  if (row) context.fillRect(0, row.y, width, height);
}

/** The line that each lane runs on. */
export function paintBases(context, rows, width, height, colours) {
  context.fillStyle = colours.lane;
  for (const { y } of rows) context.fillRect(0, y + height - (height >= 20 ? 4 : 2), width, 1);
}

/** All spans of the lanes in `rows`, one colour after the other. */
export function paintLanes(context, scale, rows, height, colours) {
  // Decode is the low band that runs along; prefill rises above it.
  const pad = height >= 20 ? 3 : 1;
  const top = markHeight(height) + pad;
  const full = height - top - pad;
  const low = Math.max(3, Math.round(full * 0.4));
  const bars = [
    [[DECODE, FUSED], colours.decode, height - pad - low, low],
    [[FUSED], colours.prefill, top, full - low],
    [[PREFILL], colours.prefill, top, full],
  ];
  for (const [phases, colour, offset, tall] of bars) {
    context.fillStyle = colour;
    for (const { lane, y } of rows) paintPhases(context, scale, lane, phases, y + offset, tall);
  }
}

function paintPhases(context, scale, lane, wanted, y, tall) {
  const phases = lane.phases;
  const end = lane.goneAt === null ? scale.now : Math.min(lane.goneAt, scale.now);
  let until = end;
  let open = -1; // right edge of spans that touch, so that they become one rectangle
  let left = 0;
  for (let index = phases.length - 1; index >= 0 && until > scale.from; index--) {
    const { at, phase } = phases[index];
    if (at >= until) continue;
    if (wanted.includes(phase)) {
      const right = scale.x(until);
      const begin = Math.max(scale.left, scale.x(at));
      if (open >= 0 && left - right < 0.7) left = begin;
      else {
        if (open >= 0) context.fillRect(left, y, Math.max(0.8, open - left), tall);
        [open, left] = [right, begin];
      }
    }
    until = at;
  }
  if (open >= 0) context.fillRect(left, y, Math.max(0.8, open - left), tall);
}

/** Ticks have a strip of their own above the bars, where there is room for one. */
function markHeight(height) {
  return height >= 24 ? Math.min(9, Math.round(height * 0.18)) : 0;
}

/** Arrivals as ticks, failures as crosses. */
export function paintMarks(context, scale, rows, height, colours) {
  context.fillStyle = colours.ink;
  context.strokeStyle = colours.bad;
  context.lineWidth = 2;
  const tall = markHeight(height) || 3;
  for (const { lane, y } of rows) {
    for (let index = lane.marks.length - 1; index >= 0; index--) {
      const { at, kind } = lane.marks[index];
      if (at < scale.from) break;
      if (at > scale.now) continue;
      const x = scale.x(at);
      if (kind === ADMITTED) context.fillRect(x - 0.6, y + 1, 1.2, tall);
      else if (kind === FAILED) cross(context, x, y + height / 2, Math.min(4, height / 3));
    }
  }
}

function cross(context, x, y, r) {
  context.beginPath();
  context.moveTo(x - r, y - r);
  context.lineTo(x + r, y + r);
  context.moveTo(x - r, y + r);
  context.lineTo(x + r, y - r);
  context.stroke();
}

/** What waits now, right of the present: a ring each. */
export function paintWaiting(context, rows, height, colours) {
  const r = Math.max(2, Math.min(3.5, height * 0.18));
  for (const { lane, y } of rows) {
    if (lane.waiting) rings(context, RING_X, y + height / 2, r, lane.waiting, colours);
  }
}

/** Requests that no instance has yet, in the head of their group. */
export function paintPending(context, y, number, colours) {
  if (number) rings(context, RING_X, y, 3.5, number, colours);
}

function rings(context, x, y, r, number, colours) {
  context.strokeStyle = colours.prefill;
  context.lineWidth = 1.6;
  const dots = number > MAX_DOTS ? 1 : number;
  for (let index = 0; index < dots; index++) {
    context.beginPath();
    context.arc(x + index * (2 * r + 2.5), y, r, 0, 7);
    context.stroke();
  }
  if (number > MAX_DOTS) {
    context.fillStyle = colours.ink;
    context.font = `11px ${colours.font}`;
    context.textBaseline = "middle";
    context.textAlign = "left";
    context.fillText(String(number), x + 2 * r + 2, y + 0.5);
  }
}

/** The turn on its way: from where one began to where the next one did. */
export function paintTurns(context, scale, turns, shown, height, numLanes, colours) {
  if (height < MIN_LINKED_HEIGHT || numLanes > MAX_LINKED_LANES || numLanes < 2) return;
  let seen = 0;
  while (seen < turns.length && turns[turns.length - 1 - seen].at >= scale.from) seen++;
  if (seen * MIN_LINK_PX > scale.right - scale.left) return;
  context.strokeStyle = colours.ink;
  context.globalAlpha = 0.5;
  context.lineWidth = 1.2;
  context.beginPath();
  for (let index = turns.length - 1; index > 0; index--) {
    const to = turns[index];
    const from = turns[index - 1];
    if (to.at < scale.from) break;
    if (to.at > scale.now || to.lane === from.lane) continue;
    const [fromY, toY] = [shown.get(from.lane), shown.get(to.lane)];
    if (fromY === undefined || toY === undefined) continue;
    const [x, endX] = [Math.max(scale.left, scale.x(from.at)), scale.x(to.at)];
    const [y, endY] = [fromY + height / 2, toY + height / 2];
    context.moveTo(x, y);
    context.bezierCurveTo(x, (y + endY) / 2, endX, (y + endY) / 2, endX, endY);
  }
  context.stroke();
  context.globalAlpha = 1;
}

/** Instants that are named on the axis: [ms ago, x]. */
export function instants(scale) {
  const step = scale.span > 30_000 ? 10_000 : scale.span > 8_000 ? 5_000 : 1_000;
  const found = [];
  for (let ago = 0; ago <= scale.span; ago += step) found.push([ago, scale.right - ago * scale.perMs]);
  return found;
}

/** Splits, merges, scaling: where they happened. */
export function paintNotes(context, scale, notes, height, colours) {
  context.font = `11px ${colours.font}`;
  context.textBaseline = "top";
  let named = Infinity;
  for (let index = notes.length - 1; index >= 0; index--) {
    const { at, kind } = notes[index];
    if (at < scale.from) break;
    if (at > scale.now || !(kind in NOTE_NAMES)) continue;
    if (named - at < NOTE_PAUSE_MS) continue; // one split moves several instances at once
    named = at;
    const x = Math.round(scale.x(at)) + 0.5;
    context.strokeStyle = colours.ink;
    context.setLineDash([3, 3]);
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, height);
    context.stroke();
    context.setLineDash([]);
    const label = NOTE_NAMES[kind];
    const width = context.measureText(label).width + 8;
    const left = x - width; // on the side of the past, so that it is seen as soon as the line is
    context.fillStyle = colours.ink;
    context.fillRect(left, 2, width, 15);
    context.fillStyle = colours.sheet;
    context.textAlign = "left";
    context.fillText(label, left + 4, 4);
  }
}

export function paintAxis(context, scale, width, height, colours) {
  context.clearRect(0, 0, width, height);
  context.fillStyle = colours.soft;
  context.font = `11px ${colours.font}`;
  context.textBaseline = "middle";
  for (const [ago, x] of instants(scale)) {
    context.textAlign = ago === 0 ? "center" : x < scale.left + 20 ? "left" : "center";
    context.fillText(ago === 0 ? "now" : `−${ago / 1000} s`, x, height / 2);
  }
}
