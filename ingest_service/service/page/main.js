/**
 * START HERE: the page of the service.
 *
 *     api.js     requests          events.js  what happens, as it happens
 *     running.js what runs now: plot.js, rates.js, table.js
 *     runs.js    the table of runs: run_row.js, report.js
 *     submit.js  the form that loads: questions.js
 *     dead_letters.js  the rows that were refused: letter_table.js
 *     sinks.js  upload.js  user.js  login.js
 *
 * Runs come by events; what has no events is asked for now and then.
 */

import { get } from "./api.js";
import { deadLetters } from "./dead_letters.js";
import { atMostEvery, say, setText } from "./dom.js";
import { follow, inOrder } from "./events.js";
import { nameOf } from "./format.js";
import { login } from "./login.js";
import { running } from "./running.js";
import { runs } from "./runs.js";
import { sinks } from "./sinks.js";
import { submit } from "./submit.js";
import { upload } from "./upload.js";
import { user } from "./user.js";

const part = (id) => document.getElementById(id);
const events = inOrder(hear);
const now = running(part("now"));
const table = runs(part("runs"), events.holdFor);
const letters = deadLetters(part("dead-letters"));
const form = submit(part("submit"));
const inboxes = upload(part("upload"));
user(part("user"));
const health = sinks(part("sinks"), form.offer);
const lookForLetters = atMostEvery(5_000, letters.reload);
const door = login(part("login"), () => {
  open();
  part("logout").hidden = false;
  part("main").focus();
});
const connection = part("connection");

const refused = new Map(); // rows that each run has refused so far
let end = null; // ends the stream of events

const on = {
  open() {
    tellConnection("live", "Live");
    table.reload();
    showLinked();
    letters.reload();
    inboxes.reload();
    events.holdFor(
      get("/v1/runs?state=running&limit=500").then(
        (page) => now.keep(page.runs),
        () => {},
      ),
    );
  },
  lost(problem) {
    if (problem.status === 401) return close("The session has ended; log in again.");
    tellConnection("lost", `Connection lost, trying again. What is shown may be old. ${problem.message}`);
  },
  event: events.take,
};

/** The run that the address names, as it was sent by somebody. */
function showLinked() {
  const id = /^#run=(\d+)$/.exec(location.hash)?.[1];
  if (id) table.unfold(id);
}

function hear(name, data) {
  if (name === "run") changed(data);
  if (name === "progress") progressed(data);
}

function changed(run) {
  now.changed(run);
  table.changed(run);
  letters.changed(run);
  say(`Run ${run.id}, ${nameOf(run.source)}: ${run.state}.`);
  if (run.state !== "queued") letters.reload();
  if (run.state !== "running") refused.delete(run.id);
}

function progressed(event) {
  now.progressed(event);
  table.progressed(event);
  if (!event.sinks) return;
  const rows = Object.values(event.sinks).reduce((sum, sink) => sum + sink.dead, event.rows_rejected);
  if (refused.get(event.run) !== rows) lookForLetters();
  refused.set(event.run, rows);
}

/** Show the console, and keep it true. */
function open() {
  door.hide();
  show(true);
  tellConnection("", "Connecting…");
  health.start();
  end?.();
  end = follow("/v1/events", on);
}

/** Show the login instead. */
function close(why) {
  end?.();
  end = null;
  health.stop();
  show(false);
  part("logout").hidden = true;
  tellConnection("", "");
  door.show(why);
}

function show(isOpen) {
  for (const id of ["console", "contents"]) part(id).hidden = !isOpen;
}

function tellConnection(how, text) {
  connection.className = how;
  setText(connection, text);
}

async function begin() {
  try {
    const session = await get("/v1/session");
    part("logout").hidden = !session.login_needed;
    if (session.login_needed && !session.logged_in) close("");
    else open();
  } catch (problem) {
    tellConnection("lost", problem.message);
  }
}

window.addEventListener("hashchange", showLinked);
window.addEventListener("login-needed", () => close("The session has ended; log in again."));
part("logout").addEventListener("click", async () => {
  await door.leave().catch(() => {}); // without the service there is no session either
  close("You are logged out.");
});
begin();
