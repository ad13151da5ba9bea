// Asking the gateway, for as long as it takes.

const FIRST_PAUSE_MS = 1_000;
const LAST_PAUSE_MS = 15_000;

/** The gateway said no, and asking again would not help. */
export class Problem extends Error {}

/**
 * Who asks. `tell` has: note(about, text), which says something about the gateway or, without text, takes it back;
 * needKey(detail), which asks for an API key: `detail` says what is wrong with the one that was given.
 */
export class Gateway {
  #tell;
  #key = ""; // In memory only.
  #keyGiven = Promise.withResolvers();

  constructor(tell) {
    this.#tell = tell;
  }

  get hasKey() {
    return this.#key !== "";
  }

  useKey(key) {
    this.#key = key;
    this.#keyGiven.resolve();
    this.#keyGiven = Promise.withResolvers();
  }

  /** The answer to a request, which is repeated until it is served; rejects with a Problem or when aborted. */
  async ask(path, signal, options = {}) {
    for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(2 * pauseMs, LAST_PAUSE_MS)) {
      const headers = { ...options.headers, ...(this.hasKey && { Authorization: `Bearer ${this.#key}` }) };
      let answer;
      try {
        answer = await fetch(path, { ...options, headers, signal });
      } catch (error) {
        if (signal.aborted) throw error;
        this.#tell.note("gone", "The gateway does not answer. Nothing is lost: this page keeps trying.");
        await sleep(pauseMs, signal);
        continue;
      }
      this.#tell.note("gone");
      if (answer.ok) {
        this.#tell.note("busy");
        return answer;
      }
      const problem = await answer.json().catch(() => ({}));
      const detail = problem.detail ?? `it answered ${answer.status}`;
      const retryAfter = answer.headers.get("Retry-After");
      if (answer.status === 401) {
        this.#tell.needKey(this.hasKey ? detail : "");
        await unless(signal, this.#keyGiven.promise);
      } else if (retryAfter !== null || answer.status >= 500 || answer.status === 408) {
        this.#tell.note("busy", `The gateway cannot serve this now: ${detail}. This page keeps trying.`);
        await sleep(Math.max(1_000 * Number(retryAfter) || 0, pauseMs), signal);
      } else {
        throw new Problem(detail);
      }
    }
  }

  async askJson(path, signal, options) {
    return (await this.ask(path, signal, options)).json();
  }
}

/** The events of a stream as they come, {event, data, id}; one that was cut off is left out. */
export async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const fields = Object.fromEntries(part.split("\n").map((line) => /^([^:]*):? ?(.*)$/.exec(line).slice(1)));
      if (fields.event) yield { event: fields.event, data: JSON.parse(fields.data), id: fields.id };
    }
  }
}

/** 128 random bits as text; crypto.randomUUID() is there on https and localhost only. */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A function that lets so many acts go on at a time; first come, first served. */
export function limiter(places) {
  const waiting = [];
  return async (act) => {
    if (places === 0) await new Promise((resolve) => waiting.push(resolve));
    else places -= 1;
    try {
      return await act();
    } finally {
      const next = waiting.shift();
      if (next) next();
      else places += 1;
    }
  };
}

function sleep(ms, signal) {
  return unless(signal, new Promise((resolve) => setTimeout(resolve, ms)));
}

/** What `promise` becomes, or a rejection as soon as `signal` is aborted. */
function unless(signal, promise) {
  const aborted = new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true }));
  return Promise.race([promise, aborted]);
}
