// The chart on Spectrum Accelerate, and the menu entry that inserts the node.
//
// Tall bars are computed evaluations, short ones forecast, outlined ones planned; the line is the estimated error so
// far. The chart reads other nodes, to know the sampler's steps, and never changes one. Where our node is inside a
// subgraph, its chart also hangs under the subgraph's node, outside of it, so that no widget is added there.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const KIND = "SpectrumAccelerate";
const EVENT = "spectrum_accelerate.run";
const ROUTES = "/spectrum_accelerate";
const NAME = "spectrum_chart";
const HEIGHT = 96; // of the widget, from the start: nothing jumps when a run begins
const HANGING = 72; // of the chart under a subgraph's node
const ROWS = 4; // samplers of one prompt that are shown
const KEPT = 12; // rows that the workflow keeps, of all subgraphs that share a node
const MOST = 10000; // evaluations of a run that a workflow may claim
const TICK = 400; // ms
const COLOURS = { computed: "#4c8dff", forecast: "#8a9cc0", error: "#ff9a5c", off: "#e0a030" };
const LIGHT = { computed: "#2563d9", forecast: "#7587ab", error: "#c4520f", off: "#8a5a00" };

const charts = new Map(); // our node -> its chart
const painting = new WeakSet(); // subgraphs' nodes that paint a chart under themselves (classic canvas)
const hanging = new Map(); // a subgraph's node that is shown -> the element under it (Nodes 2.0)

// --- words ----------------------------------------------------------------------------------------------------------

let words = {}; // language -> the part of locales/*/main.json that is ours

async function loadWords() {
  const answer = await api.fetchApi("/i18n");
  const all = answer.ok ? await answer.json() : {};
  for (const [language, texts] of Object.entries(all)) {
    if (texts?.spectrumAccelerate) words[language] = texts.spectrumAccelerate;
  }
}

function language() {
  return app.extensionManager?.setting?.get?.("Comfy.Locale") ?? "en";
}

function template(group, key) {
  const found = words[language()]?.[group]?.[key] ?? words.en?.[group]?.[key];
  return typeof found === "string" ? found : undefined; // a key of a saved row may be anything
}

function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

function say(key, values = {}) {
  return fill(template("chart", key) ?? key, values);
}

// A message of the server: {key, values, plain}; values may be messages, or phrases that stand in a table.
function sentence(message) {
  const values = {};
  for (const [name, value] of Object.entries(message.values)) {
    values[name] = value?.key ? sentence(value) : (template("phrases", value) ?? value);
  }
  const text = template("messages", message.key);
  return text ? fill(text, values) : message.plain;
}

// The same in a few words.
function brief(message) {
  const text = template("short", message.values.obstacle) ?? template("short", message.key);
  return text ? fill(text, message.values) : sentence(message);
}

