// The page: a photo and words, painted as they are typed. This file joins the parts; each part knows one thing.

import { Asking } from "./asking.js";
import { allow, listFormats } from "./downloads.js";
import { askForKey } from "./lock.js";
import { Look } from "./look.js";
import * as photo from "./photo.js";
import * as service from "./service.js";
import { Settings } from "./settings.js";
import { Suggestions } from "./suggestions.js";
import { percent } from "./text.js";
import { paint, readView } from "./view.js";
import { Words } from "./words.js";

const KEPT = "sanseg.page"; // in sessionStorage: words and settings outlive a reload, and no tab sees another's
const QUIET = 800; // ms after the last key before a result is told aloud

const $ = (id) => document.getElementById(id);
const suggestions = new Suggestions();
let limits = null;
let file = null;
let view = null;
let lastAsked = null;
let spotlight = null;
let restHidden = false;
let speaking = 0;
let good = null; // the last photo that the service took
let regret = ""; // why another was not taken in its place, until something is changed
let opened = 0; // photos so far: one that takes long to read does not replace a later one

const settings = new Settings({ changed: edited, repaint });
const words = new Words({
  suggestions,
  changed: edited,
  repaint,
  spotlight: lightUp,
  say,
  wrong: (sentence) => tell(sentence, "problem"),
});
const look = new Look({ pointed: (what) => words.point(what?.id ?? null), say, resized: repaint });
const asking = new Asking({
  busy: (busy) => $("frame").setAttribute("aria-busy", String(busy)),
  encoding: () => ($("progress").hidden = false),
  encoded: () => {
    $("progress").hidden = true;
    good = file;
    suggestions.load(); // nothing is more urgent now
  },
  view: shown,
  away: () => tell("The server is away. What you see stays, and goes on by itself when it is back.", "away"),
  back: () => {
    tell("");
    describe();
  },
  waiting: (problem) => tell(problem ? problem.message : "", "away"),
  refused,
  key: askForKey,
});

// What is asked, and what comes of it

function question() {
  const { other, threshold } = settings;
  return { labels: words.labels, other: other ? "auto" : null, threshold, colours: words.colours, picture: file.name };
}

function edited() {
  regret = "";
  changed();
}

function changed() {
  keep();
  if (!file) return;
  let asked;
  try {
    asked = question();
  } catch (error) {
    return tell(error.message, "problem");
  }
  const same = JSON.stringify(asked);
  if (same === lastAsked) return words.show(view?.facts ?? null); // what was typed has become a chip
  lastAsked = same;
  asking.ask(asked.labels === null ? null : asked);
  if (asked.labels === null) {
    show(null);
    tell(regret, "problem");
  }
}

function shown(buffer, asked) {
  tell(regret, "problem");
  const answer = readView(buffer);
  look.size = answer;
  show(answer);
  document.dispatchEvent(new CustomEvent("sanseg:painted", { detail: { labels: asked.labels } }));
  clearTimeout(speaking);
  speaking = setTimeout(() => say(summary()), QUIET);
}

function show(answer) {
  const first = view === null && answer !== null;
  view = answer;
  words.show(view?.facts ?? null);
  showRest();
  repaint();
  look.show(view, view ? colours() : new Map());
  document.body.classList.toggle("painted", view !== null);
  if (first) $("paint").classList.add("appearing");
  allow($("formats"), view !== null);
}

function summary() {
  if (!view) return "";
  const [found, more] = [view.facts.regions.slice(0, 5), view.facts.regions.length - 5];
  const each = found.map(({ label, share }) => `\u2068${label}\u2069 ${percent(share)}`).join(", ");
  return more > 0 ? `${each}, and ${more} more` : each;
}

function refused(error) {
  $("progress").hidden = true;
  if (error.ofPicture) goBack(file, error.message);
  else tell(error.message, "problem");
}

// Painting

function colours() {
  const table = new Map(Object.entries(view.facts.colours).map(([id, colour]) => [Number(id), colour]));
  for (const [id, colour] of words.overrides) table.set(id, colour);
  return table;
}

function repaint() {
  keep();
  const canvas = $("paint");
  canvas.hidden = view === null;
  if (view === null) return;
  const hidden = words.hidden;
  if (restHidden) hidden.add(view.facts.other.id);
  const density = look.density;
  canvas.classList.toggle("magnified", density < 1);
  paint(canvas, view, {
    colours: colours(),
    hidden,
    opacity: $("frame").classList.contains("blind") ? 1 : settings.opacity,
    spotlight,
    outline: settings.outline ? Math.max(1, Math.round(density)) : 0,
  });
}

function lightUp(id) {
  if (id === spotlight) return;
  spotlight = id;
  repaint();
}

function showRest() {
  const row = $("rest");
  const { id, name, colour } = view?.facts.other ?? {};
  const share = view?.facts.regions.find((region) => region.id === id)?.share ?? 0;
  row.hidden = share === 0;
  if (row.hidden) return;
  row.querySelector(".name").textContent = name;
  row.querySelector(".share").textContent = percent(share);
  row.querySelector(".dot").style.backgroundColor = colour;
  row.querySelector(".bar").style.backgroundColor = colour;
  row.querySelector(".bar").style.setProperty("--share", String(share));
  const eye = row.querySelector(".eye");
  eye.setAttribute("aria-label", `Show ${name}`);
  eye.setAttribute("aria-pressed", String(!restHidden));
  row.classList.toggle("hidden", restHidden);
}

