// The page of the gateway: pictures go in as submissions, and come back as server-sent events.
// All text is set as text, never as markup.

import { Gateway, Problem, eventsOf, limiter, newKey } from "/page/gateway.js";

const CHUNK_FILES = 20; // One submission: the first results come while the rest is being sent.
const CHUNK_BYTES = 32 * 2 ** 20;
const UPLOADS = 2; // With the streams, fewer than the six connections that a browser opens to a host.
const STREAMS = 3;
const STREAM_S = 20; // Then another submission's turn comes, and this one's again.
const INTERACTIVE_FILES = 8; // So few go before submissions of many.
const LOOK_EVERY_MS = 5_000;
const LONG_MS = 20_000;

const $ = (id) => document.getElementById(id);
const percent = new Intl.NumberFormat(undefined, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const STATES = {
  waiting: "Waiting", sending: "Sending", queued: "Queued", running: "Running", succeeded: "Done", refused: "Refused",
  failed: "Failed", dead: "Gave up", cancelled: "Cancelled", expired: "Expired",
};
const isOpen = (entry) => ["waiting", "sending", "queued", "running"].includes(entry.state);

let entries = []; // One for each picture: {file, card, state, since, jobId}.
let session = new AbortController(); // Ends with "Clear".
const gateway = new Gateway({ note, needKey });
const uploading = limiter(UPLOADS);
const streaming = limiter(STREAMS);

// --- Handing in ------------------------------------------------------------------------------------------------

function take(files) {
  const added = [...files].map((file) => ({ file, card: newCard(file), state: "waiting", since: Date.now() }));
  if (added.length === 0) return;
  entries.push(...added);
  $("results").prepend(...added.map((entry) => entry.card));
  added.forEach((entry) => show(entry, "waiting"));
  const lane = added.length > INTERACTIVE_FILES ? "bulk" : "interactive";
  for (const chunk of chunksOf(added)) {
    serve(chunk, lane, session.signal).catch((error) => {
      if (error.name === "AbortError") return;
      for (const entry of chunk.filter(isOpen)) show(entry, "refused", { detail: error.message });
    });
  }
  lookAround();
}

function chunksOf(some) {
  const chunks = [];
  let bytes = Infinity;
  for (const entry of some) {
    if (bytes + entry.file.size > CHUNK_BYTES || chunks.at(-1).length === CHUNK_FILES) {
      chunks.push([]);
      bytes = 0;
    }
    chunks.at(-1).push(entry);
    bytes += entry.file.size;
  }
  return chunks;
}

async function serve(chunk, lane, signal) {
  const submissionId = await uploading(() => submit(chunk, lane, signal));
  if (submissionId) await follow(submissionId, new Map(chunk.map((entry) => [entry.jobId, entry])), signal);
}

/** Submit what can be read; return the submission's id, or null where every picture was refused. */
async function submit(chunk, lane, signal) {
  const form = new FormData();
  const named = new Map();
  for (const entry of chunk) {
    try {
      await entry.file.slice(0, 1).arrayBuffer(); // A folder, or a file that is gone, would fail the whole request.
    } catch {
      show(entry, "refused", { detail: "This cannot be read: is it a folder, or has it been moved?" });
      continue;
    }
    const plain = entry.file.name.replace(/["\r\n]/g, "'");
    let name = plain;
    for (let number = 2; named.has(name); number += 1) name = plain.replace(/(\.[^.]*)?$/, ` (${number})$1`);
    named.set(name, entry); // Pasted pictures all have the same name.
    form.append("images", entry.file, name);
    show(entry, "sending");
  }
  if (named.size === 0) return null;
  const options = { method: "POST", body: form, headers: { "Idempotency-Key": newKey() } };
  const accepted = await gateway.askJson(`/v1/submissions?rejected=skip&lane=${lane}`, signal, options);
  for (const rejection of accepted.rejected) {
    show(named.get(rejection.source), "refused", { detail: rejection.detail });
    named.delete(rejection.source);
  }
  [...named.values()].forEach((entry, place) => {
    entry.jobId = accepted.job_ids[place];
    show(entry, "queued");
  });
  return accepted.submission_id;
}

// --- Following -------------------------------------------------------------------------------------------------

async function follow(submissionId, byJob, signal) {
  let lastId = "";
  while (lastId !== "end") {
    await streaming(async () => {
      const headers = lastId && { "Last-Event-ID": lastId };
      const answer = await gateway.ask(`/v1/submissions/${submissionId}/events?wait_s=${STREAM_S}`, signal, { headers });
      try {
        for await (const { event, data, id } of eventsOf(answer.body)) {
          if (event === "job") finish(byJob.get(data.job_id), data);
          if (event === "progress" && data.counts.running) await markRunning(submissionId, byJob, signal);
          lastId = id ?? lastId;
        }
      } catch (error) {
        if (signal.aborted) throw error; // Else the connection broke: it goes on after the last event.
      }
    });
  }
}

async function markRunning(submissionId, byJob, signal) {
  const path = `/v1/jobs?submission_id=${submissionId}&state=running&limit=${CHUNK_FILES}`;
  const { jobs } = await gateway.askJson(path, signal);
  for (const job of jobs) {
    const entry = byJob.get(job.job_id);
    if (entry?.state === "queued") show(entry, "running");
  }
}

function finish(entry, job) {
  entry.job = job;
  show(entry, job.state, job.error ?? {});
  if (job.model && !job.model.trained) {
    note("untrained", "This model is untrained: its labels mean nothing (alexq models pull fetches a trained one).");
  }
}

// --- Showing ---------------------------------------------------------------------------------------------------

function newCard(file) {
  const card = $("card").content.cloneNode(true).firstElementChild;
  const picture = card.querySelector("img");
  const url = URL.createObjectURL(file);
  picture.addEventListener("load", () => URL.revokeObjectURL(url));
  picture.addEventListener("error", () => (URL.revokeObjectURL(url), picture.remove())); // What it is, the gateway says.
  picture.src = url;
  card.querySelector("h3").textContent = card.querySelector("h3").title = file.name;
  return card;
}

function show(entry, state, { detail } = {}) {
  entry.state = state;
  entry.card.dataset.state = state;
  entry.card.querySelector(".state").textContent = STATES[state];
  entry.card.querySelector(".error").textContent = detail ?? "";
  if (entry.job) showResult(entry.card, entry.job);
  if (!isOpen(entry)) announce(entry, detail);
  refresh();
}

function showResult(card, job) {
  card.querySelector(".labels").replaceChildren(...job.predictions.map(({ label, probability }) => {
    const line = $("label").content.cloneNode(true).firstElementChild;
    line.querySelector(".name").textContent = label;
    line.querySelector(".value").textContent = probability < 0.001 ? `<${percent.format(0.001)}` : percent.format(probability);
    line.querySelector(".fill").style.setProperty("--share", `${100 * probability}%`);
    return line;
  }));
  const took = job.timings.total_s === null ? "" : `, ${job.timings.total_s.toFixed(2)} s`;
  card.querySelector(".made-by").textContent = job.model ? `${job.model.name}/${job.model.version}${took}` : "";
  const link = card.querySelector(".json");
  link.href = `/v1/jobs/${job.job_id}`;
  link.hidden = false;
  link.setAttribute("aria-label", `JSON of ${job.source}`);
  link.addEventListener("click", (event) => {
    if (!gateway.hasKey) return; // A link cannot send a key: show what came.
    event.preventDefault();
    window.open(URL.createObjectURL(new Blob([JSON.stringify(job, null, 2)], { type: "application/json" })));
  });
}

let refreshing = 0;
function refresh() {
  refreshing ||= requestAnimationFrame(() => {
    refreshing = 0;
    const done = entries.filter((entry) => !isOpen(entry));
    const bad = done.filter((entry) => entry.state !== "succeeded").length;
    $("summary").textContent = entries.length ? `${done.length} of ${entries.length} done${bad ? `, ${bad} without a result` : ""}` : "";
    $("overall").value = entries.length ? done.length / entries.length : 0;
    $("overall").hidden = done.length === entries.length;
    $("empty").hidden = entries.length > 0;
    $("clear").hidden = entries.length === 0;
    if (done.length === entries.length) ["workers", "long"].forEach((about) => note(about));
  });
}

/** Say or, without text, no longer say something about the whole page. */
function note(about, text = "") {
  let shown = document.querySelector(`#notes [data-about="${about}"]`);
  if (!text) return shown?.remove();
  if (shown?.textContent === text) return;
  if (!shown) {
    shown = document.createElement("p");
    shown.dataset.about = about;
    $("notes").append(shown);
  }
  shown.textContent = text;
}

let told = [];
function announce(entry, detail) {
  const best = entry.job?.predictions[0];
  told.push(`${entry.file.name}: ${best ? `${best.label}, ${percent.format(best.probability)}` : `${STATES[entry.state]}. ${detail ?? ""}`}`);
  if (told.length > 1) return;
  setTimeout(() => {
    $("announcer").textContent = told.length > 3 ? `${told.length} more pictures are done.` : told.join(". ");
    told = [];
  }, 700);
}

// --- Looking around: is there a gateway, a worker? ---------------------------------------------------------------

let looking = 0;
async function lookAround() {
  clearTimeout(looking);
  try {
    const { models } = await gateway.askJson("/v1/models", session.signal);
    const waiting = entries.filter((entry) => entry.state === "queued");
    const workers = models.reduce((sum, model) => sum + model.workers, 0);
    const isLong = waiting.some((entry) => Date.now() - entry.since > LONG_MS);
    note("workers", workers || !waiting.length ? "" : "No worker is running. Your pictures are kept, and go through as soon as one starts (alexq worker).");
    note("long", workers && isLong ? "Others are before you: your pictures wait for their turn." : "");
  } catch (error) {
    if (error instanceof Problem) note("refused", `The gateway refuses: ${error.message}.`);
  }
  if (entries.some(isOpen)) looking = setTimeout(lookAround, LOOK_EVERY_MS);
}

// --- The API key -----------------------------------------------------------------------------------------------

function needKey(detail) {
  $("key-note").textContent = detail ? `That key was not accepted: ${detail}.` : "This gateway needs an API key (alexq keys create makes one).";
  if (!$("key-form").hidden) return;
  $("key-form").hidden = false;
  $("key").focus();
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  gateway.useKey($("key").value.trim());
  $("key").value = "";
  $("key-form").hidden = true;
});

// --- Dropping, choosing, pasting, clearing -----------------------------------------------------------------------

let depth = 0; // A drag enters each element on its way.
const over = (change) => $("drop").classList.toggle("over", (depth += change) > 0);
addEventListener("dragenter", () => over(+1));
addEventListener("dragleave", () => over(-1));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  over(-depth);
  take(event.dataTransfer.files);
});
addEventListener("paste", (event) => take(event.clipboardData.files));
$("files").addEventListener("change", (event) => {
  take(event.target.files);
  event.target.value = "";
});
$("clear").addEventListener("click", () => {
  session.abort();
  session = new AbortController();
  entries = [];
  $("results").replaceChildren();
  ["gone", "busy", "refused", "untrained"].forEach((about) => note(about));
  refresh();
  $("files").focus();
});
lookAround();
