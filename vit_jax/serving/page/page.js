"use strict";

const MEGA = 1e6;
const SHADES = 256;
const WIDTH = 768; // pixels of the overlay, at least: maps have sharp edges
const THUMBNAIL = 96;
const SMALL = 64; // a picture of fewer pixels across is shown pixel by pixel
// From nothing to all: dark blue, violet, red, orange, light yellow.
const STOPS = [[8, 6, 30], [74, 20, 110], [160, 40, 105], [224, 80, 60], [250, 155, 40], [253, 240, 165]];

const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 2 : 1)} %`;
const millions = (count) => count < MEGA ? count.toLocaleString("en")
  : `${Number((count / MEGA).toPrecision(4)).toLocaleString("en")} million`;

let model = null; // what /api/model says
let latest = 0; // of the pictures that were sent: the answer of an older one is not shown
let shown = null; // { picture, attention } of the overlay
let previewed = null; // the preview's URL

const COLORS = Array.from({ length: SHADES }, (_, i) => {
  const place = (i / (SHADES - 1)) * (STOPS.length - 1);
  const below = Math.min(Math.floor(place), STOPS.length - 2);
  return STOPS[below].map((c, k) => Math.round(c + (place - below) * (STOPS[below + 1][k] - c)));
});

/** A small canvas with one pixel a patch; `top` has the brightest colour. */
function colored(rows, top) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [rows[0].length, rows.length];
  const pixels = new ImageData(canvas.width, canvas.height);
  rows.flat().forEach((value, i) => {
    const shade = top > 0 ? Math.round((value / top) * (SHADES - 1)) : 0;
    pixels.data.set([...COLORS[Math.min(shade, SHADES - 1)], 255], 4 * i);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

const highest = (rows) => Math.max(...rows.flat());

function showClasses(classes) {
  at("classes").hidden = classes === null;
  if (classes === null) return;
  at("bars").replaceChildren(...classes.map(({ index, name, probability }) => {
    const [item, bar, label, share] = ["li", "span", "span", "span"].map((x) => document.createElement(x));
    bar.className = "bar";
    bar.style.width = `${100 * probability}%`;
    label.textContent = name ?? `class ${index}`;
    share.className = "share";
    share.textContent = percent(probability);
    item.append(bar, label, share);
    return item;
  }));
  at("sum").textContent = model.probabilities === "sigmoid"
    ? "Each class was learned by itself: the shares do not sum to 100 %."
    : `The ${classes.length} most probable of ${model.classes.toLocaleString("en")} classes.`;
}

/** Draws the picture in grey with the chosen map over it. */
function draw() {
  const chosen = document.querySelector("#maps input:checked");
  if (!shown || !chosen) return;
  const { picture, attention } = shown;
  const map = attention.maps[Number(chosen.value)];
  const canvas = at("overlay");
  const times = Math.max(1, Math.ceil(WIDTH / picture.width));
  [canvas.width, canvas.height] = [picture.width * times, picture.height * times];
  const context = canvas.getContext("2d");
  const strength = Number(at("strength").value) / 100;
  context.imageSmoothingEnabled = picture.width >= SMALL;
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  context.globalCompositeOperation = "saturation"; // to grey, so that colours mean attention
  context.globalAlpha = Math.min(1, 1.5 * strength);
  context.fillStyle = "#808080";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.globalCompositeOperation = "source-over";
  context.imageSmoothingEnabled = false;
  context.globalAlpha = strength;
  const top = highest(map.patches);
  context.drawImage(colored(map.patches, top), 0, 0, canvas.width, canvas.height);
  context.globalAlpha = 1;

  const rollout = map.name === "rollout";
  const of = rollout ? attention.rollout : attention.layer === null
    ? `of ${attention.whose}` : `of ${attention.whose} in layer ${attention.layer}`;
  at("whose").textContent = rollout
    ? `Rollout ${of}: what of each patch has come to the output, by attention alone.`
    : `Attention ${of}, ${map.name}, over the picture as the model sees it.`;
  at("top").textContent = percent(top);
  at("elsewhere").textContent = map.elsewhere > 0 ? `${percent(map.elsewhere)} is not on patches.` : "";
  canvas.setAttribute("aria-label", `${map.name}: ${summary(map.patches, top)}`);
}

/** Where the brightest patch is, for who does not see it. */
function summary(rows, top) {
  const place = rows.flat().indexOf(top);
  const [down, across] = [Math.floor(place / rows[0].length), place % rows[0].length];
  return `most, ${percent(top)}, on the patch in row ${down + 1} of ${rows.length}, `
    + `column ${across + 1} of ${rows[0].length}`;
}

function thumbnail({ name, patches }, index, checked) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  Object.assign(input, { type: "radio", name: "map", value: index, checked });
  const canvas = document.createElement("canvas");
  canvas.setAttribute("aria-hidden", "true");
  const { width, height } = shown.picture;
  canvas.width = THUMBNAIL;
  canvas.height = Math.max(1, Math.round((THUMBNAIL * height) / width));
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(colored(patches, highest(patches)), 0, 0, canvas.width, canvas.height);
  label.className = "map";
  label.append(input, canvas, name);
  return label;
}

async function showAttention(answer, turn) {
  at("attention").hidden = !answer.attention;
  if (!answer.attention) {
    shown = null;
    return;
  }
  const picture = new Image();
  picture.src = answer.picture;
  await picture.decode();
  if (turn !== latest) return; // another picture was chosen meanwhile
  const before = document.querySelector("#maps input:checked");
  const chosen = before ? Number(before.value) : 0;
  shown = { picture, attention: answer.attention };
  at("maps").replaceChildren(
    at("maps").querySelector("legend"),
    ...answer.attention.maps.map((map, i) => thumbnail(map, i, i === chosen)),
  );
  draw();
}

function fail(sentence) {
  const text = sentence.charAt(0).toUpperCase() + sentence.slice(1);
  at("error").textContent = /[.!?]$/.test(text) ? text : `${text}.`;
  at("error").hidden = false;
  at("status").textContent = "";
}

/** What the page can say of a file without sending it; null if there is nothing. */
function objection(file) {
  if (file.size === 0) return `the file ${file.name} is empty: choose another picture`;
  const most = model.limits.max_upload_bytes;
  if (file.size > most) {
    return `the file ${file.name} has ${(file.size / MEGA).toFixed(1)} MB: choose a picture of at most ${most / MEGA} MB`;
  }
  return null;
}

function preview(file) {
  if (previewed) URL.revokeObjectURL(previewed);
  previewed = URL.createObjectURL(file);
  const image = at("preview");
  image.onload = () => {
    image.classList.toggle("small", image.naturalWidth < SMALL);
    image.hidden = false;
  };
  image.onerror = () => { image.hidden = true; }; // a format that only the server reads
  image.src = previewed;
}

function clear() {
  for (const id of ["error", "classes", "attention"]) at(id).hidden = true;
  shown = null;
}

async function send(file) {
  const turn = ++latest;
  clear();
  at("preview").hidden = true;
  const wrong = objection(file);
  if (wrong) return fail(wrong);
  preview(file);
  at("status").textContent = `Looking at ${file.name} …`;
  const form = new FormData();
  form.append("file", file);
  let response, answer;
  try {
    response = await fetch("/api/predict?attention=true", { method: "POST", body: form });
    answer = await response.json();
  } catch (error) {
    if (turn === latest) fail("the server did not answer: it may have been stopped, or the connection was lost");
    return;
  }
  if (turn !== latest) return;
  if (!response.ok) return fail(answer.error);
  showClasses(answer.classes);
  await showAttention(answer, turn);
  if (turn === latest) at("status").textContent = `This is what the model says of ${file.name}.`;
}

function listen() {
  const drop = at("drop");
  at("file").addEventListener("change", ({ target }) => {
    if (target.files.length) send(target.files[0]);
    target.value = ""; // so that the same file can be chosen again
  });
  // Dropped beside the field, a picture would replace the page.
  for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
  for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, () => drop.classList.add("over"));
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => take(event.dataTransfer));
  document.addEventListener("paste", (event) => take(event.clipboardData));
  at("strength").addEventListener("input", draw);
  at("maps").addEventListener("change", draw);
}

function take(data) {
  if (data.files.length) send(data.files[0]);
}

function introduce() {
  document.title = `${model.name} · vit-jax`;
  at("name").textContent = model.name;
  const { height, width } = model.picture;
  const classes = model.classes === null ? "" : `, ${model.classes.toLocaleString("en")} classes`;
  at("about").textContent = `${millions(model.parameters)} parameters, pictures of ${width} × ${height} pixels${classes}.`;
  const { max_upload_bytes: bytes, max_pixels: pixels } = model.limits;
  at("limits").textContent = `${model.formats.join(", ")}; at most ${bytes / MEGA} MB and ${millions(pixels)} pixels. `
    + "Pictures are not kept.";
  const missing = [["classes", model.no_classes], ["attention", model.no_attention]]
    .filter(([, why]) => why).map(([what, why]) => `No ${what} ${what === "classes" ? "are" : "is"} shown: ${why}.`);
  at("not-shown").textContent = missing.join(" ");
  at("not-shown").hidden = missing.length === 0;
  const context = at("ramp").getContext("2d");
  COLORS.forEach((color, i) => {
    context.fillStyle = `rgb(${color})`;
    context.fillRect(i, 0, 1, 1);
  });
}

async function start() {
  try {
    const response = await fetch("/api/model");
    model = await response.json();
  } catch (error) {
    return fail("the server did not answer: load the page again");
  }
  introduce();
  listen();
}

start();
