// The list of formats, and how a file is saved.

/** formats: as GET /v1/models has them. save(format): {blob, name}, or null. said(text), wrong(error). */
export function listFormats(list, formats, { save, said, wrong }) {
  list.replaceChildren(...formats.map((format) => row(format, save, said, wrong)));
}

export function allow(list, allowed) {
  for (const button of list.querySelectorAll("button")) button.disabled = !allowed;
}

function row({ name, ending, what }, save, said, wrong) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.format = name;
  for (const [tag, text] of Object.entries({ strong: name, span: what, small: ending })) {
    button.append(Object.assign(document.createElement(tag), { textContent: text }), " ");
  }
  button.addEventListener("click", async () => {
    button.setAttribute("aria-busy", "true");
    try {
      const file = await save(name);
      if (file) said(`${download(file, ending)} downloaded`);
    } catch (error) {
      if (error.name !== "AbortError") wrong(error);
    } finally {
      button.removeAttribute("aria-busy");
    }
  });
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function download({ blob, name }, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name ?? `photo${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  return link.download;
}