function number(value, digits) {
  return value.toLocaleString(language(), { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// --- what a row says ------------------------------------------------------------------------------------------------

// The parts of a headline, the most important first: as many are shown as fit.
function headline(state) {
  const done = state.kinds.length;
  const computed = state.kinds.replaceAll("f", "").length;
  const off = state.off && (state.outcome === "done" || state.outcome === "plan");
  if (off) return [say("off", { reason: brief(state.off) })];
  if (state.outcome === "plan") return [say("plan", { computed, total: state.total })];
  if (state.outcome === "running") return [say("running", { done, total: state.total }), say("computed", { computed })];
  if (state.outcome !== "done") return [say(state.outcome, { done, total: state.total })];
  const parts = [say("fewer", { ratio: number(done / Math.max(1, computed), 1) })];
  if (state.saved >= 0.05) parts.push(say("saved", { seconds: number(state.saved, state.saved < 10 ? 1 : 0) }));
  if (state.error === null) parts.push(say("unknown"));
  else {
    const percent = Number((state.error * 100).toPrecision(state.error >= 0.1 ? 2 : 1));
    parts.push(say("about", { percent: percent.toLocaleString(language()) }));
  }
  return parts;
}

function tooltip(rows) {
  const lines = rows.map(({ state }) => {
    const messages = [state.outcome === "running" ? null : state.off, ...(state.notes ?? [])];
    const where = [state.model, state.sampler].filter(Boolean).join(", ");
    return [headline(state).join(", "), where, ...messages.filter(Boolean).map(sentence)].filter(Boolean).join("\n");
  });
  return [...lines, say("legend")].join("\n\n");
}

const OUTCOMES = ["running", "done", "interrupted", "error"];

// Whether a row of a workflow, which anyone may have written, can be shown.
function isRow(row) {
  const object = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  const count = (value) => Number.isInteger(value) && value >= 0 && value <= MOST;
  const amount = (value) => value === null || value === undefined || Number.isFinite(value);
  const message = (value) =>
    object(value) && object(value.values) && Object.values(value.values).every((part) => !object(part) || message(part));
  const state = object(row) ? row.state : null;
  if (!object(state) || typeof state.kinds !== "string" || !count(state.kinds.length)) return false;
  const { total, settings, errors = [], error, saved, off, notes = [], outcome } = state;
  if (!OUTCOMES.includes(outcome) || !count(total) || !object(settings) || !amount(error) || !amount(saved)) return false;
  if (!count(errors.length)) return false;
  const listed = Array.isArray(errors) && errors.every(amount) && Array.isArray(notes) && notes.every(message);
  return listed && (off === null || off === undefined || message(off));
}

// --- drawing --------------------------------------------------------------------------------------------------------

function isLight() {
  const [r, g, b] = getComputedStyle(document.body).getPropertyValue("--comfy-menu-bg").match(/[\da-f]{2}/gi) ?? [];
  return b ? parseInt(r, 16) + parseInt(g, 16) + parseInt(b, 16) > 380 : false;
}

function zoom() {
  return app.canvas?.ds?.scale || 1;
}

function paint(context, rows, old, left, top, width, height) {
  const colours = isLight() ? LIGHT : COLOURS;
  const ink = isLight() ? "#222" : "#ddd";
  // Type keeps a legible size when the page is zoomed out; the headline then drops its last parts.
  const size = Math.min(19, Math.max(11, 11 / zoom()));
  if (!rows.length) {
    context.globalAlpha = 0.7;
    write(context, [say("idle")], ink, size, left, top, width);
    context.globalAlpha = 1;
    return;
  }
  const each = height / rows.length;
  rows.forEach(({ state }, index) => row(context, state, old, left, top + index * each, width, each, size, colours, ink));
}

function write(context, parts, colour, size, left, top, width) {
  let shown = [...parts];
  const text = () => shown.join(", ");
  do {
    context.font = `${size}px sans-serif`;
    while (shown.length > 1 && context.measureText(text()).width > width) shown.pop();
  } while (context.measureText(text()).width > width && --size >= 9);
  let line = text();
  if (context.measureText(line).width > width) {
    while (line.length > 4 && context.measureText(`${line}...`).width > width) line = line.slice(0, -1);
    line = `${line.trimEnd()}...`;
  }
  context.textBaseline = "top";
  context.fillStyle = colour;
  context.fillText(line, left, top);
}

function row(context, state, old, left, top, width, height, size, colours, ink) {
  context.globalAlpha = old ? 0.5 : 1;
  const planned = state.outcome === "plan";
  const off = state.off && (planned || state.outcome === "done");
  const parts = headline(state);
  if (old) parts[0] = say("old", { text: parts[0] });
  const type = Math.min(size, height * 0.5);
  write(context, parts, off ? colours.off : ink, type, left, top + 2, width);
  const count = Math.max(1, state.total, state.kinds.length);
  const base = top + height - 3;
  const tall = Math.max(4, height - type - 9);
  const step = width / count;
  const bar = step > 3 ? step - Math.max(1, step * 0.18) : step;
  for (let i = 0; i < count; i++) {
    const kind = state.kinds[i];
    const computed = kind ? kind === "c" : Boolean(off) || state.plan?.[i] === "c";
    const size = computed ? tall : tall / 3;
    const x = left + i * step;
    if (kind && !planned) {
      context.fillStyle = computed ? colours.computed : colours.forecast;
      context.fillRect(x, base - size, bar, size);
    } else {
      // Outlined; without room for an outline, and where all is computed for a reason, pale.
      context.strokeStyle = context.fillStyle = off ? colours.off : colours.forecast;
      const before = context.globalAlpha;
      context.globalAlpha = before * (off || bar < 4 ? 0.3 : 1);
      context.lineWidth = 1;
      if (off || bar < 4) context.fillRect(x, base - size, bar, size);
      else context.strokeRect(x + 0.5, base - size + 0.5, bar - 1, size - 1);
      context.globalAlpha = before;
    }
  }
  const known = (state.errors ?? []).map((error, i) => [i, error]).filter(([, error]) => error !== null);
  const largest = Math.max(0.02, ...known.map(([, error]) => error)); // small errors do not fill the chart
  if (known.length > 1) {
    context.strokeStyle = colours.error;
    context.lineWidth = 1.5;
    context.beginPath();
    known.forEach(([i, error], n) => {
      const point = [left + (i + 0.5) * step, base - ((tall - 2) * error) / largest];
      if (n) context.lineTo(...point);
      else context.moveTo(...point);
    });
    context.stroke();
  }
  context.globalAlpha = 1;
}

// A canvas that fills an element, sharp at the present zoom.
function draw(canvas, rows, old) {
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (!width || !height) return;
  const scale = (window.devicePixelRatio || 1) * Math.min(2, Math.max(1, zoom()));
  canvas.width = width * scale;
  canvas.height = height * scale;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  paint(context, rows, old, 4, 0, width - 8, height);
}

// --- graphs ---------------------------------------------------------------------------------------------------------

// "12:7:5": node 5 in the subgraph of node 7 in that of node 12.
function nodeAt(path) {
  let graph = app.rootGraph ?? app.graph;
  let node = null;
  for (const part of String(path).split(":")) {
    node = graph?.getNodeById?.(Number(part)) ?? graph?.getNodeById?.(part);
    graph = node?.subgraph;
  }
  return node;
}

// Our nodes in a subgraph's node: [path below it, node].
function* inside(host, depth = 0) {
  for (const node of (depth < 9 && host.subgraph?.nodes) || []) {
    if (node.comfyClass === KIND) yield [String(node.id), node];
    else if (node.subgraph) for (const [path, found] of inside(node, depth + 1)) yield [`${node.id}:${path}`, found];
  }
}

function linkAt(graph, id) {
  return id === null || id === undefined ? null : (graph.getLink?.(id) ?? graph.links?.get?.(id) ?? graph.links?.[id]);
}

// The node that feeds an input, or null; a subgraph's own input is no node.
function source(node, input) {
  const link = linkAt(node.graph, input?.link);
  return link ? (node.graph.getNodeById(link.origin_id) ?? null) : null;
}

// What a widget holds, or the primitive that it is linked to; undefined if that is not known.
function valueOf(node, name) {
  const input = node.inputs?.find((entry) => entry.widget?.name === name);
  if (input?.link === null || input?.link === undefined) return node.widgets?.find((w) => w.name === name)?.value;
  const feeding = source(node, input);
  return feeding?.widgets?.find((widget) => widget.name === "value")?.value;
}

// Steps, sampler and guidance of the first sampler that our node's MODEL reaches: {steps, sampler, cfg}, or null if not
// known.
function samplerOf(start) {
  const queue = [start];
  const seen = new Set(queue);
  while (queue.length && seen.size < 50) {
    const node = queue.shift();
    for (const output of node.outputs ?? []) {
      if (output.type !== "MODEL" && output.type !== "GUIDER") continue;
      for (const id of output.links ?? []) {
        const target = node.graph.getNodeById(linkAt(node.graph, id)?.target_id);
        if (!target || seen.has(target)) continue;
        seen.add(target);
        const found = sampling(target);
        if (found) return found;
        queue.push(target);
      }
    }
  }
  return null;
}

function sampling(node) {
  const has = (name) => node.widgets?.some((widget) => widget.name === name);
  if (has("steps") && has("sampler_name")) {
    let steps = valueOf(node, "steps");
    if (has("start_at_step")) steps = Math.min(steps, valueOf(node, "end_at_step")) - valueOf(node, "start_at_step");
    return { steps, sampler: valueOf(node, "sampler_name"), cfg: valueOf(node, "cfg") };
  }
  const input = (name) => node.inputs?.find((entry) => entry.name === name);
  if (!input("sigmas")) return null;
  let feeding = source(node, input("sigmas"));
  for (let hops = 0; feeding && hops < 5 && valueOf(feeding, "steps") === undefined; hops++) {
    feeding = source(feeding, feeding.inputs?.find((entry) => entry.type === "SIGMAS"));
  }
  const chooser = source(node, input("sampler"));
  const guider = source(node, input("guider")) ?? node;
  return feeding
    ? { steps: valueOf(feeding, "steps"), sampler: chooser && valueOf(chooser, "sampler_name"), cfg: valueOf(guider, "cfg") }
    : null;
}

// --- the chart ------------------------------------------------------------------------------------------------------

class Chart {
  constructor(node) {
    this.node = node;
    this.rows = []; // {path, prompt, sampler, run, state, made: by what `sampling`}
    this.plan = null; // a row, while there is no run to show
    this.shown = ""; // what was drawn last, for `tick`
    this.question = "";
    this.root = document.createElement("div");
    this.root.className = "spectrum-chart";
    this.root.style.cssText = `overflow:hidden;box-sizing:border-box;width:100%;max-height:${HEIGHT}px`;
    this.canvas = document.createElement("canvas");
    this.canvas.style.cssText = "display:block;width:100%;height:100%";
    this.root.append(this.canvas);
    passOn(this.root);
    const options = {
      serialize: false, // not in the prompt
      hideOnZoom: false,
      getMinHeight: () => HEIGHT,
      getMaxHeight: () => HEIGHT,
      getValue: () => undefined,
      setValue: () => {},
    };
    this.widget = node.addDOMWidget(NAME, NAME, this.root, options);
    this.widget.serialize = false; // not in the saved workflow's values
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.root);
  }

  // The runs that the workflow kept; a copy of a node holds those of the other one.
  restore() {
    const kept = this.node.properties?.spectrum?.rows;
    for (const row of Array.isArray(kept) ? kept : []) {
      if (isRow(row) && nodeAt(row.path) === this.node) this.add(row);
    }
    this.draw();
  }

  add(row, live = false) {
    // The clocks of two servers may differ: what runs here and now is the latest.
    if (!live && this.rows.some((kept) => kept.path === row.path && kept.run > row.run && kept.prompt !== row.prompt)) return;
    const others = this.rows.filter((kept) => kept.run !== row.run || kept.path !== row.path);
    const still = others.filter((kept) => kept.path !== row.path || kept.prompt === row.prompt);
    this.rows = [...still, row].sort((a, b) => a.run - b.run).slice(-KEPT);
  }

  // Keep: in the workflow. Not after an undo, which would then be no undo.
  receive({ node: path, prompt, sampler_node: sampler, run, state }, live, keep) {
    const known = this.rows.find((row) => row.path === path && row.run === run);
    const made = known ? known.made : live ? this.sampling() : "";
    this.add({ path, prompt, sampler, run, state, made }, live);
    if (keep && state.outcome !== "running") {
      this.node.properties ??= {};
      this.node.properties.spectrum = { rows: this.rows };
    }
    this.draw();
  }

  // The rows of the latest prompt: of all paths, or of those that end so.
  latest(ending = null) {
    const rows = ending ? this.rows.filter(({ path }) => `:${path}`.endsWith(`:${ending}`)) : this.rows;
    const last = rows.at(-1);
    const found = rows.filter((row) => row.path === last.path && row.prompt === last.prompt).slice(0, ROWS);
    return found.length || ending || !this.plan ? found : [this.plan];
  }

  // Our node's values, by the names that the server uses; those that another node feeds are unknown.
  values() {
    const linked = new Set((this.node.inputs ?? []).filter((i) => i.widget && i.link !== null).map((i) => i.widget.name));
    const own = (this.node.widgets ?? []).filter((w) => w !== this.widget && !linked.has(w.name));
    return Object.fromEntries(own.map((w) => [w.name.split(".").at(-1), w.value]));
  }

  // Steps and sampler, to compare; empty if not known.
  sampling() {
    const found = this.node.graph ? samplerOf(this.node) : null;
    return found?.steps > 0 ? `${found.sampler}, ${found.steps}` : "";
  }

  // Whether a run was made by this node as it stands.
  isOld(rows) {
    if (!rows.length || rows[0].state.outcome === "plan") return false;
    if (this.node.mode !== 0) return true;
    const { made, state } = rows[0];
    const now = this.sampling();
    if (rows.length === 1 && made && now && made !== now) return true;
    const settings = state.settings;
    return Object.entries(this.values()).some(([name, value]) => name in settings && settings[name] !== value);
  }

  // Ask for the plan, where there is no run to show and the steps are known.
  async ask() {
    if (this.rows.length) return;
    const found = this.node.mode === 0 && this.node.graph ? samplerOf(this.node) : null;
    const question = found?.steps > 0 ? JSON.stringify({ ...found, values: this.values() }) : "";
    if (question === this.question) return;
    this.question = question;
    let answer = null;
    if (question) {
      const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: question };
      const response = await api.fetchApi(`${ROUTES}/plan`, options).catch(() => null);
      answer = response?.ok ? await response.json() : null;
    }
    if (question !== this.question) return; // a later question is on its way
    const state = answer && { outcome: "plan", total: found.steps, kinds: answer.kinds ?? "", plan: answer.kinds };
    this.plan = state && { state: { ...state, off: answer.off ?? null, sampler: found.sampler } };
    this.draw();
  }

  draw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      const rows = this.latest();
      const old = this.isOld(rows);
      draw(this.canvas, rows, old);
      this.root.title = rows.length ? tooltip(rows) : "";
      this.root.dataset.text = rows.map(({ state }) => headline(state).join(", ")).join(" | ");
      this.root.dataset.old = String(old);
      this.shown = this.look();
    });
  }

  look() {
    return [this.isOld(this.latest()), zoom().toFixed(1), language(), isLight(), Boolean(words.en)].join();
  }

  remove() {
    this.observer.disconnect();
    charts.delete(this.node);
  }
}

