// The labels: chips that are edited in place, and the field where another is typed, with suggestions.

import { asked, fold, isNegative, labelOf, percent, tidy } from "./text.js";

const MANY = 24; // labels beyond which those that are not in the picture are put away
const LONGEST = 256; // characters of a name; GET /v1/models says it in its limits

export class Words {
  #chips = []; // {text, colour or null, hidden, row, ...}: see #make
  #options = [];
  #active = -1;
  #everything = false;

  /**
   * suggestions: see suggestions.js. changed(): other words are asked. repaint(): the same words look otherwise.
   * spotlight(id or null). say(text): for screen readers, and those who look.
   */
  constructor({ suggestions, changed, repaint, spotlight, say }) {
    Object.assign(this, { suggestions, changed, repaint, spotlight, say });
    for (const id of ["word", "chips", "everything", "chip"]) this[`$${id}`] = document.getElementById(id);
    this.$list = document.getElementById("suggestions");
    this.#listen();
  }

  /** For sessionStorage. */
  get state() {
    return this.#chips.map(({ text, colour, hidden }) => ({ text, colour, hidden }));
  }

  set state(chips) {
    for (const chip of this.#chips) chip.row.remove();
    this.#chips = [];
    for (const { text, colour = null, hidden = false } of chips) this.#add(text, colour, hidden);
    this.$word.value = "";
  }

  /** As the service takes them, with what is being typed; null for none. Throws as `asked` does. */
  get labels() {
    return asked([...this.#chips.map((chip) => chip.text), this.#draft]);
  }

  /** The colours people chose: {label: "#rrggbb"}. */
  get colours() {
    const chosen = this.#chips.filter(({ colour, text }) => colour && tidy(text) && !isNegative(text));
    return Object.fromEntries(chosen.map(({ colour, text }) => [labelOf(text), colour]));
  }

  /** The draft, or what the list of suggestions would make of it; "@..." names a set only once it is entered. */
  get #draft() {
    const draft = this.$word.value;
    const text = this.#active < 0 ? draft : this.#options[this.#active].text;
    return text.trim().startsWith("@") ? "" : text;
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
    this.$word.focus({ preventScroll: true });
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
      ? `Put away ${absent.length} that are not there`
      : `${absent.length} more are not there`;
  }

  // The field, a combobox as ARIA describes it

  #listen() {
    this.$word.addEventListener("focus", () => this.suggestions.load());
    this.$word.addEventListener("input", () => this.#typed());
    this.$word.addEventListener("keydown", (event) => this.#key(event));
    this.$word.addEventListener("blur", () => {
      this.#close();
      this.#enter(this.$word.value);
    });
    this.$list.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
    this.$list.addEventListener("click", (event) => {
      const place = [...this.$list.children].indexOf(event.target.closest("li"));
      if (place >= 0) this.#enter(this.#options[place].text);
    });
    this.$everything.addEventListener("click", () => {
      this.#everything = !this.#everything;
      this.#putAway();
    });
  }

  #typed() {
    this.#active = -1;
    const parts = this.$word.value.split(",");
    if (parts.length > 1) {
      this.$word.value = parts.pop().trimStart();
      for (const part of parts) this.#enter(part, false);
    }
    this.changed();
    this.#suggest();
  }

  #key(event) {
    if (event.isComposing) return;
    const { key } = event;
    if ((key === "ArrowDown" || key === "ArrowUp") && !this.#options.length) this.#suggest();
    if ((key === "ArrowDown" || key === "ArrowUp") && this.#options.length) {
      event.preventDefault();
      const places = this.#options.length + 1; // one of them is the field itself
      this.#activate(((this.#active + 1 + (key === "ArrowDown" ? 1 : -1) + places) % places) - 1);
    } else if (key === "Enter") {
      event.preventDefault();
      this.#enter(this.#active < 0 ? this.$word.value : this.#options[this.#active].text);
    } else if (key === "Escape" && this.#options.length) {
      const previewed = this.#active >= 0;
      this.#close();
      if (previewed) this.changed();
    } else if (key === "Escape" && this.$word.value) {
      this.$word.value = "";
      this.changed();
    } else if (key === "Backspace" && this.$word.value === "" && this.#chips.length) {
      event.preventDefault();
      const last = this.#chips.findLast((chip) => !chip.row.hidden);
      last?.name.focus();
    }
  }

  async #enter(text, andTell = true) {
    const label = tidy(text);
    this.#close();
    if (andTell) this.$word.value = "";
    if (!label) return;
    const labels = label.startsWith("@") ? await this.#expanded(label) : [label];
    const taken = new Set(this.#chips.map((chip) => fold(chip.text)));
    const fresh = labels.filter((one) => !taken.has(fold(one)));
    for (const one of fresh) this.#add(one);
    if (fresh.length < labels.length && labels.length === 1) this.say(`${label} is there already`);
    else if (andTell) this.say(labels.length === 1 ? `${label} added` : `${fresh.length} labels added`);
    this.changed();
  }

  async #expanded(text) {
    try {
      return (await this.suggestions.expand(text)) ?? [text];
    } catch {
      return [text]; // the service knows what it means, or says what is wrong
    }
  }

  #suggest() {
    const taken = new Set(this.#chips.flatMap((chip) => chip.text.split("|").map(fold)));
    this.#options = this.suggestions.of(this.$word.value, taken);
    this.#active = -1;
    this.$list.replaceChildren(...this.#options.map(({ text, note }, place) => option(text, note, place)));
    this.$list.hidden = this.#options.length === 0;
    this.$word.setAttribute("aria-expanded", String(!this.$list.hidden));
    this.$word.removeAttribute("aria-activedescendant");
  }

  #activate(place) {
    this.#active = place;
    [...this.$list.children].forEach((row, one) => row.setAttribute("aria-selected", String(one === place)));
    if (place < 0) this.$word.removeAttribute("aria-activedescendant");
    else {
      this.$word.setAttribute("aria-activedescendant", this.$list.children[place].id);
      this.$list.children[place].scrollIntoView({ block: "nearest" });
    }
    this.changed();
  }

  #close() {
    this.#options = [];
    this.#active = -1;
    this.$list.hidden = true;
    this.$list.replaceChildren();
    this.$word.setAttribute("aria-expanded", "false");
    this.$word.removeAttribute("aria-activedescendant");
  }
}

function option(text, note, place) {
  const row = document.createElement("li");
  row.id = `suggestion-${place}`;
  row.setAttribute("role", "option");
  row.setAttribute("aria-selected", "false");
  const name = document.createElement("bdi");
  name.textContent = text;
  row.append(name);
  if (note) {
    const aside = document.createElement("small");
    aside.textContent = ` ${note}`;
    row.append(aside);
  }
  return row;
}
