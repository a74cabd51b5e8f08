/**
 * The stream of server-sent events, followed for good. It is read with `fetch`, not with EventSource: that one shows
 * neither why a stream was refused nor the heartbeats, without which a dead connection looks like a quiet one.
 */

import { Problem, problemOf } from "./api.js";

const SILENCE_MS = 40_000; // the service says something every 15 s
const RETRY_MS = 2_000;

/**
 * `on.open()` at each connection, once nothing that happens can be missed; `on.event(name, data)` for each event;
 * `on.lost(problem)` when it broke or was refused. Returns a function that ends it.
 */
export function follow(path, on) {
  const end = new AbortController();
  (async () => {
    while (!end.signal.aborted) {
      try {
        await read(path, on, end.signal);
        throw new Problem(0, "The service has ended the stream.");
      } catch (error) {
        if (end.signal.aborted) return;
        on.lost(error instanceof Problem ? error : new Problem(0, "The service cannot be reached."));
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  })();
  return () => end.abort();
}

/** Read until the stream ends. */
async function read(path, on, ended) {
  const silence = new AbortController();
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), SILENCE_MS);
  };
  try {
    heard();
    const response = await fetch(path, { signal: AbortSignal.any([ended, silence.signal]) });
    if (!response.ok) throw await problemOf(response);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    let isOpen = false;
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      heard();
      if (!isOpen) on.open();
      isOpen = true;
      const messages = (text + part.value).split("\n\n");
      text = messages.pop();
      for (const message of messages) tell(message, on.event);
    }
  } finally {
    clearTimeout(timer);
  }
}

/** One message: lines of `field: value`. One without data is a heartbeat. */
function tell(message, hear) {
  const fields = Object.fromEntries(message.split("\n").map((line) => line.split(/: (.*)/s, 2)));
  if (fields.data) hear(fields.event, JSON.parse(fields.data));
}

/**
 * Events and answers in the order of what they tell: while an answer is awaited (`holdFor(promise)`), events wait,
 * since they may be newer than it. `hear(name, data)` gets them then.
 */
export function inOrder(hear) {
  const waiting = [];
  let awaited = 0;

  function take(name, data) {
    if (awaited) waiting.push([name, data]);
    else hear(name, data);
  }

  async function holdFor(answer) {
    awaited += 1;
    try {
      return await answer;
    } finally {
      awaited -= 1;
      while (!awaited && waiting.length) hear(...waiting.shift());
    }
  }

  return { take, holdFor };
}