// In the classic canvas the element lies over the canvas: what it does not need goes there.
function passOn(element) {
  const classic = () => !window.LiteGraph?.vueNodesMode;
  element.addEventListener("wheel", (event) => classic() && app.canvas.processMouseWheel(event), { passive: true });
  element.addEventListener("pointerdown", (event) => classic() && app.canvas.processMouseDown(event));
}

// --- under the nodes of closed subgraphs ----------------------------------------------------------------------------

function rowsOf(host) {
  const found = [...inside(host)].map(([path, node]) => [charts.get(node), path]);
  const each = found.map(([chart, path]) => [chart, chart?.latest(`${host.id}:${path}`) ?? []]);
  const rows = each.flatMap(([, list]) => list).slice(-ROWS);
  return { rows, old: host.mode !== 0 || each.some(([chart, list]) => list.length && chart.isOld(list)) };
}

function paintUnder(host, context) {
  const { rows, old } = rowsOf(host);
  if (!rows.length || window.LiteGraph?.vueNodesMode) return;
  const top = (host.flags?.collapsed ? 0 : host.size[1]) + 6;
  context.save();
  context.fillStyle = isLight() ? "#f4f5f7" : "#1d2027";
  context.fillRect(0, top, host.size[0], HANGING);
  paint(context, rows, old, 6, top + 2, host.size[0] - 12, HANGING - 4);
  context.restore();
}

