// Puts the page together.

import { Figures } from "./charts.js";
import { ClusterPanel } from "./cluster_panel.js";
import { Demo } from "./demo.js";
import { setText } from "./dom.js";
import { Feed } from "./feed.js";
import { count, plural } from "./format.js";
import { InstancesPanel } from "./instances_panel.js";
import { Playground } from "./playground.js";
import { RequestsPanel } from "./requests_panel.js";
import { Rhythm } from "./rhythm.js";
import { FUSED, PREFILL, Store } from "./store.js";

const byId = (id) => document.getElementById(id);
const LINK_TEXTS = { connecting: "Connecting", live: "Live", lost: "Connection lost, trying again" };

const store = new Store();
const feed = new Feed("api/stream", (step) => store.apply(step), showLink);
const figures = new Figures(byId("figures"), store);
const rhythm = new Rhythm(byId("rhythm"), store, feed, chosen);
const showLane = (lane) => rhythm.select(lane);
const cluster = new ClusterPanel(byId("panel-cluster"), store, openRequest);
const requests = new RequestsPanel(byId("panel-requests"), store, showLane);
const instances = new InstancesPanel(byId("panel-instances"), store, showLane);
let demo = null;

/** For looking around in the browser's console, and for tests. */
globalThis.rondo = { store, feed, rhythm };

theme();
tabs();
tools();
feed.open();
about();
setInterval(everySecond, 1000);
store.addEventListener("requests", soon(() => requests.draw(), 500));
store.addEventListener("layout", () => keepChosen());

async function about() {
  for (let pauseMs = 500; ; pauseMs = Math.min(8000, pauseMs * 2)) {
    const response = await fetch("api/about").catch(() => null);
    if (response?.ok) {
      const facts = await response.json();
      figures.about = facts;
      figures.draw();
      new Playground(byId("panel-playground"), store, facts, showLane);
      if (facts.demo) demo = new Demo(byId("panel-playground"), store, facts);
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
}

function everySecond() {
  cluster.draw();
  instances.draw();
  if (requests.stale) requests.draw();
  const here = [...store.lanes.values()].filter((lane) => lane.goneAt === null);
  const running = here.reduce((sum, lane) => sum + lane.running, 0);
  const pending = Object.values(store.pending).reduce((sum, number) => sum + number, 0);
  const parts = [plural(here.length, "instance"), plural(store.macros.length, "macro-instance"), `${count(running)} running`];
  if (pending) parts.push(`${count(pending)} waiting for admission`);
  setText(byId("summary"), here.length ? parts.join(" · ") : "No instance yet");
  const turn = here.filter((lane) => lane.phase === PREFILL || lane.phase === FUSED).map((lane) => lane.id);
  setText(byId("spoken"), `${parts.join(", ")}. Prefill turn: ${turn.slice(0, 5).join(", ") || "nobody"}.`);
}

function showLink(state) {
  byId("link").dataset.state = state;
  setText(byId("link").firstElementChild, LINK_TEXTS[state]);
}

function chosen(lane) {
  cluster.choose(lane);
  demo?.choose(lane);
}

/** After everything came anew, the lane of the same name is the chosen one. */
function keepChosen() {
  const lane = rhythm.selected;
  if (!lane || store.lanes.get(lane.number) === lane) return;
  rhythm.select(store.byId.get(lane.id) ?? null, false);
}

function openRequest(id) {
  show("requests");
  requests.open(id);
}

function show(name) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const on = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", on);
    tab.tabIndex = on ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !on;
  }
  everySecond();
  if (name === "requests") requests.draw();
}

function tabs() {
  const all = [...document.querySelectorAll("[role=tab]")];
  for (const tab of all) tab.addEventListener("click", () => show(tab.id.slice(4)));
  all[0].parentElement.addEventListener("keydown", (event) => {
    const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!way) return;
    const next = all[(all.indexOf(document.activeElement) + way + all.length) % all.length];
    next.focus();
    show(next.id.slice(4));
  });
}

function tools() {
  byId("span").addEventListener("change", (event) => rhythm.set({ span: Number(event.target.value) }));
  byId("size").addEventListener("change", (event) => rhythm.set({ size: Number(event.target.value) }));
  byId("hold").addEventListener("click", (event) => {
    const held = event.target.getAttribute("aria-pressed") !== "true";
    event.target.setAttribute("aria-pressed", held);
    rhythm.hold(held);
  });
}

function theme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const select = byId("theme");
  const set = () => {
    const wanted = select.value === "auto" ? (dark.matches ? "dark" : "light") : select.value;
    document.documentElement.dataset.theme = wanted;
    rhythm.themed();
    figures.draw();
  };
  select.value = localStorage.getItem("rondo.theme") ?? "auto";
  select.addEventListener("change", () => (localStorage.setItem("rondo.theme", select.value), set()));
  dark.addEventListener("change", set);
  set();
}

/** At most once in so many ms, and for certain after the last call. */
function soon(work, pauseMs) {
  let timer = 0;
  return () => {
    timer ||= setTimeout(() => ((timer = 0), work()), pauseMs);
  };
}
