// Numbers for people: always with a unit, never more digits than mean something.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 7.25 -> "7.3 ms", 420 -> "420 ms", 1240 -> "1.24 s"; nothing -> "–". */
export function ms(value) {
  const [number, unit] = msParts(value);
  return unit ? `${number}\u202f${unit}` : number;
}

export function msParts(value) {
  if (value === null || value === undefined) return ["–", ""];
  if (value >= 9995) return [(value / 1000).toFixed(1), "s"];
  if (value >= 999.5) return [(value / 1000).toFixed(2), "s"];
  return [value >= 10 ? value.toFixed(0) : value.toFixed(1), "ms"];
}

/** A limit, as it was set: "5 s", "100 ms". */
export function limit(value) {
  if (value === null || value === undefined) return "–";
  return value >= 1000 ? `${+(value / 1000).toFixed(2)}\u202fs` : `${+value.toFixed(1)}\u202fms`;
}

/** 0.9964 -> "99.6 %", 1 -> "100 %": never rounded up to 100. */
export function percent(share) {
  return share === null || share === undefined ? "–" : `${percentNumber(share)}\u202f%`;
}

export function percentNumber(share) {
  if (share >= 1) return "100";
  const floored = Math.floor(share * 1000) / 10;
  return share < 0.1 ? (share * 100).toFixed(1) : floored.toFixed(1);
}

export function count(value) {
  return whole.format(value);
}

export function rate(value) {
  return value >= 100 ? whole.format(value) : value.toFixed(1);
}

/** A span of time that is over: "3 s ago". */
export function ago(spanMs) {
  const s = Math.max(0, spanMs) / 1000;
  if (s < 1) return "now";
  if (s < 60) return `${Math.floor(s)} s ago`;
  return s < 3600 ? `${Math.floor(s / 60)} min ago` : `${Math.floor(s / 3600)} h ago`;
}

export function plural(number, word) {
  return `${count(number)} ${word}${number === 1 ? "" : "s"}`;
}
