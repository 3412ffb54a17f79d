// Keeps the list of jobs fresh while the page is looked at.
"use strict";

const ENDED = ["succeeded", "failed", "cancelled"];
const rows = new Map([...document.querySelectorAll("tr[data-job]")].map((row) => [row.dataset.job, row]));

function show(row, job) {
  const field = (name) => row.querySelector(`[data-field=${name}]`);
  const ended = ENDED.includes(job.status);
  field("status").textContent = job.status;
  field("status").className = `pill ${job.status}`;
  field("outcome").textContent = (job.outcome || "").replace("_", " ");
  field("outcome").className = `outcome ${job.outcome || ""}`;
  field("phase").textContent = ended ? "" : job.phase || "";
  field("progress").value = Math.round(100 * job.progress);
  field("progress").hidden = ended || job.status === "queued";
  const { dense_ms: dense, measured_ms: measured } = job.summary || {};
  if (dense && measured) field("speed").textContent = `${dense.toPrecision(3)} → ${measured.toPrecision(3)} ms (${(dense / measured).toFixed(1)}×)`;
}

async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch("/v1/prune-jobs?limit=100");
    if (answer.status === 401) return location.reload(); // the login has ended: the page leads to a new one
    if (!answer.ok) return;
    const jobs = (await answer.json()).items;
    if (jobs.some((job) => !rows.has(job.id))) return location.reload();
    for (const job of jobs) show(rows.get(job.id), job);
  } catch { /* the service is away; the next look may find it */ }
}

setInterval(refresh, 3000);
document.addEventListener("visibilitychange", refresh);
