// Where each lane is: groups one below the other, rows that glide to their new place.

const GROUP_HEIGHT = 36;
const GAP = 8;
/** A row covers most of its way in this time. */
const GLIDE_MS = 160;

export class Layout {
  constructor() {
    this.groups = []; // { macro, lanes, top, bottom }
    this.lanes = []; // all, in order
    this.height = 0;
    this.laneHeight = 22;
  }

  /** Works out where everything belongs. `size` is the height of a lane, 0 to fit `viewHeight`. */
  arrange(groups, size, viewHeight) {
    const number = groups.reduce((sum, group) => sum + group.lanes.length, 0);
    const room = viewHeight - groups.length * (GROUP_HEIGHT + GAP);
    this.laneHeight = size || Math.max(14, Math.min(84, Math.floor(room / Math.max(1, number))));
    let y = 0;
    this.lanes = [];
    this.groups = groups.map(({ macro, lanes }) => {
      const top = y;
      y += GROUP_HEIGHT;
      for (const lane of lanes) {
        lane.targetY = y;
        if (lane.y === null) lane.y = y;
        y += this.laneHeight;
        this.lanes.push(lane);
      }
      y += GAP;
      return { macro, lanes, top, bottom: y - GAP, headHeight: GROUP_HEIGHT };
    });
    this.height = y;
  }

  /** The lanes in view, { lane, y }: where each begins, from the top of the view. */
  rows(scrollTop, viewHeight) {
    const found = [];
    for (const lane of this.lanes) {
      const y = lane.y - scrollTop;
      if (y > -this.laneHeight && y < viewHeight) found.push({ lane, y });
    }
    return found;
  }

  /** Moves rows on their way; whether any still moves. */
  glide(spentMs, still) {
    const share = still ? 1 : 1 - Math.exp(-spentMs / GLIDE_MS);
    let moving = false;
    for (const lane of this.lanes) {
      const way = lane.targetY - lane.y;
      if (way === 0) continue;
      lane.y = Math.abs(way) < 0.5 ? lane.targetY : lane.y + way * share;
      moving = true;
    }
    return moving;
  }
}