function paintAlways(host) {
  painting.add(host);
  const painted = host.onDrawForeground;
  host.onDrawForeground = function (context, ...rest) {
    const result = painted?.call(this, context, ...rest);
    paintUnder(host, context);
    return result;
  };
}

function hang(host) {
  const element = document.createElement("div");
  element.className = "spectrum-hanging";
  const place = `position:absolute;left:0;right:0;top:100%;height:${HANGING}px;margin-top:6px;border-radius:6px`;
  element.style.cssText = `${place};overflow:hidden;pointer-events:none`;
  const canvas = document.createElement("canvas");
  canvas.style.cssText = "display:block;width:100%;height:100%";
  element.append(canvas);
  hanging.set(host, element);
}

function drawHanging() {
  const hosts = new Set((app.canvas?.graph?.nodes ?? []).filter((node) => node.subgraph && !inside(node).next().done));
  for (const host of hosts) {
    if (!painting.has(host)) paintAlways(host);
    if (!hanging.has(host)) hang(host);
  }
  for (const [host, element] of hanging) {
    if (!hosts.has(host)) {
      element.remove();
      hanging.delete(host);
      continue;
    }
    const { rows, old } = rowsOf(host);
    const parent = window.LiteGraph?.vueNodesMode && document.querySelector(`[data-node-id="${CSS.escape(host.id)}"]`);
    if (!rows.length || !parent) {
      element.remove();
      continue;
    }
    if (element.parentElement !== parent) parent.append(element);
    element.style.background = isLight() ? "#f4f5f7" : "#1d2027";
    draw(element.firstChild, rows, old);
    element.dataset.text = rows.map(({ state }) => headline(state).join(", ")).join(" | ");
  }
}

