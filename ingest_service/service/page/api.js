/** Requests to the API. An error of any kind is a Problem, whose message is one sentence for the user. */

const PATIENCE_MS = 30_000;

export class Problem extends Error {
  /** `status` is that of HTTP, or 0 if no answer came. */
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** The JSON of the answer, or null where it has none. A 401 is also told to the window, as `login-needed`. */
export async function ask(method, path, body, signal = AbortSignal.timeout(PATIENCE_MS)) {
  const options = { method, signal };
  if (body !== undefined) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  try {
    const response = await fetch(path, options);
    if (!response.ok) throw await problemOf(response);
    return response.status === 204 ? null : await response.json();
  } catch (error) {
    if (!(error instanceof Problem)) throw new Problem(0, "The service cannot be reached.");
    if (error.status === 401 && path !== "/v1/session") window.dispatchEvent(new Event("login-needed"));
    throw error;
  }
}

export const get = (path) => ask("GET", path);
export const post = (path, body) => ask("POST", path, body);

/** Send a file. `progress(bytes)` is told how much has gone; `signal` ends it. (fetch could not tell.) */
export function putFile(path, file, progress, signal) {
  const request = new XMLHttpRequest();
  return new Promise((resolve, reject) => {
    request.open("PUT", path);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.addEventListener("progress", (event) => progress(event.loaded));
    request.addEventListener("load", async () => {
      if (request.status === 201) return resolve();
      if (request.status === 401) window.dispatchEvent(new Event("login-needed"));
      reject(await problemOf(new Response(request.response, { status: request.status })));
    });
    request.addEventListener("error", () => reject(new Problem(0, "The service cannot be reached, or refuses it.")));
    request.addEventListener("abort", () => reject(new Problem(0, "It was stopped.")));
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

/** What an answer other than 2xx says. */
export async function problemOf(response) {
  try {
    return new Problem(response.status, (await response.json()).detail);
  } catch {
    return new Problem(response.status, `The service answered with status ${response.status}.`);
  }
}
