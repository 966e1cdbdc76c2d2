// What the page knows of the cluster: steps go in, views look. See docs/console.md for the fields.

export const IDLE = 0;
export const DECODE = 1;
export const PREFILL = 2;
export const FUSED = 3;
export const PHASE_NAMES = ["idle", "decode", "prefill", "prefill and decode"];
export const ADMITTED = 0;
export const ANSWERED = 1;
export const FAILED = 2;

/** Kept of the past; the longest span of the axis, and a little. */
const HISTORY_MS = 62_000;
/** A lane that has gone stays until it has left the axis, but no longer than this. */
const GONE_MS = 12_000;
const MAX_POINTS = 600;
const MAX_NOTES = 200;
const MAX_REQUESTS = 2000;
const MAX_TURNS = 600;
/** Entries of one lane's past before old ones are looked for. */
const TRIM_LENGTH = 400;

export class Store extends EventTarget {
  constructor() {
    super();
    this.forget();
  }

  forget() {
    this.at = 0;
    this.lanes = new Map(); // number -> lane
    this.byId = new Map(); // id -> lane
    this.macros = [];
    this.pending = {};
    this.points = [];
    this.notes = [];
    this.requests = new Map(); // id -> request, in the order in which they were first heard of
    this.turns = new Map(); // macro id -> begins of turns, in order: { lane, at }
    this.groupsSince = new Map(); // macro id -> when it was first seen
  }

  apply(step) {
    if (step.fresh) this.forget();
    this.at = step.at;
    const changed = new Set(step.fresh ? ["layout", "levels", "past", "points", "notes", "requests"] : []);
    this.#members(step, changed);
    for (const [number, at, phase, turn] of step.phases ?? []) this.#phase(number, at, phase, turn);
    if (step.phases || step.marks || step.notes || step.left) changed.add("past");
    for (const [number, ...level] of step.levels ?? []) {
      const lane = this.lanes.get(number);
      if (lane) [lane.running, lane.waiting, lane.used, lane.reserved] = level;
      changed.add("levels");
    }
    for (const [number, at, kind] of step.marks ?? []) {
      const lane = this.lanes.get(number);
      if (lane) trimmed(lane.marks, this.at).push({ at, kind });
    }
    if (step.points) changed.add("points"), append(this.points, step.points, MAX_POINTS);
    if (step.notes) changed.add("notes"), append(this.notes, step.notes, MAX_NOTES);
    this.#requests(step, changed);
    for (const kind of changed) this.dispatchEvent(new Event(kind));
  }

  /** Lanes in the order in which they are shown, by macro-instance. */
  groups() {
    const groups = this.macros.map((macro) => ({ macro, lanes: [] }));
    const byMacro = new Map(groups.map((group) => [group.macro.id, group]));
    for (const group of groups) {
      group.lanes = group.macro.members.map((id) => this.byId.get(id)).filter(Boolean);
    }
    const placed = new Set(groups.flatMap((group) => group.lanes));
    const strays = [];
    for (const lane of this.lanes.values()) {
      if (placed.has(lane)) continue;
      (byMacro.get(lane.macro)?.lanes ?? strays).push(lane);
    }
    if (strays.length) groups.push({ macro: { id: "", model: "", members: [] }, lanes: strays });
    return groups.filter((group) => group.lanes.length);
  }

  #members(step, changed) {
    for (const info of step.lanes ?? []) {
      const lane = this.lanes.get(info.number) ?? newLane();
      Object.assign(lane, { draining: false }, info);
      this.lanes.set(lane.number, lane);
      this.byId.set(lane.id, lane);
      changed.add("layout");
    }
    for (const number of step.left ?? []) {
      const lane = this.lanes.get(number);
      if (lane) lane.goneAt = step.at;
    }
    for (const lane of this.lanes.values()) {
      if (lane.goneAt === null || step.at - lane.goneAt < GONE_MS) continue;
      this.lanes.delete(lane.number);
      if (this.byId.get(lane.id) === lane) this.byId.delete(lane.id);
      changed.add("layout");
    }
    if (step.macros) {
      this.macros = step.macros;
      for (const macro of step.macros) {
        if (!this.groupsSince.has(macro.id)) this.groupsSince.set(macro.id, step.fresh ? -1e9 : step.at);
      }
      changed.add("layout");
    }
    if (step.pending) changed.add("levels"), (this.pending = step.pending);
  }

  #phase(number, at, phase, turn) {
    const lane = this.lanes.get(number);
    if (!lane) return;
    if (phase >= PREFILL && lane.turn !== turn) {
      const turns = this.turns.get(lane.macro) ?? [];
      this.turns.set(lane.macro, turns);
      append(turns, [{ lane, at }], MAX_TURNS);
    }
    if (phase >= PREFILL) lane.turn = turn;
    lane.phase = phase;
    trimmed(lane.phases, this.at).push({ at, phase });
  }

  #requests(step, changed) {
    for (const request of step.requests ?? []) {
      this.requests.set(request.id, { state: "pending", ...request });
      changed.add("requests");
    }
    for (const id of this.requests.keys()) {
      if (this.requests.size <= MAX_REQUESTS) break;
      this.requests.delete(id);
    }
  }
}

function newLane() {
  return {
    phases: [], marks: [], phase: IDLE, turn: 0, running: 0, waiting: 0, used: 0, reserved: 0,
    draining: false, goneAt: null, y: null,
  };
}

function append(list, items, most) {
  list.push(...items);
  if (list.length > most) list.splice(0, list.length - most);
}

/** The list without what has left the axis; looked for only now and then. */
function trimmed(list, now) {
  if (list.length > TRIM_LENGTH && list[list.length >> 1].at < now - HISTORY_MS) {
    list.splice(0, list.length >> 1);
  }
  return list;
}
