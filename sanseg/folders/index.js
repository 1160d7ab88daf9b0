"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const AT_ONCE = 60;
const byId = (id) => document.getElementById(id);
const grid = byId("grid"), label = byId("label"), order = byId("order"), least = byId("least");
const named = byId("named"), shown = byId("shown"), end = byId("end");

const pictures = data.pictures.map(([path, thumbnail, width, height, regions, files]) => {
  const areas = new Map(regions.map(([id, area, sure]) => [id, { area, sure }]));
  const area = regions.reduce((sum, [id, share]) => sum + (data.labels[id].other ? 0 : share), 0);
  const sure = regions.reduce((sum, [, share, mean]) => sum + share * mean, 0);
  return { path, thumbnail, width, height, regions, files, areas, whole: { area, sure } };
});

const percent = (share) => (share < 0.0005 ? "< 0.1 %" : (100 * share).toFixed(1) + " %");

const make = (tag, fields = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), fields);
  element.append(...children);
  return element;
};

const swatch = (id) => {
  const square = make("span", { className: "swatch", ariaHidden: "true" });
  square.style.background = data.labels[id].colour;
  return square;
};

const card = (picture) => {
  const open = picture.files.length ? picture.files[0][1] : null;
  const alt = picture.path + ", painted with its labels";
  const image = picture.thumbnail
    ? make("img", { loading: "lazy", decoding: "async", src: picture.thumbnail, alt,
        width: picture.width, height: picture.height })
    : make("span", { className: "none" }, "no thumbnail");
  const frame = open ? make("a", { className: "frame", href: open }, image) : make("span", { className: "frame" }, image);
  const chosen = label.value === "" ? null : Number(label.value);
  const regions = [...picture.regions].sort((a, b) => (b[0] === chosen) - (a[0] === chosen)).slice(0, 5);
  const rows = regions.map(([id, area, sure]) =>
    make("li", { className: id === chosen ? "chosen" : "" }, swatch(id),
      make("span", { className: "name" }, data.labels[id].name), make("span", { className: "number" }, percent(area)),
      make("span", { className: "number", title: "mean confidence" }, sure.toFixed(2))));
  const links = picture.files.map(([kind, url]) => make("a", { href: url }, kind));
  return make("li", { className: "card" }, frame, make("h3", { title: picture.path }, picture.path),
    make("ul", { className: "regions" }, ...rows), make("p", { className: "links" }, ...links));
};

const value = (picture, what) => {
  const one = label.value === "" ? picture.whole : picture.areas.get(Number(label.value));
  return one[what];
};

const ORDERS = {
  name: null,
  unsure: (a, b) => value(a, "sure") - value(b, "sure"),
  sure: (a, b) => value(b, "sure") - value(a, "sure"),
  large: (a, b) => value(b, "area") - value(a, "area"),
  small: (a, b) => value(a, "area") - value(b, "area"),
};

let found = [], drawn = 0;

const more = () => {
  grid.append(...found.slice(drawn, drawn + AT_ONCE).map(card));
  drawn = Math.min(found.length, drawn + AT_ONCE);
  end.hidden = drawn === found.length;
};

const update = () => {
  const chosen = label.value === "" ? null : Number(label.value);
  const from = Number(least.value) / 100, text = named.value.trim().toLowerCase();
  found = pictures.filter((picture) => {
    const one = chosen === null ? picture.whole : picture.areas.get(chosen);
    return one !== undefined && one.area >= from && picture.path.toLowerCase().includes(text);
  });
  if (ORDERS[order.value]) found.sort(ORDERS[order.value]);
  shown.textContent = found.length === pictures.length
    ? pictures.length.toLocaleString("en") + " pictures"
    : found.length.toLocaleString("en") + " of " + pictures.length.toLocaleString("en") + " pictures";
  grid.replaceChildren();
  drawn = 0;
  more();
};

data.labels.forEach(({ name, pictures: count }, id) =>
  label.append(make("option", { value: id }, name + " (" + count.toLocaleString("en") + ")")));
for (const control of [label, order, least, named]) control.addEventListener("input", update);
for (const button of document.querySelectorAll("button[data-label]"))
  button.addEventListener("click", () => { label.value = button.dataset.label; update(); grid.scrollIntoView(); });
new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && more(), { rootMargin: "900px" })
  .observe(end);
byId("controls").hidden = false;
update();
