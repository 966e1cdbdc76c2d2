// Four figures of the cluster: the value now, its course, and the limit it is held against.

import { colour, fit, h, setText } from "./dom.js";
import { limit, ms, msParts, percentNumber, rate } from "./format.js";

const SHOWN_MS = 300_000;
const SHORTEST_MS = 60_000;
const HEAD = 1.25;
/** A limit so much above the data is named, not drawn: the course would be a flat line. */
const FAR = 6;

const FIGURES = [
  {
    title: "Time to first token, p99",
    bold: (p) => p.ttft_p99_ms, thin: (p) => p.ttft_p50_ms, limit: (about) => about.limit_ttft_ms,
    parts: msParts, aside: (p, about) => `p50 ${ms(p.ttft_p50_ms)} · limit ${limit(about.limit_ttft_ms)}`,
    over: (p, about) => p.ttft_p99_ms > about.limit_ttft_ms,
  },
  {
    title: "Time per output token, p99",
    bold: (p) => p.tpot_p99_ms, thin: (p) => p.tpot_p50_ms, limit: (about) => about.limit_tpot_ms,
    parts: msParts, aside: (p, about) => `p50 ${ms(p.tpot_p50_ms)} · limit ${limit(about.limit_tpot_ms)}`,
    over: (p, about) => p.tpot_p99_ms > about.limit_tpot_ms,
  },
  {
    title: "Attainment: answers within limits",
    bold: (p) => p.attainment, limit: () => 0.99, most: 1.02, least: 0.8, mark: "99 %",
    parts: (value) => (value === null ? ["–", ""] : [percentNumber(value), "%"]),
    aside: () => "goal 99 %", over: (p) => p.attainment !== null && p.attainment < 0.99,
  },
  {
    title: "Goodput: answers within limits",
    bold: (p) => p.goodput, thin: (p) => p.rate,
    parts: (value) => [rate(value), "requests/s"], aside: (p) => `of ${rate(p.rate)} that ended`, over: () => false,
  },
];

export class Figures {
  constructor(root, store) {
    this.store = store;
    this.about = { limit_ttft_ms: null, limit_tpot_ms: null };
    this.cards = FIGURES.map((figure) => newCard(figure));
    root.append(...this.cards.map((card) => card.element));
    store.addEventListener("points", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(root);
  }

  draw() {
    const points = this.store.points;
    const last = points.at(-1);
    // All that is read comes before all that is written: else each card lays the page out anew.
    const sizes = new Map(this.cards.map(({ canvas }) => [canvas, [canvas.clientWidth, canvas.clientHeight]]));
    const inks = { deep: colour("--deep"), soft: colour("--soft"), bad: colour("--bad"), font: colour("--sans") };
    for (const card of this.cards) {
      const { figure } = card;
      const value = last ? figure.bold(last) : null;
      const [number, unit] = last ? figure.parts(value) : ["–", ""];
      setText(card.value, number);
      setText(card.unit, unit);
      setText(card.aside, last ? figure.aside(last, this.about) : "");
      card.element.classList.toggle("over", Boolean(last && figure.over(last, this.about)));
      this.#course(card.canvas, sizes.get(card.canvas), points, figure, inks);
    }
  }

  #course(canvas, [width, height], points, figure, inks) {
    if (!width) return;
    const context = fit(canvas, width, height);
    context.clearRect(0, 0, width, height);
    const now = points.at(-1)?.at ?? 0;
    const oldest = points.find((point) => point.at >= now - SHOWN_MS)?.at ?? now;
    const span = Math.max(SHORTEST_MS, now - oldest);
    const seen = points.filter((point) => point.at >= now - span);
    const bound = figure.limit?.(this.about) ?? null;
    const [least, most] = range(seen, figure, bound);
    const y = (value) => height - 3 - ((Math.min(most, Math.max(least, value)) - least) / (most - least)) * (height - 8);
    const x = (at) => width - ((now - at) / span) * width;
    if (bound !== null && bound <= most) markLimit(context, width, y(bound), figure.mark ?? `limit ${limit(bound)}`, inks);
    if (figure.thin) line(context, seen, figure.thin, x, y, inks.soft, 1);
    line(context, seen, figure.bold, x, y, inks.deep, 1.8);
  }
}

function range(points, figure, bound) {
  if (figure.most) {
    const low = Math.min(figure.least, ...points.map((point) => figure.bold(point) ?? 1));
    return [Math.max(0, low - 0.02), figure.most];
  }
  const values = points.flatMap((point) => [figure.bold(point) ?? 0, figure.thin?.(point) ?? 0]);
  const highest = Math.max(0, ...values);
  const most = bound !== null && bound < highest * FAR ? Math.max(bound, highest) : highest;
  return [0, (most || bound || 1) * HEAD];
}

function markLimit(context, width, y, text, inks) {
  context.strokeStyle = inks.bad;
  context.setLineDash([4, 4]);
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(0, Math.round(y) + 0.5);
  context.lineTo(width, Math.round(y) + 0.5);
  context.stroke();
  context.setLineDash([]);
  context.fillStyle = inks.bad;
  context.font = `10px ${inks.font}`;
  context.textBaseline = y < 14 ? "top" : "bottom";
  context.fillText(text, 0, y < 14 ? y + 3 : y - 2);
}

function line(context, points, value, x, y, ink, thick) {
  context.strokeStyle = ink;
  context.lineWidth = thick;
  context.lineJoin = "round";
  context.beginPath();
  let drawing = false;
  for (const point of points) {
    const number = value(point);
    if (number === null || number === undefined) drawing = false;
    else if (drawing) context.lineTo(x(point.at), y(number));
    else context.moveTo(x(point.at), y(number)), (drawing = true);
  }
  context.stroke();
}

function newCard(figure) {
  const [value, unit, aside] = [h("span", { class: "value" }), h("span", { class: "unit" }), h("span", { class: "aside" })];
  const canvas = h("canvas", { "aria-hidden": "true" });
  const element = h("article", { class: "figure" }, h("h2", {}, figure.title), h("p", {}, value, unit, aside), canvas);
  return { figure, element, value, unit, aside, canvas };
}
