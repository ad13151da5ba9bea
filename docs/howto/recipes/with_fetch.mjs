// Label pictures with Node's own fetch (Node 18 or newer), no package needed:
//   node with_fetch.mjs http://127.0.0.1:8080 cat.jpg dog.jpg
// With API keys: export ALEXQ_API_KEY=alexq_…
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

const [server, ...names] = process.argv.slice(2);
const auth = process.env.ALEXQ_API_KEY ? { Authorization: `Bearer ${process.env.ALEXQ_API_KEY}` } : {};

// Send a request; what may pass is repeated. A POST needs an Idempotency-Key, so that a repetition makes no second job.
async function call(path, options = {}, attempts = 5) {
  for (let attempt = 1; ; attempt++) {
    const last = attempt === attempts;
    let pause = 0.5 * 2 ** attempt;
    try {
      const headers = { ...auth, ...options.headers };
      const response = await fetch(server + path, { ...options, headers, signal: AbortSignal.timeout(90_000) });
      if (response.ok) return response;
      const problem = await response.json();
      const passes = [408, 429, 500, 502, 503, 504].includes(response.status) || problem.code === "idempotency_key_busy";
      if (!passes || last) throw Object.assign(new Error(problem.detail), { code: problem.code, isFinal: true });
      pause = Number(response.headers.get("retry-after") ?? pause);
    } catch (error) {
      if (error.isFinal || last) throw error;
    }
    await sleep(1000 * pause);
  }
}

const form = new FormData();
for (const name of names) form.append("images", new Blob([await readFile(name)]), name);
const accepted = await (
  await call("/v1/submissions?rejected=skip", {
    method: "POST",
    body: form,
    headers: { "Idempotency-Key": randomUUID() },
  })
).json();
for (const { source, detail } of accepted.rejected) console.log(`${source}: refused, ${detail}`);

// Results come as lines of JSON, in the order in which the jobs finish.
if (accepted.submission_id) {
  const results = await call(`/v1/submissions/${accepted.submission_id}/results?wait_s=60`);
  let rest = "";
  for await (const text of results.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const { source, state, predictions, error } = JSON.parse(line);
      console.log(`${source}: ${predictions[0]?.label ?? `${state}, ${error?.detail}`}`);
    }
  }
}