// --- the menu -------------------------------------------------------------------------------------------------------

// The MODEL input of a node that samples: its output is a latent or a guider.
function modelInput(node) {
  if (node.comfyClass === KIND || !inside(node).next().done) return -1;
  if (!node.outputs?.some(({ type }) => type === "LATENT" || type === "GUIDER")) return -1;
  return node.inputs?.findIndex(({ type }) => type === "MODEL") ?? -1;
}

function accelerate(sampler) {
  const graph = sampler.graph;
  const slot = modelInput(sampler);
  const link = linkAt(graph, sampler.inputs[slot].link);
  graph.beforeChange?.();
  const node = window.LiteGraph.createNode(KIND);
  graph.add(node);
  const gap = 60;
  node.pos = [sampler.pos[0] - node.size[0] - gap, sampler.pos[1]];
  if (link) {
    // A link from the subgraph's own input is no node's: it is connected by its slot.
    const origin = graph.getNodeById(link.origin_id);
    if (origin) origin.connect(link.origin_slot, node, 0);
    else graph.inputs?.[link.origin_slot]?.connect(node.inputs[0], node);
  }
  node.connect(0, sampler, slot);
  graph.afterChange?.();
  app.canvas.setDirty(true, true);
}

// --- life -----------------------------------------------------------------------------------------------------------

