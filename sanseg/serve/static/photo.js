// Ways for a photo to come in, and what is refused before it is sent.

const MEGA = 1_000_000;
const KEPT = "sanseg.photo"; // in sessionStorage, as the words: it outlives a reload, and ends with the tab
const ROOM = 5 * MEGA; // bytes; browsers give a server's pages about so many letters
const CHUNK = 1 << 15;
const SEEN = 1_000_000; // pixels of what is painted: the model sees no more, and each key moves two bytes for each

/** open(file): a photo came in. wrong(sentence): something else did. sample(name, words): one of the bundled photos. */
export function listen({ open, wrong, sample }) {
  for (const [button, input] of [["pick", "file"], ["take", "camera"]]) {
    const field = document.getElementById(input);
    document.getElementById(button).addEventListener("click", () => field.click());
    field.addEventListener("change", () => {
      const [chosen] = field.files;
      field.value = ""; // the same photo may be chosen again
      if (chosen) open(chosen);
    });
  }
  document.addEventListener("paste", (event) => {
    const [pasted] = event.clipboardData?.files ?? [];
    if (!pasted) return;
    event.preventDefault();
    open(pasted);
  });
  for (const button of document.querySelectorAll("[data-photo]")) {
    button.addEventListener("click", () => sample(button.dataset.photo, button.dataset.words));
  }
  listenForDrops(open, wrong);
}

function listenForDrops(open, wrong) {
  const sign = document.getElementById("drop");
  const carries = (event) => event.dataTransfer?.types.some((type) => type === "Files" || type === "text/uri-list");
  addEventListener("dragover", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    sign.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) sign.hidden = true;
  });
  addEventListener("drop", (event) => {
    sign.hidden = true;
    if (!carries(event)) return;
    event.preventDefault();
    const [dropped] = event.dataTransfer.files;
    if (dropped) open(dropped);
    else wrong("That was a link, not a photo: save the photo first, then drop the file");
  });
}

/** One of the bundled photos. Rejects where there is no answer, or another. */
export async function sample(name) {
  const answer = await fetch(`static/samples/${name}`);
  if (!answer.ok) throw new Error(`the server answered with ${answer.status}`);
  return new File([await answer.blob()], name, { type: "image/jpeg" });
}

/** What to say of a file that the service would refuse by its bytes; null where it would not, as far as is known. */
export function tooLarge({ name, size }, limits) {
  if (size === 0) return `${name} is empty: get the file again`;
  if (!limits?.bytes || size <= limits.bytes) return null;
  return `${name} has ${megabytes(size)}, this server takes ${megabytes(limits.bytes)} at most: save it smaller, or as JPEG`;
}

export function tooManyPixels({ width, height }, limits) {
  if (!limits?.pixels || width * height <= limits.pixels) return null;
  const most = Math.floor(limits.pixels / MEGA);
  return `This photo is ${width} x ${height} pixels, this server takes ${most} megapixels at most: make it smaller`;
}

/** The same photo in memory: the file may be gone when it has to be sent again. Rejects for folders. */
export async function held(file) {
  return new File([await file.arrayBuffer()], file.name, { type: file.type });
}

/** What `keep` keeps of a photo; null for one that has no room there. */
export async function written(file) {
  if (file.size > ROOM) return null;
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = `${JSON.stringify([file.name, file.type])}\n`;
  for (let at = 0; at < bytes.length; at += CHUNK) text += String.fromCharCode(...bytes.subarray(at, at + CHUNK));
  return text;
}

/** The photo of this tab, for when it is loaded anew; null for none. */
export function keep(text) {
  sessionStorage.removeItem(KEPT);
  try {
    if (text !== null) sessionStorage.setItem(KEPT, text);
  } catch {
    // no room: it has to be chosen again
  }
}

/** The photo that was kept, or null. */
export function recall() {
  const text = sessionStorage.getItem(KEPT);
  if (text === null) return null;
  const end = text.indexOf("\n");
  try {
    const [name, type] = JSON.parse(text.slice(0, end));
    return new File([Uint8Array.from(text.slice(end + 1), (letter) => letter.charCodeAt(0))], name, { type });
  } catch {
    keep(null); // somebody else's, or damaged
    return null;
  }
}

/** Puts a photo into an <img>. Returns its size, or null where this browser cannot show it, as TIFF. */
export async function show(file, image) {
  hide(image);
  image.src = URL.createObjectURL(file);
  try {
    await new Promise((done, failed) => Object.assign(image, { onload: done, onerror: failed }));
    return { width: image.naturalWidth, height: image.naturalHeight };
  } catch {
    return null;
  }
}

/** A photo with many pixels as a smaller copy, in which words can be followed as they are typed. */
export async function copyToSee(file, image, { width, height }) {
  const scale = Math.sqrt(SEEN / (width * height));
  if (scale >= 1) return file;
  const canvas = Object.assign(document.createElement("canvas"), {
    width: Math.max(1, Math.round(scale * width)),
    height: Math.max(1, Math.round(scale * height)),
  });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#ffffff"; // below what is clear, as the service has it
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.95));
  return blob ? new File([blob], file.name, { type: blob.type }) : file;
}

export function hide(image) {
  if (image.src) URL.revokeObjectURL(image.src);
  image.removeAttribute("src");
}

function megabytes(bytes) {
  const count = bytes / MEGA;
  return `${count < 10 ? count.toFixed(1) : Math.round(count)} MB`;
}
