// Follows one job: its events come as a stream, its figures and files are asked for when something has changed.
"use strict";

const ENDED = ["succeeded", "failed", "cancelled"];
const MOST_LINES = 1000;
const SVG = "http://www.w3.org/2000/svg";
const root = document.getElementById("job");
const id = encodeURIComponent(root.dataset.job);
const byId = (name) => document.getElementById(name);
const steps = [...byId("steps").children];

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function number(value) {
  if (typeof value !== "number") return typeof value === "string" ? value : JSON.stringify(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

function size(bytes) {
  const power = Math.min(Math.floor(Math.log(Math.max(bytes, 1)) / Math.log(1024)), 3);
  return `${number(Number((bytes / 1024 ** power).toPrecision(3)))} ${["B", "KiB", "MiB", "GiB"][power]}`;
}

function sentence(event) {
  const data = event.data;
  if (event.kind === "status") return data.outcome ? `${data.status}: ${data.outcome.replace("_", " ")}` : data.status;
  if (event.kind === "phase") return data.phase;
  if (typeof data.text === "string") return data.code ? `${data.text} (${data.code})` : data.text;
  const values = data.values && typeof data.values === "object" ? data.values : data;
  return Object.entries(values).map(([name, value]) => `${name} ${number(value)}`).join(" · ");
}

function showPhase(phase) {
  const at = steps.findIndex((step) => step.dataset.phase === phase);
  steps.forEach((step, place) => { step.className = place < at ? "done" : place === at ? "now" : ""; });
}

function showLine(event) {
  const log = byId("log");
  const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  const line = element("li", undefined, event.kind);
  line.append(element("time", new Date(event.created_at).toLocaleTimeString("en-GB")), element("span", event.kind, "kind"), element("span", sentence(event), "text"));
  log.append(line);
  while (log.children.length > MOST_LINES) log.firstChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function bar(label, value, most, className, budget) {
  const row = element("div", undefined, "bar");
  const picture = document.createElementNS(SVG, "svg");
  const rect = (width, kind) => {
    const shape = document.createElementNS(SVG, "rect");
    Object.entries({ x: 0, y: 2, height: 12, rx: 3, width: `${width}%`, class: kind }).forEach(([name, v]) => shape.setAttribute(name, v));
    picture.append(shape);
  };
  rect(100, "back");
  rect((100 * value) / most, className);
  if (budget) {
    const line = document.createElementNS(SVG, "line");
    const x = `${(100 * budget) / most}%`;
    Object.entries({ x1: x, x2: x, y1: 0, y2: 16 }).forEach(([name, v]) => line.setAttribute(name, v));
    picture.append(line);
  }
  row.append(element("span", label, "quiet"), picture, element("span", `${number(value)} ms`, "right"));
  return row;
}

function showSummary(summary) {
  const figures = Object.entries(summary || {}).filter(([, value]) => ["number", "string", "boolean"].includes(typeof value));
  byId("figures").hidden = !figures.length;
  byId("numbers").replaceChildren(...figures.flatMap(([name, value]) => {
    const share = name.startsWith("accuracy") && typeof value === "number";
    return [element("dt", name.replaceAll("_", " ")), element("dd", share ? `${(100 * value).toFixed(2)} %` : number(value))];
  }));
  const { dense_ms: dense, measured_ms: measured, budget_ms: budget } = summary || {};
  const most = Math.max(dense || 0, measured || 0, budget || 0);
  const bars = [];
  if (dense) bars.push(bar("dense", dense, most, "dense", budget));
  if (measured) bars.push(bar("slim", measured, most, budget && measured > budget ? "over" : "slim", budget));
  if (budget) bars.push(element("p", `The line is the budget, ${number(budget)} ms.`, "quiet small"));
  byId("bars").replaceChildren(...bars);
}

function showFiles(files) {
  byId("files").replaceChildren(...files.map((file) => {
    const link = element("a", file.name);
    link.href = `/v1/prune-jobs/${id}/artifacts/${encodeURIComponent(file.name)}`;
    link.download = file.name;
    const item = element("li");
    item.append(link, " ", element("span", size(file.size_bytes), "quiet"));
    return item;
  }));
  byId("report").hidden = !files.some((file) => file.name === "report.html");
}

function showJob(job) {
  const { status } = job;
  byId("status").textContent = status;
  byId("status").className = `pill ${status}`;
  byId("outcome").textContent = (job.outcome || "").replace("_", " ");
  byId("outcome").className = `outcome ${job.outcome || ""}`;
  byId("progress").value = Math.round(100 * job.progress);
  byId("attempt").textContent = job.attempt;
  byId("cancel").hidden = !["queued", "running"].includes(status);
  byId("retry").hidden = !["failed", "cancelled"].includes(status);
  byId("failure").hidden = !job.failure;
  if (job.failure) byId("failure").replaceChildren(element("b", job.failure.code), ` ${job.failure.detail}`);
  if (status === "succeeded") steps.forEach((step) => { step.className = "done"; });
  else showPhase(job.phase);
  showSummary(job.summary);
}

async function refresh() {
  try {
    const [job, files] = await Promise.all([fetch(`/v1/prune-jobs/${id}`), fetch(`/v1/prune-jobs/${id}/artifacts`)]);
    if (job.status === 401) return location.reload(); // the login has ended: the page leads to a new one
    if (job.ok) showJob(await job.json());
    if (files.ok) showFiles((await files.json()).items);
  } catch { /* the service is away; the stream says when it is back */ }
}

let pending;
function refreshSoon() {
  clearTimeout(pending);
  pending = setTimeout(refresh, 300);
}

function follow() {
  let last = 0;
  const source = new EventSource(`/v1/prune-jobs/${id}/events`);
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    if (event.id <= last) return;
    last = event.id;
    if (event.kind === "progress") {
      byId("progress").value = Math.round(100 * event.data.progress);
      return;
    }
    if (event.kind === "phase") showPhase(event.data.phase);
    showLine(event);
    refreshSoon();
    // The stream ends with the job; without this the browser would open it again and again.
    if (event.kind === "status" && ENDED.includes(event.data.status)) checkEnd(source);
  };
}

async function checkEnd(source) {
  const answer = await fetch(`/v1/prune-jobs/${id}`);
  if (answer.ok && ENDED.includes((await answer.json()).status)) source.close();
}

async function act(verb) {
  const buttons = [byId("cancel"), byId("retry")];
  buttons.forEach((button) => { button.disabled = true; });
  const answer = await fetch(`/v1/prune-jobs/${id}/${verb}`, { method: "POST" });
  buttons.forEach((button) => { button.disabled = false; });
  if (!answer.ok) {
    const problem = await answer.json();
    byId("failure").hidden = false;
    byId("failure").textContent = problem.detail;
  } else if (verb === "retry") location.reload();
  else refresh();
}

byId("cancel").addEventListener("click", () => act("cancel"));
byId("retry").addEventListener("click", () => act("retry"));
showSummary(JSON.parse(root.dataset.summary));
refresh();
follow();