function receive(data, live, keep = live) {
  const workflow = (app.rootGraph ?? app.graph)?.id ?? "";
  if (data.workflow !== workflow) return; // of another tab, asked for when it is shown; or of a client without a page
  const node = nodeAt(data.node);
  if (node?.comfyClass === KIND) charts.get(node)?.receive(data, live, keep);
}

let caughtUp = null; // the workflow that was opened last

// Whether a node is in the workflow that is open; one of another's subgraph is told of nothing.
function isOpen(node) {
  const root = app.rootGraph ?? app.graph;
  return node.graph === root || Boolean(node.graph && (root.subgraphs?.get(node.graph.id) ?? node.graph) === node.graph);
}

async function catchUp() {
  for (const [node, chart] of charts) if (!isOpen(node)) chart.remove();
  for (const chart of charts.values()) chart.restore();
  const workflow = (app.rootGraph ?? app.graph)?.id ?? "";
  const another = workflow !== caughtUp;
  caughtUp = workflow;
  const answer = await api.fetchApi(`${ROUTES}/runs?workflow=${encodeURIComponent(workflow)}`).catch(() => null);
  if (answer?.ok) (await answer.json()).forEach((data) => receive(data, false, another));
}

// No event tells of zoom, bypass, theme and other nodes' widgets in both renderers, so all are looked at in turn.
function tick() {
  for (const chart of charts.values()) {
    if (!chart.node.graph) continue;
    chart.ask();
    if (chart.look() !== chart.shown) chart.draw();
  }
  drawHanging();
}

app.registerExtension({
  name: "spectrumaccelerate.chart",
  async setup() {
    api.addEventListener(EVENT, ({ detail }) => receive(detail, true));
    setInterval(tick, TICK);
    await loadWords();
  },
  nodeCreated(node) {
    if (node.comfyClass !== KIND) return;
    const chart = new Chart(node);
    charts.set(node, chart);
    const removed = node.onRemoved;
    node.onRemoved = function (...args) {
      chart.remove();
      return removed?.apply(this, args);
    };
  },
  loadedGraphNode(node) {
    charts.get(node)?.restore();
  },
  async afterConfigureGraph() {
    await catchUp();
  },
  getNodeMenuItems(node) {
    const slot = modelInput(node);
    if (slot < 0 || source(node, node.inputs[slot])?.comfyClass === KIND) return [];
    return [{ content: template("menu", "accelerate") ?? "Accelerate this sampler", callback: () => accelerate(node) }];
  },
});
