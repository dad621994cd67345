// The chart on Spectrum Accelerate: a bar per evaluation (tall computed, short forecast, outlined to come), feature
// errors over it, one headline. It never touches a node that is not ours.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const KIND = "SpectrumAccelerate";
const EVENT = "spectrum_accelerate.run";
const NAME = "spectrum_chart";
const HEIGHT = 92;
const ROWS = 4; // samplers of one prompt that are shown
const COLOURS = { computed: "#4c8dff", forecast: "#7f93b8", error: "#ff9a5c", off: "#e0a030" };

const views = new WeakMap(); // node -> its chart

function percent(value) {
  return value >= 0.1 ? `${Math.round(value * 100)} %` : `${Number((value * 100).toPrecision(1))} %`;
}

function headline(state) {
  const done = state.kinds.length;
  const computed = [...state.kinds].filter((kind) => kind === "c").length;
  if (state.outcome === "running") return `${done} of ${state.total}, ${computed} computed`;
  if (state.outcome !== "done") return `${state.outcome} after ${done} of ${state.total}`;
  if (state.off) return `off: ${state.off}`;
  const parts = [`${(done / Math.max(1, computed)).toFixed(1)}x fewer`];
  if (state.saved >= 0.05) parts.push(`saved ${state.saved < 10 ? state.saved.toFixed(1) : Math.round(state.saved)} s`);
  parts.push(state.error === null ? "error not known" : `about ${percent(state.error)} off`);
  return parts.join(", ");
}

class Chart {
  constructor(node) {
    this.node = node;
    this.rows = []; // {key, state}: a row per sampler of the latest prompt
    this.prompt = null;
    this.old = false;
    this.root = document.createElement("div");
    this.root.className = "spectrum-chart";
    this.root.style.cssText = "overflow:hidden;pointer-events:none;box-sizing:border-box;width:100%";
    this.canvas = document.createElement("canvas");
    this.canvas.style.cssText = "display:block;width:100%;height:100%";
    this.root.append(this.canvas);
    const options = {
      serialize: false,
      hideOnZoom: false,
      getMinHeight: () => HEIGHT,
      getMaxHeight: () => HEIGHT,
      getValue: () => undefined,
      setValue: () => {},
    };
    this.widget = node.addDOMWidget(NAME, NAME, this.root, options);
    this.widget.serialize = false;
    this.pending = 0;
    new ResizeObserver(() => this.draw()).observe(this.root);
    this.restore();
  }

  restore() {
    const saved = this.node.properties?.spectrum;
    if (Array.isArray(saved?.rows)) {
      this.rows = saved.rows.filter((row) => typeof row?.state?.kinds === "string").slice(0, ROWS);
      this.old = Boolean(saved.old);
    }
    this.draw();
  }

  receive(data) {
    if (data.prompt !== this.prompt) this.rows = [];
    this.prompt = data.prompt;
    const key = `${data.sampler_node}/${data.run ?? 0}`;
    const row = this.rows.find((candidate) => candidate.key === key);
    if (row) row.state = data.state;
    else if (this.rows.length < ROWS) this.rows.push({ key, state: data.state });
    this.old = false;
    if (data.state.outcome !== "running") this.save();
    this.draw();
  }

  save() {
    this.node.properties ??= {};
    this.node.properties.spectrum = { rows: this.rows, old: this.old };
  }

  outdate() {
    if (this.old || !this.rows.length) return;
    this.old = true;
    this.save();
    this.draw();
  }

  draw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      this.paint();
    });
  }

  paint() {
    const width = this.root.clientWidth;
    const height = this.root.clientHeight || HEIGHT;
    if (!width) return;
    const scale = window.devicePixelRatio || 1;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    const ink = getComputedStyle(document.body).getPropertyValue("--input-text").trim() || "#ddd";
    const rows = this.rows.length ? this.rows : [null];
    const each = height / rows.length;
    rows.forEach((row, index) => this.row(context, row?.state, 4, index * each, width - 8, each, ink));
    const texts = this.rows.map((row) => [row.state.off, ...(row.state.notes ?? [])].filter(Boolean).join("; "));
    this.root.title = texts.filter(Boolean).join("\n");
    this.root.dataset.text = this.rows.map((row) => headline(row.state)).join(" | ");
    this.root.dataset.old = String(this.old);
  }

  row(context, state, left, top, width, height, ink) {
    context.globalAlpha = this.old ? 0.45 : 1;
    context.font = "11px sans-serif";
    context.textBaseline = "top";
    if (!state) {
      context.globalAlpha = 0.6;
      context.fillStyle = ink;
      context.fillText("not sampled yet", left, top + 4);
      return;
    }
    const off = state.outcome === "done" && state.off;
    let text = (this.old ? "old: " : "") + headline(state);
    context.fillStyle = off ? COLOURS.off : ink;
    while (text.length > 4 && context.measureText(text).width > width) text = `${text.slice(0, -4).trimEnd()}...`;
    context.fillText(text, left, top + 4);
    const base = top + height - 4;
    const tall = Math.max(6, height - 24);
    const step = width / Math.max(1, state.total, state.kinds.length);
    const bar = Math.max(1, step * 0.8);
    for (let i = 0; i < Math.max(state.total, state.kinds.length); i++) {
      const kind = state.kinds[i];
      const size = kind === "f" ? tall / 3 : tall;
      const x = left + i * step;
      if (kind) {
        context.fillStyle = kind === "c" ? COLOURS.computed : COLOURS.forecast;
        context.fillRect(x, base - size, bar, size);
      } else {
        context.strokeStyle = COLOURS.forecast;
        context.strokeRect(x + 0.5, base - tall / 3 + 0.5, Math.max(1, bar - 1), tall / 3 - 1);
      }
    }
    const errors = (state.errors ?? []).map((error, i) => [i, error]).filter(([, error]) => error !== null);
    const largest = Math.max(...errors.map(([, error]) => error));
    if (errors.length > 1 && largest > 0) {
      context.strokeStyle = COLOURS.error;
      context.lineWidth = 1.5;
      context.beginPath();
      errors.forEach(([i, error], n) => {
        const point = [left + (i + 0.5) * step, base - (tall * error) / largest];
        if (n) context.lineTo(...point);
        else context.moveTo(...point);
      });
      context.stroke();
      context.lineWidth = 1;
    }
  }
}

// "12:7:5": node 5 in the subgraph of node 7 in that of node 12. Yields the node, and the subgraph nodes around it.
function path(id) {
  const found = [];
  let graph = app.rootGraph ?? app.graph;
  for (const part of String(id).split(":")) {
    const node = graph?.getNodeById?.(Number(part)) ?? graph?.getNodeById?.(part);
    if (!node) return [];
    found.push(node);
    graph = node.subgraph;
  }
  return found;
}

app.registerExtension({
  name: "spectrum-accelerate.chart",
  setup() {
    api.addEventListener(EVENT, ({ detail }) => {
      const node = path(detail.node).at(-1);
      if (node?.comfyClass === KIND) views.get(node)?.receive(detail);
    });
  },
  nodeCreated(node) {
    if (node.comfyClass !== KIND) return;
    const chart = new Chart(node);
    views.set(node, chart);
    const configured = node.onConfigure;
    node.onConfigure = function (...args) {
      const result = configured?.apply(this, args);
      chart.restore();
      return result;
    };
    const changed = node.onWidgetChanged;
    node.onWidgetChanged = function (...args) {
      const result = changed?.apply(this, args);
      chart.outdate();
      return result;
    };
  },
});
