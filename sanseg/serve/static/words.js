// The labels: chips that are edited in place, and the field where another is typed.

import { Field } from "./field.js";
import { asked, fold, isNegative, labelOf, percent, tidy } from "./text.js";

const MANY = 24; // labels beyond which those that are not in the picture are put away
const LONGEST = 256; // characters of a name; GET /v1/models says it in its limits

export class Words {
  #chips = []; // {text, colour or null, hidden, row, ...}: see #make
  #everything = false;

  /**
   * suggestions: see suggestions.js. changed(): other words are asked. repaint(): the same words look otherwise.
   * spotlight(id or null). say(text): for screen readers. wrong(sentence): of what cannot be a label.
   */
  constructor({ suggestions, changed, repaint, spotlight, say, wrong }) {
    Object.assign(this, { suggestions, changed, repaint, spotlight, say, wrong });
    for (const id of ["chips", "everything", "chip"]) this[`$${id}`] = document.getElementById(id);
    this.field = new Field({
      suggestions,
      changed,
      taken: () => new Set(this.#chips.flatMap((chip) => chip.text.split("|").map(fold))),
      entered: (text, alone) => this.#enter(text, alone),
      back: () => this.#chips.findLast((chip) => !chip.row.hidden)?.name.focus(),
    });
    this.$everything.addEventListener("click", () => {
      this.#everything = !this.#everything;
      this.#putAway();
    });
  }

  /** For sessionStorage. */
  get state() {
    return this.#chips.map(({ text, colour, hidden }) => ({ text, colour, hidden }));
  }

  set state(chips) {
    for (const chip of this.#chips) chip.row.remove();
    this.#chips = [];
    for (const { text, colour = null, hidden = false } of chips) this.#add(text, colour, hidden);
    this.field.clear();
  }

  /** As the service takes them, with what is being typed; null for none. Throws as `asked` does. */
  get labels() {
    return asked([...this.#chips.map((chip) => chip.text), this.field.draft]);
  }

  /** The colours people chose: {label: "#rrggbb"}. */
  get colours() {
    const chosen = this.#chips.filter(({ colour, text }) => colour && tidy(text) && !isNegative(text));
    return Object.fromEntries(chosen.map(({ colour, text }) => [labelOf(text), colour]));
  }

  /** What the answer says of each label: its share and colour. facts: null where there is no answer. */
  show(facts) {
    const ids = new Map();
    for (const { id, label, synonyms } of facts?.labels ?? []) {
      for (const name of [label, ...synonyms]) ids.set(fold(name), id);
    }
    const shares = new Map((facts?.regions ?? []).map((region) => [region.id, region.share]));
    for (const chip of this.#chips) {
      chip.id = isNegative(chip.text) ? null : (ids.get(fold(labelOf(chip.text))) ?? null);
      const share = shares.get(chip.id) ?? 0;
      chip.found = share > 0;
      chip.share.textContent = chip.id === null ? "" : percent(share);
      chip.bar.style.setProperty("--share", String(share));
      chip.row.classList.toggle("absent", facts !== null && !chip.found);
      if (chip.id !== null) this.#colour(chip, chip.colour ?? facts.colours[chip.id]);
    }
    this.#putAway();
  }

  /** Ids that are not painted. */
  get hidden() {
    return new Set(this.#chips.filter((chip) => chip.hidden && chip.id !== null).map((chip) => chip.id));
  }

  /** Chosen colours by id. */
  get overrides() {
    return this.#chips.filter((chip) => chip.colour && chip.id !== null).map((chip) => [chip.id, chip.colour]);
  }

  /** Marks the chip of an id, as when the pointer is over it in the picture. */
  point(id) {
    for (const chip of this.#chips) chip.row.classList.toggle("pointed", id !== null && chip.id === id);
  }

  focus() {
    this.field.focus();
  }

  // Chips

  #add(text, colour = null, hidden = false) {
    const chip = this.#make(tidy(text));
    chip.colour = colour;
    this.#chips.push(chip);
    this.$chips.append(chip.row);
    if (colour) this.#colour(chip, colour);
    this.#hide(chip, hidden);
    return chip;
  }

  #make(text) {
    const row = this.$chip.content.cloneNode(true).querySelector(".chip");
    const part = (name) => row.querySelector(`.${name}`);
    const chip = { text, row, id: null, found: false, share: part("share"), bar: part("bar"), name: part("name") };
    Object.assign(chip, { swatch: part("colour"), eye: part("eye"), removal: part("remove") });
    chip.name.value = text;
    chip.name.maxLength = 4 * LONGEST;
    this.#name(chip);
    chip.name.addEventListener("input", () => {
      chip.text = chip.name.value;
      this.#name(chip);
      this.changed();
    });
    chip.name.addEventListener("keydown", (event) => this.#keyInName(event, chip));
    chip.name.addEventListener("change", () => tidy(chip.text) || this.#remove(chip));
    chip.swatch.addEventListener("input", () => {
      chip.colour = chip.swatch.value;
      this.#colour(chip, chip.colour);
      this.repaint();
    });
    chip.eye.addEventListener("click", () => {
      this.#hide(chip, !chip.hidden);
      this.spotlight(null);
      this.repaint();
    });
    chip.removal.addEventListener("click", () => this.#remove(chip, true));
    row.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "mouse" && !chip.hidden) this.spotlight(chip.id);
    });
    row.addEventListener("pointerleave", () => this.spotlight(null));
    return chip;
  }

  #name(chip) {
    const label = tidy(chip.text) || "empty";
    chip.row.classList.toggle("negative", isNegative(chip.text));
    chip.name.setAttribute("aria-label", `Label ${label}`);
    chip.swatch.setAttribute("aria-label", `Colour of ${label}`);
    chip.eye.setAttribute("aria-label", `Show ${label}`);
    chip.removal.setAttribute("aria-label", `Remove ${label}`);
    chip.name.title = label;
  }

  #colour(chip, colour) {
    if (chip.swatch.value !== colour) chip.swatch.value = colour;
    chip.bar.style.backgroundColor = colour;
  }

  #hide(chip, hidden) {
    chip.hidden = hidden;
    chip.eye.setAttribute("aria-pressed", String(!hidden));
    chip.row.classList.toggle("hidden", hidden);
  }

  #keyInName(event, chip) {
    if (event.isComposing) return;
    if (event.key === "Enter" || event.key === "Escape") {
      event.preventDefault();
      this.focus();
    } else if (event.key === "Backspace" && chip.name.value === "") {
      event.preventDefault();
      this.#remove(chip, true);
    }
  }

