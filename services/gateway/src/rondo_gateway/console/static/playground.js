// A prompt, its answer token by token, how fast it came, and the lane it ran on.

import { h, setText } from "./dom.js";
import { ms } from "./format.js";

/** The lane is known a moment after the first token at the latest. */
const FIND_TRIES = 20;
const FIND_PAUSE_MS = 150;

export class Playground {
  constructor(root, store, about, showLane) {
    Object.assign(this, { store, showLane });
    this.model = h("select", { id: "pg-model" }, ...about.models.map((name) => h("option", {}, name)));
    this.prompt = h("textarea", { id: "pg-prompt", required: true }, "Tell me about rondos.");
    this.most = h("input", { id: "pg-most", type: "number", min: "1", max: "4096", value: "200" });
    this.send = h("button", { type: "submit", class: "main" }, "Send");
    this.stop = h("button", { type: "button", disabled: true, onclick: () => this.abort?.abort() }, "Stop");
    this.output = h("div", { class: "answer", role: "log", "aria-label": "Answer", "aria-live": "off", tabindex: "0" });
    this.problem = h("p", { class: "bad", role: "alert" });
    this.figures = Object.fromEntries(["ttft", "speed", "tokens"].map((key) => [key, h("dd", {}, "–")]));
    this.lane = h("p", { class: "hint", "aria-live": "polite" });
    const { ttft, speed, tokens } = this.figures;
    const form = h("form", { class: "form", onsubmit: (event) => this.#send(event) },
      h("label", { for: "pg-prompt" }, "Prompt"), this.prompt,
      h("div", { class: "line" }, about.models.length > 1 ? h("label", { for: "pg-model" }, "Model ") : null, about.models.length > 1 ? this.model : null,
        h("label", { for: "pg-most" }, "Tokens at most"), this.most, this.send, this.stop));
    root.append(form, h("h3", {}, "Answer"), this.output, this.problem,
      h("dl", { class: "stats" }, h("div", {}, h("dt", {}, "First token after"), ttft), h("div", {}, h("dt", {}, "Tokens per second"), speed), h("div", {}, h("dt", {}, "Tokens"), tokens)), this.lane);
  }

  async #send(event) {
    event.preventDefault();
    this.abort = new AbortController();
    [this.send.disabled, this.stop.disabled] = [true, false];
    for (const cell of [this.output, this.problem, this.lane]) setText(cell, "");
    for (const cell of Object.values(this.figures)) setText(cell, "–");
    try {
      await this.#read(await this.#ask());
    } catch (error) {
      if (error.name !== "AbortError") setText(this.problem, error.message);
    } finally {
      [this.send.disabled, this.stop.disabled] = [false, true];
    }
  }

  async #ask() {
    this.begun = performance.now();
    this.times = { first: null, last: null, tokens: 0 };
    const body = {
      model: this.model.value, max_tokens: Number(this.most.value), stream: true,
      stream_options: { include_usage: true, continuous_usage_stats: true },
      messages: [{ role: "user", content: this.prompt.value }],
    };
    const response = await fetch("api/chat", {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal: this.abort.signal,
    });
    if (response.ok) return response;
    const problem = await response.json().catch(() => null);
    throw new Error(problem?.error?.message ?? `The gateway answered ${response.status}.`);
  }

  async #read(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let found = false;
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
        const chunk = JSON.parse(line.slice(6));
        if (chunk.error) throw new Error(chunk.error.message);
        this.#take(chunk);
        if (!found) found = true, this.#find(chunk.id);
      }
    }
  }

  #take(chunk) {
    const { times, figures } = this;
    const text = chunk.choices?.[0]?.delta?.content;
    if (chunk.usage) times.tokens = chunk.usage.completion_tokens;
    if (text) {
      times.last = performance.now();
      times.first ??= times.last;
      this.output.append(text);
      this.output.scrollTop = this.output.scrollHeight;
    }
    if (times.first === null) return;
    setText(figures.ttft, ms(times.first - this.begun));
    setText(figures.tokens, `${times.tokens}`);
    const spent = (times.last - times.first) / 1000;
    if (times.tokens > 1 && spent > 0) setText(figures.speed, ((times.tokens - 1) / spent).toFixed(1));
  }

  /** Waits for the decision that placed it, and highlights the lane. */
  async #find(id) {
    for (let tries = 0; tries < FIND_TRIES; tries++) {
      const request = this.store.requests.get(`${id}-0`);
      const lane = request && this.store.byId.get(request.instance);
      if (lane) {
        this.showLane(lane);
        this.lane.replaceChildren(`Runs on ${lane.id}: its lane is highlighted. Request `, h("code", {}, request.id));
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, FIND_PAUSE_MS));
    }
  }
}
