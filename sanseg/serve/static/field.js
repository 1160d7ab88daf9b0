// The field where a label is typed, with suggestions: a combobox, as ARIA describes it.

export class Field {
  #options = [];
  #active = -1;

  /**
   * suggestions: see suggestions.js. taken(): the names there are, as a set. changed(): another draft.
   * entered(text, alone): a label is finished; alone: not one of several at once. back(): before the field.
   */
  constructor({ suggestions, taken, changed, entered, back }) {
    Object.assign(this, { suggestions, taken, changed, entered, back });
    this.$word = document.getElementById("word");
    this.$list = document.getElementById("suggestions");
    this.$word.addEventListener("focus", () => this.suggestions.load());
    this.$word.addEventListener("input", () => this.#typed());
    this.$word.addEventListener("keydown", (event) => event.isComposing || this.#key(event));
    this.$word.addEventListener("blur", () => this.#enter(this.$word.value));
    this.$list.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
    this.$list.addEventListener("click", (event) => {
      const place = [...this.$list.children].indexOf(event.target.closest("li"));
      if (place >= 0) this.#enter(this.#options[place].text);
    });
  }

  /** What is typed, or what the list would make of it; "" for "@...", which names a set only once it is entered. */
  get draft() {
    const text = this.#active < 0 ? this.$word.value : this.#options[this.#active].text;
    return text.trim().startsWith("@") ? "" : text;
  }

  clear() {
    this.#close();
    this.$word.value = "";
    this.$word.removeAttribute("aria-invalid");
  }

  /** Gives back what was entered and cannot be a label. */
  refuse(text) {
    this.$word.value = text;
    this.$word.setAttribute("aria-invalid", "true");
  }

  focus() {
    this.$word.focus({ preventScroll: true });
  }

  #enter(text) {
    this.clear();
    this.entered(text, true);
  }

  #typed() {
    this.#active = -1;
    this.$word.removeAttribute("aria-invalid");
    const parts = this.$word.value.split(",");
    if (parts.length > 1) {
      this.#close();
      this.$word.value = parts.pop().trimStart();
      for (const part of parts) this.entered(part, false);
    }
    this.changed();
    this.#suggest();
  }

  #key(event) {
    const { key } = event;
    const vertical = key === "ArrowDown" || key === "ArrowUp";
    if (vertical && !this.#options.length) this.#suggest();
    if (vertical && this.#options.length) {
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
      this.clear();
      this.changed();
    } else if (key === "Backspace" && this.$word.value === "") {
      event.preventDefault();
      this.back();
    }
  }

  #suggest() {
    this.#options = this.suggestions.of(this.$word.value, this.taken());
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