  #remove(chip, andFocus = false) {
    const place = this.#chips.indexOf(chip);
    if (place < 0) return;
    this.#chips.splice(place, 1);
    this.spotlight(null);
    if (andFocus) {
      const near = this.#chips[place] ?? this.#chips[place - 1];
      if (near) near.removal.focus();
      else this.focus();
      this.say(`${tidy(chip.text) || "An empty label"} removed`);
    }
    chip.row.remove();
    this.changed();
  }

  #putAway() {
    const absent = this.#chips.filter((chip) => !chip.found);
    const many = this.#chips.length > MANY && absent.length > 0;
    for (const chip of this.#chips) {
      const busy = chip.row.contains(document.activeElement);
      chip.row.hidden = many && !this.#everything && !chip.found && !busy;
    }
    this.$everything.hidden = !many;
    this.$everything.setAttribute("aria-expanded", String(this.#everything));
    this.$everything.textContent = this.#everything
      ? `Put away ${absent.length} that are not in the photo`
      : `${absent.length} more are not in the photo`;
  }

  async #enter(text, alone) {
    const label = tidy(text);
    if (!label) return;
    const labels = label.startsWith("@") ? await this.#expanded(label) : [label];
    if (!labels.length) return this.field.refuse(text);
    const taken = new Set(this.#chips.map((chip) => fold(chip.text)));
    const fresh = labels.filter((one) => !taken.has(fold(one)));
    for (const one of fresh) this.#add(one);
    if (labels.length > 1) this.say(`${fresh.length} labels added`);
    else if (alone) this.say(fresh.length ? `${label} added` : `${label} is there already`);
    this.changed();
  }

  /** The labels of a set; none where there is no such set. */
  async #expanded(text) {
    try {
      return await this.suggestions.expand(text);
    } catch (error) {
      if (error.status !== 404) return [text]; // the service will know what it means
      this.wrong(error.message);
      return [];
    }
  }
}
