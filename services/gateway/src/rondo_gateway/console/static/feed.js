// The stream of steps: kept open, opened again, and the clock that goes with it.
//
// EventSource comes back by itself with the id of the last step; the server goes on from there or
// sends everything. After an answer that is no stream (no bus, too many consoles) it gives up, so
// then a new one is made after a pause.

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 8000;
/** A stream without a step for so long is dead: there is one each second at least. */
const SILENCE_MS = 6000;
/** What is drawn lags by this, so that steps arrive before they are due. */
const LAG_MS = 250;
/** Without news the axis stands still after this. */
const PATIENCE_MS = 1500;

export class Feed {
  constructor(url, onStep, onState) {
    this.url = url;
    this.onStep = onStep;
    this.onState = onState;
    this.pauseMs = FIRST_PAUSE_MS;
    this.offset = null; // performance.now() minus the server's clock, the least seen lately
    this.lastAt = 0;
    this.heardMs = 0;
    this.source = null;
    this.timer = 0;
    setInterval(() => this.#watch(), 1000);
    addEventListener("online", () => this.open());
  }

  open() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = new EventSource(this.url);
    this.source.onmessage = (event) => this.#take(JSON.parse(event.data));
    this.source.onerror = () => this.#failed();
    this.heardMs = performance.now();
  }

  /** The instant on the server's clock that is to be drawn now. */
  now() {
    if (this.offset === null) return 0;
    return Math.min(performance.now() - this.offset - LAG_MS, this.lastAt + PATIENCE_MS - LAG_MS);
  }

  #take(step) {
    const arrived = performance.now();
    const offset = arrived - step.at;
    // Whoever is fastest is right; the slow upward drift follows clocks that differ in speed.
    if (step.fresh || this.offset === null) this.offset = offset;
    else this.offset = Math.min(this.offset + 0.05, offset);
    this.lastAt = step.at;
    this.heardMs = arrived;
    this.pauseMs = FIRST_PAUSE_MS;
    this.onStep(step);
    this.onState("live");
  }

  #failed() {
    this.onState("lost");
    if (this.source.readyState !== EventSource.CLOSED) return; // it comes back by itself
    this.#again();
  }

  #again() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), this.pauseMs * (0.75 + Math.random() / 2));
    this.pauseMs = Math.min(LONGEST_PAUSE_MS, this.pauseMs * 2);
  }

  #watch() {
    if (!this.source || performance.now() - this.heardMs < SILENCE_MS) return;
    this.onState("lost");
    this.source.close();
    this.heardMs = performance.now();
    this.#again();
  }
}