$("rest").querySelector(".eye").addEventListener("click", () => {
  restHidden = !restHidden;
  showRest();
  repaint();
});

// A photo

/** why: the photo before it was not taken. */
async function open(chosen, why = "") {
  const wrong = photo.tooLarge(chosen, limits);
  if (wrong) return tell(wrong, "problem");
  const turn = ++opened;
  let held;
  try {
    held = await photo.held(chosen);
  } catch {
    return tell(`${chosen.name} cannot be read: choose the file of a photo`, "problem");
  }
  if (turn !== opened) return;
  regret = why;
  tell(why, "problem");
  const size = await photo.show(held, $("photo"));
  const many = size && photo.tooManyPixels(size, limits);
  if (many) return goBack(chosen, many);
  const seen = size ? await photo.copyToSee(held, $("photo"), size) : held;
  const written = await photo.written(held);
  if (turn !== opened) return;
  file = held;
  photo.keep(written);
  look.reset();
  $("frame").classList.toggle("blind", size === null);
  if (size) look.size = size;
  show(null);
  lastAsked = null;
  $("start").hidden = true;
  $("work").hidden = false;
  $("another").hidden = false;
  document.body.dataset.state = "work";
  $("frame").setAttribute("aria-label", `Photo ${chosen.name}`);
  asking.open(held, seen);
  changed();
  if (matchMedia("(pointer: fine)").matches) words.focus();
}

/** A photo is not taken: the one before it is shown again, or the invitation. */
function goBack(from, why) {
  if (good && good !== from) return open(good, why);
  begin();
  tell(why, "problem");
}

/** Back to the invitation. */
function begin() {
  opened++;
  file = good = null;
  photo.keep(null);
  asking.open(null);
  show(null);
  photo.hide($("photo"));
  $("start").hidden = false;
  $("work").hidden = true;
  $("another").hidden = true;
  document.body.dataset.state = "start";
}

photo.listen({
  open,
  wrong: (sentence) => tell(sentence, "problem"),
  sample: async (name, text) => {
    const samples = [...document.querySelectorAll("[data-words]")].map((one) => one.dataset.words);
    const own = words.state.map((chip) => chip.text).join(", ");
    try {
      const chosen = await photo.sample(name);
      if (own === "" || samples.includes(own)) words.state = text.split(", ").map((label) => ({ text: label }));
      await open(chosen);
    } catch (error) {
      tell(`${name} could not be fetched (${error.message}): try again when the server is back`, "problem");
    }
  },
});

$("another").addEventListener("click", () => {
  begin();
  tell("");
  $("pick").focus();
});

// What is in sight

/** Where the photo sticks to the top of a narrow screen, what is typed is not to be behind it. */
function uncover({ target }) {
  requestAnimationFrame(() => {
    const [above, box] = [$("stage"), target].map((one) => one.getBoundingClientRect());
    if (box.left < above.right && box.top < above.bottom) scrollBy(0, box.top - above.bottom - 8);
  });
}

$("panel").addEventListener("focusin", uncover);
$("panel").addEventListener("input", uncover);

// Downloads

function list(formats) {
  const save = async (format) => {
    const asked = question();
    return asked.labels === null ? null : asking.save(asked, format);
  };
  listFormats($("formats"), formats, { save, said: say, wrong: (error) => tell(error.message, "problem") });
  allow($("formats"), view !== null);
}

// What is said

function tell(text, kind = "") {
  const message = $("message");
  if (message.textContent !== text) message.textContent = text;
  message.className = text ? kind : "";
}

function say(text) {
  $("announcement").textContent = text;
}

// Beginning

function keep() {
  const state = { words: words.state, settings: settings.state };
  sessionStorage.setItem(KEPT, JSON.stringify(state));
}

function recall() {
  try {
    const { words: chips, settings: looks } = JSON.parse(sessionStorage.getItem(KEPT) ?? "{}");
    if (looks) settings.state = looks;
    if (Array.isArray(chips)) words.state = chips.filter((chip) => typeof chip?.text === "string");
  } catch {
    sessionStorage.removeItem(KEPT); // somebody else's, or damaged
  }
}

/** What the service can do; again when it was away, for it may be another. */
async function describe() {
  try {
    const described = await service.models();
    limits = described.limits;
    suggestions.sets = described.label_sets;
    list(described.formats);
    const model = described.models.find((one) => one.default) ?? described.models[0];
    $("about").textContent = `Model ${model.id}. Photos go to this server and nowhere else.`;
  } catch (error) {
    if (error instanceof service.Away) {
      tell("The server is away. The page goes on by itself when it is back.", "away");
    } else if (error.status === 401) {
      await askForKey(error);
    } else {
      tell(error.message, "problem");
    }
    setTimeout(async () => {
      if (await service.isReady()) tell("");
      describe();
    }, 1000);
  }
}

recall();
describe();
const kept = photo.recall();
if (kept) open(kept);
