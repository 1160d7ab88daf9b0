// Words as the service reads them: sanseg/vocabulary.py has the rules.

/** "sofa |  couch |" to "sofa | couch": what is still being typed is no mistake yet. */
export const tidy = (text) =>
  text.split("|").map((name) => name.trim().replace(/\s+/g, " ")).filter(Boolean).join(" | ");

/** "not toy car" competes, and is no label. */
export const isNegative = (text) => /^not\s+\S/i.test(text);

/** What a label is called in an answer, for comparing. */
export const fold = (name) => name.normalize("NFC").trim().replace(/\s+/g, " ").toLowerCase();

/** The label of a chip: its first name. In a text, a backslash before a label takes it as it is. */
export const labelOf = (text) => tidy(text).split(" | ")[0].replace(/^\\/, "");

/**
 * What is asked of the service: a text where that says it all, else a list, in which labels may hold commas.
 * null where there is no label. Throws an Error, for people to read, for what neither can say.
 */
export function asked(texts) {
  const items = texts.map(tidy).filter(Boolean);
  const negative = items.find(isNegative);
  if (items.every(isNegative)) return null;
  const whole = items.find((item) => item.includes(","));
  if (whole === undefined) return items.join(", ");
  if (negative !== undefined) {
    throw new Error(`“${negative}” cannot compete beside “${whole}”, which holds a comma: take one of them away`);
  }
  return items.map((item) => item.replace(/^\\/, ""));
}

/** A share of the picture, or a confidence. */
export function percent(share) {
  if (share > 0 && share < 0.01) return "<1 %";
  return `${share > 0.99 && share < 1 ? 99 : Math.round(100 * share)} %`;
}
