// A few lines instead of a framework. Text is only ever set as text.

/** h("p", { class: "x", onclick: f }, "text", child): an element. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets text where it differs: what has not changed is neither laid out nor read aloud again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A colour of the style sheet, as it is in the present theme. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** As `setText`, for an attribute. */
export function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** As `setText`, for a property of its style. */
export function setStyle(element, name, value) {
  if (element.style[name] !== value) element.style[name] = value;
}

/** Pixels of a canvas to one of CSS. */
export function pixelRatio() {
  return Math.min(3, window.devicePixelRatio || 1);
}

/** A canvas as sharp as the screen; its size in CSS pixels. An opaque one is shown without blending. */
export function fit(canvas, width, height, opaque = false) {
  const ratio = pixelRatio();
  const [w, hgt] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== hgt) [canvas.width, canvas.height] = [w, hgt];
  const context = canvas.getContext("2d", { alpha: !opaque });
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}
