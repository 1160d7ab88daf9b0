// The answer that is painted: a label map, confidences, and what the ids mean.

const WHITE = 0xe6ffffff; // of outlines: a little clear; bytes are red, green, blue, alpha from the lowest up
const SPOTLIGHT = 0.25; // how much of their colour the others keep

/**
 * application/vnd.sanseg.view: the length N of the facts, u32 little-endian; N bytes of JSON, padded with spaces;
 * height x width ids of `id_bytes` each; height x width confidences, 0..255.
 */
export function readView(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const facts = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const { width, height } = facts;
  const Ids = facts.id_bytes === 2 ? Uint16Array : Uint8Array;
  const ids = new Ids(buffer, 4 + length, width * height);
  const confidence = new Uint8Array(buffer, 4 + length + ids.byteLength, width * height);
  return { facts, width, height, ids, confidence };
}

/** The id and the confidence, in 0..1, of a pixel. */
export function at(view, x, y) {
  const index = y * view.width + x;
  return { id: view.ids[index], confidence: view.confidence[index] / 255 };
}

/**
 * Paints a canvas of the picture's own size, a pixel a pixel.
 *
 * colours: "#rrggbb" by id. hidden: ids that are not painted. opacity: 0..1. spotlight: the id beside which others
 * fade, or null. outline: 0 for none, else how wide its lines are: pixels whose right or lower neighbour differs.
 */
export function paint(canvas, view, { colours, hidden, opacity, spotlight, outline }) {
  const { width, height, ids } = view;
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext("2d");
  const image = imageOf(canvas, context);
  const pixels = new Uint32Array(image.data.buffer);
  const most = ids.BYTES_PER_ELEMENT === 2 ? 65536 : 256;
  const paints = new Uint32Array(most);
  const shown = new Uint8Array(most);
  for (const [id, colour] of colours) {
    if (hidden.has(id)) continue;
    const strength = spotlight === null || spotlight === id ? opacity : opacity * SPOTLIGHT;
    paints[id] = withAlpha(colour, strength);
    shown[id] = 1;
  }
  for (let index = 0; index < ids.length; index++) pixels[index] = paints[ids[index]];
  if (outline) drawOutline(pixels, ids, shown, width, height, outline);
  context.putImageData(image, 0, 0);
}

/** Memory for the pixels of a canvas: the same again while it has the same size. */
function imageOf(canvas, context) {
  let image = images.get(canvas);
  if (image?.width !== canvas.width || image.height !== canvas.height) {
    image = context.createImageData(canvas.width, canvas.height);
    images.set(canvas, image);
  }
  return image;
}

const images = new WeakMap();

function drawOutline(pixels, ids, shown, width, height, wide) {
  for (let y = 0, index = 0; y < height; y++) {
    const below = y + wide < height ? wide * width : 0;
    for (let x = 0; x < width; x++, index++) {
      const id = ids[index];
      const right = ids[x + wide < width ? index + wide : index];
      const lower = ids[index + below];
      if ((right !== id && (shown[right] | shown[id])) || (lower !== id && (shown[lower] | shown[id]))) {
        pixels[index] = WHITE;
      }
    }
  }
}

function withAlpha(colour, strength) {
  const rgb = Number.parseInt(colour.slice(1), 16);
  const red = rgb >> 16, green = (rgb >> 8) & 255, blue = rgb & 255;
  return ((Math.round(255 * strength) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}
