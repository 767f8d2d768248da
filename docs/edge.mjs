// A client of the worker for every runtime that has `fetch`: Supabase, Cloudflare, Vercel, Deno, Node 18. Copy it.
// `endpoint` is {url: "https://api.runpod.ai/v2/ENDPOINT_ID", key: RUNPOD_API_KEY}.

/** A job without a reply, by the worker or by RunPod: `code`, `message`, `retryable`, and where known `field`, `retry_after_s`. */
export class JobError extends Error {
  constructor({ message, ...error }) {
    super(message);
    Object.assign(this, error);
  }
}

/** Returns the reply to `input`. A job that takes longer than `within_ms`, queue and cold start included, is cancelled. */
export async function ask(endpoint, input, within_ms = 60_000) {
  const late = Date.now() + within_ms;
  const wait = Math.min(Math.max(within_ms, 1_000), 300_000); // the bounds that RunPod accepts
  let job = await call(endpoint, `/runsync?wait=${wait}`, { input });
  try {
    while (!ENDS.has(job.status)) {
      if (Date.now() > late) throw tooLate(within_ms);
      await pause(500);
      job = await call(endpoint, `/status/${job.id}`);
    }
  } finally {
    if (!ENDS.has(job.status)) await cancel(endpoint, job.id);
  }
  return replyOf(job);
}

/**
 * Yields `{delta}` (or `{reasoning_delta}`) as the text comes, and then `{reply}`.
 * It makes up to five calls a second, also while the job is queued. Cloudflare's free plan allows 50 in a request: use `ask` there.
 */
export async function* stream(endpoint, input, within_ms = 60_000) {
  const late = Date.now() + within_ms;
  const { id } = await call(endpoint, "/run", { input: { ...input, stream: true } });
  let next = 0;
  let status;
  try {
    while (!ENDS.has(status)) {
      if (status && Date.now() > late) throw tooLate(within_ms);
      if (status) await pause(200);
      const poll = await call(endpoint, `/stream/${id}`);
      for (const { output } of poll.stream) {
        // A chunk may come twice, which the index shows, or not at all, which the whole reply makes up for.
        if (!(output.index >= next) || output.failure) continue;
        next = output.index + 1;
        yield output;
      }
      status = poll.status;
    }
  } finally {
    if (!ENDS.has(status)) await cancel(endpoint, id); // too late, or the caller stopped reading
  }
  yield { reply: replyOf(await call(endpoint, `/status/${id}`)) };
}

const ENDS = new Set(["COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function call({ url, key }, path, body) {
  const response = await fetch(url + path, {
    method: body ? "POST" : "GET",
    headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/json" },
    body: body && JSON.stringify(body),
  });
  if (response.ok) return response.json();
  const { status } = response; // 401: wrong key; 404: no such endpoint, or a job that is not kept any more; 429: too many calls
  throw new JobError({ code: `http_${status}`, message: `RunPod answered ${status}`, retryable: status === 429 || status >= 500 });
}

const cancel = (endpoint, id) => call(endpoint, `/cancel/${id}`, {}).catch(() => {}); // it may have ended already

const tooLate = (ms) => new JobError({ code: "too_late", message: `no answer within ${ms} ms`, retryable: true });

// The status alone decides: a COMPLETED reply may have an `error` of its own (an enhance that gave the prompt back).
function replyOf({ status, output, error }) {
  if (status === "COMPLETED") return Array.isArray(output) ? output.at(-1) : output; // a list where it was streamed
  let failure = { code: status.toLowerCase(), message: String(error ?? status), retryable: true }; // RunPod's own
  try {
    failure = JSON.parse(error); // the worker's
  } catch {}
  throw new JobError(failure);
}
